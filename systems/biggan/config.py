"""BigGAN (Brock et al. 2018): images of a class that is asked for. docs/biggan.md.

MNIST at 32x32 is what a CPU trains; the networks, the step and the sampling are in
systems/biggan/.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from data_config import DataConfig
from lib.config import setting
from lib.errors import UserError
from systems.biggan.networks import (
    IMAGE_SIZES,
    LAYOUTS,
)
from training.config import GANConfig
from training.losses import LOSSES

NORMALIZED = {"both": ("G", "D"), "d": ("D",), "g": ("G",), "none": ()}  # --spectral_norm -> whom

PRESETS: dict[str, dict[str, Any]] = {
    # Ours, for a CPU. With so small a batch and so few steps spectral norm bounds D too tightly: in
    # short trials it had learned no digit where R1 had some (docs/biggan.md). Barely searched.
    "mnist": {
        "dataset": "mnist",
        "image_size": 32,
        "layout": "tapered",
        "generator_hidden_dim": 24,
        "discriminator_hidden_dim": 24,
        "latent_dim": 64,
        "embedding_dim": 32,
        "spectral_norm": "g",
        "penalty": "r1",
        "penalty_weight": 1.0,
        "penalty_every": 4,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "beta1": 0.0,
        "beta2": 0.99,
        "ema": 0.998,
        "decay_from": 4000,
        "decay_to": 8000,
        "num_training_steps": 8000,
    },
    # Brock et al. 2018, sec. 3 and app. C: ImageNet at 128 pixels, its batch of 2048 as 8 of 256.
    "imagenet128": {
        "dataset": "folder",
        "image_size": 128,
        "layout": "published",
        "generator_hidden_dim": 96,
        "discriminator_hidden_dim": 96,
        "latent_dim": 120,
        "embedding_dim": 128,
        "attention": 64,
        "d_steps": 2,
        "fresh_noise": True,
        "batch_size": 256,
        "accumulate": 8,
        "learning_rate": 5e-5,
        "learning_rate_d": 2e-4,
        "beta1": 0.0,
        "beta2": 0.999,
        "ema": 0.9999,
        "orthogonal_weight": 1e-4,
    },
}


@dataclass(frozen=True, kw_only=True)
class BigGANConfig(GANConfig, DataConfig):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    image_size: int = setting(
        32, "side of an image in pixels", group="data", tag="{}px", choices=IMAGE_SIZES
    )
    layout: str = setting(
        "tapered",
        "channels of the maps in units of the width (docs/biggan.md): as published, or fewer the"
        " larger the map (32 pixels alone)",
        group="networks",
        tag="{}",
        choices=tuple(LAYOUTS),
    )
    latent_dim: int = setting(
        64,
        "size of z, which is cut into a chunk a block and one more",
        group="networks",
        tag="z{}",
        at_least=1,
    )
    embedding_dim: int = setting(
        32, "size of a class vector, which all of G's blocks share", group="networks", at_least=1
    )
    generator_hidden_dim: int = setting(
        24, "G's width: the unit of its channels", group="networks", tag="g{}", at_least=1
    )
    discriminator_hidden_dim: int = setting(
        24, "D's width: the unit of its channels", group="networks", tag="d{}", at_least=1
    )
    attention: int = setting(
        0,
        "side of the map that self-attention looks at, in G and D; 0: none",
        group="networks",
        choices=(0, 8, 16, 32, 64),
    )
    spectral_norm: str = setting(
        "both",
        "whose weights are divided by their largest singular value",
        group="networks",
        choices=tuple(NORMALIZED),
    )
    loss: str = setting("hinge", "what D and G minimise", group="game", choices=tuple(LOSSES))
    accumulate: int = setting(
        1,
        "batches whose gradients make one update: of d_steps x accumulate x batch_size images a"
        " step; with more than one, G's noise is always its own",
        group="game",
        at_least=1,
    )
    orthogonal_weight: float = setting(
        0.0,
        "of G's orthogonal regularisation (the paper: 1e-4); 0 leaves it out",
        group="game",
        at_least=0,
    )
    learning_rate: float = setting(2e-4, "of G's Adam", group="training", above=0)
    learning_rate_d: float = setting(
        0.0, "of D's Adam; 0: that of --learning_rate", group="training", at_least=0
    )
    beta1: float = setting(
        0.0, "of Adam: memory of the gradient", group="training", at_least=0, below=1
    )
    ema: float = setting(
        0.998,
        "decay a step of an average of G's weights, which is sampled in its place; 0 samples G",
        group="training",
        at_least=0,
        below=1,
    )
    truncation: float = setting(
        0.0,
        "of what is generated and scored: values of z farther from 0 are drawn anew; 0: none are",
        group="scoring",
        role="free",
        at_least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = LAYOUTS[self.layout]
        if self.image_size not in sizes:
            raise UserError(
                f"--layout {self.layout} is for --image_size {', '.join(map(str, sizes))}, not"
                f" {self.image_size}: choose --layout published."
            )
        layout = sizes[self.image_size]
        chunks = len(layout.generator)
        if self.latent_dim % chunks:
            raise UserError(
                f"--latent_dim {self.latent_dim} is to be cut into {chunks} equal chunks at"
                f" {self.image_size} pixels: give a multiple of {chunks}."
            )
        both = set(layout.sides_g) & set(layout.sides_d(self.image_size))
        if self.attention and self.attention not in both:
            raise UserError(
                f"--attention {self.attention}: G and D both have maps of"
                f" {', '.join(map(str, sorted(both)))} at {self.image_size} pixels. Choose one."
            )

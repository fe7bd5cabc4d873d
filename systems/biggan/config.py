"""The settings of BigGAN, and its presets. docs/biggan.md."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lib.errors import UserError
from lib.settings import MOST_REPEATS, default, game, network, scoring, width
from sources.config import DataConfig
from systems.biggan.networks import IMAGE_SIZES, LAYOUTS
from training.config import GANConfig, WidthConfig

NORMALIZED = {"both": ("G", "D"), "d": ("D",), "g": ("G",), "none": ()}  # --spectral_norm -> whom

# fmt: off
PRESETS: dict[str, dict[str, Any]] = {
    # Ours, for a CPU. With so small a batch and so few steps spectral norm bounds D too tightly: in
    # short trials it had learned no digit while R1 had some (docs/biggan.md). Barely searched.
    "mnist": dict(
        dataset="mnist", image_size=32, layout="tapered",
        generator_hidden_dim=24, discriminator_hidden_dim=24, latent_dim=64, embedding_dim=32,
        spectral_norm="g", penalty="r1", penalty_weight=1.0, penalty_every=4,
        batch_size=64, learning_rate=1e-3, beta1=0.0, beta2=0.99, ema=0.998,
        decay_from=4000, decay_to=8000, num_training_steps=8000,
    ),
    # Brock et al. 2018, sec. 3 and app. C: ImageNet at 128 pixels, its batch of 2048 as 8 of 256.
    "imagenet128": dict(
        dataset="folder", image_size=128, layout="published",
        generator_hidden_dim=96, discriminator_hidden_dim=96, latent_dim=120, embedding_dim=128,
        attention=64, d_steps=2, fresh_noise=True, orthogonal_weight=1e-4,
        batch_size=256, accumulate=8, learning_rate=5e-5, learning_rate_d=2e-4,
        beta1=0.0, beta2=0.999, ema=0.9999,
    ),
}
# fmt: on


@dataclass(frozen=True, kw_only=True)
class BigGANConfig(WidthConfig, GANConfig, DataConfig):
    PRESETS: ClassVar = PRESETS

    image_size: int = default(32, choices=IMAGE_SIZES)
    layout: str = network(
        "tapered",
        "channels of the maps: as published, or fewer in larger maps (32 pixels only)",
        tag="{}",
        choices=tuple(LAYOUTS),
    )
    latent_dim: int = width(
        64, "size of z, of which each block gets a share", tag="z{}", level="main"
    )
    embedding_dim: int = width(32, "size of a class vector, which all blocks of G share")
    generator_hidden_dim: int = default(24, text="G's width: the unit of its channels")
    discriminator_hidden_dim: int = default(24, text="D's width: the unit of its channels")
    attention: int = network(
        0, "side of the map with self-attention, in G and D; 0: none", choices=(0, 8, 16, 32, 64)
    )
    spectral_norm: str = network(
        "both",
        "whose weights are divided by their largest singular value",
        choices=tuple(NORMALIZED),
    )
    loss: str = default("hinge")
    accumulate: int = game(
        1,
        "batches whose gradients make one update; above 1, G learns from new noise",
        at_least=1,
        at_most=MOST_REPEATS,
    )
    orthogonal_weight: float = game(
        0.0, "weight of G's orthogonal regularisation (the paper: 1e-4)"
    )
    beta1: float = default(0.0)
    ema: float = default(0.998)
    truncation: float = scoring(0.0, "draw values of z beyond this again; 0: keep all")

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

"""The settings of the conditional DCGAN, and its presets. docs/cdcgan.md."""

from dataclasses import dataclass
from typing import Any, ClassVar

from GAN import IMAGE_SIZES
from lib.settings import MOST_REPEATS, default, game, network, scoring, width
from sources.config import ImageConfig
from systems.cdcgan.networks import DISCRIMINATORS, SLOPES
from training.config import ConvConfig, GANConfig

# fmt: off
PRESETS: dict[str, dict[str, Any]] = {
    # The source, "Conditional GAN on i-CLEVR", sec. 2: its Adam has PyTorch's own
    # betas, and each of its G updates has new noise. 500 epochs of 282 batches, the last one of 25.
    "iclevr": dict(
        dataset="iclevr", image_size=64, condition="concat", embedding_dim=300, latent_dim=100,
        generator_hidden_dim=64, discriminator_hidden_dim=64,  # 512, 256, 128, 64
        g_steps=4, fresh_noise=True, learning_rate=1e-4, learning_rate_d=4e-4, beta1=0.9,
        batch_size=64, num_training_steps=141_000, saving_steps=1410,
    ),
    # Ours, for a CPU: small images, narrow networks, the game of dcgan.py's "best".
    "iclevr32": dict(
        dataset="iclevr", image_size=32, condition="projection",
        generator_hidden_dim=32, discriminator_hidden_dim=32,
        loss="bce", penalty="r1", penalty_weight=0.05, penalty_every=4, d_norm="none",
        mismatch_weight=1.0, init="scaled", g_steps=1, fresh_noise=True,
        learning_rate=1e-3, learning_rate_d=1e-3, beta1=0.0, beta2=0.99, ema=0.998,
        decay_from=10_000, decay_to=20_000, num_training_steps=20_000, saving_steps=500,
    ),
}
# Ours, for a GPU, NOT trained yet: the same at the source's size and widths.
PRESETS["iclevr-best"] = PRESETS["iclevr32"] | dict(
    image_size=64, generator_hidden_dim=64, discriminator_hidden_dim=64,
    decay_from=30_000, decay_to=60_000, num_training_steps=60_000,
)
# fmt: on


@dataclass(frozen=True, kw_only=True)
class CDCGANConfig(ConvConfig, GANConfig, ImageConfig):
    PRESETS: ClassVar = PRESETS

    dataset: str = default("iclevr", choices=("iclevr",))
    image_size: int = default(64, choices=IMAGE_SIZES)
    condition: str = network(
        "concat",
        "labels are one more channel for D (concat), or are projected on its features (projection)",
        tag="{}",
        choices=tuple(DISCRIMINATORS),
    )
    arch: str = network("plain", "layers of G and D: the source's, or more", choices=tuple(SLOPES))
    latent_dim: int = width(100, "size of z", tag="z{}", level="main")
    embedding_dim: int = width(300, "size of the vector that G makes of the labels")
    generator_hidden_dim: int = default(64)
    discriminator_hidden_dim: int = default(64)
    g_steps: int = game(4, "updates of G per step", at_least=1, at_most=MOST_REPEATS)
    mismatch_weight: float = game(0.0, "weight of real images with one wrong label, as fakes")
    learning_rate: float = default(1e-4)
    learning_rate_d: float = default(4e-4)
    beta1: float = default(0.9)
    validate_every: int = scoring(
        0, "look for the best weights every so many steps; 0: once per epoch"
    )

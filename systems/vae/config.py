"""The settings of the VAE, and the preset of the convolutional one. docs/vae.md."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lib.settings import data, default, game, logging, network, width
from sources.config import DataConfig
from systems.vae.binarise import PIXELS
from systems.vae.elbo import LIKELIHOODS
from systems.vae.networks import BORDERS, DECODERS
from training.config import AveragedConfig

# fmt: off
PRESETS: dict[str, dict[str, Any]] = {
    # Ours: convolutions on the same 784 pixels, so that the nats compare, within 10 CPU minutes.
    "conv": dict(
        arch="conv", hidden_dim=256, width=16,
        learning_rate=1e-3, decay_from=4690, decay_to=9380, ema=0.998,
    ),
}
# fmt: on


@dataclass(frozen=True, kw_only=True)
class VAEConfig(AveragedConfig, DataConfig):
    PRESETS: ClassVar = PRESETS

    image_size: int = default(28, choices=tuple(BORDERS))
    pixels: str = data(
        "grey",
        "grey values, or bits drawn once (static) or at every step (stochastic)",
        choices=PIXELS,
    )
    arch: str = network("fc", "linear layers alone, or convolutions", choices=tuple(DECODERS))
    latent_dim: int = width(20, "size of z", tag="z{}", level="main")
    hidden_dim: int = width(400, "units of the hidden layer")
    width: int = width(16, "channels of the largest map", only_with={"arch": "conv"})
    likelihood: str = game(
        "bce",
        "cross-entropy, or squared error (a Gaussian of variance 1/2)",
        choices=tuple(LIKELIHOODS),
        only_with={"pixels": "grey"},
    )
    beta: float = game(1.0, "weight of the KL; the bound is on the evidence only at 1")
    batch_size: int = default(128)
    num_training_steps: int = default(9380)  # 20 epochs x 60,000 images / 128
    learning_rate: float = default(2e-3)
    beta1: float = default(0.9)
    test_every: int = logging(1000, "pass over the test images every so many steps; 0: never")

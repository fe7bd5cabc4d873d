"""The settings of the super-resolution GAN, and its presets. docs/srgan.md."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lib.errors import UserError
from lib.settings import ABOVE_0, MOST_REPEATS, data, default, game, network
from sources.config import DataConfig
from systems.srgan.flips import POSITIONS
from systems.srgan.losses import RECONSTRUCTIONS
from systems.srgan.networks import GENERATORS, UPSAMPLINGS
from systems.srgan.resampling import DOWNSAMPLINGS
from training.config import ConvConfig, GANConfig

# fmt: off
PRESETS: dict[str, dict[str, Any]] = {
    # CIS 680 2019, assignment 4, part 3: its networks, 1:1, BCE, batch 32, Adam at
    # 2e-4, 100 epochs of 20,000 images. It leaves open which pixel-wise loss, Adam's betas and the
    # kernel that shrinks.
    "course": dict(
        arch="unet", generator_hidden_dim=32, discriminator_hidden_dim=32,
        reconstruction="squared", reconstruction_weight=1.0, adversarial_weight=1.0, loss="bce",
        batch_size=32, learning_rate=2e-4,
        num_training_steps=62_500,  # 100 epochs x 20,000 images / 32
    ),
    # Ours, NOT searched: SRResNet in EDSR's form, trained on turned and mirrored images, VGG16's
    # maps (Ledig et al. 2017), a D under spectral norm with the hinge (Miyato et al. 2018), its
    # maps matched (Wang et al. 2018), an average of G's weights. On the course's nets the gradients
    # at G's image are 1 : 0.6 : 0.1 : 0.7 in size.
    "best": dict(
        positions=8, arch="residual", generator_hidden_dim=64, residual_blocks=8,
        reconstruction="euclidean", reconstruction_weight=1.0, adversarial_weight=0.3,
        feature_matching_weight=5.0, perceptual_weight=5.0, loss="hinge",
        d_norm="none", spectral_norm=True, init="scaled", ema=0.995,
        batch_size=16, num_training_steps=125_000,
    ),
}
# fmt: on
WITH_D = {"adversarial_weight": ABOVE_0}


@dataclass(frozen=True, kw_only=True)
class SRGANConfig(ConvConfig, GANConfig, DataConfig):
    PRESETS: ClassVar = PRESETS

    dataset: str = default("stl10")
    image_size: int = default(
        64, choices=(32, 64, 128, 256), text="side of a large image; a small one has a quarter"
    )
    downsample: str = data(
        "bilinear", "kernel that shrinks an image, antialiased", choices=DOWNSAMPLINGS
    )
    positions: int = data(
        1,
        "train on images as they are (1), also mirrored (2), also turned (8)",
        choices=tuple(POSITIONS),
    )
    batch_size: int = default(32)
    num_training_steps: int = default(62_500)
    arch: str = network(
        "unet", "G: the course's encoder-decoder, or residual blocks", choices=tuple(GENERATORS)
    )
    generator_hidden_dim: int = default(
        32, at_least=2, text="channels of G's first map; of the unet's last: 16 times as many"
    )
    residual_blocks: int = network(
        8, "residual blocks of G", at_least=1, at_most=MOST_REPEATS, only_with={"arch": "residual"}
    )
    upsample: str = network(
        "subpixel",
        "how the residual G's maps grow: sub-pixel convolution, or nearest upsampling and"
        " convolution",
        choices=tuple(UPSAMPLINGS),
        only_with={"arch": "residual"},
    )
    discriminator_hidden_dim: int = default(
        32, text="channels of D's first map; of its last: 16 times as many"
    )
    d_steps: int = default(1, only_with=WITH_D)
    reconstruction: str = game(
        "squared",
        "squared: sum over an image of (x - G)^2 in [0, 1]; euclidean: |x - G|_2 in [-1, 1]; mse,"
        " l1: mean over pixels in [-1, 1]",
        choices=tuple(RECONSTRUCTIONS),
    )
    reconstruction_weight: float = game(1.0, "weight of the reconstruction loss")
    adversarial_weight: float = game(1.0, "weight of the adversarial loss; 0: there is no D")
    feature_matching_weight: float = game(
        0.0, "weight of the L1 distance between D's maps of x and G's", only_with=WITH_D
    )
    perceptual_weight: float = game(
        0.0, "weight of the L1 distance between VGG16's maps of x and G's (fetches 64 MB)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fresh_noise:
            raise UserError("--fresh_noise: G has small images here, not noise. Leave it out.")
        if not self.adversarial_weight and self.penalty != "none" and self.d_norm == "batch":
            raise UserError(
                f"--penalty {self.penalty}: --adversarial_weight 0 has no D. Leave one of them out."
            )
        if not (self.adversarial_weight or self.reconstruction_weight or self.perceptual_weight):
            raise UserError("G has no loss: give a --reconstruction_weight above 0.")

"""The settings of CycleGAN, and its presets. docs/cyclegan.md."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lib.settings import MOST_REPEATS, MOST_UNITS, data, default, game, network, task
from sources import SMALL_IMAGES
from sources.config import FOLDER, ImageConfig
from systems.cyclegan.networks import DISCRIMINATORS, GENERATORS, NORMS, STEMS, UPSAMPLINGS
from training.config import AugmentedConfig, WidthConfig

# fmt: off
PRESETS: dict[str, dict[str, Any]] = {
    # CSC413 2020, assignment 4, part 2. It leaves open the widths, the blocks, the
    # norm, the batch, Adam's settings and lambda_cycle; here they are, but for the norm and the
    # last, those of the notebook it goes with. Kernels (its 5x5 are 4x4 on the way down, else 3x3)
    # and lambda_cycle are ours: its 0.015 of a sum over an image's values is 46 of our mean.
    "emoji": dict(
        dataset="emoji", image_size=32, arch="plain", stem=0,
        generator_hidden_dim=32, discriminator_hidden_dim=32,  # 32, 64; 32, 64, 128
        residual_blocks=1, block_convs=1, norm="batch", upsample="resize", judge="image",
        pool_size=0, lambda_cycle=10.0, lambda_identity=0.0,
        batch_size=32, learning_rate=3e-4, beta1=0.3,
        num_training_steps=5000, saving_steps=200, fid_protocol="all",
    ),
    # Zhu et al. 2017, sec. 4 and app. 7: at 128 pixels add --image_size 128, which takes 6 blocks.
    # 200 epochs, the rate falling over the last 100, of horse2zebra's 1,334 zebras.
    "paper": dict(
        dataset="folder", image_size=256, jitter=286 / 256, flip=True, arch="plain", stem=7,
        generator_hidden_dim=64, discriminator_hidden_dim=64,
        residual_blocks=0,  # 9, or 6 below 256 pixels
        block_convs=2, norm="instance", upsample="transposed", judge="patch",
        pool_size=50, lambda_cycle=10.0, lambda_identity=0.5,
        batch_size=1, learning_rate=2e-4, beta1=0.5, decay_from=133_400, decay_to=266_800,
        num_training_steps=266_800, saving_steps=6670, fid_protocol="all",  # saves every 5 epochs
    ),
}
# fmt: on
DIRECTIONS = {"a2b": ("A", "B"), "b2a": ("B", "A")}  # source, target


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig(WidthConfig, AugmentedConfig, ImageConfig):
    PRESETS: ClassVar = PRESETS

    dataset: str = default(
        "emoji", choices=("emoji", "folder"), text="emoji: A Apple's, B Windows'; or folder"
    )
    folder_a: str = data(
        "", "A: a folder or zip of images; or of trainA/, testA/, trainB/, testB/", only_with=FOLDER
    )
    folder_b: str = data("", "B: a folder or zip of images", only_with=FOLDER)
    small_images: str = data(
        "refuse", "what to do with images smaller than --image_size", choices=SMALL_IMAGES
    )
    jitter: float = data(
        1.0,
        "enlarge training images by this, cut a random square; 1: do not",
        at_least=1,
        at_most=100,
    )
    flip: bool = data(False, "mirror training images at even chance")
    direction: str = task(
        "a2b", "which translation --fid_protocol scores", choices=tuple(DIRECTIONS)
    )
    batch_size: int = default(32, text="images of each domain per step", at_least=1)
    image_size: int = default(32, choices=(32, 64, 128, 256))
    arch: str = network(
        "blend",
        "G: an encoder-decoder (plain), or with skips and a mask over the source (blend)",
        choices=tuple(GENERATORS),
    )
    stem: int = network(
        0,
        "kernel of G's first and last convolution; 0: none",
        choices=STEMS,
        only_with={"arch": "plain"},
    )
    generator_hidden_dim: int = default(32)
    discriminator_hidden_dim: int = default(32)
    residual_blocks: int = network(
        1, "blocks of G; 0: 9 from 256 pixels on, else 6", at_most=MOST_REPEATS
    )
    block_convs: int = network(1, "convolutions per residual block", choices=(1, 2))
    norm: str = network("batch", "normalisation in G and D", choices=tuple(NORMS))
    upsample: str = network(
        "resize",
        "how G's maps grow: nearest upsampling and convolution, or transposed convolution",
        choices=UPSAMPLINGS,
    )
    judge: str = network(
        "image", "D judges a whole image, or each patch of 70x70", choices=tuple(DISCRIMINATORS)
    )
    lambda_cycle: float = game(10.0, "weight of the L1 cycle loss")
    lambda_identity: float = game(1.0, "weight of the identity loss, times --lambda_cycle")
    pool_size: int = game(0, "earlier fakes that D learns from, too", at_most=MOST_UNITS)
    learning_rate: float = default(3e-4)
    beta1: float = default(0.3)

    # The target of --direction, by the names under which dataset.py and score.py ask for a dataset

    @property
    def domain(self) -> str:
        return DIRECTIONS[self.direction][1] if self.dataset == "folder" else ""

    @property
    def folder(self) -> str:
        return (self.direction == "a2b" and self.folder_b) or self.folder_a

    @property
    def emoji_style(self) -> str:
        return "Windows" if self.direction == "a2b" else "Apple"

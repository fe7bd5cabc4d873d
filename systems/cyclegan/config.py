"""CycleGAN's settings, and those of its sources by name. docs/cyclegan.md."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lib.config import setting
from lib.errors import UserError
from systems.cyclegan.domains import UnpairedConfig
from systems.cyclegan.networks import DISCRIMINATORS, GENERATORS, NORMS, STEMS, UPSAMPLINGS
from training.decay import check_decay
from user_files import check_request

PRESETS: dict[str, dict[str, Any]] = {
    # CSC413 2020, assignment 4, part 2 (spec row 9): least squares, both D's before both G's, the
    # L1 cycle, 5000 iterations, upsampling and convolution, a block of one convolution. Its layer
    # tables are figures that the text lacks, and it leaves open the widths, the number of blocks,
    # the norm, the batch, Adam's settings and lambda_cycle. Widths, block, batch and Adam's
    # settings are here those of the notebook it goes with; kernels (its 5x5 are 4x4 on the way
    # down and 3x3 elsewhere) and lambda_cycle are ours: its 0.015 goes with the sum over an image's
    # values, ours with their mean, and 10 of the paper's is 0.0033 by its count.
    "emoji": {
        "dataset": "emoji",
        "image_size": 32,
        "arch": "plain",
        "stem": 0,
        "generator_hidden_dim": 32,  # 32, 64
        "discriminator_hidden_dim": 32,  # 32, 64, 128
        "residual_blocks": 1,
        "block_convs": 1,
        "norm": "batch",
        "upsample": "resize",
        "judge": "image",
        "pool_size": 0,
        "lambda_cycle": 10.0,
        "lambda_identity": 0.0,
        "batch_size": 32,
        "learning_rate": 3e-4,
        "beta1": 0.3,
        "num_training_steps": 5000,
        "saving_steps": 200,
        "fid_protocol": "all",
    },
    # Zhu et al. 2017, sec. 4 and app. 7: at 128 pixels add --image_size 128, which takes 6 blocks.
    # 200 epochs, the rate falling over the last 100, of horse2zebra's 1,334 zebras.
    "paper": {
        "dataset": "folder",
        "image_size": 256,
        "jitter": 286 / 256,
        "flip": True,
        "arch": "plain",
        "stem": 7,
        "generator_hidden_dim": 64,
        "discriminator_hidden_dim": 64,
        "residual_blocks": 0,  # 9, or 6 below 256 pixels
        "block_convs": 2,
        "norm": "instance",
        "upsample": "transposed",
        "judge": "patch",
        "pool_size": 50,
        "lambda_cycle": 10.0,
        "lambda_identity": 0.5,
        "batch_size": 1,
        "learning_rate": 2e-4,
        "beta1": 0.5,
        "num_training_steps": 266_800,
        "decay_from": 133_400,
        "decay_to": 266_800,
        "saving_steps": 6670,  # 5 epochs
        "fid_protocol": "all",
    },
}


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig(UnpairedConfig):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    batch_size: int = setting(
        32, "images of each domain a step", group="training", tag="b{}", at_least=1
    )
    image_size: int = setting(
        32, "side of an image in pixels", group="data", tag="{}px", choices=(32, 64, 128, 256)
    )
    arch: str = setting(
        "blend",
        "G: an encoder-decoder alone, or one with skips that draws a mask too, by which its image"
        " covers the source",
        group="networks",
        choices=tuple(GENERATORS),
    )
    stem: int = setting(
        0,
        "of --arch plain: kernel of G's first and last convolution at the image's own size; 0:"
        " there are none",
        group="networks",
        choices=STEMS,
    )
    generator_hidden_dim: int = setting(
        32, "channels of G's largest feature map", group="networks", tag="g{}", at_least=1
    )
    discriminator_hidden_dim: int = setting(
        32, "channels of D's largest feature map", group="networks", tag="d{}", at_least=1
    )
    residual_blocks: int = setting(
        1, "of G; 0: 9 from 256 pixels on, else 6", group="networks", at_least=0
    )
    block_convs: int = setting(
        1, "convolutions in a residual block", group="networks", choices=(1, 2)
    )
    norm: str = setting("batch", "in G and D", group="networks", choices=tuple(NORMS))
    upsample: str = setting(
        "resize",
        "how G's maps grow: nearest upsampling and a convolution, or transposed convolutions",
        group="networks",
        choices=tuple(UPSAMPLINGS),
    )
    judge: str = setting(
        "image",
        "what D gives a value to: a whole image, or each patch of 70x70",
        group="networks",
        choices=tuple(DISCRIMINATORS),
    )
    lambda_cycle: float = setting(
        10.0, "weight of the L1 cycle loss; 0 leaves it out", group="game", at_least=0
    )
    lambda_identity: float = setting(
        1.0,
        "weight of the identity loss as a share of --lambda_cycle; 0 leaves it out",
        group="game",
        at_least=0,
    )
    pool_size: int = setting(
        0,
        "earlier fakes of each domain that its D learns from besides the newest; 0: none",
        group="game",
        at_least=0,
    )
    learning_rate: float = setting(3e-4, "of Adam, all networks", group="training", above=0)
    beta1: float = setting(
        0.3, "of Adam: memory of the gradient", group="training", at_least=0, below=1
    )
    beta2: float = setting(
        0.999, "of Adam: memory of its square", group="training", at_least=0, below=1
    )
    decay_from: int = setting(
        0, "step from which the learning rates fall to 0, linearly", group="training", at_least=0
    )
    decay_to: int = setting(
        0, "step at which they are 0; 0: they stay constant", group="training", at_least=0
    )
    translate: str = setting(
        "",
        "a folder of images to translate with the trained run, at its image size",
        group="what to do",
        role="once",
    )
    out: str = setting("", "of --translate: where they go", group="what to do", role="once")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(self)
        check_request("--translate", self.translate, self.out)
        if self.stem and self.arch != "plain":
            raise UserError(
                f"--stem {self.stem} is of --arch plain, and this is {self.arch}: leave one out."
            )

    @property
    def request(self) -> str:
        return "--translate" if self.translate else ""

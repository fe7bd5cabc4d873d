"""The settings that say which images a system learns from. docs/data.md."""

from dataclasses import dataclass

from lib.config import Config
from lib.errors import UserError
from lib.settings import data
from sources import DATASETS, EMOJI_STYLES, SMALL_IMAGES

FOLDER = {"dataset": "folder"}


@dataclass(frozen=True, kw_only=True)
class ImageConfig(Config):
    dataset: str = data(
        "mnist",
        "images to learn from (docs/data.md)",
        tag="{}",
        level="basic",
        choices=tuple(DATASETS),
    )
    image_size: int = data(32, "side of an image in pixels", tag="{}px", level="basic")


@dataclass(frozen=True, kw_only=True)
class DataConfig(ImageConfig):
    folder: str = data("", "a folder of images, at any depth, or a zip of one", only_with=FOLDER)
    small_images: str = data(
        "refuse",
        "what to do with images smaller than --image_size",
        choices=SMALL_IMAGES,
        only_with=FOLDER,
    )
    emoji_style: str = data(
        "Windows", "who drew the emoji", choices=EMOJI_STYLES, only_with={"dataset": "emoji"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset == "folder" and not self.folder:
            raise UserError("--dataset folder needs --folder PATH: a folder or a zip of images.")

"""The settings that say which images a system learns from; its own config adds image_size."""

from dataclasses import dataclass

from dataset import DATASETS
from lib.config import Config, setting
from lib.errors import UserError
from sources.spec import EMOJI_STYLES, SMALL_IMAGES

BELONGS_TO = {"folder": "folder", "small_images": "folder", "emoji_style": "emoji"}  # -> dataset


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    dataset: str = setting(
        "mnist",
        "images to learn from (docs/data.md)",
        group="data",
        tag="{}",
        choices=tuple(DATASETS),
    )
    folder: str = setting(
        "", "of --dataset folder: a folder of images, at any depth, or a zip of one", group="data"
    )
    small_images: str = setting(
        "refuse",
        "of --dataset folder: what to do with images smaller than --image_size",
        group="data",
        choices=SMALL_IMAGES,
    )
    emoji_style: str = setting(
        "Windows", "of --dataset emoji: who drew them", group="data", choices=EMOJI_STYLES
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset == "folder" and not self.folder:
            raise UserError("--dataset folder needs --folder PATH: a folder or a zip of images.")
        for name, owner in BELONGS_TO.items():
            value = getattr(self, name)
            if self.dataset != owner and value != getattr(DataConfig, name):
                raise UserError(
                    f"--{name} {value} belongs to --dataset {owner}, and this is {self.dataset}."
                    f" Add --dataset {owner}, or leave --{name} out."
                )

"""Which images a run learns from, and in what form: what the loaders in dataset.DATASETS go by."""

from dataclasses import dataclass, fields
from pathlib import Path

from lib.config import Config
from lib.errors import UserError

EMOJI_STYLES = ("Windows", "Apple")
SMALL_IMAGES = ("refuse", "skip", "upscale")


class NoTestSplit(UserError):
    """The dataset has training images only."""


@dataclass(frozen=True)
class DataSpec:
    """Settings by the names they have in a config; each dataset reads those that concern it."""

    data_dir: Path
    image_size: int
    folder: str = ""
    small_images: str = "refuse"
    emoji_style: str = "Windows"
    domain: str = ""  # "A" or "B": which one of an unpaired set's two, in a folder that holds both

    @classmethod
    def of(cls, config: Config) -> "DataSpec":
        """From whatever config: fields that it lacks keep their defaults."""
        names = [f.name for f in fields(cls) if hasattr(config, f.name)]
        values = {name: getattr(config, name) for name in names}
        return cls(**values | {"data_dir": Path(config.data_dir)})

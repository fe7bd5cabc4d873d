"""Say where images come from: DATASETS has a module for each name that --dataset takes.

For files: image_files (folders and zips), pictures (one image), decoding (many, in threads),
image_cache (what is kept), image_folder (those that fid.py compares).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

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


@dataclass(frozen=True)
class Source:
    """Says how a dataset is loaded, and what is known of it without loading an image.

    load(spec, split): images (N, H, W) or (N, C, H, W) uint8 and labels (N,) or (N, L) as arrays.
    identity tells apart two sets of images under the dataset's name. check_split raises UserError
    if the split is not there and won't be fetched. class_names are those of ImageData.
    """

    load: Callable[[DataSpec, str], tuple[np.ndarray, np.ndarray]]
    channels: Callable[[DataSpec], int] = lambda spec: 3
    identity: Callable[[DataSpec], str] = lambda spec: ""
    check_split: Callable[[DataSpec, str], object] = lambda spec, split: None
    class_names: Callable[[DataSpec], tuple[str, ...]] = lambda spec: ()


def in_mnists_format(title: str) -> Source:
    from sources import mnist

    source = mnist.PUBLISHED[title]
    return Source(
        lambda s, split: mnist.load(source, s.data_dir, split),
        lambda s: 1,
        class_names=lambda s: source.class_names,
    )


def of_module(name: str) -> Source:
    """The dataset whose module has some of Source's functions, by their names."""
    module = import_module(f"sources.{name}")
    parts = (f.name for f in fields(Source) if hasattr(module, f.name))
    return Source(**{part: getattr(module, part) for part in parts})


# --dataset -> its Source, whose module is imported when it is called
DATASETS: dict[str, Callable[[], Source]] = {
    "mnist": partial(in_mnists_format, "MNIST"),
    "fashion": partial(in_mnists_format, "FashionMNIST"),
} | {name: partial(of_module, name) for name in ("cifar10", "stl10", "emoji", "iclevr", "folder")}

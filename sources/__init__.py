"""Where images come from: DATASETS has a module for each name that --dataset takes.

For files: image_files (folders and zips), pictures (one image), decoding (many, in threads),
image_cache (what is kept), image_folder (those that fid.py compares).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sources.spec import DataSpec


@dataclass(frozen=True)
class Source:
    """A dataset: its loader, the channels of its images, and a mark in the names of what is kept.

    load(spec, split): images (N, H, W) or (N, C, H, W) uint8 and labels (N,) or (N, L), as NumPy
    arrays.
    channels and identity load no images where that can be helped; an identity tells apart two
    sets of images that have the dataset's name. check_split loads none: it raises UserError where
    the split is not there and won't be fetched. class_names are those of ImageData.
    """

    load: Callable[[DataSpec, str], tuple[np.ndarray, np.ndarray]]
    channels: Callable[[DataSpec], int]
    identity: Callable[[DataSpec], str] = lambda spec: ""
    check_split: Callable[[DataSpec, str], object] = lambda spec, split: None
    class_names: Callable[[DataSpec], tuple[str, ...]] = lambda spec: ()


def mnist_digits() -> Source:
    from sources import mnist

    return Source(
        lambda s, split: mnist.load_mnist(s.data_dir, split),
        lambda s: 1,
        class_names=lambda s: mnist.MNIST.class_names,
    )


def fashion_mnist() -> Source:
    from sources import mnist

    return Source(
        lambda s, split: mnist.load_fashion(s.data_dir, split),
        lambda s: 1,
        class_names=lambda s: mnist.FASHION.class_names,
    )


def cifar_10() -> Source:
    from sources import cifar10

    return Source(cifar10.load, lambda s: 3, class_names=lambda s: cifar10.CLASSES)


def stl_10() -> Source:
    from sources import stl10

    return Source(stl10.load, lambda s: 3)


def emoji_set() -> Source:
    from sources import emoji

    return Source(emoji.load, lambda s: 3, emoji.identity, emoji.check_split)


def i_clevr() -> Source:
    from sources import iclevr

    check_split = lambda s, split: iclevr.read_split(s.data_dir, split)  # noqa: E731
    return Source(iclevr.load, lambda s: 3, iclevr.identity, check_split)


def image_folder() -> Source:
    from sources import folder

    return Source(
        folder.load, folder.channels, folder.identity, folder.check_split, folder.class_names
    )


# --dataset -> its Source, whose module is imported when it is called
DATASETS: dict[str, Callable[[], Source]] = {
    "mnist": mnist_digits,
    "fashion": fashion_mnist,
    "cifar10": cifar_10,
    "stl10": stl_10,
    "emoji": emoji_set,
    "iclevr": i_clevr,
    "folder": image_folder,
}

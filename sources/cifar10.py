"""CIFAR-10 (Krizhevsky 2009): 32x32 colour photographs of ten kinds of thing.

Address and checksums are torchvision's, and so is the folder. The published files are pickles, and
a pickle can run code: one is opened only when its md5 is the published one.
"""

import pickle
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10

from sources import DataSpec, archive

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MD5 = dict(CIFAR10.train_list + CIFAR10.test_list)  # of the unpacked files
FILES = {"train": [name for name in MD5 if name != "test_batch"], "test": ["test_batch"]}
FOLDER = CIFAR10.base_folder
ARCHIVE = archive.Published(CIFAR10.url, CIFAR10.tgz_md5, "170 MB", MD5)


def load(spec: DataSpec, split: str) -> tuple[np.ndarray, np.ndarray]:
    """images (N, 3, 32, 32) uint8, 50,000 / 10,000; labels (N,) 0 to 9 in the order of CLASSES.

    Downloads 170 MB where the files aren't there. Raises UserError if they can't be had.
    """
    folder, names = spec.data_dir / FOLDER, FILES[split]
    ARCHIVE.bring(names, folder)
    images, labels = zip(*(read(folder / name) for name in names), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def class_names(spec: DataSpec) -> tuple[str, ...]:
    return CLASSES


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One file's images (n, 3, 32, 32) and labels (n,)."""
    archive.check_file(path, MD5[path.name])
    with open(path, "rb") as file:
        batch = pickle.load(file, encoding="latin1")
    images = np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32)  # planes, row by row
    return images, np.asarray(batch["labels"], np.int64)

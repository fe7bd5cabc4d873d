"""STL-10 (Coates, Ng & Lee 2011): 96x96 colour photographs, resized once and kept as bytes.

Its 100,000 unlabeled images and the 5,000 labeled ones train; the 8,000 of the test set test.
Address and checksums are torchvision's.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import STL10

from lib.errors import UserError
from lib.guards import Bar
from sources import DataSpec, archive, image_cache
from sources.image_files import digest
from sources.pictures import resize

SHAPE = (3, 96, 96)
IMAGE = 3 * 96 * 96  # bytes
FILES = {  # split -> image files with their label files; labels are 1 to 10, one byte an image
    "train": (("train_X.bin", "train_y.bin"), ("unlabeled_X.bin", "")),
    "test": (("test_X.bin", "test_y.bin"),),
}
PUBLISHED = {"train_X.bin": 5_000, "unlabeled_X.bin": 100_000, "test_X.bin": 8_000}  # images
MD5 = dict(STL10.train_list + STL10.test_list)  # of the unpacked files
FOLDER = STL10.base_folder
ARCHIVE = archive.Published(STL10.url, STL10.tgz_md5, "2.6 GB", MD5)
CHUNK = 500  # images resized at a time


def load(spec: DataSpec, split: str) -> tuple[np.ndarray, np.ndarray]:
    """images (N, 3, S, S) uint8; labels (N,) 0 to 9, -1 for the unlabeled ones, which come last.

    Downloads 2.6 GB where the files aren't there. Raises UserError if they can't be had.
    """
    folder = spec.data_dir / FOLDER
    ARCHIVE.bring([name for pair in FILES[split] for name in pair if name], folder)
    pairs = [(folder / x, folder / y if y else None) for x, y in FILES[split]]
    stamps = [(x.stat().st_size, x.stat().st_mtime_ns) for x, _ in pairs]
    name = f"stl10-{spec.image_size}px-{digest(folder.resolve(), stamps)}-{split}"
    path = spec.data_dir / "cache" / name
    if image_cache.described(path) is None:
        for x, _ in pairs:
            check(x)
        image_cache.write(path, resized([x for x, _ in pairs], spec.image_size, split), {})
    return image_cache.read(path), np.concatenate([labels(x, y) for x, y in pairs])


def check(path: Path) -> None:
    """UserError unless it is whole images, and if as many as published, exactly those."""
    n, rest = divmod(path.stat().st_size, IMAGE)
    if rest or not n:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes: wanted a multiple of {IMAGE:,}, 3x96x96 an"
            " image. Delete it and run again."
        )
    if n == PUBLISHED[path.name]:
        archive.check_file(path, MD5[path.name])
    else:
        found = f"{n:,} images, not the published {PUBLISHED[path.name]:,}"
        print(f"{path} holds {found}: taken as it is", file=sys.stderr)


def resized(paths: list[Path], size: int, split: str) -> Iterator[np.ndarray]:
    """All images of the files, in chunks (n, 3, size, size)."""
    maps = (np.memmap(path, np.uint8, mode="r").reshape(-1, *SHAPE) for path in paths)
    files = [images.transpose(0, 1, 3, 2) for images in maps]  # a plane lies column by column
    with Bar(total=sum(map(len, files)), desc=f"STL-10 {split}, to {size}px", unit="image") as bar:
        for images in files:
            for start in range(0, len(images), CHUNK):
                chunk = torch.from_numpy(np.ascontiguousarray(images[start : start + CHUNK]))
                yield resize(chunk, size).numpy()
                bar.update(len(chunk))


def labels(images: Path, labels: Path | None) -> np.ndarray:
    """int64 (N,) from 0; -1 where none are known."""
    n = images.stat().st_size // IMAGE
    if labels is None:
        return np.full(n, -1, np.int64)
    values = np.fromfile(labels, np.uint8).astype(np.int64) - 1
    if len(values) != n:
        raise UserError(f"{labels} has {len(values):,} labels for {n:,} images; wanted as many.")
    if values.min() < 0 or values.max() > 9:
        raise UserError(
            f"{labels} holds labels from {values.min() + 1} to {values.max() + 1}: wanted 1 to 10."
            " Delete it and run again."
        )
    return values

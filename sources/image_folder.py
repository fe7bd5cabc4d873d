"""A folder of images as a stream of batches, decoded in threads ahead of whoever takes them."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lib.errors import UserError
from sources.pictures import decode

EXTENSIONS = {".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
INCEPTION_SIZE = 299
LISTS_AHEAD = 2  # read before they are asked for: the bound on memory
A, B = TypeVar("A"), TypeVar("B")


def image_paths(folder: Path) -> list[Path]:
    """The images directly in folder, sorted by path. UserError if there are fewer than two.

    The extensions are pytorch-fid's; unlike there, .JPG counts as .jpg on every system.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file())
    if len(paths) < 2:
        found = f"one image, {paths[0].name}," if paths else "no images"
        kinds = ", ".join(sorted(EXTENSIONS))
        raise UserError(
            f"{folder} holds {found} and a covariance needs at least two: name a folder whose "
            f"images ({kinds}) lie directly in it"
        )
    return paths


def read_rgb(path: Path, side: int = 0) -> Tensor:
    """One image, uint8 (3, H, W); grey, palette and alpha become RGB as Pillow has it.

    side: its middle square at that size instead, as a dataset of it would be.
    """
    try:
        if side:
            return torch.tensor(decode(path.read_bytes(), side, upscale=True).pixels)
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))  # (H, W, 3)
    except Exception as problem:  # Pillow's decoders raise nearly anything on a broken file
        raise UserError(f"{path} cannot be read as an image ({problem}): remove it") from problem
    return torch.from_numpy(pixels).permute(2, 0, 1)


def stack(images: list[Tensor]) -> Tensor:
    """Images (3, H, W) of one size -> uint8 (N, 3, H, W); of several -> (N, 3, 299, 299) in [0, 1].

    The resizing is the extractor's own (bilinear, no antialias), done one image earlier: at 299
    the extractor's is then the identity, so an image's features do not depend on its neighbours.
    """
    if len({image.shape for image in images}) == 1:
        return torch.stack(images)
    form = {"size": (INCEPTION_SIZE, INCEPTION_SIZE), "mode": "bilinear", "align_corners": False}
    return torch.cat([F.interpolate(image[None] / 255, **form) for image in images])


def image_batches(
    paths: list[Path], batch_size: int, threads: int = 1, *, side: int = 0
) -> Iterator[Tensor]:
    """Batches of the images in the order of paths, as `stack` makes them; the last may be smaller.

    side: of each the middle square at that size. UserError names a broken file.
    """
    read = read_ahead(lambda path: read_rgb(path, side), paths, batch_size, max(1, threads))
    yield from map(stack, read)


def read_ahead(
    read: Callable[[A], B], items: list[A], size: int, threads: int | None = None
) -> Iterator[list[B]]:
    """Yield read(item) of all items, in order, in lists of `size` that threads fill.

    Memory is bounded by three lists. threads: None for as many as there are processors.
    """
    ahead = deque()
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for start in range(0, len(items), size):
            ahead.append([pool.submit(read, item) for item in items[start : start + size]])
            if len(ahead) > LISTS_AHEAD:
                yield [one.result() for one in ahead.popleft()]
        while ahead:
            yield [one.result() for one in ahead.popleft()]

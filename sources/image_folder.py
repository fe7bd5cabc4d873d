"""A folder of images as a stream of batches, decoded in threads ahead of whoever takes them."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lib.errors import UserError
from sources.pictures import decode

EXTENSIONS = {".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
INCEPTION_SIZE = 299
BATCHES_AHEAD = 2  # decoded before they are asked for: the bound on memory


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
    size = (INCEPTION_SIZE, INCEPTION_SIZE)
    resized = [
        F.interpolate(image[None] / 255, size, mode="bilinear", align_corners=False)
        for image in images
    ]
    return torch.cat(resized)


def image_batches(
    paths: list[Path], batch_size: int, threads: int = 1, *, side: int = 0
) -> Iterator[Tensor]:
    """Batches of the images in the order of paths, as `stack` makes them; the last may be smaller.

    side: of each the middle square at that size.
    Memory is bounded by three batches, whatever the number of paths. UserError names a broken file.
    """
    ahead = deque()
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for start in range(0, len(paths), batch_size):
            part = paths[start : start + batch_size]
            ahead.append([pool.submit(read_rgb, path, side) for path in part])
            if len(ahead) > BATCHES_AHEAD:
                yield stack([image.result() for image in ahead.popleft()])
        while ahead:
            yield stack([image.result() for image in ahead.popleft()])

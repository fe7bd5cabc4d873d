"""A folder of images as a stream of batches, decoded in threads ahead of whoever takes them."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import UserError
from lib.results import warn_once
from sources.pictures import decode, decode_whole, reason

EXTENSIONS = {".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# images too, which nothing here reads: films, vectors, what needs a plugin, rare names of JPEG
PASSED_OVER = {
    *(".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl"),
    *(".apng", ".dng", ".ico", ".psd", ".raw", ".svg", ".tga"),
}
INCEPTION_SIZE = 299
LISTS_AHEAD = 2  # read before they are asked for: the bound on memory
A, B = TypeVar("A"), TypeVar("B")


def image_paths(folder: Path) -> list[Path]:
    """The images directly in folder, sorted by path. UserError if there are fewer than two.

    The extensions are pytorch-fid's; unlike there, .JPG counts as .jpg on every system. Other
    images and broken links are counted on stderr.
    """
    there = sorted(p for p in folder.iterdir() if not p.is_dir())
    paths = [p for p in there if p.suffix.lower() in EXTENSIONS and p.is_file()]
    others = passed_over({p.name for p in there} - {p.name for p in paths}, folder)
    note = f"passed over {others}; " * bool(others) + f"read are {', '.join(sorted(EXTENSIONS))}"
    if len(paths) < 2:
        found = f"one image, {paths[0].name}," if paths else "no images"
        raise UserError(
            f"{folder} holds {found} and a covariance needs at least two: name a folder whose "
            f"images lie directly in it ({note})"
        )
    if others:
        warn_once(f"{folder}: {note}")
    return paths


def is_image(name: str) -> bool:
    """By its extension, and not hidden."""
    return PurePosixPath(name).suffix.lower() in EXTENSIONS and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Behind a dot, as macOS puts beside each file in a zip, or in a folder that is."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def passed_over(names: Iterable[str], root: Path | None = None) -> str:
    """Write '12 .gif, 1 broken link': images of kinds that are not read, FIFOs, dead links, or "".

    root: the folder that the names are below; in an archive there are no links.
    """
    kinds: Counter[str] = Counter()
    for name in sorted(name for name in names if not is_hidden(name)):
        suffix = PurePosixPath(name).suffix.lower()
        if root and not (root / name).is_file():
            kinds["no file" if (root / name).exists() else "broken link"] += 1
        elif suffix in PASSED_OVER:
            kinds[suffix] += 1
    return ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common())


def read_rgb(path: Path, side: int = 0, odd: list[Path] | None = None) -> Tensor:
    """One image, uint8 (3, H, W), read as a dataset's.

    side: its middle square at that size. odd: gathers the images that pytorch-fid reads otherwise,
    and they are read as it does.
    """
    try:
        if side:
            return torch.tensor(decode(path.read_bytes(), side, upscale=True).pixels)
        found = decode_whole(path.read_bytes(), as_stored=odd is not None)
    except Exception as problem:  # Pillow's decoders raise nearly anything on a broken file
        raise UserError(
            f"{path} cannot be read as an image ({reason(problem)}): remove it"
        ) from None
    if odd is not None and (found.transparent or found.turned):
        odd.append(path)
    return torch.from_numpy(found.pixels)


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

    side: of each the middle square at that size. UserError names a broken file. Alpha and EXIF's
    turns are ignored, as pytorch-fid does, with a warning at the end.
    """
    odd: list[Path] = []
    read = read_ahead(lambda path: read_rgb(path, side, odd), paths, batch_size, max(1, threads))
    yield from map(stack, read)
    if odd:
        warn_once(
            f"{len(odd):,} of {len(paths):,} images, such as {min(odd)}, are transparent or turned"
            " by EXIF: both are ignored here, as pytorch-fid does (docs/fid.md)."
        )


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

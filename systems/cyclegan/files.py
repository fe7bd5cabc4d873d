"""A user's own images, translated: main.py --model cyclegan --translate DIR --out DIR."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset import to_signed
from lib.config import Config
from lib.errors import UserError
from sources.image_files import FolderFiles
from sources.pictures import decode, reason
from user_files import check_out, in_words, save

BATCH_SIZE = 16
LUMA = np.array([0.299, 0.587, 0.114])  # of a colour, for a model of grey images (ITU-R BT.601)


class Translator(Protocol):
    config: Config
    channels: int
    device: torch.device

    def translated(self, images: Tensor, direction: str) -> Tensor: ...


def translate_folder(translator: Translator) -> None:
    """Every image under --translate to the same name under --out, at the model's size.

    Of another size the middle square is taken and resized. UserError: no image is there, or all
    are unreadable, or --out can't be written.
    """
    config = translator.config
    source, out = Path(config.translate).expanduser(), Path(config.out).expanduser()
    files = find_images(source, out)
    unreadable: dict[str, str] = {}
    n = 0
    with tqdm(total=len(files.names), desc=config.direction, unit="image") as bar:
        for names, images in batches(files, translator, unreadable, bar):
            for name, image in zip(
                names, translator.translated(images, config.direction), strict=True
            ):
                save(image, out / name)
                n += 1
    skipped = in_words(unreadable)
    if not n:
        raise UserError(f"--translate {source}: no image could be read{skipped}.")
    size = config.image_size
    print(f"{n:,} images translated {config.direction} at {size}x{size}, in {out}/{skipped}")
    print("  (of another size: the middle square, resized)")


def find_images(source: Path, out: Path) -> FolderFiles:
    if not source.is_dir():
        raise UserError(f"--translate {source}: no folder is there; name one of images.")
    files = FolderFiles(source)
    if not files.names:
        raise UserError(f"--translate {source}: no images are in it; wanted jpg, png or the like.")
    check_out("--translate", source, out, deep=True)
    return files


def batches(
    files: FolderFiles, translator: Translator, unreadable: dict[str, str], bar: tqdm
) -> Iterator[tuple[list[str], Tensor]]:
    """Names and images (n, C, S, S) in [-1, 1]; those that can't be read are noted with why."""
    for start in range(0, len(files.names), BATCH_SIZE):
        found = {}
        for name in files.names[start : start + BATCH_SIZE]:
            try:
                picture = decode(files.read(name), translator.config.image_size, upscale=True)
                found[name] = with_channels(picture.pixels, translator.channels)
            except Exception as problem:  # Pillow's decoders raise nearly anything
                unreadable[name] = reason(problem)
            bar.update()
        if found:
            yield list(found), to_signed(torch.from_numpy(np.stack(list(found.values()))))


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """RGB (3, S, S) uint8 as it is, or as grey (1, S, S)."""
    if channels == 3:
        return pixels
    return np.tensordot(LUMA, pixels, 1).round().astype(np.uint8)[None]

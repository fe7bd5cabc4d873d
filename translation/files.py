"""A user's own images, translated: main.py --model cyclegan --translate DIR --out DIR."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from config import Config
from dataset import to_bytes, to_signed
from errors import UserError
from sources.image_files import FolderFiles
from sources.pictures import decode

BATCH_SIZE = 16
NAMED = 5  # unreadable files named; the rest is counted
LUMA = np.array([0.299, 0.587, 0.114])  # of a colour, for a model of grey images (ITU-R BT.601)


class Translator(Protocol):
    config: Config
    channels: int
    device: torch.device

    def translated(self, images: Tensor, direction: str) -> Tensor: ...


def check_request(source: str, out: str) -> None:
    """UserError unless --translate and --out come together."""
    if source and not out:
        raise UserError(f"--translate {source} needs --out DIR: where the translations go.")
    if out and not source:
        raise UserError(f"--out {out} belongs to --translate DIR: the images to translate.")


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
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder.")
    if out.resolve() == source.resolve():
        raise UserError(f"--out {out} is --translate's folder: name another, names are kept.")
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
                unreadable[name] = " ".join(str(problem).split())[:80] or type(problem).__name__
            bar.update()
        if found:
            yield list(found), to_signed(torch.from_numpy(np.stack(list(found.values()))))


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """RGB (3, S, S) uint8 as it is, or as grey (1, S, S)."""
    if channels == 3:
        return pixels
    return np.tensordot(LUMA, pixels, 1).round().astype(np.uint8)[None]


def save(image: Tensor, path: Path) -> None:
    """image (C, S, S) in [-1, 1], in the format that the name says; a JPEG at quality 95."""
    pixels = to_bytes(image).cpu().numpy().transpose(1, 2, 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
            path, quality=95
        )
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror or error}).") from None


def in_words(unreadable: dict[str, str]) -> str:
    """ "; skipped 1 unreadable: a.png (why)", or nothing."""
    if not unreadable:
        return ""
    named = [f"{name} ({why})" for name, why in list(unreadable.items())[:NAMED]]
    more = ", ..." if len(unreadable) > NAMED else ""
    return f"; skipped {len(unreadable):,} unreadable: {', '.join(named)}{more}"

"""A user's own pictures, 4 times as large: main.py --model srgan --upscale PICTURES --out DIR."""

import glob
import io
import os
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from tqdm import tqdm

from dataset import to_signed
from lib.errors import UserError
from sources.image_files import FolderFiles, is_image
from sources.pictures import is_transparent, reason, to_rgb
from systems.srgan.config import SRGANConfig
from systems.srgan.flips import self_ensemble
from systems.srgan.resampling import SCALE
from systems.srgan.tiles import count_tiles, upscale_in_tiles
from user_files import check_out, in_words, save


class Upscaler(Protocol):
    config: SRGANConfig
    channels: int

    def sampled_generator(self) -> nn.Module: ...

    def upscaled(self, low: Tensor, G: nn.Module | None = None) -> Tensor: ...


def upscale_files(system: Upscaler) -> None:
    """Every picture of --upscale to its name under --out: W x H becomes 4W x 4H.

    UserError: no picture is there, or all are unreadable, or --out can't be written.
    """
    config = system.config
    out = Path(config.out).expanduser()
    root, names = find_pictures(config.upscale, out)
    G = system.sampled_generator()
    unreadable: dict[str, str] = {}
    some_transparent = False
    for name in names:
        try:
            picture, transparent = read_picture((root / name).read_bytes())
        except Exception as problem:  # Pillow's decoders raise nearly anything
            unreadable[name] = reason(problem)
            continue
        some_transparent |= transparent
        save(upscale_picture(system, G, picture, name), out / name)
    n, skipped = len(names) - len(unreadable), in_words(unreadable)
    if not n:
        raise UserError(f"--upscale {config.upscale}: no picture could be read{skipped}.")
    pictures = "picture" if n == 1 else "pictures"
    print(f"{n:,} {pictures}, {SCALE} times as wide and as high, in {out}/{skipped}")
    if some_transparent:
        print("  (transparent parts are on white)")


def find_pictures(source: str, out: Path) -> tuple[Path, list[str]]:
    """A folder and the pictures' paths below it, of a folder, a file or a pattern as "a/*.png"."""
    path = Path(source).expanduser()
    if path.is_dir():
        root, names = path, FolderFiles(path).names
    else:
        found = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)
        found = sorted(name for name in found if os.path.isfile(name) and is_image(name))
        root = Path(os.path.commonpath([os.path.dirname(name) or "." for name in found] or ["."]))
        names = [Path(name).relative_to(root).as_posix() for name in found]
    if not names:
        raise UserError(
            f"--upscale {source}: found no picture; wanted a folder, a file or a quoted pattern"
            ' such as "photos/*.jpg".'
        )
    check_out("--upscale", root, out, deep=path.is_dir() or "**" in source)
    return root, names


def read_picture(data: bytes) -> tuple[Tensor, bool]:
    """(3, H, W) in [-1, 1], or (1, H, W) where no pixel has a colour; whether it was transparent.

    Turned upright, transparency on white, 16 bits brought to 8, as training images are.
    """
    with Image.open(io.BytesIO(data)) as image:
        transparent = is_transparent(image)
        image = to_rgb(ImageOps.exif_transpose(image))
    pixels = np.asarray(image).transpose(2, 0, 1)
    grey = (pixels == pixels[:1]).all()
    return to_signed(torch.from_numpy((pixels[:1] if grey else pixels).copy())), transparent


def upscale_picture(system: Upscaler, G: nn.Module, picture: Tensor, name: str) -> Tensor:
    """(C, H, W) -> (C, 4H, 4W), grey if it was: then the mean of what G makes of three like planes.

    A G of grey images takes the colours one by one.
    """
    tile = system.config.image_size // SCALE
    parts = list(picture.split(1)) if system.channels == 1 else [picture.expand(3, -1, -1)]

    def enlarge(low: Tensor) -> Tensor:
        return system.upscaled(low, G)

    if system.config.self_ensemble:
        enlarge = self_ensemble(enlarge)
    tiles = len(parts) * count_tiles(*picture.shape[1:], tile)
    with tqdm(total=tiles, desc=name, unit="tile", disable=None) as bar:
        made = [upscale_in_tiles(part, enlarge, tile=tile, progress=bar.update) for part in parts]
    image = torch.cat(made)
    return image if len(picture) == 3 else image.mean(0, keepdim=True)

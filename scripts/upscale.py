"""Enlarge your own pictures 4 times each way with a trained SRGAN. docs/srgan.md.

    python scripts/upscale.py PHOTOS --out LARGE                          by the newest run
    python scripts/upscale.py "photos/*.jpg" --out LARGE --run runs/NAME

Pictures may have any size.
"""

import argparse
import os
import sys
from pathlib import Path

import _root  # noqa: F401
import torch
from torch import Tensor

from dataset import to_signed
from lib.command import command
from scripts._pictures import FLAGS, find_pictures, make_each
from scripts._saved_run import open_system
from sources.pictures import decode_whole
from systems.srgan.resampling import SCALE
from systems.srgan.tiles import Enlarge, upscale_in_tiles


@command(*FLAGS)
def main(args: argparse.Namespace) -> int:
    out = Path(os.path.expanduser(args.out))
    found = find_pictures(args.pictures, out)
    trainer = open_system("srgan", args)
    sizes = {"channels": trainer.channels, "tile": trainer.config.image_size // SCALE}
    clear = set()  # whether a picture was transparent

    def read(data: bytes, name: str) -> Tensor:
        picture, transparent = read_picture(data)
        clear.add(transparent)
        return picture

    def make(picture: Tensor, name: str) -> Tensor:
        return upscale_picture(picture, trainer.sample, name=name, **sizes)

    status = make_each(found, out, read, make, f"{SCALE} times as wide and as high")
    if True in clear:
        print("  (transparent parts are on white)")
    return status


def read_picture(data: bytes) -> tuple[Tensor, bool]:
    """(3, H, W) in [-1, 1], or (1, H, W) if no pixel has a colour; and if any was transparent.

    Turned upright, transparency on white, 16 bits brought to 8, as training images are.
    """
    pixels, transparent, _ = decode_whole(data)
    grey = (pixels == pixels[:1]).all()
    return to_signed(torch.from_numpy((pixels[:1] if grey else pixels).copy())), transparent


def upscale_picture(
    picture: Tensor, enlarge: Enlarge, *, channels: int, tile: int = 16, name: str = ""
) -> Tensor:
    """(C, H, W) -> (C, 4H, 4W); a grey picture is the mean of what G makes of three like planes.

    A G of grey images (channels 1) takes the colours one by one.
    """
    parts = list(picture.split(1)) if channels == 1 else [picture.expand(3, -1, -1)]
    image = torch.cat([upscale_in_tiles(part, enlarge, tile=tile, name=name) for part in parts])
    return image if len(picture) == 3 else image.mean(0, keepdim=True)


if __name__ == "__main__":
    sys.exit(main())

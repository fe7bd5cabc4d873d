"""Translate your own images with a trained CycleGAN, at its image size. docs/cyclegan.md.

    python scripts/translate.py PHOTOS --out TRANSLATED                   by the newest run
    python scripts/translate.py "a/*.jpg" --out B --run runs/NAME --direction b2a

An image of another size: the middle square, resized.
"""

import argparse
import os
import sys
from pathlib import Path

import _root  # noqa: F401
import numpy as np
import torch
from torch import Tensor

from dataset import to_signed
from lib.command import command, flag
from scripts._pictures import FLAGS, find_pictures, make_each
from scripts._saved_run import open_system
from sources.pictures import decode
from systems.cyclegan.domains import DIRECTIONS

LUMA = np.array([0.299, 0.587, 0.114])  # of a colour, for a model of grey images (ITU-R BT.601)


@command(
    *FLAGS,
    flag("--direction", choices=tuple(DIRECTIONS), default="a2b", help="from A to B, or back"),
)
def main(args: argparse.Namespace) -> int:
    out = Path(os.path.expanduser(args.out))
    found = find_pictures(args.pictures, out)
    trainer = open_system("cyclegan", args, direction=args.direction)
    size = trainer.config.image_size

    def read(data: bytes, name: str) -> Tensor:
        pixels = decode(data, size, upscale=True).pixels
        if trainer.channels == 1:
            pixels = np.tensordot(LUMA, pixels, 1).round().astype(np.uint8)[None]
        return to_signed(torch.tensor(pixels))

    def translate(x: Tensor, name: str) -> Tensor:
        return trainer.translated(x[None], args.direction)[0]

    return make_each(found, out, read, translate, f"translated {args.direction} at {size}x{size}")


if __name__ == "__main__":
    sys.exit(main())

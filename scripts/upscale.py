"""Enlarge your own pictures 4 times each way with a trained SRGAN. docs/srgan.md.

    python scripts/upscale.py PHOTOS --out LARGE                          by the newest run
    python scripts/upscale.py "photos/*.jpg" --out LARGE --run runs/NAME --self_ensemble

Pictures may have any size.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from dataset import to_signed
from lib.command import command, flag
from scripts._pictures import FLAGS, find_pictures, make_each
from scripts._saved_run import open_system
from sources.pictures import is_transparent, to_rgb
from systems.srgan.flips import Enlarge, self_ensemble
from systems.srgan.resampling import SCALE
from systems.srgan.tiles import count_tiles, upscale_in_tiles

ENSEMBLE = "the mean over 8 positions, turned and mirrored: 8 times as long"


@command(*FLAGS, flag("--self_ensemble", action="store_true", help=ENSEMBLE))
def main(args: argparse.Namespace) -> int:
    out = Path(args.out).expanduser()
    found = find_pictures(args.pictures, out)
    trainer = open_system("srgan", args)
    ensemble = args.self_ensemble or trainer.config.self_ensemble
    enlarge = self_ensemble(trainer.sample) if ensemble else trainer.sample
    clear = set()  # whether a picture was transparent

    def read(data: bytes, name: str) -> Tensor:
        picture, transparent = read_picture(data)
        clear.add(transparent)
        return picture

    def make(picture: Tensor, name: str) -> Tensor:
        tile = trainer.config.image_size // SCALE
        return upscale_picture(picture, enlarge, channels=trainer.channels, tile=tile, name=name)

    status = make_each(found, out, read, make, f"{SCALE} times as wide and as high")
    if True in clear:
        print("  (transparent parts are on white)")
    return status


def read_picture(data: bytes) -> tuple[Tensor, bool]:
    """(3, H, W) in [-1, 1], or (1, H, W) if no pixel has a colour; and if any was transparent.

    Turned upright, transparency on white, 16 bits brought to 8, as training images are.
    """
    with Image.open(io.BytesIO(data)) as image:
        transparent = is_transparent(image)
        image = to_rgb(ImageOps.exif_transpose(image))
    pixels = np.asarray(image).transpose(2, 0, 1)
    grey = (pixels == pixels[:1]).all()
    return to_signed(torch.from_numpy((pixels[:1] if grey else pixels).copy())), transparent


def upscale_picture(
    picture: Tensor, enlarge: Enlarge, *, channels: int, tile: int = 16, name: str = ""
) -> Tensor:
    """(C, H, W) -> (C, 4H, 4W); a grey picture is the mean of what G makes of three like planes.

    A G of grey images (channels 1) takes the colours one by one.
    """
    parts = list(picture.split(1)) if channels == 1 else [picture.expand(3, -1, -1)]
    tiles = len(parts) * count_tiles(*picture.shape[1:], tile)
    with tqdm(total=tiles, desc=name, unit="tile", disable=None, leave=False) as bar:
        made = [upscale_in_tiles(part, enlarge, tile=tile, progress=bar.update) for part in parts]
    image = torch.cat(made)
    return image if len(picture) == 3 else image.mean(0, keepdim=True)


if __name__ == "__main__":
    sys.exit(main())

"""A picture of any size through a network of one size: overlapping tiles, blended without seams."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lib.guards import Bar
from systems.srgan.resampling import SCALE

Enlarge = Callable[[Tensor], Tensor]
MARGIN = 2  # pixels at a tile's edge that are context alone: there a network sees its own padding


def upscale_in_tiles(
    picture: Tensor, enlarge: Enlarge, *, tile: int = 16, batch_size: int = 64, name: str = ""
) -> Tensor:
    """picture (C, H, W) of any size -> (C, 4H, 4W), on the CPU.

    enlarge: (N, C, tile, tile) -> (N, C, 4 tile, 4 tile). The picture is mirrored beyond its edges,
    so that every pixel of it lies within two tiles each way, whose weights sum to 1: what enlarge
    does to a pixel by its MARGIN neighbours comes out as if there were no tiles. name: the bar's.
    """
    step = tile // 2 - MARGIN
    before, sides = step + MARGIN, picture.shape[1:]
    starts = [range(0, (math.ceil(side / step) + 1) * step, step) for side in sides]
    after = [r[-1] + tile - before - n for r, n in zip(starts, sides, strict=True)]
    around = [(0, 0), (before, after[0]), (before, after[1])]
    padded = torch.from_numpy(np.pad(picture.cpu().numpy(), around, mode="symmetric"))
    whole = torch.zeros(len(picture), *(SCALE * side for side in padded.shape[1:]))
    window = blending_window(tile)
    places = [(i, j) for i in starts[0] for j in starts[1]]
    batches = [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
    for some in Bar(batches, desc=name, unit="batch", leave=False, disable=None):
        tiles = torch.stack([padded[:, i : i + tile, j : j + tile] for i, j in some])
        for (i, j), made in zip(some, enlarge(tiles).cpu() * window, strict=True):
            whole[:, SCALE * i :, SCALE * j :][:, : SCALE * tile, : SCALE * tile] += made
    top = SCALE * before
    height, width = (SCALE * side for side in sides)
    return whole[:, top : top + height, top : top + width]


def blending_window(tile: int) -> Tensor:
    """(4 tile, 4 tile): sin^2 each way, 0 on the margin; shifted by half a core it adds up to 1."""
    core = SCALE * (tile - 2 * MARGIN)
    hill = torch.sin(math.pi * (torch.arange(core) + 0.5) / core).square()
    hill = torch.nn.functional.pad(hill, (SCALE * MARGIN, SCALE * MARGIN))
    return hill[:, None] * hill[None, :]

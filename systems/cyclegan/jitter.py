"""Random enlargement, cut and mirroring of training images: a translator sees no image twice alike.

As in the authors' code of CycleGAN (Zhu et al. 2017, app. 7.1): 256x256 pixels out of 286x286, and
every second image mirrored.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.seeding import stream


def jittered(x: Tensor, domain: str, step: int, *, scale: float, flip: bool, seed: int) -> Tensor:
    """x (N, C, S, S) in [-1, 1] -> the same shape; a function of these arguments alone.

    scale: to which multiple of their side images are enlarged before a square of the old side is
    cut out of them, each at a place of its own; 1 leaves them.
    """
    side, n = x.shape[-1], len(x)
    draws = stream("cpu", "jitter", domain, seed, step)
    room = round(scale * side) - side
    corners = torch.randint(room + 1, (n, 2), generator=draws).to(x.device)
    mirrored = (torch.rand(n, generator=draws) < 0.5).to(x.device)
    if room:
        x = cut(enlarged(x, side + room), corners, side)
    return torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x) if flip else x


def enlarged(x: Tensor, side: int) -> Tensor:
    """Bicubic, as theirs, which may go beyond the range of the values: it is clipped."""
    return F.interpolate(x, side, mode="bicubic", align_corners=False).clamp_(-1, 1)


def cut(x: Tensor, corners: Tensor, side: int) -> Tensor:
    """Squares (N, C, side, side) whose upper left pixels are corners (N, 2): row and column."""
    places = torch.arange(side, device=x.device)
    rows = (corners[:, 0, None] + places)[:, :, None]  # (N, side, 1)
    columns = (corners[:, 1, None] + places)[:, None, :]
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return x.movedim(1, 3)[image, rows, columns].movedim(3, 1)

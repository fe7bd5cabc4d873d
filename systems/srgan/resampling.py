"""Shrink images, and enlarge them without learning: all on the device, by torch.

Images are float (N, C, H, W) in [-1, 1], factors are SCALE.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

SCALE = 4
DOWNSAMPLINGS = ("bilinear", "bicubic")


def shrink(x: Tensor, kernel: str = "bilinear") -> Tensor:
    """(N, C, S, S) -> (N, C, S/4, S/4), antialiased.

    bilinear is a triangle 8 pixels wide, bicubic (a = -0.5, as Pillow's) is 16 wide, its overshoots
    cut off. A constant image stays that constant.
    """
    size = [side // SCALE for side in x.shape[-2:]]
    return F.interpolate(x, size, mode=kernel, antialias=True).clamp(-1, 1)


def enlarge(x: Tensor, kernel: str = "bilinear") -> Tensor:
    """(N, C, S, S) -> (N, C, 4S, 4S): nearest, bilinear or bicubic (a = -0.75, overshoots cut)."""
    corners = None if kernel == "nearest" else False
    return F.interpolate(x, scale_factor=SCALE, mode=kernel, align_corners=corners).clamp(-1, 1)


# by the mark that they have in the names of scores
UPSCALERS: dict[str, Callable[[Tensor], Tensor]] = {
    kernel: partial(enlarge, kernel=kernel) for kernel in ("nearest", "bilinear", "bicubic")
}

"""The square's eight positions, trained on at random: turned by quarters, mirrored and turned.

Timofte et al. 2016, "Seven ways to improve example-based single image super resolution", and EDSR,
Lim et al. 2017, sec. 4.2.
"""

import torch
from torch import Tensor

from lib.seeding import stream

PLANE = (-2, -1)
POSITIONS = {1: (0,), 2: (0, 4), 8: tuple(range(8))}  # as it is; and mirrored; all


def in_random_positions(x: Tensor, positions: int, seed: int, step: int) -> Tensor:
    """x (N, C, S, S) -> each image in one of so many positions, a function of (seed, step)."""
    if positions == 1:
        return x
    draws = stream("cpu", "positions", seed, step)
    drawn = torch.randint(positions, (len(x),), generator=draws).to(x.device)
    made = x
    for i, position in enumerate(POSITIONS[positions]):
        where = (drawn == i).view(-1, 1, 1, 1)  # no look at the drawn: a GPU need not wait
        mirrored = x.flip(-1) if position >= 4 else x
        made = torch.where(where, mirrored.rot90(position % 4, PLANE), made)  # by quarters
    return made

"""Grids of what an autoencoder makes: samples, reconstructions, the manifold of a 2-d z."""

import torch
from torch import Tensor

from lib.runlog import make_grid

MANIFOLD_SIDE = 20  # images


def square_grid(x: Tensor) -> Tensor:
    """(n, C, S, S) in [-1, 1] -> one picture, about as many rows as columns."""
    return make_grid(x, columns=round(len(x) ** 0.5))


def paired_grids(originals: Tensor, reconstructions: Tensor) -> Tensor:
    """Originals in a square at the left, their reconstructions in the same places at the right."""
    sides = [square_grid(x) for x in (originals, reconstructions)]
    gap = sides[0].new_ones(*sides[0].shape[:2], 8)
    return torch.cat([sides[0], gap, sides[1]], 2)


def manifold_points(side: int = MANIFOLD_SIDE) -> Tensor:
    """(side^2, 2): a grid that is even in probability under N(0, I), row by row.

    Kingma & Welling 2014, fig. 4: the inverse normal CDF of the middles of equal parts of [0, 1].
    """
    ends = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    return torch.cartesian_prod(ends.flip(0), ends).flip(1)  # the first unit grows to the right

"""How many of the asked-for objects a classifier finds among its best guesses.

The course's measure: of a picture with k labels, those among the k highest scores. scores (N, 24)
in any increasing unit, y (N, 24) multi-hot, at least one label a row.
"""

import torch
from torch import Tensor

from sources.iclevr import COLOURS, LABELS, SHAPES


def top_k(scores: Tensor, y: Tensor) -> Tensor:
    """(N, 24) bool: the k highest scores of each row, k its number of labels."""
    rank = scores.argsort(dim=1, descending=True).argsort(dim=1)
    return rank < y.sum(1, keepdim=True)


def top_k_hits(scores: Tensor, y: Tensor) -> Tensor:
    """(N, 24) bool: labels that are asked for and found."""
    return top_k(scores, y) & (y > 0)


def accuracy(scores: Tensor, y: Tensor) -> float:
    """Labels found, of all that are asked for; nan where none is."""
    return float(top_k_hits(scores, y).sum() / (y > 0).sum())


def by_colour(scores: Tensor, y: Tensor) -> dict[str, float]:
    """The accuracy over the labels of each colour; nan where none is asked for."""
    return by_group(
        scores, y, {c: [i for i, l in enumerate(LABELS) if l.startswith(c)] for c in COLOURS}
    )


def by_shape(scores: Tensor, y: Tensor) -> dict[str, float]:
    return by_group(
        scores, y, {s: [i for i, l in enumerate(LABELS) if l.endswith(s)] for s in SHAPES}
    )


def by_group(scores: Tensor, y: Tensor, groups: dict[str, list[int]]) -> dict[str, float]:
    hits, asked = top_k_hits(scores, y).sum(0), (y > 0).sum(0)
    return {name: float(hits[of].sum() / asked[of].sum()) for name, of in groups.items()}


def by_number(scores: Tensor, y: Tensor) -> dict[int, float]:
    """The accuracy over the pictures of one, two, ... objects."""
    numbers = (y > 0).sum(1)
    return {
        int(n): accuracy(scores[numbers == n], y[numbers == n]) for n in numbers.unique().tolist()
    }


def confusion(scores: Tensor, y: Tensor) -> Tensor:
    """(24, 24): how often a label (row) was missed while another (column) stood in its place.

    A picture with m misses has m wrong guesses; which stands for which can't be told, so that each
    pair counts 1 / m. Rows sum to the misses.
    """
    chosen, asked = top_k(scores, y), y > 0
    missed, wrong = (asked & ~chosen).double(), (chosen & ~asked).double()
    return (missed / missed.sum(1, keepdim=True).clamp_min(1)).T @ wrong


def worst(confused: Tensor, n: int = 5) -> list[tuple[str, str, float]]:
    """The n largest entries of `confusion`: (missed, found instead, how often)."""
    values, places = confused.flatten().topk(n)
    return [
        (LABELS[place // len(LABELS)], LABELS[place % len(LABELS)], value)
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
        if value > 0
    ]


def calibration_error(probabilities: Tensor, y: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3) of each label's, averaged over labels."""
    errors = []
    for p, asked in zip(probabilities.double().T, y.double().T, strict=True):
        place = (p * bins).long().clamp_max(bins - 1)
        gaps = torch.zeros(bins, dtype=torch.double).index_add_(0, place, p - asked)
        errors.append(gaps.abs().sum() / len(p))
    return float(torch.stack(errors).mean())

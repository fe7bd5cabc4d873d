"""Count the asked-for objects that a classifier finds among its best guesses.

The course's measure: a label counts as found if it is among the k highest scores of a picture with
k labels. scores (N, 24) in any increasing unit, y (N, 24) multi-hot, at least one label a row.
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
    """The share of the labels asked for that are found; nan if none is asked for."""
    return float(top_k_hits(scores, y).sum() / (y > 0).sum())


def by_part(scores: Tensor, y: Tensor) -> dict[str, float]:
    """The accuracy over the labels of each colour, shape and number of objects asked for."""
    hits = top_k_hits(scores, y)
    return {name: float((hits & part).sum() / part.sum()) for name, part in parts_of(y).items()}


def parts_of(y: Tensor) -> dict[str, Tensor]:
    """name -> bool (N, 24), the labels asked for of that colour, that shape, that many objects.

    Parts of which nothing is asked for are left out.
    """
    asked, parts = y > 0, {}
    for word, values in enumerate((COLOURS, SHAPES)):
        for value in values:
            parts[value] = asked & torch.tensor([name.split()[word] == value for name in LABELS])
    k = asked.sum(1, keepdim=True)
    for n in sorted(set(k.flatten().tolist())):
        parts[f"{n} object{'s' if n > 1 else ''}"] = asked & (k == n)
    return {name: part for name, part in parts.items() if part.any()}


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

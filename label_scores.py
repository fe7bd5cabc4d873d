"""How many of the objects asked for an evaluator finds in generated images, and what else it sees.

An evaluator gives each label a score; of an image that should show k objects, the k best ones are
taken for what it shows. Accuracy is the share of the true labels among them (the course's rule).
All values are means over several draws of z for the same conditions, never the best draw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Value = tuple[float, float]  # mean and standard deviation over the draws


def found(scores: Tensor, y: Tensor) -> Tensor:
    """scores (..., L), y (..., L) multi-hot -> bool (..., L): the labels with the k best scores,

    k being how many labels of that row hold.
    """
    ranks = scores.argsort(-1, descending=True).argsort(-1)
    return ranks < y.sum(-1, keepdim=True)


def accuracy(scores: Tensor, y: Tensor) -> float:
    """Of all labels that hold, the share that is found, in [0, 1]."""
    return float((found(scores, y) & (y > 0)).sum() / y.sum())


def chance(y: Tensor) -> float:
    """Expected accuracy of images that have nothing to do with y (M, L): each of k labels is among

    k of L with probability k / L.
    """
    k = y.sum(1).double()
    return float(k.square().sum() / (y.shape[1] * k.sum()))


@dataclass(frozen=True)
class LabelReport:
    """accuracy of each draw; parts: name -> accuracy on a part of the labels or of the conditions.

    confusion (L, L): how often, in all draws, the row's label was missed and the column's seen
    instead; a miss with two strangers counts half for each.
    """

    draws: tuple[float, ...]
    chance: float
    parts: dict[str, Value]
    confusion: Tensor

    @property
    def value(self) -> Value:
        return spread(torch.tensor(self.draws))

    def as_result(self) -> dict[str, Any]:
        """What it adds to a line of results.jsonl; error: the mean's own, of the draws of z."""
        mean, sd = self.value
        n = len(self.draws)
        parts = {name: value for name, (value, _) in self.parts.items()}
        error = sd / math.sqrt(n) if n > 1 else math.nan
        fields = {"value": mean, "error": error, "sd": sd, "draws": n}
        return fields | {"chance": self.chance, "parts": parts}

    def in_words(self) -> str:
        sd, n = self.value[1], len(self.draws)
        return f"mean of {n} draws of z, sd {sd:.3f}, by chance {self.chance:.3f}"


def report(scores: Tensor, y: Tensor, names: Sequence[str]) -> LabelReport:
    """scores (D, M, L) of D draws for the conditions y (M, L); names "colour shape" by column."""
    true, taken = y > 0, found(scores, y.expand_as(scores))
    hits, missed, strangers = taken & true, ~taken & true, taken & ~true
    parts = {}
    for name, part in parts_of(true, names).items():
        if part.any():
            parts[name] = spread((hits & part).sum((1, 2)) / part.sum())
    weights = strangers / strangers.sum(-1, keepdim=True).clamp(min=1)
    confusion = torch.einsum("dml,dmk->lk", missed.float(), weights.float())
    draws = hits.sum((1, 2)) / true.sum()
    return LabelReport(tuple(draws.tolist()), chance(y), parts, confusion.cpu())


def parts_of(true: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """name -> bool (M, L), the true labels of that colour, that shape, that number of objects."""
    parts = {}
    for word in range(2):
        for value in dict.fromkeys(name.split()[word] for name in names):
            columns = torch.tensor([name.split()[word] == value for name in names])
            parts[value] = true & columns.to(true.device)
    k = true.sum(1, keepdim=True)
    for n in sorted(set(k.flatten().tolist())):
        parts[f"{n} object{'s' if n > 1 else ''}"] = true & (k == n)
    return parts


def spread(values: Tensor) -> Value:
    values = values.double()
    return float(values.mean()), float(values.std()) if len(values) > 1 else 0.0


def in_a_table(report: LabelReport, names: Sequence[str], *, most: int = 10) -> str:
    """Markdown: accuracy of each part, then the misses that happened most."""
    mean, sd = report.value
    lines = ["| of | accuracy | sd over draws |", "| --- | --- | --- |"]
    for name, (part, of_part) in {"all": (mean, sd), **report.parts}.items():
        lines.append(f"| {name} | {part:.3f} | {of_part:.3f} |")
    misses = report.confusion.sum()
    lines += ["", f"Missed: {misses:.0f} objects in {len(report.draws)} draws."]
    if not misses:
        return "\n".join(lines)
    kept = [kept_share(report.confusion, names, word) for word in range(2)]
    lines.append(
        f"Of what was seen instead, {kept[0]:.0%} had the colour and {kept[1]:.0%} the shape."
    )
    lines += ["", "| missed | seen instead | share of the misses |", "| --- | --- | --- |"]
    values, places = report.confusion.flatten().topk(most)
    for value, place in zip(values.tolist(), places.tolist(), strict=True):
        if value:
            missed, seen = names[place // len(names)], names[place % len(names)]
            lines.append(f"| {missed} | {seen} | {value / misses:.1%} |")
    return "\n".join(lines)


def kept_share(confusion: Tensor, names: Sequence[str], word: int) -> float:
    """Of the misses, the share whose stranger has the same colour (word 0) or shape (word 1)."""
    words = [name.split()[word] for name in names]
    same = torch.tensor([[a == b for b in words] for a in words])
    return float(confusion[same].sum() / confusion.sum())

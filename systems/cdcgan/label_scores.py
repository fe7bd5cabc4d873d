"""The objects asked for that are seen in generated images: accuracy over several draws of z.

By accuracy.py's rule, as mean and standard deviation over the draws, never of the best draw.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sources.iclevr import LABELS
from systems.cdcgan.accuracy import confusion, parts_of, top_k_hits, worst

Value = tuple[float, float]  # mean and standard deviation over the draws


def chance(y: Tensor) -> float:
    """Expected accuracy of images that have nothing to do with y (M, L).

    Each of a row's k labels is among k of L with probability k / L.
    """
    k = y.sum(1).double()
    return float(k.square().sum() / (y.shape[1] * k.sum()))


@dataclass(frozen=True)
class LabelReport:
    """Accuracy of each draw, and of each colour, shape and number of objects over the draws.

    confused (L, L): how often, in all draws, the row's label was missed and the column's seen
    instead; of n misses in an image each pair counts 1 / n.
    """

    draws: tuple[float, ...]
    chance: float
    parts: dict[str, Value]
    confused: Tensor

    @property
    def value(self) -> Value:
        return spread(torch.tensor(self.draws))

    def as_result(self) -> dict[str, Any]:
        """Return its fields in results.jsonl; error: the mean's own, over the draws of z."""
        (mean, sd), n = self.value, len(self.draws)
        error = sd / math.sqrt(n) if n > 1 else math.nan
        parts = {name: value for name, (value, _) in self.parts.items()}
        about = f"mean of {n} draws of z, sd {sd:.3f}, by chance {self.chance:.3f}"
        fields = {"value": mean, "error": error, "sd": sd, "draws": n, "about": about}
        return fields | {"chance": self.chance, "parts": parts}


def report(scores: Tensor, y: Tensor) -> LabelReport:
    """scores (D, M, L) of D draws for the conditions y (M, L)."""
    asked = y.expand_as(scores).flatten(0, 1)
    hits = top_k_hits(scores.flatten(0, 1), asked).view(scores.shape)
    parts = {k: spread((hits & part).sum((1, 2)) / part.sum()) for k, part in parts_of(y).items()}
    draws = hits.sum((1, 2)) / y.sum()
    confused = confusion(scores.flatten(0, 1), asked)
    return LabelReport(tuple(draws.tolist()), chance(y), parts, confused)


def spread(values: Tensor) -> Value:
    values = values.double()
    return float(values.mean()), float(values.std()) if len(values) > 1 else 0.0


def in_a_table(report: LabelReport, *, most: int = 10) -> str:
    """Markdown: accuracy of each part, then the misses that happened most."""
    lines = ["| of | accuracy | sd over draws |", "| --- | --- | --- |"]
    for name, (mean, sd) in {"all": report.value, **report.parts}.items():
        lines.append(f"| {name} | {mean:.3f} | {sd:.3f} |")
    misses = float(report.confused.sum())
    lines += ["", f"Missed: {misses:.0f} objects in {len(report.draws)} draws."]
    if misses:
        colour, shape = (kept_share(report.confused, word) for word in (0, 1))
        lines += [
            f"Of what was seen instead, {colour:.0%} had the colour and {shape:.0%} the shape.",
            "",
            "| missed | seen instead | share of the misses |",
            "| --- | --- | --- |",
        ]
        rows = worst(report.confused, most)
        lines += [f"| {missed} | {seen} | {value / misses:.1%} |" for missed, seen, value in rows]
    return "\n".join(lines)


def kept_share(confused: Tensor, word: int) -> float:
    """The share of the misses replaced by the same colour (word 0) or shape (word 1)."""
    words = [name.split()[word] for name in LABELS]
    same = torch.tensor([[a == b for b in words] for a in words])
    return float(confused[same].sum() / confused.sum())

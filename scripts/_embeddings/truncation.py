"""Measure what truncation trades: FID, precision and recall, of z cut off ever nearer to 0.

Brock et al. 2018, sec. 3.1: smaller values of z give better images of fewer kinds. 0 means none.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dataset import to_bytes
from lib.errors import UserError
from metrics.features import features, fid_of_features
from metrics.prdc import K, prdc
from scripts._embeddings.paths import ClassModel
from scripts._embeddings.space import table
from scripts._figures import new_figure

AT_ONCE = 50  # images
MEASURES = {"fid": 2, "precision": 3, "recall": 3, "density": 3, "coverage": 3}  # and digits


def parse_truncations(text: str) -> list[float]:
    """'0.5, 1, 0' -> numbers. Raises UserError if one is below 0 or no number."""
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values or not all(0 <= value < float("inf") for value in values):
        raise UserError(f"--truncations {text!r}: wanted numbers of at least 0, as in 0.5,1,2,0.")
    return list(dict.fromkeys(values))


def generated(model: ClassModel, n: int, truncation: float, seed: int) -> Iterator[Tensor]:
    """n images of all classes alike, class after class, in uint8 batches.

    So sorted every class spreads evenly over the groups of the jackknife, image i in group i % 10.
    """
    embeddings = model.embeddings()
    z = model.draw_z(n, seed, truncation=truncation)
    r = embeddings[torch.arange(n) * len(embeddings) // n]
    for a, b in zip(z.split(AT_ONCE), r.split(AT_ONCE), strict=True):
        yield to_bytes(model.images_of(a, b, truncated=truncation))


def sweep(
    model: ClassModel, truncations: list[float], real: Tensor, extractor: nn.Module, *, seed: int
) -> list[dict[str, Any]]:
    """As many images as real features (N, d), against those: value and error of each measure."""
    n, rows = len(real), []
    for t in truncations:
        images = generated(model, n, t, seed)
        fake = features(images, extractor, n, f"truncation {format_truncation(t)}")
        found = {"fid": fid_of_features(real, fake)} | prdc(real, fake)
        measures = {m: {"value": v, "error": e} for m, (v, e) in found.items()}
        rows.append({"truncation": t} | measures)
    return rows


def format_truncation(truncation: float) -> str:
    return f"{truncation:g}" if truncation else "none"


def sweep_table(rows: list[dict[str, Any]]) -> str:
    """Markdown, in the order given."""
    cells = [[format_truncation(row["truncation"])] for row in rows]
    for row, line in zip(rows, cells, strict=True):
        pairs = ((row[m]["value"], digits, row[m]["error"]) for m, digits in MEASURES.items())
        line += [f"{value:.{digits}f} ± {error:.2g}" for value, digits, error in pairs]
    return table(["truncation", "FID", *list(MEASURES)[1:]], cells)


def sweep_figure(rows: list[dict[str, Any]]) -> Any:
    """FID by truncation, then precision against recall; none comes last, whatever its place."""
    rows = sorted(rows, key=lambda row: row["truncation"] or float("inf"))
    names = [format_truncation(row["truncation"]) for row in rows]
    figure, ((left, right),) = new_figure(8.4, 3.4, 1, 2)
    fid, error = ([row["fid"][key] for row in rows] for key in ("value", "error"))
    left.errorbar(range(len(rows)), fid, error, color="tab:blue", marker="o", capsize=3)
    left.set_xticks(range(len(rows)), names)
    left.set(xlabel="truncation", ylabel="FID", ylim=(0, None))
    recall, precision = ([row[key]["value"] for row in rows] for key in ("recall", "precision"))
    right.plot(recall, precision, color="tab:blue", marker="o")
    for name, x, y in zip(names, recall, precision, strict=True):
        right.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    right.set(xlabel=f"recall (k = {K})", ylabel=f"precision (k = {K})")
    right.margins(0.15)
    figure.tight_layout()
    return figure

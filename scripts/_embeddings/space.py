"""Show where classes lie in their embedding space: distances, neighbours, two projections."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import UserError, need
from scripts._figures import new_figure

NEIGHBOURS = 3  # of each class, in the table
EXTREMES = 5  # pairs, nearest and farthest, in the table
MOST_ROWS = 10_000  # pairs from each end of the CSV's order
LEAST_FOR_TSNE = 4  # classes; with fewer there are no neighbourhoods to keep
MANY = 40  # classes, above which names in pictures are small and only asked-for ones in the table


class Pair(NamedTuple):
    """Two classes with the cosine of their embeddings' angle and their Euclidean distance."""

    a: int
    b: int
    cosine: float
    euclidean: float


def cosines(r: Tensor) -> Tensor:
    """(K, K) of embeddings r (K, E): 1 for equal directions, -1 for opposite ones."""
    directions = F.normalize(r.double(), dim=1)
    return directions @ directions.T


def euclideans(r: Tensor) -> Tensor:
    """(K, K) of embeddings r (K, E)."""
    return torch.cdist(r.double(), r.double(), compute_mode="donot_use_mm_for_euclid_dist")


def pairs_of(r: Tensor) -> list[Pair]:
    """All K (K - 1) / 2 pairs, the nearest by Euclidean distance first."""
    a, b = torch.triu_indices(len(r), len(r), offset=1)
    columns = (a, b, cosines(r)[a, b], euclideans(r)[a, b])
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return sorted((Pair(*row) for row in rows), key=lambda pair: pair.euclidean)


def pca(r: Tensor) -> tuple[Tensor, list[float]]:
    """(K, 2), the embeddings along their two axes of largest variance, and its shares there."""
    x = r.double() - r.double().mean(0)
    U, S, _ = torch.linalg.svd(x, full_matrices=False)
    points = torch.zeros(len(r), 2, dtype=torch.float64)
    axes = min(2, len(S))
    points[:, :axes] = (U * S)[:, :axes]
    largest = points.gather(0, points.abs().argmax(0, keepdim=True))  # to be positive
    variances = S.square() / S.square().sum().clamp(min=1e-300)
    return points * torch.where(largest < 0, -1.0, 1.0), variances[:2].tolist()


def perplexity_of(k: int) -> float:
    """30, the usual one, or less where there are few classes: it must be below their number."""
    return min(30.0, (k - 1) / 3)


def tsne(r: Tensor, *, seed: int = 0) -> tuple[Tensor, float]:
    """(K, 2) by t-SNE (van der Maaten & Hinton 2008) from the PCA, and its divergence."""
    if len(r) < LEAST_FOR_TSNE:
        raise UserError(f"no t-SNE of {len(r)} classes: it wants {LEAST_FOR_TSNE} or more.")
    need("scikit-learn", "t-SNE")
    from sklearn.manifold import TSNE

    method = TSNE(
        perplexity=perplexity_of(len(r)),
        init="pca" if min(r.shape) > 1 else "random",
        random_state=seed,
        method="exact" if len(r) < 100 else "barnes_hut",
    )
    points = torch.from_numpy(method.fit_transform(r.float().numpy()))
    return points, float(method.kl_divergence_)


def space_figure(panels: dict[str, Tensor], names: list[str], marked: list[tuple[int, int]]) -> Any:
    """A panel a projection (K, 2), by title; each class by name, lines between the marked pairs."""
    many = len(names) > MANY
    side = 16 if many else 5.2
    figure, axes = new_figure(side * len(panels), side, 1, len(panels))
    for axis, (title, points) in zip(axes[0], panels.items(), strict=True):
        x, y = points.T.tolist()
        for a, b in marked:
            axis.plot([x[a], x[b]], [y[a], y[b]], color="tab:orange", linewidth=1, zorder=1)
        axis.scatter(x, y, s=4 if many else 18, color="tab:blue", zorder=2)
        for name, px, py in zip(names, x, y, strict=True):
            place = {"xytext": (3, 3), "textcoords": "offset points"}
            axis.annotate(name, (px, py), **place, fontsize=4 if many else 9, parse_math=False)
        axis.set_title(title, fontsize=9)
        axis.margins(0.2)
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    return figure


def pairs_csv(pairs: list[Pair], names: list[str]) -> str:
    """All pairs, or of very many the nearest and the farthest."""
    if len(pairs) > 2 * MOST_ROWS:
        pairs = pairs[:MOST_ROWS] + pairs[-MOST_ROWS:]
    rows = ([names[p.a], names[p.b], *(f"{v:.6f}" for v in p[2:])] for p in pairs)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Pair._fields, *rows])
    return text.getvalue()


def extremes_table(pairs: list[Pair], names: list[str]) -> str:
    """Markdown: the nearest and the farthest of pairs_of(r), by both measures."""
    by = {"Euclidean": pairs, "cosine": sorted(pairs, key=lambda p: -p.cosine)}
    n = min(EXTREMES, len(pairs) // 2) or 1
    rows = [
        [f"{measure}, {word}", f"{names[p.a]} - {names[p.b]}", *(f"{v:.3f}" for v in p[2:])]
        for measure, ordered in by.items()
        for word, some in (("nearest", ordered[:n]), ("farthest", ordered[::-1][:n]))
        for p in some
    ]
    return table(["by", "pair", "cosine", "Euclidean"], rows)


def neighbours_table(r: Tensor, names: list[str], shown: Iterable[int]) -> str:
    """Markdown: the classes shown, each with its nearest ones by both measures."""
    rows = {i: [names[i]] for i in shown}
    for values, sign in ((cosines(r), 1), (euclideans(r), -1)):  # and whether large is near
        nearness = (sign * values).fill_diagonal_(-torch.inf)
        nearest = nearness.topk(min(NEIGHBOURS, len(r) - 1)).indices.tolist()
        for i, row in rows.items():
            row.append(", ".join(f"{names[j]} ({values[i, j]:.3f})" for j in nearest[i]))
    return table(["class", "nearest by cosine", "nearest by distance"], rows.values())


def table(head: list[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; a class's name can't break a row."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells))

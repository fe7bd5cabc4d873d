"""Images between classes and within one: rows of pictures along a path of r or of z.

Between classes r = a r1 + (1 - a) r2 at a fixed z, so that only the class changes along a row;
beyond a = 0 and a = 1 it is extrapolation. Within a class z goes from one draw to another.
"""

import difflib
from typing import Protocol

import torch
from torch import Tensor

from lib.errors import UserError
from scripts._embeddings.space import Pair
from scripts.interpolate import PATHS

SUGGESTED = 2  # pairs from each end, where none are asked for


class ClassModel(Protocol):
    """A trained generator of z and of a class vector r."""

    class_names: list[str]

    def embeddings(self) -> Tensor: ...  # (K, E)

    def draw_z(self, n: int, seed: int, *, truncation: float = 0.0) -> Tensor: ...  # (n, Z)

    def images_of(self, z: Tensor, r: Tensor, *, truncated: float | None = None) -> Tensor:
        """(N, C, S, S) in [-1, 1] of z (N, Z) and r (N, E)."""
        ...


def class_index(name: str, names: list[str]) -> int:
    """Position of the class of that name. UserError, with the nearest names, if there is none."""
    if name in names:
        return names.index(name)
    lower = [known.lower() for known in names]
    if lower.count(name.lower()) == 1:
        return lower.index(name.lower())
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    near += [known for known in lower if name.lower() in known and known not in near]
    if near:
        meant = " or ".join(repr(names[lower.index(known)]) for known in near[:3])
        raise UserError(f"there is no class {name!r}: did you mean {meant}?")
    some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    raise UserError(f"there is no class {name!r} among the {len(names)}: {some}.")


def parse_classes(text: str, names: list[str]) -> list[int]:
    """'cat, dog' -> their positions."""
    return [class_index(name.strip(), names) for name in text.split(",") if name.strip()]


def parse_pairs(text: str, names: list[str]) -> list[tuple[int, int]]:
    """'3,8; cat,dog' -> positions, a pair each. Raises UserError for other names or counts."""
    pairs = []
    for part in filter(None, map(str.strip, text.split(";"))):
        found = parse_classes(part, names)
        if len(found) != 2 or found[0] == found[1]:
            raise UserError(f'--pairs: {part!r}: wanted two classes, as in "a,b; c,d".')
        pairs.append((found[0], found[1]))
    if not pairs:
        raise UserError('--pairs is empty: wanted classes, as in "a,b; c,d".')
    return pairs


def suggested_pairs(pairs: list[Pair]) -> list[tuple[int, int]]:
    """The two nearest and the two farthest of pairs that are in order of their distance."""
    chosen = pairs[:SUGGESTED] + pairs[SUGGESTED:][-SUGGESTED:][::-1]
    return [(pair.a, pair.b) for pair in chosen]


def blends(start: float, stop: float, columns: int) -> list[float]:
    """The values of a from start to stop, both among them."""
    return [start + (stop - start) * i / (columns - 1) for i in range(columns)]


def between_classes(
    model: ClassModel,
    pair: tuple[int, int],
    positions: list[float],
    *,
    rows: int,
    seed: int,
    truncation: float = 0.0,
) -> Tensor:
    """(rows, columns, C, S, S) in [-1, 1]: a z a row, a = positions along it. On the CPU."""
    r1, r2 = model.embeddings()[list(pair)]
    along = torch.stack([a * r1 + (1 - a) * r2 for a in positions])
    z = model.draw_z(rows, seed, truncation=truncation).repeat_interleave(len(positions), 0)
    x = model.images_of(z, along.repeat(rows, 1), truncated=truncation)
    return x.float().cpu().unflatten(0, (rows, len(positions)))


def within_class(
    model: ClassModel,
    index: int,
    positions: list[float],
    *,
    path: str,
    rows: int,
    seed: int,
    truncation: float = 0.0,
) -> Tensor:
    """(rows, columns, C, S, S): from one z (t = 0) to another (t = 1) by a path of PATHS."""
    ends = model.draw_z(2 * rows, seed, truncation=truncation).view(rows, 2, -1)
    z = torch.stack([PATHS[path](z1, z2, t) for z1, z2 in ends for t in positions])
    r = model.embeddings()[index].expand(len(z), -1)
    x = model.images_of(z, r, truncated=truncation)
    return x.float().cpu().unflatten(0, (rows, len(positions)))

"""Precision, recall, density, coverage: closed cases, and a brute-force reference."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import PixelMeans
from torch import Tensor

from dataset import ImageData
from lib.errors import UserError
from metrics import prdc as module
from metrics.prdc import manifold_scores, prdc


def points(*values: float) -> Tensor:
    """On a line: (N, 1)."""
    return torch.tensor(values).unsqueeze(1)


def values(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    return {name: value for name, (value, _) in prdc(real, fake, k=k).items()}


def by_hand(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """The four by the papers' sums, a pair at a time."""

    def ball(x: Tensor, i: int) -> float:
        return sorted(math.dist(x[i], x[j]) for j in range(len(x)) if j != i)[k - 1]

    real, fake = real.double().tolist(), fake.double().tolist()
    balls, fake_balls = ([ball(x, i) for i in range(len(x))] for x in (real, fake))
    inside = [[math.dist(f, r) <= b for r, b in zip(real, balls, strict=True)] for f in fake]
    near = [any(math.dist(r, f) <= b for f, b in zip(fake, fake_balls, strict=True)) for r in real]
    n, m = len(real), len(fake)
    return {
        "precision": sum(map(any, inside)) / m,
        "recall": sum(near) / n,
        "density": sum(map(sum, inside)) / (k * m),
        "coverage": sum(any(row[i] for row in inside) for i in range(n)) / n,
    }


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [4, 500])
def test_blocks_agree_with_the_sums_written_out(k, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    g = torch.Generator().manual_seed(k)
    real = torch.randn(23, 4, generator=g) + 100
    fake = 1.5 * torch.randn(17, 4, generator=g) + 100.4
    found = values(real, fake, k)
    assert found == pytest.approx(by_hand(real, fake, k), abs=1e-12)
    assert 0 < found["precision"] < 1  # the case tells something
    assert 0 < found["coverage"] < 1


def test_collapse_is_precise_and_covers_little():
    real = points(*range(10))  # balls of radius 1 and, at the two ends, also 1: k = 1
    fake = points(4.5, 4.5, 4.5, 4.5)
    found = prdc(real, fake, k=1)
    assert found["precision"][0] == 1
    assert found["density"][0] == 2  # in the balls of 4 and of 5
    assert found["coverage"][0] == 0.2
    assert found["recall"][0] == 0  # the generated balls have no extent
    assert found["precision"][1] == 0
    assert found["coverage"][1] == pytest.approx(math.sqrt(0.2 * 0.8 / 10), abs=1e-12)


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match="recall of 5 and 9 images: wanted 6 or more of each"):
        prdc(torch.zeros(5, 2), torch.zeros(9, 2))


class Repeats:
    """Generates the training images themselves, in another order."""

    config = SimpleNamespace(seed=0)

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (60, 1, 8, 8), generator=g, dtype=torch.uint8)

    def load_data(self, split: str) -> ImageData:
        return ImageData(self.images, torch.zeros(60, dtype=torch.long))

    def generate(self, n: int, seed: int):
        yield from self.images.flip(0).split(23)


def test_results_of_a_trainer():
    found = {r["metric"]: r for r in manifold_scores(Repeats(), PixelMeans(), n=100)}
    assert list(found) == ["precision", "recall", "density", "coverage"]
    assert [found[name]["value"] for name in ("precision", "recall", "coverage")] == [1, 1, 1]
    assert found["recall"]["about"] == (
        "share of real images within reach of a generated one; k = 5, 60 training images, 60"
        " generated"
    )
    assert found["density"]["n_fake"] == 60
    assert found["density"]["extractor"] == "pixel-means"

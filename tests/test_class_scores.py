"""Class accuracy, its confusion table, and the Inception score in closed cases."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from metrics.digits import DigitClassifier
from systems.biggan.scores import class_accuracy, digit_scores, inception_score

NAMES = ["cat", "dog", "fox"]


def test_accuracy_and_its_binomial_error():
    asked = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    seen = torch.tensor([0, 0, 0, 2, 1, 0, 2, 2])
    found = class_accuracy(asked, seen, NAMES)
    assert found["confusion"] == [[3, 0, 1], [1, 1, 0], [0, 0, 2]]
    assert (found["value"], found["error"]) == (0.75, math.sqrt(0.75 * 0.25 / 8))
    assert found["by_class"] == {"cat": 0.75, "dog": 0.5, "fox": 1.0}
    few = class_accuracy(torch.tensor([0, 1]), torch.tensor([0, 1]), NAMES)
    assert math.isnan(few["by_class"]["fox"])  # nobody asked for it
    assert (few["value"], few["error"]) == (1.0, 0.0)


def test_inception_score_of_even_images_of_collapse_and_of_doubt():
    even, one_class = torch.eye(4).repeat_interleave(20, 0), torch.eye(4)[:1].expand(40, 4)
    assert inception_score(even, splits=10) == pytest.approx((4, 0), abs=1e-6)
    assert inception_score(one_class)[0] == pytest.approx(1, abs=1e-6)
    assert inception_score(torch.full((40, 4), 0.25))[0] == pytest.approx(1, abs=1e-6)


def test_inception_score_by_its_own_formula():
    p = torch.rand(50, 5, generator=torch.Generator().manual_seed(0)).softmax(1).double()
    parts = [p[s::5] for s in range(5)]
    kls = [(part * (part.log() - part.mean(0).log())).sum(1).mean() for part in parts]
    wanted = torch.stack(kls).exp()
    value, error = inception_score(p, splits=5)
    assert value == pytest.approx(wanted.mean().item(), abs=1e-12)
    assert error == pytest.approx((wanted.std() / math.sqrt(5)).item(), abs=1e-12)
    assert math.isnan(inception_score(p, splits=1)[1])


class Bars:
    """A trainer whose image of class y is of brightness 25 y; asked to be y, but for the last."""

    device = torch.device("cpu")
    class_names = tuple("0123456789")

    def __init__(self, dataset: str = "mnist") -> None:
        self.config = SimpleNamespace(dataset=dataset, seed=3)

    def labels_of_generated(self, n: int, seed: int) -> Tensor:
        return torch.arange(n) % 10

    def generate(self, n: int, seed: int):
        assert seed == 3
        y = self.labels_of_generated(n, seed).clone()
        y[-1] = 0
        images = (25 * y).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
        yield from images.split(7)


class Brightness(DigitClassifier):
    """Sees brightness 25 y as the digit y, surely."""

    def forward(self, images: Tensor) -> Tensor:
        y = (images.float().mean((1, 2, 3)) / 25).round().long()
        return 100 * torch.eye(10)[y]


@pytest.fixture
def brightness(monkeypatch):
    classifier = Brightness().eval()
    classifier.measured = {"accuracy": 0.995}
    monkeypatch.setattr("systems.biggan.scores.load_digits", lambda *_: classifier)


def test_digits_asked_for_and_seen(brightness):
    accuracy, score = digit_scores(Bars(), n=40)
    assert accuracy["metric"] == "class_accuracy"
    assert accuracy["value"] == 39 / 40
    assert accuracy["error"] == pytest.approx(math.sqrt(39 / 40 / 40 / 40), abs=1e-12)
    assert accuracy["by_class"]["9"] == 0.75
    assert accuracy["confusion"][9][0] == 1
    assert "99.50% of real test images" in accuracy["about"]
    assert score["metric"] == "class_score"
    assert 1 <= score["value"] <= 10
    assert (score["n_fake"], score["splits"]) == (40, 10)


def test_other_datasets_have_no_classifier_here():
    assert digit_scores(Bars("fashion"), n=40) == []

"""How many generated images show the class that was asked for, as a classifier sees them.

The only classifier here is that of digits, for MNIST. FID's Inception-v3 has no classifying layer:
`class_score` is the Inception score's formula with the ten digits. docs/fid.md.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.errors import UserError
from lib.results import Result
from metrics.digits import as_input, load_digits
from trainer import Trainer

N = 3000  # images judged
SPLITS = 10  # of the Inception score


@dataclass(frozen=True)
class ClassReport:
    """confusion (K, K): images asked to be of the row's class and seen as the column's."""

    confusion: Tensor
    names: tuple[str, ...]

    @property
    def accuracy(self) -> tuple[float, float]:
        """Share of images of the class asked for, and sqrt(p (1 - p) / n)."""
        n = int(self.confusion.sum())
        p = float(self.confusion.diagonal().sum()) / n
        return p, math.sqrt(p * (1 - p) / n)

    def by_class(self) -> dict[str, float]:
        """NaN for a class that was not asked for."""
        shares = self.confusion.diagonal().double() / self.confusion.sum(1)
        return dict(zip(self.names, shares.tolist(), strict=True))


def class_report(asked: Tensor, seen: Tensor, names: tuple[str, ...]) -> ClassReport:
    """asked, seen (N,) int64 classes 0 .. K-1."""
    if len(asked) != len(seen) or not len(asked):
        raise UserError(
            f"{len(asked)} classes asked for, {len(seen)} images: wanted as many, not 0"
        )
    k = len(names)
    counts = torch.bincount(asked.cpu() * k + seen.cpu(), minlength=k * k)
    return ClassReport(counts.view(k, k), names)


def inception_score(probabilities: Tensor, *, splits: int = SPLITS) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) || p(y)) over images, from 1 to K. Salimans et al. 2016, sec. 4.

    probabilities (N, K), rows sum to 1. As there: the mean over splits, which must not be compared
    with a value of another n / splits (few images bias it downward); image i is in split
    i % splits. The error is the standard error of that mean, the paper's a standard deviation.
    """
    splits, entropy = min(splits, len(probabilities)), torch.special.entr
    parts = [probabilities[s::splits].double() for s in range(splits)]
    # the mean divergence is H(y) - mean H(y | x)
    divergences = [entropy(p.mean(0)).sum() - entropy(p).sum(1).mean() for p in parts]
    scores = torch.stack(divergences).exp()
    error = (scores.std() / splits**0.5).item() if splits > 1 else math.nan
    return scores.mean().item(), error


@torch.no_grad()
def digit_scores(trainer: Trainer, *, n: int = N) -> list[Result]:
    """Compute `class_accuracy` and `class_score` of n generated digits.

    Empty if the images are not MNIST's: nothing here classifies others (`no_classifier`).
    """
    if no_classifier(trainer.config.dataset):
        return []
    classifier, seed = load_digits().to(trainer.device), trainer.config.seed
    parts = [
        classifier(as_input(images).to(trainer.device)).softmax(1).cpu()
        for images in trainer.generate(n, seed)
    ]
    probabilities = torch.cat(parts)[:n]
    asked = trainer.labels_of_generated(n, seed).cpu()
    report = class_report(asked, probabilities.argmax(1), tuple(trainer.class_names))
    accuracy, error = report.accuracy
    score, score_error = inception_score(probabilities)
    about = f"{n:,} generated digits of which the classifier sees the one asked for"
    if (right := classifier.measured.get("accuracy")) is not None:
        about += f"; it is right on {right:.2%} of real test images"
    judge = {"n_fake": n, "classifier": "digits/digits.pt"}
    return [
        {"metric": "class_accuracy", "value": accuracy, "error": error, "about": about}
        | {"by_class": report.by_class(), "confusion": report.confusion.tolist()}
        | judge,
        {
            "metric": "class_score",
            "value": score,
            "error": score_error,
            "about": f"the Inception score's formula by the digit classifier, {n:,} generated"
            f" images in {min(SPLITS, n)} splits, at most {len(trainer.class_names)}",
            "splits": min(SPLITS, n),
        }
        | judge,
    ]


def no_classifier(dataset: str) -> str:
    """A sentence on why images of this dataset get no class scores; "" if they do."""
    if dataset == "mnist":
        return ""
    return f"no class accuracy: the one classifier here is of MNIST's digits, and this is {dataset}"

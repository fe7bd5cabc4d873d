"""How many generated images show the class that was asked for, as a classifier sees them.

The only classifier here is that of digits, for MNIST. FID's Inception-v3 has no classifying layer:
`class_score` is the Inception score's formula with the ten digits. docs/fid.md.
"""

import math

import torch
from torch import Tensor

from lib.results import Result
from metrics.digits import as_input, load_digits
from trainer import Trainer

N = 3000  # images judged
SPLITS = 10  # of the Inception score
CLASSIFIED = ("mnist",)  # datasets


def class_accuracy(asked: Tensor, seen: Tensor, names: list[str]) -> Result:
    """Share p of images seen as the class asked for; asked, seen (N,) are classes 0 .. K-1.

    The error is sqrt(p (1 - p) / n); confusion (K, K) has a row a class asked for, a column a class
    seen. A class that was not asked for has the share NaN.
    """
    k = len(names)
    confusion = torch.bincount(asked * k + seen, minlength=k * k).view(k, k)
    p = float((asked == seen).double().mean())
    shares = confusion.diagonal().double() / confusion.sum(1)
    return {
        "metric": "class_accuracy",
        "value": p,
        "error": math.sqrt(p * (1 - p) / len(asked)),
        "by_class": dict(zip(names, shares.tolist(), strict=True)),
        "confusion": confusion.tolist(),
    }


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

    Empty if the images are not MNIST's: nothing here classifies others.
    """
    if trainer.config.dataset not in CLASSIFIED:
        return []
    classifier, seed = load_digits().to(trainer.device), trainer.config.seed
    parts = [
        classifier(as_input(images).to(trainer.device)).softmax(1).cpu()
        for images in trainer.generate(n, seed)
    ]
    probabilities = torch.cat(parts)[:n]
    asked = trainer.labels_of_generated(n, seed).cpu()
    accuracy = class_accuracy(asked, probabilities.argmax(1), trainer.class_names)
    score, score_error = inception_score(probabilities)
    about = f"{n:,} generated digits of which the classifier sees the one asked for"
    if (right := classifier.measured.get("accuracy")) is not None:
        about += f"; it is right on {right:.2%} of real test images"
    judge = {"n_fake": n, "classifier": "digits/digits.pt"}
    return [
        accuracy | {"about": about} | judge,
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

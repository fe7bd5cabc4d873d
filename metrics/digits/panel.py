"""A look at which digits a generator makes while it is being trained: `--collapse_every`."""

from math import log2

import torch
from torch import Tensor

from lib.runlog import RunLog
from metrics.collapse import label_statistics
from metrics.digits import DigitClassifier, as_input, load_digits, predict
from metrics.digits.figures import as_tensor, counts_figure
from trainer import Observer, Trainer

WATCHED = 500  # images a look: a share of 10 % is known to within 3 %


def watch_digits(trainer: Trainer) -> Observer:
    """Log how often G makes each digit, every --collapse_every steps. docs/collapse.md."""
    classifier = load_digits(trainer.device)

    def observe(log: RunLog, scalars: dict[str, float] | None) -> None:
        if trainer.due(trainer.config.collapse_every):
            images = torch.cat(list(trainer.generate(WATCHED, trainer.config.seed)))
            values, panel = digit_panel(images, classifier, f"step {trainer.step:,}")
            log.scalars(values, trainer.step)
            log.images({"collapse/digits": panel}, trainer.step)

    return observe


def digit_panel(
    images: Tensor, classifier: DigitClassifier, title: str
) -> tuple[dict[str, float], Tensor]:
    """Scalars by tag, and the bar chart (3, H, W) in [-1, 1], of images uint8 (N, C, S, S)."""
    images = as_input(images).cpu()
    found, measured = predict(classifier, images), classifier.measured
    off = found.off_digits(measured)
    result = label_statistics(found.labels, found.confidence, off, measured=measured)
    scalars = {
        "collapse/entropy": result["entropy_bits"],
        "collapse/largest_share": max(result["counts"]) / result["n"],
        "collapse/low_confidence": result["low_confidence"],
        "collapse/off_digits": result["off_digits"],
    }
    words = (
        f"{title}: entropy {result['entropy_bits']:.2f} of {log2(10):.2f} bits;"
        f" {result['off_digits']:.0%} of the images are unlike any digit"
    )
    return scalars, as_tensor(counts_figure(result, images, found.labels, words))

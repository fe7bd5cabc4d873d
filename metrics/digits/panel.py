"""A look at which digits a generator makes while it is being trained: `--collapse_every`."""

from math import log2

import torch

from lib.runlog import RunLog
from metrics.collapse import label_statistics
from metrics.digits import as_input, load_digits, predict
from metrics.digits.figures import as_tensor, counts_figure
from trainer import Observer, Trainer

WATCHED = 500  # images a look: a share of 10 % is known to within 3 %


def watch_digits(trainer: Trainer) -> Observer:
    """Log how often G makes each digit, every --collapse_every steps. docs/collapse.md."""
    classifier = load_digits(trainer.device)
    measured = classifier.measured

    def observe(log: RunLog, _: dict[str, float] | None) -> None:
        if not trainer.due(trainer.config.collapse_every):
            return
        images = as_input(torch.cat(list(trainer.generate(WATCHED, trainer.config.seed)))).cpu()
        found = predict(classifier, images)
        off = found.off_digits(measured)
        result = label_statistics(found.labels, found.confidence, off, measured=measured)
        scalars = {
            "collapse/entropy": result["entropy_bits"],
            "collapse/largest_share": max(result["counts"]) / result["n"],
            "collapse/low_confidence": result["low_confidence"],
            "collapse/off_digits": result["off_digits"],
        }
        log.scalars(scalars, trainer.step)
        title = (
            f"step {trainer.step:,}: entropy {result['entropy_bits']:.2f} of {log2(10):.2f} bits;"
            f" {result['off_digits']:.0%} of the images are unlike any digit"
        )
        figure = counts_figure(result, images, found.labels, title)
        log.images({"collapse/digits": as_tensor(figure)}, trainer.step)

    return observe

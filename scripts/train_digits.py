"""Train the MNIST classifier that scripts/collapse.py labels digits with, and measure it.

    python scripts/train_digits.py             metrics/digits/digits.pt anew

The test split is looked at once, after the last step: it chooses nothing.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import _root  # noqa: F401
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

import dataset
from dataset import Batches, ImageData
from lib.command import command, flag
from lib.errors import UserError
from lib.guards import Bar
from lib.seeding import generator, global_stream
from metrics.collapse import SURE, nearest
from metrics.digits import SIZE, WEIGHTS, DigitClassifier, load_digits, predict, save_digits

BATCH_SIZE = 128
LEARNING_RATE = 0.1  # the peak of the cycle
YARDSTICK = 1000  # test images whose nearest training image is looked up


@command(
    flag("--epochs", type=int, default=6, bounds=(1, 1000), help="passes over MNIST"),
    flag("--seed", type=int, default=0, bounds=(0, 2**63 - 1), help="of weights, order and shifts"),
    flag("--data_dir", default="data", help="folder of datasets"),
    flag("--out", type=Path, default=WEIGHTS, help=f"(default: {WEIGHTS.name})"),
)
def main(args: argparse.Namespace) -> None:
    if args.out.is_dir() or not args.out.parent.is_dir():  # known before minutes of training
        raise UserError(f"--out {args.out}: wanted a file in a folder that is there.")
    train_data, test_data = (load(split, args.data_dir) for split in ("train", "test"))
    classifier = train(train_data, seed=args.seed, epochs=args.epochs)
    fit_distances(classifier, train_data)
    save_digits(classifier, args.out)  # first, so that what is measured is what was stored
    classifier = load_digits("cpu", args.out)
    settings = {"seed": args.seed, "epochs": args.epochs, "torch": str(torch.__version__)}
    classifier.measured = measure(classifier, train_data, test_data) | settings
    save_digits(classifier, args.out)
    print(json.dumps(classifier.measured, indent=2))
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


def load(split: str, data_dir: str) -> ImageData:
    return dataset.load("mnist", split, image_size=SIZE, data_dir=data_dir, device="cpu")


def train(data: ImageData, *, seed: int, epochs: int) -> DigitClassifier:
    """SGD on cross entropy of jittered digits, a one-cycle learning rate (Smith & Topin 2017)."""
    with global_stream("digits", seed):
        classifier = DigitClassifier().to(memory_format=torch.channels_last)
    batches = Batches(data, batch_size=min(BATCH_SIZE, len(data)), seed=seed)
    steps = max(epochs * len(data) // batches.batch_size, 8)
    sgd = SGD(
        classifier.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = OneCycleLR(sgd, max_lr=LEARNING_RATE, total_steps=steps, pct_start=0.25)
    for step in Bar(range(steps), unit="step"):
        indices = batches.indices(step)
        images = jitter(data.images[indices], generator("cpu", "jitter", seed, step))
        loss = F.cross_entropy(classifier(images), data.labels[indices])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        schedule.step()
    return classifier.eval()


def jitter(images: Tensor, stream: torch.Generator) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by up to 10 %, shifted by up to 2.5 pixels.

    uint8 (N, 1, S, S) -> float in [0, 255]. What enters at the border is black.
    """
    n, side = len(images), images.shape[-1]
    angle, scale, x, y = (2 * torch.rand(4, n, generator=stream) - 1).unbind()
    angle, scale = angle * math.radians(12), 1 + 0.1 * scale
    x, y = x * 5 / side, y * 5 / side  # affine_grid's unit is half the side
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack((cos, -sin, x, sin, cos, y), 1).view(n, 2, 3)
    grid = F.affine_grid(rows, images.shape, align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)


@torch.no_grad()
def fit_distances(classifier: DigitClassifier, data: ImageData) -> None:
    """The Gaussians of Lee et al. 2018, eq. 1: a mean a digit, one covariance for all."""
    features = torch.cat([classifier.features(part) for part in data.images.split(500)]).double()
    means = torch.stack([features[data.labels == digit].mean(0) for digit in range(10)])
    centred = features - means[data.labels]
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(data))
    classifier.means.copy_(means)
    classifier.whitening.copy_(vectors / values.clamp_min(1e-6 * values[-1]).sqrt())


def measure(classifier: DigitClassifier, train: ImageData, test: ImageData) -> dict[str, Any]:
    """On the test split: errors, confidence, the limit of distances, nearest training images."""
    prediction = predict(classifier, test.images)
    errors, n = int((prediction.labels != test.labels).sum()), len(test)
    limits = {
        "far": float(prediction.distance.quantile(0.99)),
        "high_energy": float(prediction.energy.quantile(0.99)),
        "little_ink": float(prediction.ink.quantile(0.001)),
    }
    some = test.images[:YARDSTICK]
    yardstick = nearest(some, train.images)[0].squeeze(1)
    return {
        "n": n,
        "errors": errors,
        "accuracy": 1 - errors / n,
        "low_confidence": float((prediction.confidence < SURE).double().mean()),
        "off_digits": float(prediction.off_digits(limits).double().mean()),
        "neighbour_distances": yardstick.quantile(torch.tensor([0.01, 0.5, 0.99])).tolist(),
        "shares": (torch.bincount(train.labels, minlength=10).double() / len(train)).tolist(),
    } | limits


if __name__ == "__main__":
    sys.exit(main())

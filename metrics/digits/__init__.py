"""A small MNIST classifier that says which digit a generated image shows, and whether it shows one.

`load_digits` opens the shipped weights; `python scripts/train_digits.py` makes them again.
"""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dataset import resize
from lib.errors import UserError
from lib.files import save_tensors
from lib.seeding import global_stream

WEIGHTS = Path(__file__).parent / "digits.pt"
FORMAT = 1
SIZE = 32  # side of the images it was trained on
FEATURES = 64
REMAKE = "Restore it with git checkout metrics/digits, or run python scripts/train_digits.py."


def conv(channels: int, out: int) -> nn.Sequential:
    """Halves the side: a strided convolution costs a quarter of one before a pooling."""
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    )


class DigitClassifier(nn.Module):
    """uint8 (N, 1, 32, 32) as `generate` gives them -> logits (N, 10).

    `measured` holds what scripts/train_digits.py measured on MNIST's test split.
    """

    means: Tensor  # (10, 64), of each digit's features over the training split
    whitening: Tensor  # (64, 64), W with W W^T = inverse of the covariance that the digits share

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            conv(1, 32),  # (N,  32, 16, 16)
            conv(32, 64),  # (N,  64,  8,  8)
            conv(64, 128),  # (N, 128,  4,  4)
            nn.Flatten(),  # (N, 2048)
        )
        self.embed = nn.Linear(2048, FEATURES)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, 10))
        self.register_buffer("means", torch.zeros(10, FEATURES))
        self.register_buffer("whitening", torch.eye(FEATURES))
        self.measured: dict[str, Any] = {}

    def features(self, images: Tensor) -> Tensor:
        """The penultimate layer (N, 64), before its ReLU: nearer to a Gaussian than after it."""
        x = images.float().div(127.5).sub(1.0)
        return self.embed(self.convs(x))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def distance(self, features: Tensor) -> Tensor:
        """Mahalanobis distance (N,) to the nearest digit's mean. Lee et al. 2018, eq. 2.

        A softmax is sure of itself far from all data; this grows with the distance from it.
        """
        return torch.cdist(features @ self.whitening, self.means @ self.whitening).amin(1)


class Prediction(NamedTuple):
    """The digit (N,) in each image, its probability, and three signs that it is none.

    distance: DigitClassifier.distance, large for noise. energy: -log sum exp logits, high if no
    logit is, as for specks (Liu et al. 2020, eq. 4). ink: the mean pixel in [0, 1]; by the other
    two a black image is a 1.
    """

    labels: Tensor
    confidence: Tensor
    distance: Tensor
    energy: Tensor
    ink: Tensor

    def off_digits(self, measured: dict[str, Any]) -> Tensor:
        """(N,) bool: farther or higher in energy than 99 %, or fainter than 99.9 % of real ones."""
        far = self.distance > measured["far"]
        return far | (self.energy > measured["high_energy"]) | (self.ink < measured["little_ink"])


@torch.no_grad()
def predict(classifier: DigitClassifier, images: Tensor, batch_size: int = 500) -> Prediction:
    """The prediction for images uint8 (N, 1 or 3, S, S), greyed and resized by `as_input`."""
    parts = []
    for batch in as_input(images).split(batch_size):
        features = classifier.features(batch.to(classifier.means.device))
        logits = classifier.head(features)
        confidence, labels = logits.softmax(1).max(1)
        ink = batch.flatten(1).float().mean(1) / 255
        signs = (classifier.distance(features), -logits.logsumexp(1), ink)
        parts.append([column.cpu() for column in (labels, confidence, *signs)])
    return Prediction(*(torch.cat(column) for column in zip(*parts, strict=True)))


def as_input(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (N, 1, 32, 32): the luma of ITU-R 601, then a bilinear resize."""
    if images.shape[1] == 3:
        luma = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
        images = (images.float() * luma).sum(1, keepdim=True).round().to(torch.uint8)
    return resize(images, SIZE)


def save_digits(classifier: DigitClassifier, path: Path) -> None:
    """Half-precision weights, the statistics in full, and the record on real images."""
    state = {
        name: value.half() if name.endswith("weight") and value.ndim > 1 else value
        for name, value in classifier.state_dict().items()
    }
    save_tensors({"format": FORMAT, "state": state, "measured": classifier.measured}, path)


def load_digits(device: torch.device | str = "cpu", path: Path = WEIGHTS) -> DigitClassifier:
    """The shipped classifier in eval mode, ready for `predict`; float32.

    Raises UserError if the file is missing, torn, or not one that `save_digits` wrote.
    """
    with global_stream("digits", 0):  # the layers draw without moving the caller's stream
        classifier = DigitClassifier()
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch itself does not look at the checksums
                raise zipfile.BadZipFile(f"bad checksum in {damaged}")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if (found := dict(saved).get("format")) != FORMAT:
            raise ValueError(f"format {found}, wanted {FORMAT}")
        classifier.load_state_dict(saved["state"])
        classifier.measured = saved["measured"]
    except Exception as error:  # an unpickler that is fed a foreign file raises anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"the digit classifier {path} can't be read ({reason}). {REMAKE}") from None
    return classifier.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)

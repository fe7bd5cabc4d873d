"""Datasets: decoded once into a uint8 tensor on the device; batches are indexed, not loaded.

MNIST's training set at 32x32 is 61 MB as bytes, so there are no worker processes and no copies a
step: a batch is `images[order]`, brought to [-1, 1]. The order of samples is a function of
(seed, epoch), and the batch of step k a function of (seed, k), so that a resumed run sees what an
uninterrupted one does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import mnist
from distributed import shard
from seeding import generator


class Batch(NamedTuple):
    """x (N, C, S, S) in [-1, 1]; y (N,) class labels."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class ImageData:
    """images (N, C, S, S) uint8 in [0, 255]; labels (N,) int64. Both on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> Batch:
        return Batch(to_signed(self.images[indices]), self.labels[indices])


def to_signed(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def to_bytes(x: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 [0, 255], rounded to nearest: an image as saved and as scored."""
    return x.float().mul(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def order(n: int, seed: int, epoch: int) -> Tensor:
    """The permutation (n,) in which this epoch visits the samples."""
    return torch.randperm(n, generator=generator("cpu", "order", seed, epoch))


class Batches:
    """batches(step) -> the step's Batch, cut from the endless stream order(0), order(1), ...

    Every batch is full: one that reaches the end of an epoch goes on into the next. Where several
    processes train together, each gets its share of it.
    """

    def __init__(self, data: ImageData, *, batch_size: int, seed: int) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.orders: dict[int, Tensor] = {}

    def order(self, epoch: int) -> Tensor:
        if epoch not in self.orders:
            self.orders = {e: o for e, o in self.orders.items() if e == epoch - 1}
            self.orders[epoch] = order(len(self.data), self.seed, epoch).to(self.data.images.device)
        return self.orders[epoch]

    def indices(self, step: int) -> Tensor:
        """Positions (batch_size,) in the dataset of this step's samples."""
        start, n = step * self.batch_size, len(self.data)
        stop = start + self.batch_size
        pieces = [
            self.order(epoch)[max(start - epoch * n, 0) : stop - epoch * n]
            for epoch in range(start // n, (stop - 1) // n + 1)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def __call__(self, step: int) -> Batch:
        return self.data.batch(shard(self.indices(step)))


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (N, C, size, size); bilinear, antialiased when it shrinks."""
    if images.shape[-2:] == (size, size):
        return images
    shrinks = size < max(images.shape[-2:])
    chunks = (
        F.interpolate(chunk.float(), (size, size), mode="bilinear", antialias=shrinks)
        for chunk in images.split(5000)
    )
    return torch.cat([chunk.round_().clamp_(0, 255).to(torch.uint8) for chunk in chunks])


# name -> loader of (data_dir, split): images (N, H, W) uint8 and labels (N,)
DATASETS: dict[str, Callable[[Path, str], tuple[np.ndarray, np.ndarray]]] = {
    "mnist": mnist.load_mnist,
    "fashion": mnist.load_fashion,
}


def load(
    name: str, split: str, *, image_size: int, data_dir: str | Path, device: torch.device | str
) -> ImageData:
    """The split ("train" or "test") of a dataset in DATASETS, on `device`.

    Raises UserError where its files are damaged and can't be fetched.
    """
    images, labels = DATASETS[name](Path(data_dir), split)
    images = resize(torch.from_numpy(images).unsqueeze(1), image_size)
    return ImageData(images.to(device), torch.from_numpy(labels).long().to(device))

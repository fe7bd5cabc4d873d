"""Datasets: decoded once into a uint8 tensor on the device; batches are indexed, not loaded.

sources/ has the registry and a module for each dataset. docs/data.md.

MNIST's training set at 32x32 is 61 MB as bytes, so there are no worker processes and no copies a
step: a batch is `images[order]`, brought to [-1, 1]. The order of samples is a function of
(seed, epoch), and the batch of step k a function of (seed, k), so that a resumed run sees what an
uninterrupted one does.
"""

import hashlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.config import Config
from lib.distributed import shard
from lib.errors import UserError
from lib.seeding import generator
from sources import DATASETS, DataSpec
from sources.pictures import resize


class Batch(NamedTuple):
    """x (N, C, S, S) in [-1, 1]; y (N,) class labels, or (N, L) multi-hot ones."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class ImageData:
    """images (N, C, S, S) uint8 in [0, 255]; labels int64, on the device that trains.

    labels (N,) are classes, (N, L) multi-hot: which of L things an image shows, as in i-CLEVR. The
    images are there too, unless they are too many for the RAM: then they are a file mapped on the
    CPU. class_names: of the classes 0 .. K-1; empty where not every image is of one.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """Their number, shape, and a hash of 64 of them with their labels, evenly spread."""
        some = torch.linspace(0, len(self) - 1, 64).long()
        seen = hashlib.sha256()
        for tensor in (self.images, self.labels):
            seen.update(tensor[some.to(tensor.device)].cpu().contiguous().numpy().tobytes())
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"{len(self)} of {shape}, {seen.hexdigest()[:12]}"

    def batch(self, indices: Tensor) -> Batch:
        images = self.images[indices].to(self.labels.device)
        return Batch(to_signed(images), self.labels[indices])


def to_signed(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def to_bytes(x: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 [0, 255], rounded to nearest: an image as saved and as scored."""
    if not x.isfinite().all():
        raise UserError("an image holds NaN or infinity: the weights diverged, or are damaged.")
    return x.float().mul(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def order(n: int, seed: int, epoch: int) -> Tensor:
    """The permutation (n,) in which this epoch visits the samples."""
    return torch.randperm(n, generator=generator("cpu", "order", seed, epoch))


class Batches:
    """batches(step) -> the step's Batch, cut from the endless stream order(0), order(1), ...

    Every batch is full: one that reaches the end of an epoch goes on into the next. With
    `keep_short` an epoch ends with what is left instead, as a DataLoader's does. Where several
    processes train together, each gets its share of it.
    """

    def __init__(
        self, data: ImageData, *, batch_size: int, seed: int, keep_short: bool = False
    ) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.keep_short = keep_short
        self.orders: dict[int, Tensor] = {}

    def fingerprint(self) -> str:
        """Return ImageData's."""
        return self.data.fingerprint()

    def order(self, epoch: int) -> Tensor:
        if epoch not in self.orders:
            self.orders = {e: o for e, o in self.orders.items() if e == epoch - 1}
            self.orders[epoch] = order(len(self.data), self.seed, epoch).to(self.data.images.device)
        return self.orders[epoch]

    @property
    def epoch_steps(self) -> int:
        """Batches that hold the dataset once, a broken last one counted as whole."""
        return math.ceil(len(self.data) / self.batch_size)

    def indices(self, step: int) -> Tensor:
        """Positions (batch_size,) in the dataset of this step's samples; fewer in a short batch."""
        if self.keep_short:
            epoch, batch = divmod(step, self.epoch_steps)
            return self.order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]
        start, n = step * self.batch_size, len(self.data)
        stop = start + self.batch_size
        pieces = [
            self.order(epoch)[max(start - epoch * n, 0) : stop - epoch * n]
            for epoch in range(start // n, (stop - 1) // n + 1)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def __call__(self, step: int) -> Batch:
        return self.data.batch(shard(self.indices(step)))


def identity(config: Config) -> str:
    """Tell this config's images from others of the same dataset; "" if there are none."""
    return DATASETS[config.dataset]().identity(DataSpec.of(config))


def check_split(config: Config, split: str) -> None:
    """Raise UserError if the split is missing, NoTestSplit if there is none; loads nothing."""
    DATASETS[config.dataset]().check_split(DataSpec.of(config), split)


def num_channels(config: Config) -> int:
    """Return 1 or 3: the channels of this config's images."""
    return DATASETS[config.dataset]().channels(DataSpec.of(config))


def class_names(config: Config) -> tuple[str, ...]:
    """Name the classes 0 .. K-1 of this config's images; empty if not every image is of one."""
    return DATASETS[config.dataset]().class_names(DataSpec.of(config))


def load(
    name: str, split: str, *, image_size: int, data_dir: str | Path, device: torch.device | str
) -> ImageData:
    """The split ("train" or "test") of a dataset in DATASETS, on `device`."""
    return load_spec(name, split, DataSpec(Path(data_dir), image_size), device)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Share the memory, also of a mapped file that can't be written to, which nobody does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def load_spec(name: str, split: str, spec: DataSpec, device: torch.device | str) -> ImageData:
    """Load a split by all settings that a dataset may have.

    Raises UserError if its files are damaged and can't be fetched, NoTestSplit if it has none.
    """
    arrays = DATASETS[name]().load(spec, split)
    images, labels = map(as_tensor, arrays)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if not isinstance(arrays[0], np.memmap):
        images = resize(images, spec.image_size).to(device)
    return ImageData(images, labels.long().to(device), DATASETS[name]().class_names(spec))

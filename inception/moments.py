"""Mean and covariance of features, streamed: memory does not depend on the number of images."""

import io
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.distributed import gather, rank, share_size, total, world
from lib.errors import UserError
from lib.files import write_beside_and_rename
from lib.guards import Bar

SYMMETRIC = 1e-6  # how far, of the largest entry: more than float32 sums leave
LARGEST = 1e100  # of a moment: the products of a FID are finite then
MOST_BYTES = 1 << 30  # of a .npz, unpacked: moments of 11,000 features


def as_float64(x: Tensor | np.ndarray) -> Tensor:
    """x in float64 on its own device, or on the CPU if the device (MPS) has no float64."""
    x = torch.as_tensor(x)
    return (x.cpu() if x.device.type == "mps" else x).double()


def check_sets(metric: str, x: Tensor, y: Tensor, least: int) -> None:
    """Raises UserError unless features x (N, d) and y (M, d) are enough, alike and finite."""
    if min(len(x), len(y)) < least:
        raise UserError(f"{metric} of {len(x)} and {len(y)} images: wanted {least} or more of each")
    if x.shape[1] != y.shape[1]:
        raise UserError(f"{x.shape[1]} and {y.shape[1]} features cannot be compared")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise UserError(f"the features hold NaN or infinite values: there is no {metric} of them")


@dataclass(eq=False)
class Moments:
    """Mean (d,) and covariance (d, d; ddof = 1, as np.cov) of n feature vectors, float64.

    n is None for moments read from a file without it: these cannot be merged.
    """

    n: int | None
    mean: Tensor
    cov: Tensor

    @classmethod
    def empty(cls, dims: int, device: torch.device | str = "cpu") -> "Moments":
        zeros = torch.zeros(dims, dims, dtype=torch.float64, device=device)
        return cls(0, zeros[0].clone(), zeros)

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """The moments of features (n, d), on their device."""
        moments = cls.empty(features.shape[1], features.device)
        moments.update(features)
        return moments

    @property
    def dims(self) -> int:
        return len(self.mean)

    @property
    def scatter(self) -> Tensor:
        """Sum of (x - mean)(x - mean)^T, (d, d)."""
        if self.n is None:
            raise ValueError("moments without their n can be neither merged nor split")
        return self.cov * (self.n - 1)

    def update(self, features: Tensor) -> None:
        """Takes in features (N, d), in place. Chan, Golub & LeVeque 1983: sums about the mean."""
        if len(features) == 0:
            return
        x = as_float64(features).to(self.mean.device)
        mean = x.mean(0)
        x = x - mean
        delta = mean - self.mean
        before, self.n = self.n, self.n + len(x)
        freedom = max(self.n - 1, 1)
        self.mean += delta * (len(x) / self.n)
        self.cov.addmm_(x.T, x, beta=max(before - 1, 0) / freedom, alpha=1 / freedom)
        self.cov.addr_(delta, delta, alpha=before * len(x) / self.n / freedom)

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of both sets together. Chan, Golub & LeVeque 1983, eq. 2.1."""
        scatter = self.scatter + other.scatter
        n = self.n + other.n
        delta = other.mean - self.mean
        scatter += torch.outer(delta, delta) * (self.n * other.n / n)
        return Moments(n, self.mean + delta * (other.n / n), scatter / max(n - 1, 1))

    def without(self, other: "Moments") -> "Moments":
        """Moments of what is left when other, a part of this set, is taken out: undoes `+`."""
        scatter = self.scatter - other.scatter
        n = self.n - other.n
        mean = self.mean + (self.mean - other.mean) * (other.n / n)
        delta = other.mean - mean
        scatter -= torch.outer(delta, delta) * (n * other.n / self.n)
        return Moments(n, mean, scatter / max(n - 1, 1))

    def save(self, path: str | Path) -> None:
        """Writes a .npz with pytorch-fid's keys mu and sigma, and n; beside and renamed."""
        arrays = {"mu": self.mean.cpu().numpy(), "sigma": self.cov.cpu().numpy()}
        if self.n is not None:
            arrays["n"] = np.int64(self.n)
        np.savez(data := io.BytesIO(), **arrays)
        write_beside_and_rename(Path(path), data.getbuffer())

    @classmethod
    def load(cls, path: str | Path) -> "Moments":
        """Reads a .npz of `save`, bit for bit, or of pytorch-fid. UserError if it is neither."""
        try:
            with np.load(path) as file:
                if (size := sum(entry.file_size for entry in file.zip.infolist())) > MOST_BYTES:
                    raise UserError(f"{path} holds {size:,} bytes: wanted moments")
                if any(np.iscomplexobj(file[name]) for name in ("mu", "sigma")):
                    raise UserError(f"{path} holds complex moments: wanted real ones")
                mu, sigma = as_float64(file["mu"]), as_float64(file["sigma"])
                n = operator.index(file["n"].item()) if "n" in file else None
        except UserError:
            raise
        except Exception as problem:  # NumPy raises anything on a file that is no .npz, or torn
            reason = " ".join(str(problem).split())[:200]
            raise UserError(f"{path} cannot be read as .npz moments ({reason})") from problem
        if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
            found = f"mu {tuple(mu.shape)}, sigma {tuple(sigma.shape)}"
            raise UserError(f"{path} holds {found}: wanted (d,) and (d, d)")
        finite = mu.isfinite().all() and sigma.isfinite().all()
        largest = max(mu.abs().max(), sigma.abs().max())
        asymmetry = (sigma - sigma.T).abs().max()
        for wrong, what in (
            (not finite, "NaN or infinite moments"),
            (largest > LARGEST, f"moments above {LARGEST:.0e}"),
            ((sigma.diagonal() < 0).any(), "negative variances"),
            (asymmetry > SYMMETRIC * sigma.abs().max(), "a sigma that is not symmetric"),
            (n is not None and n < 2, f"the moments of {n} images"),
        ):
            if wrong:
                raise UserError(f"{path} holds {what}: wanted mean and covariance of 2 or more")
        return cls(n, mu, sigma)


def extract(batches: Iterable[Tensor], extractor, n: int, label: str) -> Iterator[Tensor]:
    """Features (N, d) of the first n images, batch for batch, behind a bar of images a second."""
    seen = 0
    with Bar(total=n, desc=label, unit="img") as bar:
        for images in batches:  # to their end, which all ranks then see alike
            images = images[: n - seen]
            if len(images):
                yield extractor(images)
            seen += len(images)
            bar.update(len(images))
    if seen < n:
        raise UserError(f"{label}: {seen} images came and {n} were promised")


class FeatureRecorder:
    """An extractor that keeps the features of the first `most` images, which moments forget.

    Several processes together keep those of the first `most` of all: each sees every world()-th.
    """

    def __init__(self, extractor: Callable[[Tensor], Tensor], most: int) -> None:
        self.extractor = extractor
        self.room = share_size(most)
        self.kept: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        features = self.extractor(images)
        if self.room:
            self.kept.append(features[: self.room].clone())
            self.room -= len(self.kept[-1])
        return features

    def features(self) -> Tensor:
        """(n, d) float32 in the order of the images, on the extractor's device, on every rank."""
        mine = torch.cat(self.kept)
        if world() == 1:
            return mine
        shares = gather(mine.cpu())
        whole = torch.empty(sum(map(len, shares)), mine.shape[1])
        for i, share in enumerate(shares):
            whole[i :: world()] = share
        return whole.to(mine.device)


def in_chunks(stream: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Features (N, d) of any N, regrouped into (size, d); the last one is shorter."""
    held = None
    for features in stream:
        held = features if held is None else torch.cat([held, features])
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
    if held is not None and len(held):
        yield held


@torch.no_grad()
def features_to_groups(
    batches: Iterable[Tensor],
    extractor: Callable[[Tensor], Tensor],
    n: int,
    *,
    groups: int = 10,
    label: str = "features",
) -> list[Moments]:
    """Stream n images through extractor, (N, C, H, W) -> (N, d), into the moments of its groups.

    Batches are uint8 (or [0, 1]) on the extractor's device. Image i belongs to group i % groups,
    whatever the batch size, so that images sorted by class spread evenly. Memory does not depend
    on n. Raises UserError for fewer than n images or features that are not finite.

    If several processes work together, batches hold this rank's share of the n images, every
    world()-th, and the moments are those of all.
    """
    if n < world():
        raise UserError(f"{label}: {n} images for {world()} processes; each needs one at least.")
    size = groups * math.ceil(1000 / groups)  # large, so that d x d updates are rare
    moments = []
    for i, features in enumerate(
        in_chunks(extract(batches, extractor, share_size(n), label), size)
    ):
        bad = (~features.isfinite()).any(1).nonzero()
        if len(bad) and world() == 1:  # of several, all find it in the merged moments
            raise UserError(
                f"{label}: the features of image {i * size + bad[0].item()} are not finite"
            )
        if not moments:
            device = "cpu" if features.device.type == "mps" else features.device
            moments = [Moments.empty(features.shape[1], device) for _ in range(groups)]
        for g, group in enumerate(moments):
            group.update(features[members(g, groups)])
    return [over_ranks(group) for group in moments]


def members(group: int, groups: int) -> slice:
    """Pick this rank's images of the group: those with (rank + j * world) % groups."""
    of = [(rank() + j * world()) % groups for j in range(groups)]
    period = groups // math.gcd(groups, world())
    return slice(of.index(group), None, period) if group in of else slice(0)


def over_ranks(moments: Moments) -> Moments:
    """Moments of all ranks' features together: sums about their common mean."""
    if world() == 1:
        return moments
    n = int(total(torch.tensor(moments.n)))
    mean = total(moments.mean * moments.n) / max(n, 1)
    delta = moments.mean - mean
    scatter = total(moments.scatter + moments.n * torch.outer(delta, delta))
    return Moments(n, mean, scatter / max(n - 1, 1))

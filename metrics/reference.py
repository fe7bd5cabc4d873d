"""Reference moments: what generated images are compared with, and the floor of that comparison.

A reference belongs to a dataset (which folder, which style), an image size, a protocol, and to the
weights and the precision of the extractor; its file name says all of it. The default protocol's on
MNIST is shipped in inception/reference/; without that file, as for all others, the first score
computes it and keeps it in <data_dir>/reference/.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from operator import add
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dataset import ImageData, identity, order
from fid import GROUPS, fid_with_error
from inception.kid import MOST, kid_with_error
from inception.moments import FeatureRecorder, Moments, features_to_groups
from lib.distributed import agree, gather, local_rank, main_process_first, shard
from lib.errors import UserError
from lib.files import beside
from metrics.features import batches_of
from metrics.protocols import PROTOCOLS
from sources import NoTestSplit
from sources.pictures import resize
from trainer import Trainer

SHIPPED = Path(__file__).parents[1] / "inception" / "reference"
REFERENCE_SEED = 0  # of the choice of real images: the same for every run


@dataclass(frozen=True)
class Reference:
    """Moments of the real images; FID and standard error of other real images against them.

    sample: features (4, d) of the first four real images, which show that a reference, an extractor
    and a dataset belong together. features: those of as many images as KID takes, if the protocol
    has KID; their halves belong to the split's.
    """

    moments: Moments
    floor: float
    floor_error: float
    sample: Tensor
    features: Tensor | None = None

    @cached_property
    def kid_floor(self) -> tuple[float, float]:
        """KID of the two halves, and its error: about 0, and as often below it."""
        half = len(self.features) // 2
        return kid_with_error(self.features[:half], self.features[half:])


def file_name(trainer: Trainer, extractor: nn.Module) -> str:
    config = trainer.config
    which = identity(config)
    return (
        f"{config.dataset}{which and '-' + which}-{trainer.score_size}px-{config.fid_protocol}"
        f"-{extractor.precision}-{extractor.digest[:12]}.npz"
    )


def where(trainer: Trainer, extractor: nn.Module) -> tuple[Path, bool]:
    """The path of the reference, shipped or in the cache; and if all processes find it there."""
    name = file_name(trainer, extractor)
    for folder in (SHIPPED, Path(trainer.config.data_dir) / "reference"):
        if there := all(gather((folder / name).is_file())):
            break
    return folder / name, there


def find_reference(trainer: Trainer, extractor: nn.Module) -> Reference:
    """Shipped, cached, or computed now from the dataset and then cached."""
    path, there = where(trainer, extractor)
    if there:
        return agree(partial(load_reference, path))
    reference = compute_reference(trainer, extractor)
    return main_process_first(lambda: cached(reference, path))


def fetch_images(trainer: Trainer, extractor: nn.Module) -> int:
    """Fetch and count the images that a reference will be computed from: 0 if it is there."""
    if where(trainer, extractor)[1]:
        return 0

    def size(split: str) -> int:
        with suppress(NoTestSplit):
            return len(trainer.load_data(split))
        return 0

    protocol = PROTOCOLS[trainer.config.fid_protocol]
    splits = protocol.split, protocol.floor_split
    n, others = (main_process_first(partial(size, split)) for split in splits)
    return min(protocol.n_real or n, n) + min(protocol.n_floor or 0, others)


def cached(reference: Reference, path: Path) -> Reference:
    """The reference as the file, written now, will give it back the next time."""
    try:
        if local_rank() == 0:
            save_reference(reference, path)
    except OSError as error:
        print(f"could not keep the reference moments: {path}: {error.strerror}")
    return load_reference(path) if path.is_file() else reference


def real_images(trainer: Trainer, split: str) -> ImageData:
    """Load the images that generated ones are compared with, at their size."""
    data = trainer.load_data(split)
    return replace(data, images=resize(data.images, trainer.score_size))


def compute_reference(trainer: Trainer, extractor: nn.Module) -> Reference:
    """Moments of the protocol's real images, and its floor from other real ones."""
    protocol = PROTOCOLS[trainer.config.fid_protocol]
    data = real_images(trainer, protocol.split)
    if protocol.n_floor is None:
        return reference_of_halves(data, extractor)
    n_real = min(protocol.n_real or len(data), len(data))
    (moments,) = real_moments(data, 0, n_real, extractor, "real images", groups=1)
    floor = compute_floor(trainer, extractor, data, moments)
    return Reference(moments, *floor, first_features(data, extractor))


def compute_floor(
    trainer: Trainer, extractor: nn.Module, data: ImageData, moments: Moments
) -> tuple[float, float]:
    """FID and error of real images that are not among the moments'; NaN if there are none."""
    protocol = PROTOCOLS[trainer.config.fid_protocol]
    others, start = data, moments.n
    if protocol.floor_split != protocol.split:
        try:
            others, start = real_images(trainer, protocol.floor_split), 0
        except NoTestSplit:
            return math.nan, math.nan
    n_floor = min(protocol.n_floor, len(others) - start)
    if n_floor < 2:
        return math.nan, math.nan
    groups = real_moments(
        others, start, n_floor, extractor, "floor: other real images", groups=GROUPS
    )
    return fid_with_error(moments, groups)


def reference_of_halves(data: ImageData, extractor: nn.Module) -> Reference:
    """Moments of all images; the floor is one half of them, at random, against the other."""
    n = len(data)
    if n < 4:
        raise UserError(f"FID of two halves of {n} training images: wanted 4 images or more")
    first, second = (FeatureRecorder(extractor, MOST // 2) for _ in range(2))
    (half,) = real_moments(data, 0, n // 2, first, "real images, first half", groups=1)
    rest = real_moments(data, n // 2, n - n // 2, second, "and the second", groups=GROUPS)
    floor, error = fid_with_error(half, rest)
    features = torch.cat([first.features(), second.features()])
    whole = reduce(add, (part for part in rest if part.n), half)
    return Reference(whole, floor, error, first_features(data, extractor), features.cpu())


def first_features(data: ImageData, extractor: nn.Module) -> Tensor:
    (sample,) = batches_of(data.images, order(len(data), REFERENCE_SEED, 0)[:4])
    return extractor(sample).cpu()


def real_moments(
    data: ImageData, start: int, n: int, extractor: nn.Module, label: str, *, groups: int
) -> list[Moments]:
    """Moments of the images start .. start + n of the split's seeded order."""
    chosen = shard(order(len(data), REFERENCE_SEED, 0)[start : start + n])
    batches = batches_of(data.images, chosen)
    return features_to_groups(batches, extractor, n, groups=groups, label=label)


def save_reference(reference: Reference, path: Path) -> None:
    """Write a .npz beside and rename it.

    The covariance's upper triangle is kept in float32: on MNIST that moves a FID by 1e-8.
    """
    moments = reference.moments
    upper = torch.triu_indices(moments.dims, moments.dims)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {} if reference.features is None else {"features": reference.features.numpy()}
    with beside(path) as part, open(part, "wb") as file:
        np.savez_compressed(
            file,
            mu=moments.mean.cpu().numpy(),
            upper=moments.cov.cpu()[upper[0], upper[1]].float().numpy(),
            n=np.int64(moments.n),
            sample=reference.sample.numpy(),
            floor=np.array([reference.floor, reference.floor_error]),
            **kept,
        )


def load_reference(path: Path) -> Reference:
    """Raises UserError if the file is damaged."""
    try:
        with np.load(path) as file:
            mu, upper = torch.from_numpy(file["mu"]), torch.from_numpy(file["upper"]).double()
            kept = torch.from_numpy(file["features"]) if "features" in file else None
            (d,), (floor, error) = mu.shape, file["floor"].tolist()
            cov = torch.zeros(d, d, dtype=torch.float64)
            rows, columns = torch.triu_indices(d, d)
            cov[rows, columns] = upper
            cov[columns, rows] = upper
            moments = Moments(int(file["n"]), mu.double(), cov)
            return Reference(moments, floor, error, torch.from_numpy(file["sample"]), kept)
    except Exception as error:  # a damaged zip raises nearly anything
        raise UserError(f"{path} is damaged ({error}): delete it and run again") from None

"""Inception features of sets of images, and the lines of results.jsonl that come from them."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fid import GROUPS, fid_with_error
from inception.kid import kid_with_error
from inception.moments import Moments, extract
from lib.files import beside
from lib.results import Result

BATCH_SIZE = 50  # images through the extractor


def batches_of(images: Tensor, chosen: Tensor) -> Iterator[Tensor]:
    """The chosen images, in batches."""
    for indices in chosen.to(images.device).split(BATCH_SIZE):
        yield images[indices]


@torch.no_grad()
def features(batches: Iterable[Tensor], extractor: nn.Module, n: int, label: str) -> Tensor:
    """Features (n, d) of n uint8 images, on the extractor's device."""
    parts = (part for batch in batches for part in batch.split(BATCH_SIZE))
    return torch.cat(list(extract(parts, extractor, n, label)))


def kept_features(
    data_dir: str | Path, data: str, size: str, extractor: nn.Module, compute: Callable[[], Tensor]
) -> Tensor:
    """Features (n, d) float32 on the CPU of this data at this size; computed if no file has them.

    The file's name says all that they depend on. If it can't be written, one line says so.
    """
    name = f"features-{data}-{size}-{extractor.precision}-{extractor.digest[:12]}.npy"
    path = Path(data_dir) / "reference" / name
    with suppress(OSError, ValueError, EOFError):
        return torch.from_numpy(np.load(path))
    found = compute().float().cpu()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as part, open(part, "wb") as file:
            np.save(file, found.numpy())
    except OSError as error:
        print(f"could not keep {path}: {error.strerror}", file=sys.stderr)
    return found


def made_by(extractor: nn.Module) -> Result:
    """The fields of a result that say which network it comes from."""
    return {
        "extractor": extractor.name,
        "precision": extractor.precision,
        "weights_sha256": extractor.digest,
    }


def fid_of_features(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """FID of features (n, d) and (m, d), and its standard error."""
    return fid_with_error(Moments.of(real), [Moments.of(fake[g::GROUPS]) for g in range(GROUPS)])


def fid_and_kid(
    real: Tensor, fake: Tensor, name: str, about: str, extractor: nn.Module
) -> list[Result]:
    """The results fid_NAME and kid_NAME of features (n, d) and (m, d)."""
    shared = {"about": about, "n_real": len(real), "n_fake": len(fake)} | made_by(extractor)
    return [
        {"metric": f"{metric}_{name}", "value": value, "error": error} | shared
        for metric, (value, error) in (
            ("fid", fid_of_features(real, fake)),
            ("kid", kid_with_error(real, fake)),
        )
    ]

"""Precision, recall, density and coverage: fidelity and diversity, by k nearest others.

Around each real sample lies a ball that reaches to its k-th nearest real neighbour; together they
stand for where real images are, and the balls around generated ones for where those are.
Precision, recall: Kynkaanniemi et al. 2019 (arXiv:1904.06991), eq. 1 and 2, with k = 3 there.
Density, coverage: Naeem et al. 2020 (arXiv:2002.09797), eq. 3 and 4, with k = 5, as here.

All four depend on the number of images (balls shrink as it grows): compare equal numbers only.
"""

import math

import torch
from torch import Tensor, nn

from dataset import ImageData, order
from inception.moments import as_float64, check_sets
from lib.results import Result
from metrics.features import batches_of, features, made_by
from trainer import Trainer

K = 5  # neighbours
MOST = 3000  # images of each set, as many as in the protocol `homework`
BLOCK = 500  # samples whose distances to all others are in memory at once
ROUNDING = 1e-9  # relative: a sample on the edge of a ball is in it, on every machine

ABOUT = {
    "precision": "share of generated images within reach of a real one",
    "recall": "share of real images within reach of a generated one",
    "density": "real images in whose reach a generated one is, over k; above 1 where they crowd",
    "coverage": "share of real images with a generated one in their reach",
}


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean (N, M) between x (N, d) and y (M, d), in float64 for what cancels."""
    squares = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
    return squares.clamp_(min=0).sqrt_()


def reach(x: Tensor, k: int) -> Tensor:
    """(N,): the distance of each sample of x (N, d) to its k-th nearest other one."""
    found = []
    for start in range(0, len(x), BLOCK):
        block = distances(x[start : start + BLOCK], x)
        block[:, start:].fill_diagonal_(math.inf)  # of a sample to itself
        found.append(block.kthvalue(k, dim=1).values)
    return torch.cat(found) * (1 + ROUNDING)


def judged(real: Tensor, fake: Tensor, k: int) -> dict[str, Tensor]:
    """The values whose means the four measures are: (N,) over real or (M,) over generated samples.

    real (N, d), fake (M, d). Memory is that of BLOCK x N distances.
    """
    real_reach, fake_reach = reach(real, k), reach(fake, k)
    crowd = torch.zeros(len(fake), device=real.device)
    near_real = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = near_real.clone()
    for start in range(0, len(fake), BLOCK):
        part = slice(start, start + BLOCK)
        d = distances(fake[part], real)
        inside = d <= real_reach
        crowd[part] = inside.sum(1).float()
        covered |= inside.any(0)
        near_real |= (d <= fake_reach[part, None]).any(0)
    return {
        "precision": (crowd > 0).double(),
        "recall": near_real.double(),
        "density": crowd.double() / k,
        "coverage": covered.double(),
    }


def prdc(real: Tensor, fake: Tensor, *, k: int = K) -> dict[str, tuple[float, float]]:
    """Value and standard error of the four, of features real (N, d) and fake (M, d).

    The error is that of a mean over the samples judged, sd / sqrt(n): it takes the balls as given,
    and so leaves out the draw of the other set.
    """
    check_sets("precision and recall", real, fake, k + 1)
    x, y = as_float64(real), as_float64(fake)
    shift = x.mean(0)  # features are all positive: about their mean less cancels
    values = judged(x - shift, y - shift, k)
    return {
        name: (v.mean().item(), (v.std(correction=0) / len(v) ** 0.5).item())
        for name, v in values.items()
    }


def manifold_scores(
    trainer: Trainer, extractor: nn.Module, *, n: int = MOST, k: int = K
) -> list[Result]:
    """The four as results of `Trainer.evaluate`: n training images against n generated ones."""
    real = real_features(trainer.load_data("train"), extractor, n)
    images = trainer.generate(len(real), trainer.config.seed)
    fake = features(images, extractor, len(real), "precision and recall: generated images")
    return results(real, fake, extractor, k=k)


def results(real: Tensor, fake: Tensor, extractor: nn.Module, *, k: int = K) -> list[Result]:
    """A dict each, for results.jsonl."""
    counts = f"k = {k}, {len(real):,} training images, {len(fake):,} generated"
    shared = {"n_real": len(real), "n_fake": len(fake), "neighbours": k} | made_by(extractor)
    found = prdc(real, fake, k=k).items()
    return [
        {"metric": m, "value": v, "error": e, "about": f"{ABOUT[m]}; {counts}"} | shared
        for m, (v, e) in found
    ]


def real_features(data: ImageData, extractor: nn.Module, n: int = MOST) -> Tensor:
    """(min(n, N), d): the first n images in the seeded order that FID's references take too."""
    chosen = order(len(data), 0, 0)[:n]
    label = "precision and recall: real images"
    return features(batches_of(data.images, chosen), extractor, len(chosen), label)

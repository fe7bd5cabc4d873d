"""FID: the Frechet distance between two sets of images in the feature space of Inception-v3.

Heusel et al. 2017 (arXiv:1706.08500), sec. 2. Pure functions on moments, and a command:

    python fid.py REAL FAKE        folders of images or .npz files of moments
    python fid.py --kid REAL FAKE  folders: KID as well (kid.py), which few images do not bias

FID is biased upward by the finite number of images on either side (Chong & Forsyth 2020), so only
values of one protocol compare. Each value comes with its standard error and is to be read beside
its floor, the FID of real images against other real images.
"""

import argparse
import math
import os
import sys
import warnings
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import torch
from scipy.linalg.lapack import dpstrf, dsygst
from torch import Tensor

from inception.moments import Moments, as_float64, features_to_groups
from lib.errors import UserError
from lib.seeding import generator
from metrics.kid import MOST, Keeping, kid_with_error
from sources.image_folder import image_batches, image_paths

GROUPS = 10  # of the jackknife
DIMS = 2048  # pool3 of Inception-v3


@dataclass(frozen=True)
class Protocol:
    """Which real images meet how many generated ones, and which other real ones give the floor.

    Where both splits are the same one, the floor takes the images that follow the reference's
    n_real in the split's seeded order, so that the two are disjoint. Where none follow, as n_floor
    None says, it is the FID of the split's two halves: half the images, so that it is set too high.
    """

    split: str
    n_real: int | None  # None: all of the split
    n_fake: int | None  # None: as many as real ones
    floor_split: str
    n_floor: int | None
    about: str
    kid: bool = False  # KID beside the FID: features are kept for it

    @property
    def floor_of(self) -> str:
        return "real against real" if self.n_floor else "two halves of the real images"


PROTOCOLS = {
    "homework": Protocol(
        "train", 3000, 3000, "train", 3000, "3000 training images: quick, biased upward by small n"
    ),
    "10k": Protocol(
        "test", None, 10_000, "train", 10_000, "the whole test split, which training never saw"
    ),
    "50k": Protocol(  # no 50,000 other real images exist, so its floor is set too high
        "train", None, 50_000, "test", 10_000, "the whole training split, as papers report it"
    ),
    "all": Protocol(
        "train", None, None, "train", None, "a small training set against as many, with KID", True
    ),
    "smoke": Protocol(
        "train", 64, 64, "train", 64, "64 training images, to see the pipeline run: not a result"
    ),
}


def check_finite(*moments: Tensor) -> None:
    if not all(x.isfinite().all() for x in moments):
        raise UserError("the moments of the features hold NaN or infinite values")


def covariance_factor(cov: Tensor, n: int | None = None) -> Tensor:
    """F (d, r) with F F^T = cov (d, d): Cholesky's factor, below full rank with pivots.

    A pivot or an eigenvalue at the level of rounding, d * eps * the largest, counts as zero. Of
    n <= d samples, F stands for their centred features: F^T C F is then a Gram matrix of n - 1
    rows, and no eigenvalue of a (d, d) matrix is asked for (Higham 2002, sec. 10.3).
    """
    check_finite(cov)
    rounding, largest = len(cov) * torch.finfo(cov.dtype).eps, cov.diagonal().max()
    if n is None or n > len(cov):
        L, failed = torch.linalg.cholesky_ex(cov)
        if not failed and L.diagonal().square().min() > rounding * largest:
            return L
    F = pivoted_cholesky(cov, rounding * largest.item())
    F = F if n is None else F[:, : n - 1]
    left = (cov.diagonal() - F.square().sum(1)).abs().max()
    if left <= 1e-6 * largest:  # 1e-7 is the float32 in which references are kept
        return F
    values, vectors = torch.linalg.eigh(cov)  # not positive semidefinite: less exact than claimed
    kept = values > rounding * values[-1]
    return vectors[:, kept] * values[kept].sqrt()


def pivoted_cholesky(cov: Tensor, tolerance: float) -> Tensor:
    """F (d, r) with F F^T = cov but for pivots up to the tolerance. LAPACK's, on the CPU."""
    L, pivots, rank, _ = dpstrf(cov.cpu().numpy(), lower=1, tol=tolerance)
    factor = np.zeros((len(L), rank))
    factor[pivots - 1] = np.tril(L)[:, :rank]
    return torch.from_numpy(factor).to(cov.device)


def congruent(F: Tensor, cov: Tensor) -> Tensor:
    """F^T cov F (r, r), of which the lower triangle is right: eigvalsh reads no more.

    LAPACK's dsygst, a quarter of the products' operations, where F is Cholesky's triangle on the
    CPU. The arrays are passed as transposes, which LAPACK takes without a copy.
    """
    if F.device.type != "cpu" or F.shape != cov.shape or not torch.equal(F, F.tril()):
        return F.T @ cov @ F
    product, _ = dsygst(cov.numpy().T, F.numpy().T, itype=2, lower=0)
    return torch.from_numpy(product.T)


def frechet_distance(
    mu1: Tensor | np.ndarray,
    cov1: Tensor | np.ndarray,
    mu2: Tensor | np.ndarray,
    cov2: Tensor | np.ndarray,
    *,
    factor1: Tensor | None = None,
) -> float:
    """|mu1 - mu2|^2 + tr C1 + tr C2 - 2 tr sqrt(C1 C2) of N(mu1, C1), N(mu2, C2); in float64.

    Dowson & Landau 1982. With C1 = F F^T, C1 C2 has the eigenvalues of the symmetric F^T C2 F
    (r, r) and otherwise zeros, and the trace of the root is the sum of their roots. Runs on C1's
    device. factor1: covariance_factor(cov1), where one C1 meets many C2.
    """
    if len(mu1) != len(mu2):
        raise UserError(f"moments of {len(mu1)} and of {len(mu2)} features cannot be compared")
    mu1, cov1, mu2, cov2 = (as_float64(x) for x in (mu1, cov1, mu2, cov2))
    mu1, mu2, cov2 = (x.to(cov1.device) for x in (mu1, mu2, cov2))
    check_finite(mu1, mu2, cov2)
    F = covariance_factor(cov1) if factor1 is None else factor1
    eigenvalues = torch.linalg.eigvalsh(congruent(F, cov2))
    root_trace = eigenvalues.clamp(min=0).sqrt().sum()  # those below 0 are rounding
    distance = (mu1 - mu2).square().sum() + cov1.trace() + cov2.trace() - 2 * root_trace
    return distance.item()


def warn_if_few(moments: Moments) -> None:
    if moments.n is not None and moments.n <= moments.dims:
        warnings.warn(
            f"{moments.n} images for {moments.dims} features: covariance is rank-deficient and "
            f"FID is biased upward; use >= {moments.dims + 1}",
            stacklevel=3,
        )


def fid_with_error(real: Moments, groups: list[Moments]) -> tuple[float, float]:
    """FID of real against all groups of the generated set together, and its standard error.

    Delete-a-group jackknife (Efron & Tibshirani 1993, ch. 11): sqrt((G - 1) / G * sum of
    (FID without group i - their mean)^2). It covers the sampling of the generated set, neither
    that of the real set nor the bias of small n nor the spread over training seeds. The error is
    NaN where it is unknown: one group, or fewer than two images left without a group.
    """
    groups = [group for group in groups if group.n != 0]
    fake = reduce(add, groups) if len(groups) > 1 else groups[0]
    for moments in (real, fake):
        if moments.n is not None and moments.n < 2:
            raise UserError(f"FID of {moments.n} image: a covariance needs at least two")
        warn_if_few(moments)
    factor = covariance_factor(real.cov, real.n)

    def distance(other: Moments) -> float:
        """By the factor of the smaller rank, if it is smaller enough to pay for another factor."""
        if other.n is not None and other.n < 0.75 * factor.shape[1]:
            F = covariance_factor(other.cov, other.n)
            return frechet_distance(other.mean, other.cov, real.mean, real.cov, factor1=F)
        return frechet_distance(real.mean, real.cov, other.mean, other.cov, factor1=factor)

    if len(groups) < 2 or fake.n - max(group.n for group in groups) < 2:
        return distance(fake), math.nan
    left_out = np.array([distance(fake.without(group)) for group in groups])
    return distance(fake), math.sqrt((len(groups) - 1) * left_out.var())


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """pytorch-fid's flags, and three of ours."""
    parser = argparse.ArgumentParser(
        description="FID of two sets of images: each a folder, or a .npz of moments.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_flag = parser.add_argument
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add_flag("path", nargs=2, type=Path, help="the real set, then the generated one")
    add_flag("--batch-size", type=int, default=50, help="images through Inception at once")
    add_flag("--num-workers", type=int, default=min(8, os.cpu_count() or 1), help="decode threads")
    add_flag("--device", default=device, help="of Inception: cpu, cuda, cuda:1, mps")
    add_flag("--dims", type=int, default=DIMS, help="features; no other number is offered")
    add_flag("--save-stats", action="store_true", help="write moments of path 1 to path 2, a .npz")
    add_flag("--kid", action="store_true", help="KID too, of two folders")
    add_flag("--fid_precision", choices=["fp32", "bf16"], default="fp32", help="of Inception")
    add_flag("--inception_weights", type=Path, help="their file; None: found or fetched")
    return parser.parse_args(argv)


def check_flags(args: argparse.Namespace) -> None:
    """UserError for the values that argparse lets through."""
    if args.dims != DIMS:
        raise UserError(f"--dims {args.dims}: only the {DIMS} features of pool3 are offered")
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: wanted 1 or more")
    if args.kid and args.save_stats:
        raise UserError(
            "--kid compares two sets and --save-stats writes one: leave one of them out"
        )
    try:
        torch.empty(1, device=args.device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        raise UserError(f"--device {args.device} cannot be used here: try cpu") from problem


def find(path: Path) -> list[Path] | Moments:
    """The image files of a folder, or the moments that a file holds."""
    if not path.exists():
        raise UserError(f"{path} does not exist: name a folder of images or a .npz of moments")
    return image_paths(path) if path.is_dir() else Moments.load(path)


def find_for_kid(path: Path) -> list[Path]:
    """The image files of a folder, shuffled where KID takes the first MOST alone: else those would
    be the first by name. UserError: a file of moments, of which no KID can be had.
    """
    if path.is_file():
        raise UserError(f"--kid: {path} is a file, and KID needs the images: name their folder")
    paths = find(path)
    if len(paths) <= MOST:
        return paths
    return [paths[i] for i in torch.randperm(len(paths), generator=generator("cpu", "kid"))]


def load_extractor(args: argparse.Namespace):
    """Inception-v3, introduced on stderr: a FID belongs to its extractor."""
    from inception import load_inception  # two files of moments need neither network nor weights

    extractor = load_inception(args.device, args.fid_precision, args.inception_weights)
    name, weights = extractor.name, extractor.digest[:12]
    print(f"{name}, {extractor.precision}, weights {weights}", file=sys.stderr)
    return extractor


def groups_of(source: list[Path] | Moments, extractor, args: argparse.Namespace, groups: int):
    """Moments in groups; those that were read from a file are one group of their own."""
    if isinstance(source, Moments):
        return [source]
    batches = image_batches(source, args.batch_size, args.num_workers)
    label = str(source[0].parent)
    return features_to_groups(batches, extractor, len(source), groups=groups, label=label)


def save_stats(args: argparse.Namespace, extractor) -> None:
    """Writes the moments of the first path, a folder, to the second, a new .npz."""
    folder, target = args.path
    if target.suffix != ".npz":
        target = target.with_name(target.name + ".npz")
    if target.exists():
        raise UserError(f"{target} exists: remove it or name another file")
    if not target.parent.is_dir():
        raise UserError(f"{target.parent} is no folder: make it, then write {target.name} there")
    source = find(folder)
    if isinstance(source, Moments):
        raise UserError(f"{folder} is a file: --save-stats wants a folder of images first")
    (moments,) = groups_of(source, extractor or load_extractor(args), args, groups=1)
    moments.save(target)
    print(f"{target}: moments of {moments.n} images", file=sys.stderr)


def score(args: argparse.Namespace, extractor) -> None:
    """Prints the FID (and the KID) to stdout as pytorch-fid does; errors and both n to stderr."""
    look_up = find_for_kid if args.kid else find
    sources = [look_up(path) for path in args.path]  # both, before minutes of work on either
    loaded = [source for source in sources if isinstance(source, Moments)]
    if len(loaded) < 2:
        extractor = extractor or load_extractor(args)
        for moments in loaded:
            if moments.dims != extractor.dims:
                raise UserError(f"the .npz holds {moments.dims} features: wanted {extractor.dims}")
    features = [Keeping(extractor, MOST if args.kid else 0) for _ in sources]
    (real,) = groups_of(sources[0], features[0], args, groups=1)
    fakes = groups_of(sources[1], features[1], args, groups=GROUPS)
    value, error = fid_with_error(real, fakes)
    print("FID: ", value)
    if not math.isnan(error):
        print(f"error: {error:.4g} (standard error, by the second path's images)", file=sys.stderr)
    n_fake = None if fakes[0].n is None else sum(group.n for group in fakes)
    if args.kid:
        print_kid(*(kept.features() for kept in features))
    print(f"images: {real.n or 'unknown'}, {n_fake or 'unknown'}", file=sys.stderr)


def print_kid(real: Tensor, fake: Tensor) -> None:
    """The KID of features (N, d), (M, d) to stdout, raw, not times 1000; its error to stderr."""
    value, error = kid_with_error(real, fake)
    print("KID: ", value)
    about = f"by the images of both paths; KID of {len(real)} and {len(fake)}"
    if not math.isnan(error):
        print(f"KID error: {error:.4g} (standard error, {about})", file=sys.stderr)


def main(argv: list[str] | None = None, extractor=None) -> None:
    """The command. extractor: what stands in for Inception, with .dims, in tests."""
    args = parse_args(argv)
    try:
        check_flags(args)
        (save_stats if args.save_stats else score)(args, extractor)
    except UserError as problem:
        sys.exit(f"error: {problem}")
    except OSError as problem:
        sys.exit(f"error: {problem.filename or 'a file'} can't be used: {problem.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    main()

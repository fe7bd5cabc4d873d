"""FID: the Frechet distance between two sets of images in the feature space of Inception-v3.

Heusel et al. 2017 (arXiv:1706.08500), sec. 2. Pure functions on moments, and a command:

    python fid.py REAL FAKE        folders of images or .npz files of moments
    python fid.py --kid REAL FAKE  folders: KID as well, which few images do not bias

Few images bias FID upward (Chong & Forsyth 2020): only values at the same numbers compare.
"""

import argparse
import math
import os
import sys
import warnings
from functools import reduce
from operator import add
from pathlib import Path

import lib  # isort: skip  # noqa: F401 (first: Ctrl-C while torch is imported is one word)
import numpy as np
import torch
from torch import Tensor

from inception import load_inception
from inception.kid import MOST, kid_with_error
from inception.moments import FeatureRecorder, Moments, as_float64, features_to_groups
from lib.command import command, flag
from lib.errors import UserError
from lib.seeding import generator
from sources.image_folder import image_batches, image_paths

GROUPS = 10  # of the jackknife
DIMS = 2048  # pool3 of Inception-v3
Array = Tensor | np.ndarray


NEGATIVE = "a covariance has negative eigenvalues: these are no moments of images."


def check_finite(*moments: Tensor) -> None:
    if not all(x.isfinite().all() for x in moments):
        raise UserError("the moments of the features hold NaN or infinite values")


def covariance_factor(cov: Tensor, n: int | None = None) -> Tensor:
    """F (d, r) with F F^T = cov (d, d): Cholesky's factor, below full rank with pivots.

    Pivots at the level of rounding count as zero (Higham 2002, sec. 10.3). n <= d samples: r < n.
    """
    from scipy.linalg.lapack import dpstrf  # here: it would slow every start

    check_finite(cov)
    rounding, largest = len(cov) * torch.finfo(cov.dtype).eps, cov.diagonal().max()
    if n is None or n > len(cov):
        L, failed = torch.linalg.cholesky_ex(cov)
        if not failed and L.diagonal().square().min() > rounding * largest:
            return L
    L, pivots, rank, _ = dpstrf(cov.cpu().numpy(), lower=1, tol=rounding * largest.item())
    F = np.zeros((len(L), rank))
    F[pivots - 1] = np.tril(L)[:, :rank]  # the rows back in their order
    F = torch.from_numpy(F if n is None else F[:, : n - 1]).to(cov.device)
    left = (cov.diagonal() - F.square().sum(1)).abs().max()
    if left <= 1e-6 * largest:  # 1e-7 is the float32 in which references are kept
        return F
    values, vectors = torch.linalg.eigh(cov)
    if -values[0] > 1e-3 * values[-1]:
        raise UserError(NEGATIVE)
    kept = values > rounding * values[-1]
    return vectors[:, kept] * values[kept].sqrt()


def congruent(F: Tensor, cov: Tensor) -> Tensor:
    """F^T cov F (r, r); only its lower triangle is right, and eigvalsh reads no more.

    LAPACK's dsygst does it with a quarter of the operations if F is Cholesky's triangle; it takes
    transposes without a copy.
    """
    from scipy.linalg.lapack import dsygst  # here: it would slow every start

    if F.device.type != "cpu" or F.shape != cov.shape or not torch.equal(F, F.tril()):
        return F.T @ cov @ F
    product, _ = dsygst(cov.numpy().T, F.numpy().T, itype=2, lower=0)
    return torch.from_numpy(product.T)


def frechet_distance(
    mu1: Array, cov1: Array, mu2: Array, cov2: Array, *, factor1: Tensor | None = None
) -> float:
    """|mu1 - mu2|^2 + tr C1 + tr C2 - 2 tr sqrt(C1 C2) of N(mu1, C1), N(mu2, C2); in float64.

    Dowson & Landau 1982. With C1 = F F^T, C1 C2 has the eigenvalues of the symmetric F^T C2 F
    (r, r) and otherwise zeros, and the trace of the root is the sum of their roots. Runs on C1's
    device. factor1: covariance_factor(cov1), if one C1 meets many C2.
    """
    if len(mu1) != len(mu2):
        raise UserError(f"moments of {len(mu1)} and of {len(mu2)} features cannot be compared")
    mu1, cov1, mu2, cov2 = (as_float64(x) for x in (mu1, cov1, mu2, cov2))
    mu1, mu2, cov2 = (x.to(cov1.device) for x in (mu1, mu2, cov2))
    check_finite(mu1, mu2, cov2)
    F = covariance_factor(cov1) if factor1 is None else factor1
    eigenvalues = torch.linalg.eigvalsh(congruent(F, cov2))
    if len(eigenvalues) and -eigenvalues[0] > 1e-3 * eigenvalues[-1]:
        raise UserError(NEGATIVE)
    root_trace = eigenvalues.clamp(min=0).sqrt().sum()  # those below 0 are rounding
    distance = (mu1 - mu2).square().sum() + cov1.trace() + cov2.trace() - 2 * root_trace
    return distance.item()


def fid_with_error(real: Moments, groups: list[Moments]) -> tuple[float, float]:
    """FID of real against all groups of the generated set together, and its standard error.

    Delete-a-group jackknife (Efron & Tibshirani 1993, ch. 11): sqrt((G - 1) / G * sum of
    (FID without group i - their mean)^2). It covers the sampling of the generated set, neither
    that of the real set nor the bias of small n nor the spread over training seeds. The error is
    NaN, unknown, for one group or if fewer than two images are left without a group.
    """
    groups = [group for group in groups if group.n != 0]
    fake = reduce(add, groups) if len(groups) > 1 else groups[0]
    for moments in (real, fake):
        if moments.n is not None and moments.n < 2:
            raise UserError(f"FID of {moments.n} image: a covariance needs at least two")
        if moments.n is not None and moments.n <= moments.dims:
            warnings.warn(
                f"{moments.n} images for {moments.dims} features: covariance is rank-deficient and "
                f"FID is biased upward; use >= {moments.dims + 1}",
                stacklevel=1,  # from one place, so that the same is said once
            )
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


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
THREADS = min(8, os.cpu_count() or 1)


@command(
    flag("path", nargs=2, type=Path, help="the real set, then the generated one"),
    flag("--batch-size", type=int, default=50, bounds=(1, 100_000), help="images at once"),
    flag("--num-workers", type=int, default=THREADS, bounds=(0, 1000), help="decode threads"),
    flag("--device", default=DEVICE, help="of Inception: cpu, cuda, cuda:1, mps"),
    flag("--dims", type=int, default=DIMS, help="features; no other number is offered"),
    flag("--save-stats", action="store_true", help="write moments of path 1 to path 2, a .npz"),
    flag("--kid", action="store_true", help="KID too, of two folders"),
    flag("--fid_precision", choices=["fp32", "bf16"], default="fp32", help="of Inception"),
    flag("--inception_weights", type=Path, help="their file (default: found or fetched)"),
)
def main(args: argparse.Namespace) -> None:
    """pytorch-fid's flags, and three of ours."""
    if args.dims != DIMS:
        raise UserError(f"--dims {args.dims}: only the {DIMS} features of pool3 are offered")
    if args.kid and args.save_stats:
        raise UserError("--kid compares two sets, --save-stats writes one: leave one of them out")
    try:
        torch.empty(1, device=args.device).cpu()
    except (RuntimeError, AssertionError, ImportError) as problem:
        raise UserError(f"--device {args.device} cannot be used here: try cpu") from problem
    (save_stats if args.save_stats else score)(args)


def find(path: Path, *, for_kid: bool = False) -> list[Path] | Moments:
    """The image files of a folder, or the moments that a file holds.

    for_kid: a folder's, shuffled if KID takes only MOST of them: else the first by name.
    """
    if not (path.is_dir() or (path.is_file() and path.suffix == ".npz")):
        raise UserError(f"{path} is not there, or no .npz: name moments or a folder of images")
    if for_kid and path.is_file():
        raise UserError(f"--kid: {path} is a file, and KID needs the images: name their folder")
    found = image_paths(path) if path.is_dir() else Moments.load(path)
    if for_kid and len(found) > MOST:
        found = [found[i] for i in torch.randperm(len(found), generator=generator("cpu", "kid"))]
    return found


def load_extractor(args: argparse.Namespace):
    """Inception-v3, introduced on stderr: a FID belongs to its extractor."""
    extractor = load_inception(args.device, args.fid_precision, args.inception_weights)
    about = f"{extractor.name}, {extractor.precision}, weights {extractor.digest[:12]}"
    print(about, file=sys.stderr)
    return extractor


def groups_of(source: list[Path] | Moments, extractor, args: argparse.Namespace, groups: int):
    """Moments in groups; those read from a file are one group."""
    if isinstance(source, Moments):
        return [source]
    batches, label = image_batches(source, args.batch_size, args.num_workers), source[0].parent
    return features_to_groups(batches, extractor, len(source), groups=groups, label=str(label))


def save_stats(args: argparse.Namespace) -> None:
    """Write the moments of the first path, a folder, to the second, a new .npz."""
    folder, target = args.path
    if target.suffix != ".npz":
        target = target.with_name(target.name + ".npz")
    if target.exists():
        raise UserError(f"{target} exists: remove it or name another file")
    if not target.parent.is_dir():
        raise UserError(f"{target.parent} is no folder: make it, then write {target.name} there")
    if isinstance(source := find(folder), Moments):
        raise UserError(f"{folder} is a file: --save-stats wants a folder of images first")
    (moments,) = groups_of(source, load_extractor(args), args, groups=1)
    moments.save(target)
    print(f"{target}: moments of {moments.n} images", file=sys.stderr)


def score(args: argparse.Namespace) -> None:
    """Print the FID (and the KID) to stdout as pytorch-fid does; errors and both n to stderr."""
    sources = [find(path, for_kid=args.kid) for path in args.path]  # before minutes of work
    loaded, extractor = [source for source in sources if isinstance(source, Moments)], None
    if len(loaded) < 2:
        extractor = load_extractor(args)
        if loaded and loaded[0].dims != extractor.dims:
            raise UserError(f"the .npz holds {loaded[0].dims} features: wanted {extractor.dims}")
    recorders = [FeatureRecorder(extractor, MOST if args.kid else 0) for _ in sources]
    (real,) = groups_of(sources[0], recorders[0], args, groups=1)
    fakes = groups_of(sources[1], recorders[1], args, groups=GROUPS)
    value, error = fid_with_error(real, fakes)
    print("FID: ", value)
    if not math.isnan(error):
        print(f"error: {error:.4g} (standard error, by the second path's images)", file=sys.stderr)
    if args.kid:
        x, y = (recorder.features() for recorder in recorders)
        value, error = kid_with_error(x, y)
        print("KID: ", value)  # raw, not times 1000
        about = f"by the images of both paths; KID of {len(x)} and {len(y)}"
        if not math.isnan(error):
            print(f"KID error: {error:.4g} (standard error, {about})", file=sys.stderr)
    n_fake = None if fakes[0].n is None else sum(group.n for group in fakes)
    print(f"images: {real.n or 'unknown'}, {n_fake or 'unknown'}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

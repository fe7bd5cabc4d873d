"""KID: the squared maximum mean discrepancy between two sets of images, in Inception's features.

Binkowski et al. 2018 (arXiv:1801.01401), sec. 4, with their kernel k(x, y) = (x.y / d + 1)^3.
Unlike FID it is unbiased at any number of images, and needs no covariance of 2048 features: read it
when there are few. About 0 for two samples of one distribution, as often below it.

The paper averages the estimate over random subsets of 1000. Over all subsets that mean is the
estimate from all pairs (Hoeffding 1948), computed here; its standard error comes from leaving out
one of ten blocks of both sets at a time.
"""

import math

import torch
from torch import Tensor

from inception.moments import as_float64, check_sets

MOST = 5000  # images of each set whose features are kept: 41 MB in float32, whatever n is
BLOCKS = 10  # of the jackknife


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x_i, y_j) = (x_i.y_j / d + 1)^3: (N, d), (M, d) -> (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def block_sums(x: Tensor, y: Tensor, blocks: int) -> Tensor:
    """(blocks, blocks) float64: sums of k over block a of x against block b of y.

    Sample i belongs to block i % blocks. If y is x itself, pairs of one sample with itself are left
    out. One block of kernel values is in memory at a time: N M / blocks^2.
    """
    sums = torch.zeros(blocks, blocks, dtype=torch.float64)
    for a in range(blocks):
        for b in range(a if x is y else 0, blocks):
            k = kernel(as_float64(x[a::blocks]), as_float64(y[b::blocks]))
            if x is y and a == b:
                k.fill_diagonal_(0)
            sums[a, b] = k.sum().item()
    return sums + sums.triu(1).T if x is y else sums


def kid_with_error(x: Tensor, y: Tensor, *, blocks: int = BLOCKS) -> tuple[float, float]:
    """Unbiased MMD^2 of features x (N, d) and y (M, d), and its standard error; in float64.

    Gretton et al. 2012, eq. 3: means of k over the pairs within x, within y (no sample with
    itself) and between them, the last one twice. Delete-a-block jackknife, like fid_with_error's,
    but a block of both sets goes at a time: the error covers the draw of both. For two samples of
    one distribution it is about sqrt(2) times too large, otherwise right. NaN below four samples.
    """
    check_sets("KID", x, y, 2)
    blocks = min(blocks, len(x) // 2, len(y) // 2)
    xx, yy, xy = block_sums(x, x, blocks), block_sums(y, y, blocks), block_sums(x, y, blocks)
    sizes = [torch.tensor([len(s[b::blocks]) for b in range(blocks)]) for s in (x, y)]

    def mmd2(kept: Tensor) -> float:
        """The estimate from the blocks kept."""
        n, m = (int(size[kept].sum()) for size in sizes)
        within_x, within_y, between = (s[kept][:, kept].sum().item() for s in (xx, yy, xy))
        return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)

    value = mmd2(torch.arange(blocks))
    if blocks < 2:
        return value, math.nan
    left_out = [mmd2(torch.arange(blocks) != b) for b in range(blocks)]
    variance = torch.tensor(left_out, dtype=torch.float64).var(correction=0).item()
    return value, math.sqrt((blocks - 1) * variance)

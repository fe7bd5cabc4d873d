"""KID against loops written out, closed forms, and its own statistics over many draws."""

import math

import numpy as np
import pytest
import torch

from inception.kid import kid_with_error
from lib.errors import UserError


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, (n, d)))


def by_loops(x, y) -> float:
    """Gretton et al. 2012, eq. 3, a pair at a time."""
    x, y, d = x.tolist(), y.tolist(), x.shape[1]

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / d + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    between = sum(k(a, b) for a in x for b in y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)


@pytest.mark.parametrize("blocks", [1, 3, 10])
@pytest.mark.parametrize(("n", "m"), [(20, 20), (23, 31)])
def test_the_value_is_that_of_all_pairs_whatever_the_blocks(n, m, blocks):
    x, y = normal(n, 5, 0), normal(m, 5, 1, shift=0.5)
    assert kid_with_error(x, y, blocks=blocks)[0] == pytest.approx(by_loops(x, y), rel=1e-12)
    assert kid_with_error(y, x, blocks=blocks)[0] == pytest.approx(by_loops(x, y), rel=1e-12)


def test_the_error_is_the_jackknife_over_blocks_of_both_sets():
    x, y = normal(22, 3, 0), normal(17, 3, 1, shift=1.0)
    left_out = [
        by_loops(x[torch.arange(22) % 4 != b], y[torch.arange(17) % 4 != b]) for b in range(4)
    ]
    wanted = math.sqrt(3 * np.var(left_out))
    assert kid_with_error(x, y, blocks=4)[1] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("shift", "ratio"), [(0.0, 2**0.5), (1.0, 1.0)])
def test_the_error_is_the_spread_over_draws_and_too_large_between_equals(shift, ratio):
    draws = [kid_with_error(normal(60, 4, s), normal(60, 4, s + 10**6, shift)) for s in range(300)]
    values, errors = np.array(draws).T
    assert math.sqrt((errors**2).mean()) / values.std(ddof=1) == pytest.approx(ratio, rel=0.15)


def test_bad_features_are_refused_and_two_of_each_have_no_error():
    x = normal(4, 3, 0)
    assert math.isnan(kid_with_error(x[:2], x[2:])[1])
    with pytest.raises(UserError, match="KID of 1 and 4 images"):
        kid_with_error(x[:1], x)
    with pytest.raises(UserError, match="3 and 2 features"):
        kid_with_error(x, x[:, :2])
    with pytest.raises(UserError, match="NaN or infinite"):
        kid_with_error(x, x / 0)

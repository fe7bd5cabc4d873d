"""Moments against np.cov; streams of images into groups, with a stand-in for Inception."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from inception.moments import FeatureRecorder, Moments, features_to_groups
from lib.errors import UserError


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_colour(images):
    """Stands in for Inception: (N, 3, H, W) -> (N, 3)."""
    return images.float().mean((2, 3))


def check_moments(moments, features):
    assert moments.n == len(features)
    assert np.allclose(moments.mean, features.mean(0), rtol=1e-12, atol=0)
    assert np.allclose(moments.cov, np.cov(features.numpy(), rowvar=False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 0}, "moments of 0 images"),
        ({"n": 1}, "moments of 1 images"),
        ({"sigma": -np.eye(3)}, "negative variances"),
        ({"sigma": np.eye(3) + np.eye(3, k=1)}, "not symmetric"),
        ({"mu": np.zeros(3, dtype=complex)}, "complex"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, r"wanted \(d,\)"),
        ({"sigma": np.eye(4)}, r"wanted \(d,\) and \(d, d\)"),
        ({"mu": np.full(3, math.nan)}, "NaN"),
    ],
)
def test_moments_that_are_none_are_refused(tmp_path, changes, words):
    path = tmp_path / "m.npz"
    np.savez(path, **{"mu": np.zeros(3), "sigma": np.eye(3)} | changes)
    with pytest.raises(UserError, match=words):
        Moments.load(path)
    np.savez(path, mu=np.zeros(3))
    with pytest.raises(UserError, match="is not a file in the archive"):
        Moments.load(path)
    for content in (b"", b"garbage", path.read_bytes()[:200]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read as \.npz moments"):
            Moments.load(path)


def test_moments_in_pieces_are_np_cov():
    features = normal(100, 5) + 1e4  # far from zero, where a sum of squares loses its digits
    pieces = Moments.empty(5)
    for piece in features.split([1, 0, 30, 69]):
        pieces.update(piece)
    check_moments(pieces, features)


def test_merging_and_taking_out_undo_each_other():
    features = normal(100, 5) + 1e3
    left, right = Moments.of(features[:1]), Moments.of(features[1:])
    both = left + right
    check_moments(both, features)
    check_moments(both.without(left), features[1:])
    assert (both.without(right).n, left.n, right.n) == (1, 1, 99)


def test_saved_moments_come_back_bit_for_bit(tmp_path):
    moments = Moments.of(normal(10, 4))
    moments.save(tmp_path / "a.npz")
    loaded = Moments.load(tmp_path / "a.npz")
    assert loaded.n == 10
    assert torch.equal(loaded.mean, moments.mean)
    assert torch.equal(loaded.cov, moments.cov)
    with np.load(tmp_path / "a.npz") as file:
        assert file["mu"].shape == (4,)
        assert file["sigma"].dtype == np.float64
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    with pytest.raises(OSError, match=r"missing.\.a\.npz\.part"):
        moments.save(tmp_path / "missing" / "a.npz")


def test_a_file_of_pytorch_fid_has_no_n(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", mu=np.zeros(4), sigma=np.eye(4))
    loaded = Moments.load(tmp_path / "a.npz")
    assert loaded.n is None
    with pytest.raises(ValueError, match="without their n"):
        loaded + loaded


def test_neither_batch_size_nor_surplus_changes_the_groups():
    images = torch.randint(256, (2345, 3, 2, 2), dtype=torch.uint8)
    features = mean_colour(images[:2300])
    for batch_size in (1, 64, 2345):
        groups = features_to_groups(images.split(batch_size), mean_colour, 2300, groups=7)
        for g, group in enumerate(groups):
            check_moments(group, features[g::7].double())
        if batch_size == 1:
            first = groups
        assert all(torch.equal(a.cov, b.cov) for a, b in zip(first, groups, strict=True))


def test_a_stream_that_ends_early_or_is_not_finite_is_an_error():
    images = torch.zeros(1200, 3, 2, 2)
    with pytest.raises(UserError, match="1200 images came and 1201 were promised"):
        features_to_groups([images], mean_colour, 1201)
    for bad in (math.nan, math.inf):
        images[1100, 0, 0, 0] = bad
        with pytest.raises(UserError, match="image 1100 are not finite"):
            features_to_groups(images.split(50), mean_colour, 1200)


def test_a_recorder_keeps_the_first_features_and_hands_on_all():
    batches = torch.randint(0, 256, (25, 3, 8, 8), dtype=torch.uint8).split(10)
    recorder = FeatureRecorder(mean_colour, 12)
    given = torch.cat([recorder(batch) for batch in batches])
    assert torch.equal(given, mean_colour(torch.cat(batches)))
    assert torch.equal(recorder.features(), given[:12])
    assert sum(part.untyped_storage().nbytes() for part in recorder.kept) == 12 * 3 * 4


SCORED = """
import resource, sys
sys.path.insert(0, {root!r})
import torch
from inception.moments import features_to_groups

def score(n):
    made = (torch.randint(256, (100, 3, 64, 64), dtype=torch.uint8) for _ in range(n // 100))
    features_to_groups(made, lambda images: images.float().mean((2, 3)), n)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

print(score(1000), score(10_000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_the_memory_of_a_score_does_not_grow_with_the_images():
    code = SCORED.format(root=str(Path(__file__).parent.parent))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    few, many = map(int, re.findall(r"\d+", out.stdout))
    assert many - few < 30_000  # KiB; the 9,000 images more are 110,000

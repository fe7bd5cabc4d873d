"""FID on closed forms, with stand-ins for Inception: no weights, no network."""

import math
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from test_image_folder import write_images
from test_moments import normal

import fid
from fid import covariance_factor, fid_with_error, frechet_distance
from inception.kid import kid_with_error
from inception.moments import Moments
from lib.errors import UserError
from sources.image_folder import image_batches, image_paths

approx = pytest.approx


class PixelMean:
    """Stands in for Inception: uint8 or [0, 1] images (N, 3, H, W) -> their mean colour (N, 3)."""

    name, digest, precision, dims = "pixel-mean", "0" * 64, "fp32", 3

    def __call__(self, images):
        scale = 255 if images.dtype == torch.uint8 else 1
        return images.float().mean((2, 3)) / scale


def random_cov(d, rank, seed):
    A = normal(d, rank, seed)
    return A @ A.T / rank


@pytest.fixture(autouse=True)
def pixel_mean(monkeypatch):
    monkeypatch.setattr(fid, "load_extractor", lambda args: PixelMean())


def run(capsys, *argv):
    """stdout and stderr of the command."""
    assert fid.main([str(arg) for arg in argv]) == 0
    return capsys.readouterr()


def printed(capsys, *argv):
    return float(run(capsys, *argv).out.removeprefix("FID:  "))


# The distance


def test_closed_forms():
    zero, shift, cov = torch.zeros(16), normal(1, 16)[0], random_cov(16, 40, seed=1)
    assert frechet_distance(zero, cov, shift, cov) == approx(shift.square().sum().item(), rel=1e-10)
    assert frechet_distance(zero, 0 * cov, zero + 1, 0 * cov) == approx(16, abs=1e-12)
    # diagonal ones: the sum of (1 - 2)^2, (2 - 2)^2, (3 - 1)^2
    cov1, cov2 = torch.diag(torch.tensor([1.0, 4, 9])), torch.diag(torch.tensor([4.0, 4, 1]))
    sets = zero[:3], cov1, zero[:3], cov2
    assert frechet_distance(*sets) == approx(5, abs=1e-12)
    assert frechet_distance(*(x.numpy() for x in sets)) == approx(5, abs=1e-12)


@pytest.mark.parametrize("ranks", [(40, 40), (40, 5), (5, 40), (7, 5)])
def test_symmetric_and_right_at_every_rank(ranks):
    mu1, mu2 = normal(2, 16)
    cov1, cov2 = (random_cov(16, rank, seed) for seed, rank in enumerate(ranks))
    distance = frechet_distance(mu1, cov1, mu2, cov2)
    assert frechet_distance(mu1, cov1, mu2, cov2, factor1=covariance_factor(cov1)) == distance
    roots = np.linalg.eigvals((cov1 @ cov2).numpy()).real.clip(0) ** 0.5  # of no symmetric matrix
    wanted = (mu1 - mu2).square().sum() + cov1.trace() + cov2.trace() - 2 * roots.sum()
    assert distance == approx(wanted.item(), abs=1e-6)
    assert distance == approx(frechet_distance(mu2, cov2, mu1, cov1), abs=1e-6)


@pytest.mark.parametrize(("n1", "n2"), [(5, 5), (12, 5), (100, 5), (5, 100), (16, 17)])
@pytest.mark.parametrize("kept_in", [torch.float64, torch.float32])
def test_few_samples_give_what_the_gram_matrix_of_their_features_gives(n1, n2, kept_in):
    x1, x2 = (normal(n, 16, seed=n + i).double() for i, n in enumerate((n1, n2)))
    a, b = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (x1, x2))
    shift = (x1.mean(0) - x2.mean(0)).square().sum()
    wanted = shift + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    real, fake = Moments.empty(16), Moments.empty(16)
    real.update(x1)
    fake.update(x2)
    real.cov = real.cov.to(kept_in).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value, _ = fid.fid_with_error(real, [fake])
    assert value == approx(wanted.item(), rel=1e-9 if kept_in == torch.float64 else 1e-4)


def test_a_covariance_that_is_nearly_one_gets_a_factor_and_another_is_refused():
    """As a foreign file may hold: what is a little below zero is left out."""
    factor = covariance_factor(torch.diag(torch.tensor([1.0, 4, -0.001], dtype=torch.float64)))
    assert torch.allclose(factor @ factor.T, torch.diag(torch.tensor([1.0, 4, 0]).double()))
    with pytest.raises(UserError, match="negative eigenvalues"):
        covariance_factor(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64))


def test_other_dimensions_and_nan_are_refused():
    zero, cov = torch.zeros(3), torch.eye(3)
    with pytest.raises(UserError, match="3 and of 2 features"):
        frechet_distance(zero, cov, torch.zeros(2), torch.eye(2))
    for mu1, cov1 in [(zero * math.nan, cov), (zero, cov * math.nan)]:
        for order in [(mu1, cov1, zero, cov), (zero, cov, mu1, cov1)]:
            with pytest.raises(UserError, match="NaN"):
                frechet_distance(*order)


# The error


def test_the_error_in_many_dimensions_is_the_spread_over_repetitions():
    real = Moments.of(normal(5000, 4, seed=10**6))
    runs = [normal(400, 4, seed) + 0.5 for seed in range(60)]
    results = [fid_with_error(real, [Moments.of(x[g::10]) for g in range(10)]) for x in runs]
    values, errors = np.array(results).T
    assert math.sqrt((errors**2).mean()) == approx(values.std(ddof=1), rel=0.25)


def test_an_error_needs_two_images_in_every_remainder():
    real = Moments.of(normal(10, 1))
    one, empty = Moments.of(normal(1, 1)), Moments.empty(1)
    other = Moments.of(normal(1, 1, seed=1))
    value, error = fid_with_error(real, [one, other, empty])
    assert math.isfinite(value)
    assert math.isnan(error)
    with pytest.raises(UserError, match="at least two"):
        fid_with_error(real, [one])


def test_fewer_images_than_features_warn_and_compute():
    few, many = Moments.of(normal(6, 6)), Moments.of(normal(7, 6))
    with pytest.warns(UserWarning, match="6 images for 6 features.*biased upward; use >= 7"):
        value, _ = fid_with_error(many, [few])
    assert value == approx(frechet_distance(many.mean, many.cov, few.mean, few.cov))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fid_with_error(many, [many])


# The command


@pytest.fixture
def folders(tmp_path):
    return write_images(tmp_path / "a", 30), write_images(tmp_path / "b", 25, seed=1)


def test_command_prints_the_fid_of_two_folders(folders, capsys):
    a, b = (PixelMean()(next(image_batches(image_paths(f), 99))).double() for f in folders)
    wanted = frechet_distance(a.mean(0), np.cov(a.T.numpy()), b.mean(0), np.cov(b.T.numpy()))
    result = run(capsys, *folders)
    assert result.out.startswith("FID:  ")
    assert float(result.out.removeprefix("FID:  ")) == approx(wanted, rel=1e-9)
    assert "error: " in result.err
    assert "images: 30, 25" in result.err
    for flags in (["--batch-size", 4], ["--batch-size", 100, "--num-workers", 0]):
        assert printed(capsys, *flags, *folders) == approx(wanted, rel=1e-9)


def test_a_set_is_its_own_16_bit_twin(tmp_path, capsys):
    folder, twin = write_images(tmp_path / "a", 12), tmp_path / "twin"
    twin.mkdir()
    for path in folder.iterdir():
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
        Image.fromarray(grey).save(path)
        Image.fromarray(grey.astype(np.uint16) * 257).save(twin / f"{path.stem}.tif")
    assert printed(capsys, folder, twin) == approx(0, abs=1e-6)


def test_command_prints_the_kid_after_the_fid(folders, capsys):
    a, b = (PixelMean()(next(image_batches(image_paths(f), 99))) for f in folders)
    wanted, error = kid_with_error(a, b)
    result = run(capsys, "--kid", *folders)
    first, second = result.out.splitlines()
    assert float(first.removeprefix("FID:  ")) == approx(printed(capsys, *folders), rel=1e-12)
    assert float(second.removeprefix("KID:  ")) == approx(wanted, rel=1e-6)
    assert f"KID error: {error:.4g} (standard error" in result.err
    assert "KID of 30 and 25" in result.err


def test_the_kid_of_many_images_takes_some_but_not_the_first_by_name(folders, capsys, monkeypatch):
    plain = printed(capsys, *folders)
    monkeypatch.setattr(fid, "MOST", 12)
    names = [path.name for path in fid.find(folders[0], for_kid=True)]
    assert sorted(names) == [path.name for path in image_paths(folders[0])] != names
    assert max(names[:12]) > "012.png"
    result = run(capsys, "--kid", *folders)
    assert float(result.out.splitlines()[0].removeprefix("FID:  ")) == approx(plain, rel=1e-9)
    assert "KID of 12 and 12" in result.err


def test_command_reads_and_writes_moments(folders, capsys, tmp_path):
    value = printed(capsys, *folders)
    for folder, name in zip(folders, ("a.npz", "b"), strict=True):
        run(capsys, "--save-stats", folder, tmp_path / f"stats_{name}")
    a, b = tmp_path / "stats_a.npz", tmp_path / "stats_b.npz"
    assert Moments.load(b).n == 25
    for pair in [(a, b), (a, folders[1]), (folders[0], b)]:
        assert printed(capsys, *pair) == approx(value, rel=1e-9)
    with np.load(a) as file:  # as pytorch-fid writes them
        np.savez(tmp_path / "theirs.npz", mu=file["mu"], sigma=file["sigma"])
    result = run(capsys, tmp_path / "theirs.npz", a)
    assert float(result.out.split()[1]) == approx(0, abs=1e-6)
    assert "images: unknown, 30" in result.err
    assert "error" not in result.err


def test_command_refuses_bad_flags_paths_and_a_broken_image(folders, refusal, tmp_path):
    a, b = folders
    npz(moments := tmp_path / "a.npz", **EYE)
    npz(tmp_path / "four.npz", mu=np.zeros(4), sigma=np.eye(4))
    (tmp_path / "empty").mkdir()
    none = tmp_path / "none"
    cases = {
        "only the 2048": ("--dims", 64, a, b),
        "--batch-size 0: wanted at least 1": ("--batch-size", 0, a, b),
        "cannot be used here": ("--device", "abacus", a, b),
        "leave one of them out": ("--kid", "--save-stats", a, b),
        "needs the images": ("--kid", moments, b),
        "is not there": (a, none),
        "no images": (a, tmp_path / "empty"),
        "one image": (write_images(tmp_path / "one", 1), a),
        "exists": ("--save-stats", a, moments),
        "is no folder": ("--save-stats", a, none / "c.npz"),
        "wants a folder": ("--save-stats", moments, tmp_path / "c.npz"),
        "4 features: wanted 3": (tmp_path / "four.npz", a),
        "4 and of 3 features": (tmp_path / "four.npz", moments),
    }
    for words, argv in cases.items():
        assert words in refusal(fid.main, *argv)
    for content in ((a / "007.png").read_bytes()[:60], b"no image at all"):
        (a / "007.png").write_bytes(content)
        assert "007.png cannot be read as an image" in refusal(fid.main, a, b)


def npz(path, *, header=None, **arrays):
    """A .npz of these arrays; header: what sigma says of itself, before 8 bytes of values."""
    np.savez(path, **arrays)
    if header is not None:
        line = header.encode().ljust(118) + b"\n"
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(
                "sigma.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(line)) + line + bytes(8)
            )
    return path


EYE = {"mu": np.zeros(3), "sigma": np.eye(3)}
HEADER = "{{'descr': '<f8', 'fortran_order': False, 'shape': {}}}"
HOSTILE = {
    "10**18 floats": {"mu": EYE["mu"], "header": HEADER.format("(1000000000, 1000000000)")},
    "10**30 floats": {"mu": EYE["mu"], "header": HEADER.format(f"({10**15}, {10**15})")},
    "below 0": {"mu": EYE["mu"], "header": HEADER.format("(-3, -3)")},
    "no shape": {"mu": EYE["mu"], "header": "{'descr': '<f8'}"},
    "brackets": {"mu": EYE["mu"], "header": "[" * 9_000},
    "an open string": {"mu": EYE["mu"], "header": '"open'},
    "indentation": {"mu": EYE["mu"], "header": "(\n  1\n )\n   2\n 3"},
    "objects": EYE | {"mu": np.array([None, 1, "x"])},
    "records": EYE | {"mu": np.zeros(3, [("a", "f8")])},
    "dates": EYE | {"mu": np.zeros(3, "datetime64[s]")},
    "n a word": EYE | {"n": np.array("ten")},
    "n a fraction": EYE | {"n": 2.5},
    "n many": EYE | {"n": np.arange(3)},
    "n below 0": EYE | {"n": -(10**15)},
    "mean of 1e300": EYE | {"mu": np.full(3, 1e300)},
    "covariance of 1e300": EYE | {"sigma": np.eye(3) * 1e300},
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_command_refuses_hostile_moments_in_one_sentence(tmp_path, refusal, hostile):
    good, bad = npz(tmp_path / "good.npz", **EYE), npz(tmp_path / "bad.npz", **hostile)
    for paths in ((good, bad), (bad, good)):
        assert "bad.npz" in refusal(fid.main, *paths)


def test_files_that_unpack_to_gigabytes_are_refused(tmp_path, capsys, refusal, monkeypatch):
    path = npz(tmp_path / "bomb.npz", **EYE)  # two .npy of a header of 128 bytes, and 12 numbers
    monkeypatch.setattr("inception.moments.MOST_BYTES", 351)
    assert "holds 352 bytes: wanted moments" in refusal(fid.main, path, path)
    monkeypatch.setattr("inception.moments.MOST_BYTES", 352)
    run(capsys, path, path)

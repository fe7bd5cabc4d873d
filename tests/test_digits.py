"""The digit classifier: its file, its record, what it takes for no digit, and how it is made."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dataset
from dataset import ImageData
from lib.errors import UserError
from metrics.digits import WEIGHTS, DigitClassifier, as_input, load_digits, predict, save_digits
from scripts import train_digits

MNIST = Path(__file__).parent.parent / "data"
needs_mnist = pytest.mark.skipif(
    not (MNIST / "MNIST" / "raw" / "t10k-images-idx3-ubyte").is_file(), reason="MNIST is not here"
)


@pytest.fixture(scope="module")
def classifier() -> DigitClassifier:
    return load_digits()


def blurred(n: int, sigma: float) -> Tensor:
    """Gaussian noise blurred by sigma pixels and stretched to [0, 255]."""
    kernel = torch.exp(-(torch.arange(-8, 9.0) ** 2) / (2 * sigma**2))
    noise = F.pad(torch.randn(n, 1, 32, 32), (8, 8, 8, 8), mode="reflect")
    x = F.conv2d(F.conv2d(noise, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    low, high = x.amin((1, 2, 3), True), x.amax((1, 2, 3), True)
    return (x - low) / (high - low) * 255


NOISES = {
    "uniform": lambda n: torch.rand(n, 1, 32, 32) * 256,
    "gaussian": lambda n: 128 + 50 * torch.randn(n, 1, 32, 32),
    "wide gaussian": lambda n: 128 + 128 * torch.randn(n, 1, 32, 32),
    "dark gaussian": lambda n: 30 * torch.randn(n, 1, 32, 32),
    "black": lambda n: torch.zeros(n, 1, 32, 32),
    "grey": lambda n: torch.full((n, 1, 32, 32), 128.0),
    "white": lambda n: torch.full((n, 1, 32, 32), 255.0),
    "greys": lambda n: (255 * torch.rand(n, 1, 1, 1)).expand(n, 1, 32, 32),
    "specks": lambda n: 255.0 * (torch.rand(n, 1, 32, 32) < 0.01),
} | {f"blurred {sigma}": lambda n, sigma=sigma: blurred(n, sigma) for sigma in (1, 2, 3, 5)}


@pytest.mark.parametrize("kind", NOISES)
def test_noise_is_off_the_digits(kind, classifier):
    torch.manual_seed(0)
    found = predict(classifier, NOISES[kind](60).clamp(0, 255).round().to(torch.uint8))
    assert found.off_digits(classifier.measured).float().mean() > 0.9


def test_the_shipped_file_is_small_plain_and_states_its_record(classifier):
    assert WEIGHTS.stat().st_size < 1e6
    measured = torch.load(WEIGHTS, weights_only=True)["measured"]
    assert measured["errors"] <= 70
    assert measured["accuracy"] == 1 - measured["errors"] / measured["n"]
    assert sum(measured["shares"]) == pytest.approx(1, abs=1e-6)
    readme = (WEIGHTS.parent / "README.md").read_text()
    assert f"{measured['errors']} errors of 10,000" in readme


def test_half_precision_on_disk_full_in_memory(classifier, tmp_path):
    save_digits(classifier, tmp_path / "again.pt")
    stored = torch.load(tmp_path / "again.pt", weights_only=True)["state"]
    assert stored["embed.weight"].dtype == torch.float16
    again = load_digits("cpu", tmp_path / "again.pt")
    assert again.measured == classifier.measured
    for name, value in classifier.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
        assert value.dtype in (torch.float32, torch.int64)


def test_a_bad_file_is_named_with_what_to_do(tmp_path):
    path, whole = tmp_path / "bad.pt", WEIGHTS.read_bytes()
    saved = torch.load(WEIGHTS, weights_only=True)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    cases = {
        "No such file": None,
        "not a zip file": whole[:200_000],
        "bad checksum in": bytes(flipped),
        "Weights only load failed": {"format": 1, "state": Path("x")},
        "TypeError": torch.zeros(3),
        "Error.s. in loading state_dict": saved | {"state": {"weight": torch.zeros(3)}},
        "format 99, wanted 1": saved | {"format": 99},
    }
    for words, content in cases.items():
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(UserError, match=rf"bad.pt can't be read .*{words}.*train_digits.py"):
            load_digits("cpu", path)


def test_other_sizes_and_colours_become_input():
    colour = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 64, 64)
    assert as_input(colour).shape == (2, 1, 32, 32)
    assert (as_input(colour) == round(0.299 * 255)).all()
    grey = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    assert torch.equal(as_input(grey), grey)
    assert torch.equal(as_input(grey.expand(2, 3, 32, 32)), grey)


def test_distance_in_closed_form():
    """Means at the origin but for one; a whitening of 1/2 halves the Euclidean distance."""
    network = DigitClassifier()
    network.means[1:] = 100.0
    network.whitening.copy_(torch.eye(64) / 2)
    features = torch.zeros(1, 64)
    features[0, :2] = torch.tensor([3.0, 4.0])
    assert network.distance(features).item() == pytest.approx(2.5, abs=1e-4)


def test_training_is_a_function_of_the_seed():
    images = torch.randint(0, 256, (40, 1, 32, 32), dtype=torch.uint8)
    data = ImageData(images, torch.arange(40) % 10)
    a, b, other = (train_digits.train(data, seed=seed, epochs=1).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["embed.weight"], other["embed.weight"])


def test_the_command_trains_and_measures(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(dataset.DATASETS, "mnist", dataset.DATASETS["fashion"])
    argv = ["--data_dir", str(data_dir), "--out", str(tmp_path / "own.pt")]
    assert train_digits.main([*argv, "--epochs", "2"]) == 0
    assert '"n": 140' in capsys.readouterr().out
    measured = load_digits("cpu", tmp_path / "own.pt").measured
    assert measured["n"] == 140
    assert measured["shares"] == pytest.approx([0.1] * 10)
    assert 0 <= measured["off_digits"] <= 0.04
    low, median, high = measured["neighbour_distances"]
    assert 0 < low <= median <= high


@needs_mnist
def test_the_record_is_true(classifier):
    test = dataset.load("mnist", "test", image_size=32, data_dir=MNIST, device="cpu")
    found = predict(classifier, test.images)
    measured = classifier.measured
    errors = int((found.labels != test.labels).sum())
    assert errors == pytest.approx(measured["errors"], abs=2)  # other CPUs round differently
    low_confidence = (found.confidence < 0.9).float().mean().item()
    assert low_confidence == pytest.approx(measured["low_confidence"], abs=1e-3)
    off = found.off_digits(measured).float().mean().item()
    assert off == pytest.approx(measured["off_digits"], abs=1e-3)
    assert math.isclose(measured["accuracy"], 1 - errors / 10_000, abs_tol=3e-4)

"""Mode collapse: closed forms, verdicts on made numbers, the script, the look during training."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_digits import MNIST, needs_mnist
from test_trainer import assert_same_end, curves

import dataset
from lib.errors import UserError
from metrics import collapse
from metrics.collapse import judge, label_statistics
from metrics.digits import load_digits, predict
from metrics.digits.figures import as_tensor, counts_figure
from scripts import collapse as script

EVEN = {"shares": [0.1] * 10, "low_confidence": 0.02, "off_digits": 0.02}


def made(counts: list[int], **changes) -> dict:
    """label_statistics of these counts, on a training set in which all digits are alike."""
    labels = torch.repeat_interleave(torch.arange(10), torch.tensor(counts))
    off = torch.zeros(len(labels), dtype=torch.bool)
    return label_statistics(labels, torch.ones(len(labels)), off, measured=EVEN) | changes


def test_wilson_against_known_values():
    low, high = collapse.wilson([50, 0, 100], 100)
    assert (low[0], high[0]) == pytest.approx((0.403832, 0.596168), abs=1e-6)
    z = 1.959964
    assert (low[1], high[1]) == pytest.approx((0, z**2 / (100 + z**2)), abs=1e-6)
    assert (low[2], high[2]) == pytest.approx((100 / (100 + z**2), 1), abs=1e-6)


def test_entropy_and_chi_square_in_closed_form():
    assert collapse.entropy_bits([7] * 10) == pytest.approx(math.log2(10), abs=1e-12)
    assert collapse.entropy_bits([9, 0, 0]) == 0
    assert collapse.entropy_bits([2, 1, 1]) == pytest.approx(1.5, abs=1e-12)
    statistic, p_value = collapse.chi_square([5, 15], [0.5, 0.5])  # z squared, and p two-sided
    assert statistic == pytest.approx(5, abs=1e-9)
    assert p_value == pytest.approx(math.erfc(math.sqrt(5 / 2)), abs=1e-9)
    assert collapse.chi_square([30, 10], [0.75, 0.25]) == pytest.approx((0, 1))


def test_power_is_how_often_the_test_finds_it():
    shares = np.full(10, 0.1)
    halved = shares * np.where(np.arange(10) == 0, 0.5, 1)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(600, halved / halved.sum(), 400)
    found = np.mean([collapse.chi_square(list(d), list(shares))[1] < 0.01 for d in draws])
    assert collapse.power(600, list(shares)) == pytest.approx(found, abs=0.08)
    assert collapse.power(0, list(shares)) == pytest.approx(0.01, abs=1e-6)


def test_label_statistics():
    labels, off = torch.tensor([3, 3, 3, 1]), torch.tensor([True, False, False, False])
    result = label_statistics(labels, torch.tensor([0.99, 0.5, 0.95, 0.89]), off, measured=EVEN)
    assert result["counts"] == [0, 1, 0, 3, 0, 0, 0, 0, 0, 0]
    assert (result["n"], result["low_confidence"], result["off_digits"]) == (4, 0.5, 0.25)
    json.dumps(result, allow_nan=False)


UNEVEN = [150, 150, 100, 100, 100, 100, 100, 100, 50, 50]
TENTHS, COLLAPSE, NONE = [100] * 10, "collapse", "no sign of collapse"
ONE = "1000 of 1000 images show the digit 3.*none show the digits 0, 1, 2, 4"
VERDICTS = {  # counts, duplicates, spread -> verdict, words of the evidence
    "even": (TENTHS, 0.1, 0.9, NONE, "3.32 bits.*"),
    "uneven": (UNEVEN, 0.1, 0.9, "uneven", "8 0.50 times"),
    "one digit": ([0] * 3 + [1000] + [0] * 6, 0.1, 0.9, COLLAPSE, ONE),
    "dominant": ([400] + [67] * 8 + [64], 0.1, 0.9, COLLAPSE, "400 of 1000 .* the digit 0"),
    "one missing": ([111] * 9 + [1], 0.1, 0.9, COLLAPSE, "images at most 1 each show the digits 9"),
    "five": ([200] * 5 + [0] * 5, 0.1, 0.9, COLLAPSE, "none show the digits 5, 6, 7, 8, 9"),
    "five of 50": ([10] * 5 + [0] * 5, 0.1, 0.9, COLLAPSE, "5.0 equally frequent"),
    "few": ([6] * 5 + [5] * 4 + [0], 0.1, 0.9, NONE, "show little"),
    "twins": (TENTHS, 0.4, 0.9, COLLAPSE, "40 % of the images have a twin"),
    "narrow": (TENTHS, 0.1, 0.3, COLLAPSE, "30 % as much"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_verdicts(case):
    counts, duplicates, spread, verdict, evidence = VERDICTS[case]
    word, words = judge(made(counts, duplicates=duplicates, duplicates_real=0.01, spread=spread))
    assert word == verdict
    assert re.search(evidence, words), words
    assert ("show little" in words) == (case == "few")


def test_twenty_fair_images_are_no_collapse():
    rng = np.random.default_rng(0)
    found = [collapse.signs_of_collapse(made(c)) for c in rng.multinomial(20, [0.1] * 10, 60)]
    assert sum(map(bool, found)) <= 1
    assert collapse.signs_of_collapse(made([4, 4, 4, 4, 4, 0, 0, 0, 0, 0]))


def test_nearest_neighbours_across_blocks():
    torch.manual_seed(0)
    others = torch.randint(0, 256, (5300, 1, 4, 4), dtype=torch.uint8)
    images = others[[5200, 17]].clone()
    images[1, 0, 0, 0] = others[17, 0, 0, 0] ^ 128
    distances, indices = collapse.nearest(images, others, 3)
    assert indices[:, 0].tolist() == [5200, 17]
    assert distances[:, 0].tolist() == pytest.approx([0, 128 / 255], abs=1e-6)
    assert (distances.diff(dim=1) >= 0).all()
    exact = (images[:, None].double() - others.double()).div(255).flatten(2).norm(dim=2)
    assert torch.allclose(distances.double(), exact.topk(3, largest=False).values, atol=1e-5)


def test_few_images_many_times_over_are_near_duplicates():
    torch.manual_seed(0)
    real = torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(200) % 10
    other = torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8)
    diverse = collapse.diversity_statistics(other, labels, real, labels)
    assert diverse["duplicates"] < 0.1
    assert diverse["spread"] == pytest.approx(1, abs=0.05)
    same = other[:10].repeat(20, 1, 1, 1)  # ten images, one a digit
    repeated = collapse.diversity_statistics(same, labels, real, labels)
    assert repeated["duplicates"] == 1
    assert repeated["spread"] == pytest.approx(0, abs=1e-3)
    assert judge(made([20] * 10) | repeated)[0] == "collapse"


@pytest.fixture
def fake_mnist(monkeypatch):
    """The made-up images of the tests under the name of MNIST."""
    monkeypatch.setitem(dataset.DATASETS, "mnist", dataset.DATASETS["fashion"])


def test_the_command_on_a_run_reports_and_writes(fake_mnist, build, data_dir, tmp_path, capsys):
    run, out = build(dataset="mnist", run="mine"), tmp_path / "report"
    run.train()
    argv = [str(run.config.run_dir), "--n", "30", "--data_dir", str(data_dir), "--out", str(out)]
    assert script.main(argv) == 0
    assert "verdict: not digits. " in capsys.readouterr().out  # six steps
    written = json.loads((out / "collapse.json").read_text())
    assert sum(written["counts"]) == written["n"] == 30
    found = (written["of"][key] for key in ("run", "step", "sample_seed"))
    assert tuple(found) == ("mine", 6, run.config.seed)
    assert [Path(file).name for file in written["files"]] == ["counts.png", "neighbours.png"]
    for file in written["files"]:
        pixels = np.array(Image.open(file).convert("L"))
        assert min(pixels.shape) > 400
        assert len(np.unique(pixels)) > 50


def test_the_command_on_a_folder_of_images(
    fake_mnist, data_dir, tmp_path, capsys, refusal, monkeypatch
):
    rng = np.random.default_rng(0)
    for i in range(20):  # of two sizes, grey and coloured
        shape = (28, 28) if i % 2 else (40, 36, 3)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / f"{i}.png")
    out = tmp_path / "report"
    argv = ["--images", str(tmp_path), "--data_dir", str(data_dir), "--out", str(out)]
    assert script.main(argv) == 0
    assert "verdict: not digits." in capsys.readouterr().out
    assert json.loads((out / "collapse.json").read_text())["n"] == 20
    Image.new("L", (28, 28)).save(tmp_path / "20.png")
    assert script.main([*argv, "--n", "20"]) == 0
    assert json.loads((out / "collapse.json").read_text())["n"] == 20
    monkeypatch.chdir(tmp_path.parent)
    assert script.main(argv[:4]) == 0
    assert (tmp_path.parent / "collapse").is_dir()  # not among the images
    assert "own folder" in refusal(script.main, *argv[:4], "--out", str(tmp_path))
    assert "holds 21 images: wanted at least 22" in refusal(script.main, *argv, "--n", 22)
    for i in (0, 20):
        (tmp_path / f"{i}.png").unlink()
    assert "holds 19 images: wanted at least 20" in refusal(script.main, *argv)


def test_a_path_is_no_formula(tmp_path):
    result = made([1] * 10)
    images = torch.zeros(10, 1, 32, 32, dtype=torch.uint8)
    assert as_tensor(counts_figure(result, images, torch.arange(10), "a $b_$ c")).ndim == 3


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "either a run's folder or --images"),
        (["runs/x", "--images", "y"], "either a run's folder or --images"),
        (["runs/x", "--n", "3"], "at least 20"),
        (["runs/no-such-run"], "no folder"),
        (["--images", "no-such-folder"], "no folder"),
        (["--images", "tests"], "holds no images"),
    ],
)
def test_bad_input_gets_one_sentence(argv, words, refusal):
    assert words in refusal(script.main, *argv)


def test_other_images_are_refused(build, tiny_config, tmp_path):
    with pytest.raises(UserError, match="learned fashion"):
        script.examine(build(), 20, 0, tmp_path)
    with pytest.raises(UserError, match="belongs to --dataset mnist"):
        tiny_config(collapse_every=10)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_watching_leaves_the_training_as_it_is(ema, fake_mnist, build):
    settings = {"dataset": "mnist", "ema": ema}
    blind, run = build(run="0", **settings), build(run="6", collapse_every=6, **settings)
    for trainer in (blind, run):
        trainer.train()
    assert_same_end(blind, run)
    plain, watched = (set(curves(trainer.config.run_dir)) for trainer in (blind, run))
    assert plain < watched
    own = {"entropy", "largest_share", "low_confidence", "off_digits"}
    added = {(tag, step) for tag, step, _ in watched - plain}
    assert added == {(f"collapse/{name}", 6) for name in own}
    panel = run.config.run_dir / "samples" / "collapse-digits-0000006.png"
    assert min(Image.open(panel).size) > 400


@needs_mnist
def test_verdicts_on_real_digits(tmp_path):
    """300 of the test set, and 300 of it that show one digit."""
    test = dataset.load("mnist", "test", image_size=32, data_dir=MNIST, device="cpu")
    some, fours = test.images[2000:2300], test.images[test.labels == 4][:300]
    words = {"title": "real", "about": {}}
    real = script.examine_images(some, str(MNIST), 0, tmp_path, **words)
    assert real["verdict"] == "no sign of collapse", real["evidence"]
    assert real["spread"] == pytest.approx(1, abs=0.1)
    assert real["duplicates"] < 0.1
    assert real["copies"] < 0.05
    true = torch.bincount(test.labels[2000:2300], minlength=10)
    assert (torch.tensor(real["counts"]) - true).abs().sum() <= 10

    classifier = load_digits()
    found = predict(classifier, fours)
    off = found.off_digits(classifier.measured)
    one = label_statistics(found.labels, found.confidence, off, measured=classifier.measured)
    assert judge(one)[0] == "collapse"
    assert "images show the digit 4" in judge(one)[1]

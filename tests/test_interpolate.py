"""Paths between noise vectors: their ends, their norms, what a step changes, the files written."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lib.errors import UserError
from scripts import interpolate


@pytest.fixture
def trainer(build):
    return build(run="tiny", num_training_steps=1)


@pytest.mark.parametrize("path", interpolate.PATHS.values())
def test_a_path_starts_at_z1_and_ends_at_z2(path):
    z1, z2 = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(path(z1, z2, 0.0), z1, atol=1e-5)
    assert torch.allclose(path(z1, z2, 1.0), z2, atol=1e-5)
    line = interpolate.linear(z1, z2, 2.0)  # beyond its ends by the same step
    assert torch.allclose(line, 2 * z2 - z1, atol=1e-5)
    assert torch.allclose(interpolate.linear(z1, z2, -1.0), 2 * z1 - z2, atol=1e-5)


def test_spherical_halves_the_angle_and_keeps_to_the_shell():
    z1, z2 = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    middle = interpolate.spherical(z1, z2, 0.5)
    assert middle.norm() == pytest.approx(3.0, abs=1e-5)
    assert math.atan2(middle[1], middle[0]) == pytest.approx(math.pi / 4, abs=1e-5)
    assert interpolate.linear(z1, z2, 0.5).norm() < 2.5
    z1, z2 = torch.tensor([2.0]), torch.tensor([-4.0])  # no circle joins the two: the line does
    assert interpolate.spherical(z1, z2, 0.5).tolist() == [-1.0]
    assert interpolate.spherical(z1, 2 * z1, 0.5).tolist() == [3.0]


def test_positions_are_i_over_k_and_changes_are_of_pixels_from_0_to_1():
    assert interpolate.positions(3, 1) == [-0.5, 0.0, 0.5, 1.0, 1.5]
    x = torch.full((1, 3, 1, 4, 4), -1.0)
    x[:, 1:] = 1.0  # black, white, white
    assert interpolate.pixel_change(x).tolist() == [[1.0, 0.0]]
    assert interpolate.statistics(torch.zeros(2, 3))["largest_to_mean"] == 1.0
    uneven = interpolate.statistics(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))
    assert uneven["largest_to_mean"] == pytest.approx((1.5 + 1) / 2)


def test_the_ends_do_not_depend_on_how_many_images_lie_between(trainer):
    def ends(images):
        settings = {"pairs": 2, "images": images, "extrapolate": 0, "seed": 3}
        return interpolate.interpolate(trainer, "linear", **settings)[:, [0, -1]]

    assert torch.allclose(ends(3), ends(6), atol=1e-6)


SETTINGS = {"pairs": 2, "images": 4, "extrapolate": 1, "seed": 0}


def test_a_vae_has_paths_too(build):
    vae = build("vae")
    x = interpolate.interpolate(vae, "spherical", **SETTINGS)
    assert x.shape == (2, 6, 1, 28, 28)
    assert x.abs().max() <= 1
    assert vae.networks["decoder"].training


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("cyclegan", "no noise"),
        ("srgan", "no noise"),
        ("biggan", "a class beside the noise"),
        ("cdcgan", "labels beside the noise"),
    ],
)
def test_what_has_no_noise_of_its_own_is_refused(model, words):
    trainer = SimpleNamespace(config=SimpleNamespace(model=model))
    with pytest.raises(UserError, match=words):
        interpolate.interpolate(trainer, "linear", **SETTINGS)


def test_what_is_measured_is_written_beside_the_pictures(trainer, pixel_means, tmp_path):
    paths, out = ["linear", "spherical"], tmp_path / "out"
    result = interpolate.examine(trainer, paths, out, pixel_means, **SETTINGS)
    assert json.loads((out / "interpolation.json").read_text()) == result
    assert len(result["change"]["linear"]["pixel"]["by_step"]) == 3  # between the ends alone
    assert result["change"]["spherical"]["feature"]["mean"] > 0
    names = [Path(name).name for name in result["files"]]
    assert names == ["linear.png", "spherical.png", "change.png"]
    assert all(Path(name).read_bytes().startswith(b"\x89PNG") for name in result["files"])


def test_where_the_digit_changes_and_how_many_frames_are_none(monkeypatch):
    labels = torch.tensor([3, 3, 8, 7, 7, 7])
    off = SimpleNamespace(labels=labels, off_digits=lambda _: labels == 3)
    monkeypatch.setattr(interpolate, "predict", lambda *_: off)
    change = torch.tensor([[1.0, 6.0], [2.0, 3.0]])
    assert interpolate.digits_along(torch.zeros(2, 3, 1, 32, 32), change) == {
        "labels": [[3, 3, 8], [7, 7, 7]],
        "turn_to_other": 3.0,
        "off_ends": 0.25,
        "off_between": 0.5,
    }


def test_the_command_on_a_trained_run_and_on_none(trainer, capsys, data_dir, monkeypatch):
    trainer.train()
    monkeypatch.chdir(trainer.config.run_dir)  # the folder one stands in is a run too
    assert interpolate.main([".", "--pairs", "1", "--images", "3", "--no_features"]) == 0
    assert (trainer.config.run_dir / "interpolation" / "linear.png").is_file()
    assert "linear" in capsys.readouterr().out
    for argv, words in (
        ([".", "--images", "1"], "wanted at least 2"),
        ([".", "--pairs", "1000000000"], "wanted at most 100"),
        ([str(data_dir)], "config.json"),
    ):
        assert interpolate.main(argv) == 1
        assert words in capsys.readouterr().err

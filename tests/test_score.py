"""From a model to a line in results.jsonl, with a stand-in for Inception."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import reference
import score
from dataset import order
from errors import UserError
from fid import PROTOCOLS, Protocol, frechet_distance
from inception import WEIGHTS_DIGEST, load_inception
from systems import SYSTEMS
from systems.dcgan import DCGANConfig

FIELDS = {
    "metric", "value", "error", "floor", "protocol", "n_real", "n_fake", "seed", "step", "ema",
    "batchnorm", "precision", "extractor", "weights_sha256", "git_commit", "date", "device",
}  # fmt: skip


@pytest.fixture
def trainer(tiny_config, pixel_means):
    return SYSTEMS["dcgan"](tiny_config(fid_protocol="smoke"), torch.device("cpu"))


def cached(trainer) -> Path:
    """Where the stand-in's reference is kept."""
    folder = Path(trainer.config.data_dir) / "reference"
    return folder / "fashion-32px-smoke-fp32-000000000000.npz"


def lines(trainer) -> list[dict]:
    path = trainer.config.run_dir / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_value_is_the_frechet_distance_of_the_features(trainer, pixel_means):
    (result,) = score.score(trainer)
    data = trainer.load_data("train")
    real = pixel_means(data.images[order(150, 0, 0)[:64]]).double()
    fake = pixel_means(torch.cat(list(trainer.generate(64, trainer.config.seed)))).double()
    expected = frechet_distance(real.mean(0), np.cov(real.T), fake.mean(0), np.cov(fake.T))
    assert result["value"] == pytest.approx(expected, rel=1e-6)
    assert result["error"] > 0
    assert 0 < result["floor"] < result["value"]


def test_a_line_has_every_field_and_the_same_command_gives_the_same_value(trainer):
    score.score(trainer)
    trainer.train()
    score.score(trainer)
    trainer.resume()
    score.score(trainer)
    first, trained, again = lines(trainer)
    assert set(first) >= FIELDS
    assert (first["step"], trained["step"]) == (0, 6)
    assert trained["value"] == again["value"] != first["value"]


def test_tensorboard_gets_each_score_once(trainer):
    from test_trainer import curves

    trainer.train()
    score.score(trainer)
    score.score(trainer)
    found = [tag for tag, _, _ in curves(trainer.config.run_dir).elements()]
    assert found.count("fid_smoke") == 1


def test_a_torn_line_of_results_costs_nothing_else(trainer):
    score.score(trainer)
    path = trainer.config.run_dir / "results.jsonl"
    path.write_text(path.read_text() + '{"metric": "fid", "val')
    score.score(trainer)
    from runlog import read_results

    assert len(read_results(trainer.config.run_dir)) == 2


def test_the_reference_is_computed_once_and_cached(trainer, pixel_means, monkeypatch):
    first = reference.find_reference(trainer, pixel_means)
    assert cached(trainer).is_file()
    monkeypatch.setattr(reference, "compute_reference", lambda *_: pytest.fail("computed again"))
    second = reference.find_reference(trainer, pixel_means)
    torch.testing.assert_close(first.moments.cov, second.moments.cov, rtol=0, atol=0)
    assert (first.floor, first.floor_error) == (second.floor, second.floor_error)


def test_a_damaged_reference_is_named(trainer, pixel_means):
    reference.find_reference(trainer, pixel_means)
    path = cached(trainer)
    path.write_bytes(path.read_bytes()[:100])
    try:
        with pytest.raises(UserError, match="is damaged"):
            reference.find_reference(trainer, pixel_means)
    finally:
        path.unlink()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_floor_images_are_never_the_reference_images(name):
    protocol = PROTOCOLS[name]
    if protocol.split == protocol.floor_split:
        assert protocol.n_real + protocol.n_floor <= 60_000
    else:
        assert {protocol.split, protocol.floor_split} == {"train", "test"}


def test_the_floor_takes_other_images(trainer, pixel_means, monkeypatch):
    whole = Protocol("train", 75, 10, "train", 75, "")
    monkeypatch.setitem(PROTOCOLS, "smoke", whole)
    found = reference.compute_reference(trainer, pixel_means)
    features = pixel_means(trainer.load_data("train").images[order(150, 0, 0)]).double()
    a, b = features[:75], features[75:]
    expected = frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    assert found.floor == pytest.approx(expected, rel=1e-6)


ROOT = Path(__file__).parent.parent
WEIGHTS, MNIST = ROOT / "inception" / "inception-v3-2015.pth", ROOT / "data" / "MNIST" / "raw"


@pytest.mark.skipif(
    not (WEIGHTS.is_file() and MNIST.is_dir()), reason="needs the real weights and MNIST on disk"
)
def test_the_shipped_sample_is_what_this_machine_computes(tmp_path):
    """Ties the shipped moments to the choice of images, the resizing, the network, the weights."""
    trainer = SYSTEMS["dcgan"](DCGANConfig(data_dir=str(ROOT / "data")), torch.device("cpu"))
    extractor = load_inception()
    shipped = reference.load_reference(reference.SHIPPED / reference.file_name(trainer, extractor))
    data = trainer.load_data("train")
    first = data.images[order(len(data), reference.REFERENCE_SEED, 0)[:4]]
    torch.testing.assert_close(extractor(first), shipped.sample, rtol=0, atol=1e-4)


def test_the_shipped_reference_is_that_of_the_default_protocol():
    name = f"mnist-32px-{DCGANConfig().fid_protocol}-fp32-{WEIGHTS_DIGEST[:12]}.npz"
    shipped = reference.load_reference(reference.SHIPPED / name)
    assert shipped.moments.n == 3000
    assert shipped.moments.mean.shape == (2048,)
    assert torch.equal(shipped.moments.cov, shipped.moments.cov.T)
    assert torch.linalg.eigvalsh(shipped.moments.cov)[0] > -1e-6
    assert 0 < shipped.floor < 10
    assert dataclasses.astuple(PROTOCOLS["homework"])[:3] == ("train", 3000, 3000)

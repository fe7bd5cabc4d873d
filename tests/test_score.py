"""From a model to a line in results.jsonl, with a stand-in for Inception."""

import dataclasses
import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CPU, paint
from test_trainer import assert_same_end, curves, final_state, killed_at

from dataset import order
from fid import frechet_distance
from inception import load_inception
from inception.kid import kid_with_error
from inception.weights import WEIGHTS_DIGEST
from lib.errors import UserError
from lib.events import read_scalars
from lib.results import read_results
from main import build_dcgan
from metrics import reference, score
from metrics.protocols import PROTOCOLS, Protocol
from systems.dcgan import DCGANConfig

FIELDS = {
    "metric", "value", "error", "floor", "protocol", "n_real", "n_fake", "seed", "step", "ema",
    "batchnorm", "precision", "extractor", "weights_sha256", "git_commit", "date", "device",
}  # fmt: skip


@pytest.fixture
def trainer(build, pixel_means):
    return build(fid_protocol="smoke")


def cached(trainer) -> Path:
    """Where the stand-in's reference is kept."""
    folder = Path(trainer.config.data_dir) / "reference"
    return folder / "fashion-32px-smoke-fp32-000000000000.npz"


def lines(trainer) -> list[dict]:
    path = trainer.config.run_dir / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def distance(real, fake) -> float:
    """The Frechet distance of two sets of features (N, d)."""
    real, fake = real.double(), fake.double()
    return frechet_distance(real.mean(0), np.cov(real.T), fake.mean(0), np.cov(fake.T))


def test_the_value_is_the_frechet_distance_of_the_features(trainer, pixel_means):
    (result,) = score.score(trainer)
    data = trainer.load_data("train")
    real = pixel_means(data.images[order(150, 0, 0)[:64]])
    fake = pixel_means(torch.cat(list(trainer.generate(64, trainer.config.seed))))
    assert result["value"] == pytest.approx(distance(real, fake), rel=1e-6)
    assert result["error"] > 0
    assert 0 < result["floor"] < result["value"]


def test_a_line_has_every_field_and_the_same_command_gives_the_same_value(trainer):
    score.score(trainer)
    trainer.train()
    score.score(trainer)
    path = trainer.config.run_dir / "results.jsonl"
    path.write_text(path.read_text() + '{"metric": "fid", "val')  # torn
    trainer.resume()
    score.score(trainer)
    first, trained, again = read_results(trainer.config.run_dir)
    assert set(first) >= FIELDS
    assert (first["step"], trained["step"]) == (0, 6)
    assert trained["value"] == again["value"] != first["value"]


def test_the_reference_is_computed_once_and_cached(trainer, pixel_means, monkeypatch):
    first = reference.find_reference(trainer, pixel_means)
    path = cached(trainer)
    assert path.is_file()
    with monkeypatch.context() as patch:
        patch.setattr(reference, "compute_reference", lambda *_: pytest.fail("computed again"))
        second = reference.find_reference(trainer, pixel_means)
    torch.testing.assert_close(first.moments.cov, second.moments.cov, rtol=0, atol=0)
    assert (first.floor, first.floor_error) == (second.floor, second.floor_error)
    np.savez(longer := io.BytesIO(), **(dict(np.load(path)) | {"floor": np.zeros(3)}))
    try:
        for damaged in (path.read_bytes()[:100], longer.getvalue()):
            path.write_bytes(damaged)
            with pytest.raises(UserError, match="is damaged"):
                reference.find_reference(trainer, pixel_means)
    finally:
        path.unlink()


def test_weights_that_are_not_there_are_told_before_the_training(tiny_config, tmp_path):
    config = tiny_config(inception_weights=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"none\.pth: no file is there"):
        score.refuse_early(config)


def test_the_floor_takes_other_images(trainer, pixel_means, monkeypatch):
    whole = Protocol("train", 75, 10, "train", 75)
    monkeypatch.setitem(PROTOCOLS, "smoke", whole)
    found = reference.compute_reference(trainer, pixel_means)
    features = pixel_means(trainer.load_data("train").images[order(150, 0, 0)])
    assert found.floor == pytest.approx(distance(features[:75], features[75:]), rel=1e-6)


# The protocol of small sets


@pytest.fixture
def small(build, pixel_means):
    return build(fid_protocol="all")


def test_all_training_images_are_scored_by_fid_and_kid(small, pixel_means, capsys, monkeypatch):
    fid, kid = score.score(small)
    real = pixel_means(small.load_data("train").images[order(150, 0, 0)])
    fake = pixel_means(torch.cat(list(small.generate(150, small.config.seed))))
    assert (fid["n_real"], fid["n_fake"], kid["n_real"], kid["n_fake"]) == (150,) * 4
    assert fid["value"] == pytest.approx(distance(real, fake), rel=1e-6)
    assert (kid["value"], kid["error"]) == pytest.approx(kid_with_error(real, fake))
    assert fid["floor"] == pytest.approx(distance(real[:75], real[75:]), rel=1e-6)
    assert kid["floor"] == pytest.approx(kid_with_error(real[:75], real[75:])[0])
    assert kid["floor"] < kid["value"]
    assert {*FIELDS, "floor_of", "jackknife_blocks"} <= set(lines(small)[1])
    out = capsys.readouterr().out
    assert "150 real images of the train split against 150 generated; two halves of the real" in out
    assert f"KID {kid['value']:.5f} ± {kid['error']:.5f}" in out
    monkeypatch.setattr(reference, "compute_reference", lambda *_: pytest.fail("computed again"))
    again = [result["value"] for result in score.score(small)]
    assert again == pytest.approx([fid["value"], kid["value"]], rel=1e-6)


def test_kid_takes_the_first_images_of_each_half(small, pixel_means, monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "MOST", 40)
    monkeypatch.setattr(score, "MOST", 40)
    object.__setattr__(small.config, "runs_dir", str(tmp_path))
    real = pixel_means(small.load_data("train").images[order(150, 0, 0)])
    found = reference.compute_reference(small, pixel_means)
    assert torch.equal(found.features, torch.cat([real[:20], real[75:95]]))
    monkeypatch.setattr(score, "find_reference", lambda *_: found)
    fid, kid = score.Scorer(small).measure()
    assert (fid["n_real"], fid["n_fake"], kid["n_real"], kid["n_fake"]) == (150, 150, 40, 40)
    assert found.moments.mean == pytest.approx(real.double().mean(0))


def test_two_halves_want_two_images_each(small, pixel_means):
    data = small.load_data("train")
    three = dataclasses.replace(data, images=data.images[:3], labels=data.labels[:3])
    small.load_data = lambda _: three
    with pytest.raises(UserError, match="two halves of 3 training images: wanted 4"):
        reference.compute_reference(small, pixel_means)


def test_kid_during_training_is_a_curve_named_kid(train_scored):
    scored, _ = train_scored("all", fid_every=2, fid_protocol="all")
    tags = [(tag, step) for tag, step, _ in curves(scored.config.run_dir)]
    points = {point for point in tags if point[0].startswith(("kid", "fid"))}
    assert points == {("fid_all", 2), ("kid", 2), ("fid_all", 4), ("kid", 4)}
    found = [(line["metric"], line["step"]) for line in lines(scored)]
    assert found == [("fid", 2), ("kid", 2), ("fid", 4), ("kid", 4)]


ROOT = Path(__file__).parent.parent
WEIGHTS, MNIST = ROOT / "inception" / "inception-v3-2015.pth", ROOT / "data" / "MNIST" / "raw"


@pytest.mark.skipif(
    not (WEIGHTS.is_file() and MNIST.is_dir()), reason="needs the real weights and MNIST on disk"
)
def test_the_shipped_sample_is_what_this_machine_computes(tmp_path):
    """Ties the shipped moments to the choice of images, the resizing, the network, the weights."""
    trainer = build_dcgan(DCGANConfig(data_dir=str(ROOT / "data")), CPU)
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


def test_protocols_keep_the_floor_images_apart_from_the_reference_images():
    homework = ("train", 3000, 3000, "train", 3000)
    assert dataclasses.astuple(PROTOCOLS["homework"])[:5] == homework
    for protocol in PROTOCOLS.values():
        apart = protocol.n_floor is None or protocol.split != protocol.floor_split
        assert apart or protocol.n_real + protocol.n_floor <= 60_000


# FID during training


@pytest.fixture
def train_scored(build, monkeypatch, pixel_means):
    """A run of six steps with its FIDs, and how often Inception and the reference were loaded."""
    find, loads = reference.find_reference, []

    def note(what: str, value):
        loads.append(what)
        return value

    def make(run: str, **changes):
        loads.clear()
        trainer = build(run=run, **{"fid_protocol": "smoke"} | changes)
        scorer = score.Scorer(trainer) if trainer.config.fid_every else None
        trainer.train(scorer and scorer.during_training)
        return trainer, list(loads)

    monkeypatch.setattr(score, "load_inception", lambda *_: note("Inception", pixel_means))
    monkeypatch.setattr(score, "find_reference", lambda *a: note("real", find(*a)))
    return make


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_fid_during_training_leaves_the_training_as_it_is(train_scored, ema):
    plain, _ = train_scored("plain", ema=ema)
    scored, loads = train_scored("scored", ema=ema, fid_every=2)
    assert loads == ["Inception", "real"]
    assert_same_end(plain, scored)
    found = curves(scored.config.run_dir)
    points = {point: n for point, n in found.items() if point[0] == "fid_smoke"}
    assert found - curves(plain.config.run_dir) == points
    assert {step: value for _, step, value in points} == {
        line["step"]: pytest.approx(line["value"]) for line in lines(scored)
    }
    assert [line["step"] for line in lines(scored)] == [2, 4]  # that of the last step comes after


def test_a_fid_of_a_killed_run_is_there_once_as_if_it_had_not_been_killed(build, train_scored):
    trainer = build(run="killed", fid_protocol="smoke", fid_every=1)
    # after the FIDs of steps 1 to 5, one step after the checkpoint
    killed_at(trainer, 5, score.Scorer(trainer).during_training)
    runs = [train_scored(run, fid_every=1)[0] for run in ("killed", "whole")]
    again, whole = ([(line["step"], line["value"]) for line in lines(run)] for run in runs)
    assert again == whole
    assert [step for step, _ in whole] == [1, 2, 3, 4, 5]
    assert curves(runs[0].config.run_dir) == curves(runs[1].config.run_dir)


def test_a_signal_puts_a_fid_off_to_the_next_command(build, train_scored):
    trainer = build(run="stopped", fid_protocol="smoke", fid_every=4)
    share = trainer.generate

    def interrupted(n, seed, **_):
        os.kill(os.getpid(), signal.SIGTERM)
        return share(n, seed)

    scorer = score.Scorer(trainer)
    trainer.generate = interrupted
    with pytest.raises(SystemExit) as stop:
        trainer.train(scorer.during_training)
    assert stop.value.code == 128 + signal.SIGTERM
    assert final_state(trainer)["step"] == 4
    assert not (trainer.config.run_dir / "results.jsonl").exists()
    again, _ = train_scored("stopped", fid_every=4)
    assert [line["step"] for line in lines(again)] == [4]


@pytest.fixture
def photos(tmp_path) -> dict[str, str]:
    """The settings of a folder of 20 images."""
    folder = paint(tmp_path / "photos", 20)
    return {"dataset": "folder", "folder": str(folder), "data_dir": str(tmp_path / "data")}


def test_a_small_folder_is_scored_whole(photos, build, pixel_means, tmp_path, capsys, monkeypatch):
    trainer = build(fid_protocol="smoke", **photos)
    (result,) = score.score(trainer)
    assert result["n_real"] == 20
    assert result["data"].startswith("photos-")
    assert "real against real unknown: no other images" in capsys.readouterr().out
    assert lines(trainer)[0]["floor"] is None
    (kept,) = (tmp_path / "data" / "reference").iterdir()
    assert kept.name.startswith(f"folder-{result['data']}-32px-smoke-")
    assert reference.find_reference(trainer, pixel_means).moments.n == 20  # read back
    score.refuse_early(trainer.config)
    larger = build(fid_protocol="10k", **photos)
    for refuses in (lambda: score.refuse_early(larger.config), lambda: score.score(larger)):
        with pytest.raises(UserError, match="no test images"):
            refuses()
    monkeypatch.setitem(PROTOCOLS, "50k", dataclasses.replace(PROTOCOLS["50k"], n_fake=50))
    (result,) = score.score(build(fid_protocol="50k", **photos))
    assert np.isnan(result["floor"])


def test_a_systems_own_scores_stand_beside_the_fid_which_is_kept_if_they_fail(trainer, capsys):
    trainer.evaluate = lambda extractor: kid_with_error(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(UserError, match="KID of 1"):
        score.score(trainer)
    assert [line["metric"] for line in lines(trainer)] == ["fid"]
    own = {"metric": "accuracy", "value": 0.875, "error": 0.01, "about": "of 8 images"}
    trainer.evaluate = lambda extractor: [own]
    accuracy = score.score(trainer)[1]
    assert accuracy["value"] == 0.875
    assert {"seed", "step", "device", "git_commit"} <= accuracy.keys()
    assert "accuracy 0.875 ± 0.01 (of 8 images)" in capsys.readouterr().out
    assert [line["metric"] for line in lines(trainer)] == ["fid", "fid", "accuracy"]


def test_many_scores_of_a_system_make_one_event_file(trainer):
    own = [{"metric": f"own_{i}", "value": float(i), "error": 0.0} for i in range(5)]
    trainer.evaluate = lambda extractor: own
    score.score(trainer)
    found = read_scalars(trainer.config.run_dir)
    assert [found[f"own_{i}"] for i in range(5)] == [[(0, float(i))] for i in range(5)]
    score.score(trainer)  # the FID's, which is kept before the rest, and theirs
    assert len(list(trainer.config.run_dir.glob("events.out.tfevents.*"))) == 2


# Nothing computed is lost


def test_a_fid_that_cannot_be_kept_is_printed_first(build, pixel_means, tmp_path, capsys):
    trainer = build(fid_protocol="smoke", runs_dir=str(tmp_path / "a file"))
    (tmp_path / "a file").touch()
    own = {"metric": "accuracy", "value": 0.875}
    trainer.evaluate = lambda extractor: [own]
    with pytest.raises(UserError, match=r"^the scores could not be kept in .*a file.*\.$"):
        score.score(trainer)
    fid, accuracy = capsys.readouterr().out.splitlines()
    assert fid.startswith("FID ")
    assert accuracy == "accuracy 0.875"


def test_scores_are_kept_if_nobody_reads_what_is_printed(trainer, monkeypatch):
    class Closed:
        def write(self, _):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(BrokenPipeError):
        score.score(trainer)
    assert [line["metric"] for line in lines(trainer)] == ["fid"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("late", [False, True])
def test_a_signal_while_scoring_says_what_is_kept(trainer, capsys, stop, late):
    def interrupted(*_, **options):
        os.kill(os.getpid(), stop)
        return iter([])

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    setattr(trainer, "evaluate" if late else "generate", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as stopped:
        score.score(trainer)
    if stop == signal.SIGTERM:
        assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    error = capsys.readouterr().err.splitlines()[-1]
    kept = f"fid kept in {trainer.config.run_dir}; not the rest" if late else "no score was kept"
    assert error == f"scoring stopped: {kept}. The same command scores again."

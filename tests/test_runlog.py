"""What a run leaves: event files and their damage, results.jsonl, disks that refuse."""

import errno
import math
import struct
import threading
import warnings

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams.metadata import (
    SESSION_START_INFO_TAG,
    parse_session_start_info_plugin_data,
)
from test_trainer import toy  # noqa: F401 (a fixture)

from lib import events, results
from lib.errors import UserError
from lib.events import cut_events, event_files, read_scalars, whole_records
from lib.results import append_result, mean_result, plain, read_results, tensorboard_point
from lib.runlog import RunLog, open_log, record
from metrics.score import format_result
from systems.dcgan import DCGANConfig


@pytest.fixture
def run(tmp_path):
    """A folder with one event file: the points (step, step / 2) of the steps 1 to 14."""
    log = RunLog(tmp_path / "run", 0)
    for step in range(1, 15):
        log.scalars({"loss": step / 2}, step)
    log.close()
    return tmp_path / "run"


def framed(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, payload))
    return length + next(sums) + payload + next(sums)


def steps(run) -> list[int]:
    return [step for step, _ in read_scalars(run).get("loss", [])]


def place(run, step: int) -> slice:
    """Where the event file has that step."""
    (path,) = event_files(run)
    found = next(r for r in whole_records(path.read_bytes()) if r.event.step == step)
    return slice(found.start, found.end)


# Events


def test_tensorboard_reads_the_events(run):
    log = RunLog(run, 14)
    log.images({"samples": torch.zeros(1, 8, 8)}, 15)
    log.close()
    reader = EventAccumulator(str(run), size_guidance={"images": 0})
    reader.Reload()
    assert [(e.step, e.value) for e in reader.Scalars("loss")] == [(s, s / 2) for s in range(1, 15)]
    assert [e.step for e in reader.Images("samples")] == [15]
    assert (run / "samples" / "samples-0000015.png").is_file()


def test_tensorboard_compares_the_settings_of_runs(tmp_path):
    config = DCGANConfig(runs_dir=str(tmp_path), latent_dim=7, dataset="folder", folder="caf\udce9")
    open_log(config, 0).close()
    record(config, [fid(50.0)])  # a file of its own; an old run that is scored gets them so
    for path in event_files(config.run_dir):
        metadata = EventAccumulator(str(path)).Reload().SummaryMetadata(SESSION_START_INFO_TAG)
        settings = parse_session_start_info_plugin_data(metadata.plugin_data.content).hparams
        assert settings["latent_dim"].number_value == 7
        assert settings["folder"].string_value == "caf\\udce9"
        assert "saving_steps" not in settings  # it defines no run
    assert read_scalars(config.run_dir) == {"fid": [(2, 50.0)]}


def test_what_is_past_the_step_is_cut_and_forgotten_by_tensorboard(run, capsys):
    reader = EventAccumulator(str(run))
    reader.Reload()
    RunLog(run, 9).close()
    assert "5 logged values and 0 grids of later steps are cut off" in capsys.readouterr().out
    assert steps(run) == list(range(1, 10))
    reader.Reload()
    assert [e.step for e in reader.Scalars("loss")] == list(range(1, 10))


def flip(data: bytearray, at: slice) -> None:
    data[at.start + 14] ^= 1


def length(data: bytearray, at: slice) -> None:
    data[at.start + 2] ^= 1


def put(new: bytes):
    return lambda data, at: data.__setitem__(at, new)


NO_EVENT, ZEROS = put(framed(b"hello, whole world")), put(bytes(70_000))


@pytest.mark.parametrize("damage", [flip, length, NO_EVENT, ZEROS])
def test_damage_costs_the_events_it_hit_and_no_others(run, damage, capsys):
    (path,) = event_files(run)
    data, at = bytearray(path.read_bytes()), place(run, 6)
    damage(data, at)
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"bytes {at.start} to \d+ .*between steps 5 and 7.*again"):
        read_scalars(run)
    assert cut_events(run, 14) == 0
    said = capsys.readouterr().out
    assert f"bytes {at.start} to " in said
    assert "between steps 5 and 7" in said
    assert steps(run) == [1, 2, 3, 4, 5, *range(7, 15)]
    (kept,) = run.glob("*.damaged")
    assert kept.read_bytes() == data
    assert kept.name in said
    cut_events(run, 14)
    assert capsys.readouterr().out == ""


def test_junk_is_kept_under_another_name(run):
    junk = run / "events.out.tfevents.1.junk"
    junk.write_bytes(b"\1\2\3" * 100)
    (path,) = set(event_files(run)) - {junk}
    path.write_bytes(path.read_bytes() + b"?" * 50)  # behind the last record: no torn one
    cut_events(run, 14)
    assert len(list(run.glob("*.damaged"))) == 2
    assert not junk.exists()
    assert (run / "events.out.was.1.junk.damaged").read_bytes() == b"\1\2\3" * 100
    assert steps(run) == list(range(1, 15))


@pytest.mark.parametrize("left", [5, 14, 30])
def test_a_torn_last_record_is_cut_without_a_word(run, left, capsys):
    (path,) = event_files(run)
    at = place(run, 14)
    path.write_bytes(path.read_bytes()[: at.start + left])
    with pytest.raises(UserError, match=f"is torn: bytes {at.start} to {at.start + left}"):
        read_scalars(run)
    cut_events(run, 14)
    assert steps(run) == list(range(1, 14))
    assert not list(run.glob("*.damaged"))
    assert capsys.readouterr().out == ""


def test_a_finished_run_is_mended_by_its_command(toy, capsys):  # noqa: F811
    trainer = toy("done", num_training_steps=6, logging_steps=1)
    trainer.train()
    (path,) = event_files(trainer.config.run_dir)
    data = bytearray(path.read_bytes())
    flip(data, place(trainer.config.run_dir, 3))
    path.write_bytes(data)
    toy("done", num_training_steps=6, logging_steps=1).train()
    assert "is damaged" in capsys.readouterr().out
    assert read_scalars(trainer.config.run_dir)


def test_an_error_of_the_disk_names_the_file_and_comes_from_no_thread(run, monkeypatch):
    before = threading.active_count()
    log = RunLog(run, 14)
    assert threading.active_count() == before

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log.events, "file", type("Full", (), {"flush": staticmethod(full)}))
    with pytest.raises(OSError, match="No space left") as error:
        log.flush()
    assert error.value.filename == str(log.events.path)


def test_an_event_waits_no_longer_than_that(run, monkeypatch):
    monkeypatch.setattr(events, "FLUSH_SECONDS", -1.0)
    log = RunLog(run, 14)
    log.scalars({"loss": 1.0}, 15)
    assert steps(run)[-1] == 15  # though the log is open
    log.close()


# Results


def fid(value: float, **changes) -> dict:
    made = {"metric": "fid", "value": value, "error": 0.5, "protocol": "homework"}
    return made | {"precision": "fp32", "step": 2} | changes


def test_results_are_kept_once_and_lines_follow_a_torn_one(run):
    log = RunLog(run, 14)
    log.results([fid(50.0)])
    with open(run / "results.jsonl", "a") as file:
        file.write('{"metric": "fi')
    log.results([fid(50.0), fid(40.0)])
    log.close()
    assert [r["value"] for r in read_results(run)] == [50.0, 40.0]
    assert read_scalars(run)["fid"] == [(2, 40.0)]


def test_a_bad_line_is_named_once(run, capsys):
    results.warn_once.cache_clear()
    (run / "results.jsonl").write_text('{"metric": "fid"}\n')
    append_result(run, fid(40.0))
    for _ in range(2):
        assert [r["value"] for r in read_results(run)] == [40.0]
    said = "results.jsonl is passed over: it has no value and no step"
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize("broken", ["append_result", "EventFile"])
def test_a_result_goes_where_it_can(tmp_path, monkeypatch, broken):
    config = DCGANConfig(runs_dir=str(tmp_path))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "a file")

    with monkeypatch.context() as patch:
        patch.setattr(f"lib.runlog.{broken}", full)
        with pytest.raises(OSError, match="a file"):
            record(config, [fid(50.0)])
    kept = [r["value"] for r in read_results(config.run_dir)], len(event_files(config.run_dir))
    assert kept == (([], 1) if broken == "append_result" else ([50.0], 0))


def test_a_curve_is_of_one_way_to_draw_z():
    tags = [
        tensorboard_point(fid(30.0, **changes))[0]
        for changes in ({}, {"truncation": 0.0}, {"truncation": 0.5}, {"latent_density": "prior"})
    ]
    assert tags == ["fid", "fid", "fid_truncation_0.5", "fid"]
    fitted = fid(30.0, latent_density="mixture")
    assert tensorboard_point(fitted)[0] == "fid_z_mixture"
    counts = {"n_real": 3000, "n_fake": 3000, "split": "train", "floor_of": "floor", "floor": 3.8}
    assert "generated from z of a mixture" in format_result(fitted | counts)


def test_the_error_of_a_mean_is_that_of_several_values():
    several = mean_result("l1", torch.tensor([1.0, 3.0]), "")
    assert (several["value"], several["error"]) == (2, pytest.approx(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of a standard deviation of one value
        one = mean_result("l1", torch.tensor([3.0]), "")
    assert math.isnan(one["error"])
    assert plain(one)["error"] is None
    assert "±" not in format_result(one)

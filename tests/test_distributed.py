"""Two processes on the CPU (gloo) against one, by tests/ranks.py: no Inception, no network.

Each rank draws noise of its own. Where two are held against one that draws what both drew there is
no BatchNorm, which normalises by a rank's own share; and a GAN amplifies rounding: few steps agree.
"""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, PixelMeans
from ranks import free_port, print_two_steps, run_main, run_ranks, two_steps
from test_cli import ROOT, flags
from test_trainer import assert_same, curves

from inception import moments
from lib import checkpoint, distributed, seeding
from lib.errors import UserError
from lib.results import read_results
from lib.seeding import generator
from main import build
from training.augment import Augment

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2")


@pytest.fixture
def train(data_dir, tmp_path):
    """train(ranks, run, status=0, env={}, flag=value, ...) -> what each rank said at its end."""

    def run(number: int, name: str, *, status: int = 0, env: dict | None = None, **changes):
        argv = ["--do_train", *flags(**TINY | changes, run=name), *folders(data_dir, tmp_path)]
        if "fid_every" not in changes:
            argv.append("--no_score")
        ended = run_ranks(number, run_main, argv, folder=tmp_path, **(env or {}))
        assert [one.status for one in ended] == [status] * number, ended
        return ended

    return run


def folders(data_dir: Path, runs_dir: Path) -> list[str]:
    return flags(data_dir=data_dir, runs_dir=runs_dir, fid_protocol="smoke")


def state_of(folder: Path):
    return checkpoint.load_newest(folder / "checkpoints", model="dcgan")


def weights_of(folder: Path, rank: int):
    return torch.load(folder / f"rank-{rank}.pt", weights_only=True)


# Whole runs


def test_rank_0_alone_writes_and_speaks_and_both_end_with_the_same_weights(train, tmp_path):
    first, second = train(2, "run", ema=0.9, d_steps=2, fid_every=3)
    assert "2 processes" in first.stdout
    assert "6/6" in first.stderr
    assert second.stdout + second.stderr == ""
    folder = tmp_path / "run"
    assert len(list(folder.glob("events.out.tfevents.*"))) == 2  # the last score comes afterwards
    assert not list(folder.rglob("*.part"))
    assert_same(weights_of(folder, 0), weights_of(folder, 1))  # BatchNorm's statistics too
    assert_same(weights_of(folder, 0), state_of(folder)["networks"])
    assert set(curves(folder).values()) == {1}
    assert [(line["step"], line["ranks"]) for line in read_results(folder)] == [(3, 2), (6, 2)]


# A step


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("dcgan", {"loss": "hinge", "d_norm": "none", "d_steps": 2, "fresh_noise": True}),
        ("biggan", {"accumulate": 2, "d_steps": 2, "orthogonal_weight": 1e-3}),
    ],
)
def test_two_ranks_step_as_one(model, settings, tiny_config, tmp_path, monkeypatch):
    config = tiny_config(model, **settings)
    ended = run_ranks(2, print_two_steps, config, folder=tmp_path)
    assert [one.status for one in ended] == [0, 0], ended
    assert ended[0].stdout == ended[1].stdout  # the ranks are alike
    alone = build(config, torch.device("cpu"))
    draws = "drawn" if model == "biggan" else "noise"
    monkeypatch.setattr(alone, draws, of_both_ranks(getattr(alone, draws), monkeypatch))
    wanted = two_steps(alone)
    for a, b in zip(json.loads(ended[0].stdout), wanted, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


def of_both_ranks(draw, monkeypatch):
    """draw(n, purpose, index), the first half by rank 0's stream and the second by rank 1's."""

    def drawn(n: int, *key):
        parts = []
        for number in range(2):
            monkeypatch.setattr(seeding, "rank", lambda number=number: number)
            parts.append(draw(n // 2, *key))
        if isinstance(parts[0], tuple):
            return tuple(map(torch.cat, zip(*parts, strict=True)))
        return torch.cat(parts)

    return drawn


def test_each_rank_draws_by_itself_and_rank_0_what_one_process_does(monkeypatch):
    alone, x = torch.rand(4, generator=generator("cpu", "noise", 7)), torch.rand(4, 3, 16, 16)
    drawn, seen = [], []
    for number in range(3):
        monkeypatch.setattr(seeding, "rank", lambda number=number: number)
        drawn.append(torch.rand(4, generator=seeding.stream("cpu", "noise", 7)))
        seen.append(Augment("diffaug", 42)(x, "real", 3))
    assert torch.equal(drawn[0], alone)
    for a, b in [*itertools.combinations(drawn, 2), *itertools.combinations(seen, 2)]:
        assert not torch.equal(a, b)


# How they end


def test_sigterm_on_one_rank_saves_and_ends_both_and_the_same_command_goes_on(train, tmp_path):
    first, second = train(2, "stopped", env={"SIGNAL": "2"}, status=143)
    assert "SIGTERM: saved step 3" in first.stdout
    assert second.stdout + second.stderr == ""
    assert state_of(tmp_path / "stopped")["step"] == 3
    for run in ("stopped", "whole"):
        train(2, run)
    a, b = (state_of(tmp_path / run) for run in ("stopped", "whole"))
    assert_same(a["networks"], b["networks"])  # BatchNorm's statistics too
    assert_same(a["optimizers"], b["optimizers"])
    assert curves(tmp_path / "stopped") == curves(tmp_path / "whole")


@pytest.mark.parametrize(
    ("env", "teller", "words"),
    [
        ({"POISON": "3"}, 0, "discriminator_loss is nan.* at step 4"),  # all learn of it
        ({"OOM": "3"}, 1, "the memory of this machine or its GPU is too small"),  # one alone
    ],
)
def test_what_befalls_one_rank_stops_all_and_is_told_once(train, env, teller, words):
    ended = train(2, "ill", env=env, status=1)
    assert re.search(words, ended[teller].stderr)
    assert "Traceback" not in ended[teller].stderr
    assert teller or ended[1].stderr == ""


def test_fewer_images_than_ranks_are_refused_by_all(monkeypatch):
    for rank in range(3):
        as_ranks(monkeypatch, 3, rank)
        with pytest.raises(UserError, match="2 images for 3 processes"):
            moments.features_to_groups(iter([]), PixelMeans(), 2)


def test_torchrun_passes_sigterm_on_and_all_are_saved(data_dir, tmp_path):
    argv = [*flags(**TINY | {"num_training_steps": 10**6}), *folders(data_dir, tmp_path)]
    program = ["--", str(ROOT / "tests" / "ranks.py"), "--do_train", "--run", "long", *argv]
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    process = subprocess.Popen(
        [*TORCHRUN, "--master_port", free_port(), *program],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "long" / "checkpoints", process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    saved = state_of(tmp_path / "long")["step"]
    assert f"SIGTERM: saved step {saved};" in stdout
    assert "KeyboardInterrupt" not in stderr


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(3000):  # 5 minutes: a machine may be busy
        assert process.poll() is None, process.communicate()
        if path.is_dir():
            return
        time.sleep(0.1)
    pytest.fail(f"{path} did not come to be")


# What is refused


def test_a_batch_that_cant_be_shared_is_refused_once(train):
    first, second = train(2, "odd", status=1, batch_size=5)
    assert first.stderr.startswith("error: --batch_size 5 is shared by 2 processes")
    assert first.stderr.count("\n") == 1
    assert second.stderr == ""


def test_another_number_of_ranks_goes_on_with_no_run_but_may_score_it(train, tmp_path):
    train(1, "run", num_training_steps=3)
    first, _ = train(2, "run", status=1)
    assert "trained by 1 processes and here are 2" in first.stderr
    train(2, "run", num_training_steps=3, fid_every=3)  # nothing left to train: only the score
    (line,) = read_results(tmp_path / "run")
    assert line["ranks"] == 1


def test_sync_bn_is_cudas(tiny_config):
    with pytest.raises(UserError, match="CUDA alone"):
        distributed.check(torch.device("cpu"), batch_size=4, sync_bn=True)


# Shares


def as_ranks(monkeypatch, number: int, rank: int) -> None:
    for module in (distributed, moments):
        monkeypatch.setattr(module, "world", lambda: number)
        monkeypatch.setattr(module, "rank", lambda: rank)


@pytest.mark.parametrize(("n", "ranks"), [(12, 2), (12, 3), (100, 7)])
def test_shares_are_disjoint_and_whole_however_the_rows_come(monkeypatch, n, ranks):
    rows = torch.arange(n)
    for rank in range(ranks):
        as_ranks(monkeypatch, ranks, rank)
        for parts in ([n], [5, n - 5], [1] * n):
            starts = itertools.accumulate(parts, initial=0)
            mine = torch.cat(list(map(distributed.shard, rows.split(parts), starts)))
            assert torch.equal(mine, rows[rank::ranks])
            assert len(mine) == distributed.share_size(n)


def test_two_ranks_score_fid_and_kid_as_one_does(data_dir, tmp_path):
    tiny = TINY | {"fid_protocol": "all", "data_dir": data_dir}
    found = []
    for number in (1, 2):
        argv = flags(**tiny, runs_dir=tmp_path / f"of{number}")
        ended = run_ranks(number, run_main, argv, folder=tmp_path)
        assert [one.status for one in ended] == [0] * number, ended
        assert ended[0].stdout.count("KID") == 1
        (run_dir,) = (tmp_path / f"of{number}").iterdir()
        found.append(read_results(run_dir))
        shutil.rmtree(data_dir / "reference")  # each measures the real images itself
    one, two = found
    assert [line["metric"] for line in one] == [line["metric"] for line in two] == ["fid", "kid"]
    for a, b in zip(one, two, strict=True):
        assert (a["n_real"], a["n_fake"], b["n_real"], b["n_fake"]) == (150,) * 4
        for key in ("value", "error", "floor"):
            assert b[key] == pytest.approx(a[key], rel=1e-6)

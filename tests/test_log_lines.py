"""Lines a step and grids apart from checkpoints, on the toy of two linear layers."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch
from test_trainer import EventFileLoader, assert_same_end, curves, killed_at, toy  # noqa: F401

from lib import guards
from lib.guards import Bar, Pace
from lib.runlog import GAN_VALUES, log_line

VALUES = {
    "discriminator_loss": 0.95779,
    "generator_loss": 2.3186,
    "D(x)": 0.8398,
    "D(G(z1))": 0.4703,
    "D(G(z2))": 0.142,
}


def test_a_line_of_the_source():
    assert log_line(24 * 469 + 451, 25 * 469, 469, VALUES, GAN_VALUES) == (
        "[24/25][450/469] Loss_D: 0.9578 Loss_G: 2.3186 D(x): 0.8398 D(G(z)): 0.4703 / 0.1420"
    )
    for step, place in ((1, "[0/3][0/8]"), (8, "[0/3][7/8]"), (9, "[1/3][0/8]")):
        assert log_line(step, 23, 8, {"loss": 1.0}, "") == f"{place} loss: 1.0000"


def test_every_step_prints_its_line_and_stays_the_step_it_was(toy, capsys):  # noqa: F811
    """23 steps on 37 images: three epochs of 8 batches."""
    toy("silent").train()
    assert capsys.readouterr().out == ""
    trainer = toy("chatty", log_lines=True)
    trainer.train()
    lines = capsys.readouterr().out.splitlines()
    number = r"\d\.\d{4}"
    form = (
        rf"\[(\d)/3\]\[(\d)/8\] Loss_D: ({number}) Loss_G: ({number})"
        rf" D\(x\): ({number}) D\(G\(z\)\): ({number}) / ({number})"
    )
    found = [re.fullmatch(form, line).groups() for line in lines]
    assert [divmod(step, 8) for step in range(23)] == [(int(e), int(b)) for e, b, *_ in found]
    assert_same_end(toy("silent"), trainer)
    expected = curves(trainer.config.run_dir)
    assert expected == curves(toy("silent").config.run_dir)
    logged = {(tag, step): value for tag, step, value in expected}
    for column, tag in zip((2, 3, 4, 5, 6), VALUES, strict=True):
        assert float(found[8][column]) == pytest.approx(logged[tag, 9], abs=6e-5)


def test_where_somebody_watches_the_bar_makes_room(toy, monkeypatch):  # noqa: F811
    written = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(Bar, "write", written.append)
    toy(log_lines=True, num_training_steps=2).train()
    assert [line[:10] for line in written] == ["[0/1][0/8]", "[0/1][1/8]"]


def test_a_bar_in_a_log_is_lines(monkeypatch, capsys):
    """With the rate and the time left, now and then; a short job prints none."""
    list(Bar(range(3), desc="brief"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(Bar, "LOG_SECONDS", 1e-9)
    list(Bar(range(3), desc="made", unit="img"))
    form = r"made: {}/3 img, +(\?|[\d.]+)img/s, (\?|\d\d:\d\d) left\n"
    assert re.fullmatch("".join(map(form.format, (1, 2, 3, 3))), capsys.readouterr().err)


# How long it will take, and the hint of a busy machine


@pytest.fixture
def run(monkeypatch, threads):
    """A stand-in for a trainer on two threads: run.steps(pace, n, seconds) by its own clock."""
    run = SimpleNamespace(step=0, now=0.0, grids={}, said=[], device=torch.device("cpu"))
    run.config = SimpleNamespace(num_training_steps=1021)
    run.spend = lambda seconds: setattr(run, "now", run.now + seconds)
    run.sample_images = lambda: run.spend(run.grids[torch.get_num_threads()])

    def steps(pace: Pace, n: int, seconds: float) -> None:
        for _ in range(n):
            run.step += 1
            run.spend(seconds)
            pace()

    run.steps = steps
    monkeypatch.setattr(guards.time, "perf_counter", lambda: run.now)
    monkeypatch.setattr(Bar, "write", run.said.append)
    monkeypatch.setattr(sys, "argv", ["main.py", "--do_train", "--run", "a b"])
    threads(2)
    return run


def test_a_run_says_after_twenty_steps_how_long_it_will_take(run, threads):
    threads(1)  # then grids are never made
    pace = Pace(run, lambda: 42.4)
    run.spend(100)  # before the first step ends
    run.steps(pace, 20, 0.5)
    assert run.said == []
    run.steps(pace, 60, 0.5)
    assert run.said == ["step 21: the other 1,000 will take about 08:20, a FID about 00:42"]
    run.steps(pace, 60, 5.0)
    assert len(run.said) == 1
    assert Pace(run, None).forecast(10.0) == "step 140: the other 881 will take about 2:26:50"


@pytest.mark.parametrize("busy_at_first", [True, False])
def test_one_sentence_if_one_thread_has_become_faster(run, busy_at_first):
    pace, busy, quiet = Pace(run, None), {1: 0.25, 2: 1.5}, {1: 0.25, 2: 0.2}
    run.grids = busy if busy_at_first else quiet
    run.steps(pace, 63, 0.5)
    assert len(run.said) == 1 + busy_at_first
    run.grids = busy
    run.steps(pace, 1, 60.0)  # a save among the steps
    run.steps(pace, 41, 0.9)
    assert len(run.said) == 1 + busy_at_first  # not twice as slow
    run.steps(pace, 63, 1.1)
    run.steps(pace, 63, 5.0)
    (hint,) = run.said[1:]
    assert "one thread makes samples in 0.25 s, 2 threads in 1.5 s" in hint
    assert hint.endswith("go on faster by: python main.py --do_train --run 'a b' --threads 1")
    assert torch.get_num_threads() == 2


def test_the_measurement_leaves_the_training_as_it_is(toy, threads, monkeypatch):  # noqa: F811
    threads(2)
    monkeypatch.setattr(Pace, "STEPS", 3)
    plain, watched = toy("plain"), toy("watched")
    watched.observers.append(pace := Pace(watched, None))
    plain.train()
    watched.train()
    assert pace.usual > 0
    assert_same_end(plain, watched)
    assert torch.get_num_threads() == 2


# --sample_every


def grids(trainer) -> tuple[list[str], list[int]]:
    """The PNGs' names, and the steps of the grids in the event files, one a grid."""
    folder = trainer.config.run_dir
    steps = [
        event.step
        for path in sorted(folder.glob("events.out.tfevents.*"))
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == "samples"
    ]
    return sorted(path.name for path in (folder / "samples").iterdir()), sorted(steps)


def names(*steps: int) -> list[str]:
    return [f"samples-{step:07d}.png" for step in steps]


def test_grids_come_every_so_often_and_checkpoints_as_before(toy):  # noqa: F811
    plain, often = toy("plain"), toy("often", sample_every=5)
    plain.train()
    often.train()
    assert grids(plain) == (names(8, 16, 23), [8, 16, 23])
    assert grids(often) == (names(5, 10, 15, 20, 23), [5, 10, 15, 20, 23])
    assert_same_end(plain, often)
    saved = [sorted(p.name for p in t.checkpoint_dir.iterdir()) for t in (plain, often)]
    assert saved[0] == saved[1] == ["0000008.pt", "0000016.pt", "0000023.pt"]
    assert curves(plain.config.run_dir) == curves(often.config.run_dir)


@pytest.mark.parametrize("step", [3, 8, 10, 14, 22])
def test_a_killed_run_has_each_grid_once_and_the_same(toy, step):  # noqa: F811
    killed_at(toy("killed", sample_every=2), step)
    whole, again = toy("whole", sample_every=2), toy("killed", sample_every=2)
    for trainer in (whole, again):
        trainer.train()
    assert grids(again) == grids(whole)
    a, b = (sorted((t.config.run_dir / "samples").iterdir()) for t in (again, whole))
    assert [path.read_bytes() for path in a] == [path.read_bytes() for path in b]
    assert_same_end(again, whole)


def test_grids_that_a_resumed_run_will_not_make_again_are_gone(toy):  # noqa: F811
    killed = killed_at(toy(sample_every=2), 15)
    assert grids(killed)[0] == names(2, 4, 6, 8, 10, 12, 14)
    other = killed.config.run_dir / "samples" / "of-mine.png"
    other.touch()
    again = toy(sample_every=7)
    again.train()
    assert grids(again)[0] == ["of-mine.png", *names(2, 4, 6, 8, 14, 21, 23)]
    assert grids(again)[1] == [2, 4, 6, 8, 14, 21, 23]

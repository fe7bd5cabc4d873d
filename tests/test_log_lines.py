"""Lines a step and grids apart from checkpoints, on the toy of two linear layers."""

import re
import sys

import pytest
from test_trainer import (
    EventFileLoader,
    Killed,
    Toy,
    ToyConfig,
    assert_same,
    curves,
    die_at,
    final_state,
    kill,
)

from lib.guards import Bar
from lib.runlog import GAN_VALUES, log_line

VALUES = {
    "discriminator_loss": 0.95779,
    "generator_loss": 2.3186,
    "D(x)": 0.8398,
    "D(G(z1))": 0.4703,
    "D(G(z2))": 0.142,
}


@pytest.fixture
def toy(tmp_path):
    """toy(run="a", ...) -> a fresh trainer of 23 steps on 37 images: three epochs of 8 batches."""

    def make(run: str = "toy", **changes) -> Toy:
        steps = {"num_training_steps": 23, "saving_steps": 8, "logging_steps": 3, "batch_size": 5}
        return Toy(ToyConfig(run=run, runs_dir=str(tmp_path), **(steps | changes)))

    return make


def test_a_line_of_the_source():
    assert log_line(24 * 469 + 451, 25 * 469, 469, VALUES, GAN_VALUES) == (
        "[24/25][450/469] Loss_D: 0.9578 Loss_G: 2.3186 D(x): 0.8398 D(G(z)): 0.4703 / 0.1420"
    )
    for step, place in ((1, "[0/3][0/8]"), (8, "[0/3][7/8]"), (9, "[1/3][0/8]")):
        assert log_line(step, 23, 8, {"loss": 1.0}, "") == f"{place} loss: 1.0000"


def test_every_step_prints_its_line_and_stays_the_step_it_was(toy, capsys):
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
    assert_same(final_state(toy("silent"))["networks"], final_state(trainer)["networks"])
    expected = curves(trainer.config.run_dir)
    assert expected == curves(toy("silent").config.run_dir)
    logged = {(tag, step): value for tag, step, value in expected}
    for column, tag in zip((2, 3, 4, 5, 6), VALUES, strict=True):
        assert float(found[8][column]) == pytest.approx(logged[tag, 9], abs=6e-5)


def test_where_somebody_watches_the_bar_makes_room(toy, monkeypatch):
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


def test_grids_come_every_so_often_and_checkpoints_as_before(toy):
    plain, often = toy("plain"), toy("often", sample_every=5)
    plain.train()
    often.train()
    assert grids(plain) == (names(8, 16, 23), [8, 16, 23])
    assert grids(often) == (names(5, 10, 15, 20, 23), [5, 10, 15, 20, 23])
    for name in ("networks", "optimizers"):
        assert_same(final_state(plain)[name], final_state(often)[name])
    saved = [sorted(p.name for p in t.checkpoint_dir.iterdir()) for t in (plain, often)]
    assert saved[0] == saved[1] == ["0000008.pt", "0000016.pt", "0000023.pt"]
    assert curves(plain.config.run_dir) == curves(often.config.run_dir)


@pytest.mark.parametrize("step", [3, 8, 10, 14, 22])
def test_a_killed_run_has_each_grid_once_and_the_same(toy, step):
    whole = toy("whole", sample_every=2)
    whole.train()
    killed = toy("killed", sample_every=2)
    die_at(killed, step, kill)
    with pytest.raises(Killed):
        killed.train()
    again = toy("killed", sample_every=2)
    again.train()
    assert grids(again) == grids(whole)
    a, b = (
        [path.read_bytes() for path in sorted((t.config.run_dir / "samples").iterdir())]
        for t in (again, whole)
    )
    assert a == b
    assert_same(final_state(again)["networks"], final_state(whole)["networks"])


def test_grids_that_a_resumed_run_will_not_make_again_are_gone(toy):
    killed = toy(sample_every=2)
    die_at(killed, 15, kill)
    with pytest.raises(Killed):
        killed.train()
    assert grids(killed)[0] == names(2, 4, 6, 8, 10, 12, 14)
    other = killed.config.run_dir / "samples" / "of-mine.png"
    other.touch()
    again = toy(sample_every=7)
    again.train()
    assert grids(again)[0] == ["of-mine.png", *names(2, 4, 6, 8, 14, 21, 23)]
    assert grids(again)[1] == [2, 4, 6, 8, 14, 21, 23]

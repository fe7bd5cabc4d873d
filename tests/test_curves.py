"""The doctor: each verdict on made curves and both sides of its thresholds; six real runs."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from test_trainer import assert_same_end, toy  # noqa: F401 (toy is a fixture)

from lib.runlog import RunLog
from metrics.curve_rules import (
    BALANCED,
    BLIND,
    D_WINS,
    EQUILIBRIUM,
    G_WINS,
    NASH,
    NO_VERDICT,
    OVERSHOOTS,
)
from metrics.curves import Watcher, diagnose, watch_curves
from scripts import doctor

CURVES = Path(__file__).parent / "curves"


def then(first, second):
    """The curves of `first`, and after them those of `second`."""
    last = first["D(x)"][-1][0]
    return {tag: first[tag] + [(s + last, v) for s, v in second[tag]] for tag in NASH}


def flat(points=200, noise=0.02, interval=10, **levels):
    """Probabilities at a level with a batch's noise, and the least losses they allow."""
    rng, level = np.random.default_rng(0), {"x": 0.8, "z1": 0.2} | levels
    level.setdefault("z2", level["z1"])
    noisy = (level[n] + noise * rng.standard_normal(points) for n in ("x", "z1", "z2"))
    x, z1, z2 = (np.clip(curve, 1e-6, 1 - 1e-6) for curve in noisy)
    curves = (-np.log(x) - np.log(1 - z1), -np.log(z2), x, z1, z2)
    steps = range(interval, interval * points + 1, interval)
    return {tag: list(zip(steps, c, strict=True)) for tag, c in zip(NASH, curves, strict=True)}


HEALTHY, WON = {"x": 0.8, "z1": 0.2}, {"x": 0.998, "z1": 0.002}


@pytest.mark.parametrize(
    ("inside", "outside", "verdict"),
    [
        ({"x": 0.92, "z1": 0.08}, {"x": 0.88, "z1": 0.08}, D_WINS),
        ({"x": 0.92, "z1": 0.08}, {"x": 0.92, "z1": 0.12}, D_WINS),
        (WON, HEALTHY, D_WINS),
        (HEALTHY, WON, BALANCED),
        ({"x": 0.998, "z1": 0.998}, {"x": 0.98, "z1": 0.98}, BLIND),
        ({"x": 0.002, "z1": 0.998}, HEALTHY, G_WINS),
        ({"x": 0.8, "z1": 0.68}, {"x": 0.8, "z1": 0.6}, G_WINS),
        ({"x": 0.3, "z1": 0.4}, {"x": 0.3, "z1": 0.3}, G_WINS),
        ({"x": 0.7, "z1": 0.5, "z2": 0.36}, {"x": 0.7, "z1": 0.5, "z2": 0.4}, OVERSHOOTS),
        ({"x": 0.6, "z1": 0.5, "z2": 0.38}, {"x": 0.6, "z1": 0.5, "z2": 0.42}, OVERSHOOTS),
        ({"x": 0.54, "z1": 0.46}, {"x": 0.57, "z1": 0.43}, BLIND),
        ({"x": 0.7, "z1": 0.4, "noise": 1e-5}, {"x": 0.7, "z1": 0.4}, BLIND),  # stands still
    ],
)
def test_both_sides_of_the_levels(inside, outside, verdict):
    noise = 0.001 if inside.get("z1") == 0.998 else 0.02
    found = diagnose(flat(**{"noise": noise} | inside))
    assert found.verdict == verdict
    assert found.sentences[0].startswith(verdict)
    assert diagnose(flat(**{"noise": noise} | outside)).verdict != verdict


def test_the_equilibrium_is_for_a_d_that_once_knew_and_for_losses_that_agree():
    guessing = flat(x=0.5, z1=0.5)
    assert diagnose(then(flat(points=100), guessing)).verdict == EQUILIBRIUM
    for tag in ("discriminator_loss", "generator_loss"):  # as of a batch that strays
        guessing[tag] = [(step, value + 0.3) for step, value in guessing[tag]]
    assert diagnose(then(flat(points=100), guessing)).verdict == BALANCED


@pytest.mark.parametrize(("every", "verdict"), [(30, D_WINS), (10, BALANCED)])
def test_a_d_that_is_overthrown_now_and_then_has_not_won(every, verdict):
    curves = flat(x=0.95, z1=0.05)
    for point in range(0, 200, every):
        curves["D(x)"][point] = (curves["D(x)"][point][0], 0.4)
        curves["discriminator_loss"][point] = (curves["D(x)"][point][0], 1.0)
    found = diagnose(curves)
    assert found.verdict == verdict
    assert ("D leads" in found.sentences[0]) == (verdict == BALANCED)


def real_run(name):
    saved = json.loads((CURVES / f"{name}.json").read_text())
    first, last, interval = (saved["steps"][n] for n in ("first", "last", "interval"))
    steps = range(first, last + 1, interval)
    return {tag: list(zip(steps, v, strict=True)) for tag, v in saved["curves"].items()}


@pytest.mark.parametrize(
    ("name", "verdicts"),
    [
        ("default", [BALANCED] * 5),
        ("wide", [BALANCED] * 5),
        ("strong_d", [D_WINS]),
        ("high_lr", [OVERSHOOTS]),
        ("weak_d", [EQUILIBRIUM]),
    ],
)
def test_real_runs(name, verdicts):
    diagnosis = diagnose(real_run(name))
    assert diagnose(real_run(name), penalty="r1").verdict == diagnosis.verdict
    assert [w.verdict for w in diagnosis.windows] == verdicts
    assert diagnosis.verdict == (BLIND if name == "weak_d" else verdicts[-1])
    leads = [w.reason.startswith("D leads") for w in diagnosis.windows]
    assert leads == [name == "wide" and w.first > 3000 for w in diagnosis.windows]
    outright = "D has won outright" in diagnosis.sentences[0]
    assert outright == (name == "strong_d")


def test_a_d_that_a_penalty_holds_near_one_half_is_not_called_blind():
    """The run of --preset best, FID 19.8: without word of its penalty its curves seem a guess."""
    curves = real_run("penalty")
    knowing, unknowing = diagnose(curves, penalty="r1"), diagnose(curves)
    assert [w.verdict for w in knowing.windows] == [BALANCED] * 3
    assert "r1 penalty" in knowing.sentences[0]
    assert "larger at 100% of the points" in knowing.sentences[0]
    assert knowing.advice.startswith("Nothing to mend")
    assert unknowing.verdict in (EQUILIBRIUM, BLIND)


def test_a_penalty_that_blinds_d_is_told_from_one_that_holds_it():
    """D(x) above D(G(z1)) at every point, or as often below it."""
    seeing = flat(x=0.53, z1=0.47, noise=0.01)
    guessing = flat(x=0.5, z1=0.5, noise=0.01)
    assert diagnose(seeing, penalty="zero").verdict == BALANCED
    assert diagnose(seeing).verdict == BLIND
    blind = diagnose(guessing, penalty="zero")
    assert blind.verdict == BLIND
    assert "--penalty_weight" in blind.advice


def test_the_windows_are_counted_from_the_end_and_hold_every_point():
    diagnosis = diagnose(real_run("default"), window=1600)
    windows = [(w.first, w.last) for w in diagnosis.windows]
    assert windows == [(20, 1800), (1820, 3400), (3420, 5000)]
    assert sum(len(w.values["D(x)"]) for w in diagnosis.windows) == 250
    short = diagnose(flat(points=110))
    assert [(w.first, w.last) for w in short.windows] == [(10, 1100)]
    rare = diagnose(flat(points=60, interval=100))
    assert [len(w.values["D(x)"]) for w in rare.windows] == [30, 30]


def test_numbers_are_the_medians_and_the_nash_values_stand_beside_them():
    diagnosis = diagnose(flat(x=0.8, z1=0.2, noise=0.001))
    (numbers,) = (line for line in diagnosis.sentences if line.startswith("Medians"))
    found = dict(re.findall(r"(\S+) (\S+) \([^)]*\) \[", numbers))
    assert float(found["D(x)"]) == pytest.approx(0.8, abs=1e-3)
    assert float(found["generator_loss"]) == pytest.approx(-math.log(0.2), abs=0.01)
    assert "[1.386]" in numbers
    assert "[0.6931]" in numbers


def test_what_curves_are_too_short_or_lack_is_said_and_the_rest_is_read():
    curves = flat()
    for found, verdict, words in (
        (flat(points=30), BALANCED, "balanced: steps 10 to 300"),
        (flat(points=29), NO_VERDICT, "29 points"),
        ({}, NO_VERDICT, "Missing: discriminator_loss, generator_loss, D(x)"),
        ({t: v for t, v in curves.items() if t != "D(x)"}, NO_VERDICT, "Missing: D(x)."),
        ({tag: curves[tag] for tag in ("D(x)", "D(G(z1))")}, BALANCED, "Missing: discriminator"),
    ):
        diagnosis = diagnose(found)
        assert diagnosis.verdict == verdict
        assert words in " ".join(diagnosis.sentences)


def test_a_nan_at_the_end_is_broken_and_an_old_one_is_passed_over():
    curves = flat()
    curves["generator_loss"][195] = (1960, math.nan)
    broken = diagnose(curves)
    assert broken.verdict == NO_VERDICT
    assert "step 1960" in broken.sentences[0]
    curves = flat()
    curves["generator_loss"][3] = (40, math.inf)
    old = diagnose(curves)
    assert old.verdict == BALANCED
    assert any("step 40" in s for s in old.sentences)


def test_losses_in_another_scale_are_noticed_and_scores_are_not_read_as_probabilities():
    """Least squares at its targets: scores 1 and 0, both losses far below what BCE allows."""
    curves = flat(x=0.73, z1=0.5)
    for tag in ("discriminator_loss", "generator_loss"):
        curves[tag] = [(s, 0.1 * v) for s, v in curves[tag]]
    diagnosis = diagnose(curves)
    assert diagnosis.verdict == NO_VERDICT
    assert any("not the BCE" in s for s in diagnosis.sentences)
    assert not any("not the BCE" in s for s in diagnose(flat(x=0.73, z1=0.5)).sentences)


def test_a_d_so_sure_that_fp32_rounds_it_to_0_and_1_keeps_its_scale():
    curves = flat(x=0.5, z1=0.5)
    for tag, value in zip(NASH, (200.0, 0.0, 0.0, 1.0, 1.0), strict=True):  # logits of -100, 100
        curves[tag] = [(s, value) for s, _ in curves[tag]]
    diagnosis = diagnose(curves)
    assert "the wrong way round" in diagnosis.sentences[0]
    assert not any("not the BCE" in s for s in diagnosis.sentences)


def told(curves, watcher=None):
    """(step, line) of everything the watcher says."""
    watcher = watcher or Watcher(10)
    lines = []
    for points in zip(*(curves[tag] for tag in NASH), strict=True):
        scalars = {tag: value for tag, (_, value) in zip(NASH, points, strict=True)}
        line = watcher.note(points[0][0], scalars)
        lines += [(points[0][0], line)] if line else []
    return lines


def test_the_watcher_speaks_once_a_state_and_again_when_it_is_over():
    ill = flat(points=400, **WON, noise=0.001)
    assert [step for step, _ in told(ill)] == [1250]
    mended = told(then(ill, flat(points=400)))
    assert len(mended) == 2
    assert "D wins" in mended[0][1]
    assert "no longer 'D wins' but 'balanced'" in mended[1][1]
    assert told(flat(points=400)) == []


def test_the_watcher_on_real_runs():
    assert told(real_run("default"), Watcher(20)) == []
    assert told(real_run("wide"), Watcher(20)) == []
    assert "overshoots" in told(real_run("high_lr"), Watcher(10, window=500))[0][1]
    assert "D wins" in told(real_run("strong_d"), Watcher(10, window=500))[0][1]


def test_training_prints_the_line_and_the_weights_do_not_depend_on_it(toy, capsys):  # noqa: F811
    """A toy with a learning rate of 3 is thrown about by each batch."""
    changes = {"learning_rate": 3.0, "num_training_steps": 90, "logging_steps": 1}
    watched, unwatched = toy("watched", **changes), toy("unwatched", **changes)
    watched.observers.append(watch_curves(watched, window=60))
    watched.train()
    assert capsys.readouterr().out.count("overshoots: ") == 1
    unwatched.train()
    assert "overshoots" not in capsys.readouterr().out
    assert_same_end(watched, unwatched)


def test_the_script_diagnoses_every_run_it_can_and_names_the_others(tmp_path, capsys):
    for name, curves in (("ill", "strong_d"), ("held", "penalty")):
        log = RunLog(tmp_path / name, 0)
        for tag, points in real_run(curves).items():
            for step, value in points:
                log.scalars({tag: value}, step)
        log.close()
    (tmp_path / "held" / "config.json").write_text(json.dumps({"penalty": "r1"}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").touch()  # as runs/* names it too
    folders = [str(tmp_path / name) for name in ("empty", "ill", "none", "held", "README.md")]
    assert doctor.main(folders) == 1
    done = capsys.readouterr()
    assert "D wins: steps 10 to 1000" in done.out
    assert "balanced: steps 2020 to 3000" in done.out
    assert "r1 penalty" in done.out
    assert done.err.count("error: ") == 2
    assert "none is no folder" in done.err

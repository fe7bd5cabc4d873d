"""Grids, plans and tables; runs of a stand-in for main.py, and of the true one."""

import dataclasses
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import TINY, PixelMeans
from test_cli import OFFLINE, ROOT, flags

from inception.weights import WEIGHTS_DIGEST
from lib.config import save_config
from lib.errors import UserError
from lib.flags import parse
from lib.results import append_result
from main import SYSTEMS
from scripts import sweep
from scripts._sweep import runs as sweep_runs
from scripts._sweep.grid import grid_point, parse_grid, parse_seeds, plan_runs
from scripts._sweep.runs import Outcome, find_result, main_command, run_all
from scripts._sweep.table import summarize, table, write
from systems.biggan.config import BigGANConfig
from systems.dcgan import DCGANConfig

CHILD = """
import json, os, pathlib, signal, sys, time
folder, doing, result = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
print("threads", os.environ.get("OMP_NUM_THREADS"), flush=True)
if doing == "fails":
    sys.exit("some words\\nerror: training broke down, said the stand-in.")
if doing == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
if doing == "waits":
    def stop(number, frame):
        (folder / "saved").touch()
        sys.exit(128 + number)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    (folder / "waits").touch()
    time.sleep(60)
if doing == "meets":
    (folder / "meets").touch()
    deadline = time.time() + 20
    while len(list(folder.parent.glob("*/meets"))) < 2:
        assert time.time() < deadline, "nobody came"
        time.sleep(0.02)
if doing != "leaves nothing":
    print("\\r 50%|#####     | 3/6 [00:01<00:01, 3.00step/s, discriminator_loss=0.5]", end="\\r")
    (folder / "results.jsonl").open("a").write(result + "\\n")
"""


def line(config, value=50.0, **changes) -> dict:
    """A line of results.jsonl as main.py would leave it."""
    made = {"metric": "fid", "value": value, "error": 0.5, "floor": 3.8}
    made |= {"protocol": config.fid_protocol, "precision": config.fid_precision}
    made |= {"weights_sha256": WEIGHTS_DIGEST, "step": config.num_training_steps}
    return made | changes


def keep(config, **changes) -> None:
    config.run_dir.mkdir(parents=True, exist_ok=True)
    append_result(config.run_dir, line(config, **changes))


def stand_in(doing: dict[int, str]):
    """A command whose runs do as their seed says; FID = 50 + seed."""

    def command(config) -> list[str]:
        result = json.dumps(line(config, 50.0 + config.seed))
        words = [config.run_dir, doing.get(config.seed, "works"), result]
        return [sys.executable, "-S", "-c", CHILD, *map(str, words)]

    return command


@pytest.fixture
def base(tmp_path) -> DCGANConfig:
    return DCGANConfig(runs_dir=str(tmp_path / "runs"), num_training_steps=6)


@pytest.fixture
def argv(tmp_path) -> list[str]:
    return flags(runs_dir=tmp_path / "runs", num_training_steps=6)


@pytest.fixture
def doing(monkeypatch):
    """doing({2: "fails"}) lets the run of seed 2 do so, and the others work."""
    return lambda what: monkeypatch.setattr(sweep_runs, "main_command", stand_in(what))


def test_two_folders_of_one_name_are_not_one_run(tmp_path):
    base = DCGANConfig(dataset="folder", folder="x", runs_dir=str(tmp_path))
    folders = [str(tmp_path / name / "imgs") for name in ("a", "b")]
    with pytest.raises(UserError, match="two runs of the grid would have one name"):
        plan_runs(base, {"folder": folders}, [42])
    (one,) = plan_runs(base, {"folder": folders[:1]}, [42])
    (other,) = plan_runs(base, {"folder": folders[1:]}, [42])
    keep(one, value=3.0)
    save_config(one, one.run_dir / "config.json")
    assert find_result(one)["value"] == 3.0
    assert find_result(other) is None


def test_a_grid_is_every_combination_times_the_seeds(base):
    grid = parse_grid(["latent_dim=16,100", "hidden_dim=4,8"], DCGANConfig)
    configs = plan_runs(base, grid, [42, 43, 44])
    assert len({config.run_name for config in configs}) == 12
    found = [(c.latent_dim, c.generator_hidden_dim, c.seed) for c in configs]
    assert found == [(z, h, s) for z in (16, 100) for h in (4, 8) for s in (42, 43, 44)]
    assert all(c.discriminator_hidden_dim == c.generator_hidden_dim for c in configs)
    assert all(c.do_train and c.num_training_steps == 6 for c in configs)
    assert grid_point(configs[3], list(grid)) == {"latent_dim": 16, "hidden_dim": 8}


def test_values_have_the_type_of_their_setting_and_seeds_are_counted_or_listed():
    grid = parse_grid(["learning_rate=2e-4,0.0002,1e-3", "spectral_norm=on,false"], DCGANConfig)
    assert grid == {"learning_rate": [2e-4, 1e-3], "spectral_norm": [True, False]}
    listed = {"3": [42, 43, 44], "1,5,9": [1, 5, 9], "7,": [7], "0,0": [0]}
    assert {text: parse_seeds(text) for text in listed} == listed


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--grid laten_dim=3", "did you mean latent_dim"),
        ("--grid xyz=3", "wanted one of .*latent_dim.*hidden_dim"),
        ("--grid latent_dim=", "wanted NAME=VALUE"),
        ("--grid latent_dim=x", "wanted a value of type int"),
        ("--grid latent_dim=16,0", "--latent_dim 0: wanted at least 1"),
        ("--grid dataset=minst", "wanted one of mnist, fashion"),
        ("--grid latent_dim=1 latent_dim=2", "twice"),
        ("--grid hidden_dim=4 generator_hidden_dim=4", "generator_hidden_dim twice"),
        ("--grid hidden_dim=4 --generator_hidden_dim 4", "--generator_hidden_dim is in the grid"),
        ("--grid seed=1,2", "--seeds"),
        ("--grid model=dcgan,vae", "a sweep is of one system"),
        ("--grid spectral_norm=yes", "wanted on or off"),
        ("--grid saving_steps=1,2", "the same run"),
        ("--seeds 0", "--seeds 0: wanted"),
        ("--seeds 1000000000", "--seeds 1000000000: wanted"),
        ("--seeds 1,-1", "--seeds 1,-1: wanted"),
        ("--jobs 0", "--jobs 0: wanted at least 1"),
        ("--seed 3", "--seeds"),
        ("--run mine", "name themselves"),
        ("--no_score", "leave it out"),
    ],
)
def test_bad_flags_are_one_sentence_before_anything_runs(flag, sentence, argv, tmp_path, refusal):
    assert re.search(sentence, refusal(sweep.main, *argv, *flag.split(), "--dry_run"))
    assert not (tmp_path / "runs").exists()


def test_the_command_of_a_run_brings_back_its_config(base):
    config = dataclasses.replace(base, do_train=True, seed=7, learning_rate=1e-3, no_cuda=True)
    words = main_command(config)
    assert words[:2] == [sys.executable, str(ROOT / "main.py")]
    assert parse(words[2:], SYSTEMS, "") == config


def test_the_plan_tells_what_is_there(base, argv, tmp_path, capsys):
    finished, halfway, trained, new = plan_runs(base, {}, [1, 2, 3, 4])
    keep(finished, value=61.234)
    keep(new, step=5)  # none of these is the asked one
    keep(new, protocol="smoke")
    keep(new, precision="bf16")
    keep(new, metric="accuracy")
    for run, step in ((halfway, 4), (trained, 6)):
        (run.run_dir / "checkpoints").mkdir(parents=True)
        (run.run_dir / "checkpoints" / f"{step:07d}.pt").touch()
    before = sorted(tmp_path.rglob("*"))
    threads = ["--jobs", "2", "--threads", "3"]
    assert sweep.main([*argv, "--seeds", "1,2,3,4", "--dry_run", *threads]) == 0
    printed = capsys.readouterr().out
    assert "on cpu, 2 at a time, 3 threads each" in printed
    states = {row.split()[0]: row for row in printed.splitlines() if "-s" in row}
    assert "finished, FID 61.23" in states[finished.run_name]
    assert "resumes at step 4" in states[halfway.run_name]
    assert "trained, to be scored" in states[trained.run_name]
    assert "new" in states[new.run_name]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_score_of_other_weights_or_another_z_is_another_score(base, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_runs, "digest_of", lambda weights: weights or WEIGHTS_DIGEST)
    keep(base, weights_sha256="other")
    assert find_result(base) is None
    assert find_result(dataclasses.replace(base, inception_weights="other"))
    biggan = BigGANConfig(model="biggan", runs_dir=str(tmp_path / "runs"), num_training_steps=6)
    keep(biggan, value=50.0, truncation=0.0)
    keep(biggan, value=30.0, truncation=0.5)
    assert find_result(biggan)["value"] == 50.0
    assert find_result(dataclasses.replace(biggan, truncation=0.5))["value"] == 30.0
    assert find_result(dataclasses.replace(biggan, truncation=0.4)) is None


def test_a_run_past_the_last_step_is_refused(base, argv, refusal):
    (config,) = plan_runs(base, {}, [42])
    (config.run_dir / "checkpoints").mkdir(parents=True)
    (config.run_dir / "checkpoints" / "0000009.pt").touch()
    assert "is at step 9 already" in refusal(sweep.main, *argv)


def test_failures_among_good_runs(argv, doing, tmp_path, capsys):
    doing({2: "fails", 3: "is killed", 4: "leaves nothing"})
    command = [*argv, "--seeds", "1,2,3,4,5", "--grid", "latent_dim=16"]
    assert sweep.main(command) == 1
    out, err = capsys.readouterr()
    assert "| 16         | 2 of 5 | 53.00 ± 2.83 | 51.00 | 55.00 | 0.50" in out
    assert "exit status 1: error: training broke down, said the stand-in." in err
    assert "killed by SIGKILL" in err
    assert "left no FID of step 6" in err
    assert err.count("log.txt") == 3
    assert "some words" not in out + err  # the children's output stays in their logs
    runs = json.loads((tmp_path / "runs" / "sweep.json").read_text())["runs"]
    assert [run["status"] for run in runs] == ["finished", *["failed"] * 3, "finished"]
    assert "said the stand-in" in (tmp_path / "runs" / "sweep.md").read_text()
    doing({})
    assert sweep.main(command) == 0  # again: what failed, and nothing else
    logs = [Path(run["log"]).read_text() for run in runs]
    assert [log.count("\nthreads ") for log in logs] == [1, 2, 2, 2, 1]


def test_jobs_run_side_by_side_with_their_threads(base, doing):
    doing({1: "meets", 2: "meets"})
    outcomes = run_all(plan_runs(base, {}, [1, 2]), jobs=2, threads=3)
    assert [outcome.status for outcome in outcomes] == ["finished", "finished"]
    assert all("threads 3" in outcome.log.read_text() for outcome in outcomes)


def test_a_run_that_another_sweep_works_on_or_whose_folder_is_a_file_is_left_alone(base, doing):
    doing({})
    config, bad = plan_runs(base, {}, [1, 2])
    config.run_dir.mkdir(parents=True)
    bad.run_dir.write_text("a file is in the way")
    with open(config.run_dir / "log.txt", "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        (outcome,) = run_all([config])
    assert "another sweep" in outcome.failure
    assert [outcome.status for outcome in run_all([bad, config])] == ["failed", "finished"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_children_and_loses_nothing(number, argv, doing, tmp_path, capsys):
    doing({2: "waits"})

    def send() -> None:
        deadline = time.monotonic() + 20
        while not list(tmp_path.rglob("waits")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    code = sweep.main([*argv, "--seeds", "1,2,3"])
    thread.join()
    assert code == 128 + number
    assert len(list(tmp_path.rglob("saved"))) == 1
    assert "2 of 3 runs are not done" in capsys.readouterr().err
    runs = json.loads((tmp_path / "runs" / "sweep.json").read_text())["runs"]
    assert [run["status"] for run in runs] == ["finished", "stopped", "stopped"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_table_in_closed_form(base):
    configs = plan_runs(base, {"latent_dim": [16, 100, 7]}, [1, 2, 3])
    values = {(16, 1): 1.0, (16, 2): 2.0, (16, 3): 3.0, (100, 2): 9.0}
    outcomes = [
        Outcome(c, line(c, values[key], error=None if c.seed == 1 else c.seed / 10))
        if (key := (c.latent_dim, c.seed)) in values
        else Outcome(c, failure="it failed")
        for c in configs
    ]
    whole, single, _ = summarize(outcomes, ["latent_dim"])
    assert (whole["mean"], whole["sd"], whole["min"], whole["max"]) == (2.0, 1.0, 1.0, 3.0)
    assert (single["finished"], single["runs"], single["sd"]) == (1, 3, None)
    head, rule, first, second, none = table(outcomes, ["latent_dim"]).splitlines()
    assert len({len(row) for row in (head, rule, first, second, none)}) == 1
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells == [
        "16", "3", "2.00 ± 1.00", "1.00", "3.00", "0.20 to 0.30", "3.80", "homework, fp32",
    ]  # fmt: skip
    assert "| 1 of 3 | 9.00 " in second
    assert "| 0 of 3 | - " in none
    markdown, data = (path.read_text() for path in write(outcomes, ["latent_dim"]))
    assert "One seed: no standard deviation" in markdown
    assert "- dcgan-mnist" in markdown
    assert json.loads(data)["runs"][0]["point"] == {"latent_dim": 16}


MAIN_WITH_PIXEL_MEANS = """
import sys
sys.path[:0] = ["{root}", "{root}/tests"]
import conftest, main
from metrics import score
score.load_inception = lambda *_: conftest.PixelMeans()
sys.exit(main.main(sys.argv[1:]))
"""


def test_true_runs_one_of_which_ends_in_nan(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep_runs, "digest_of", lambda _: PixelMeans.digest)
    monkeypatch.chdir(tmp_path)
    tiny = {name: value for name, value in TINY.items() if not name.endswith("hidden_dim")}
    argv = flags(**tiny, data_dir=data_dir, runs_dir="mine", fid_protocol="smoke")
    argv += ["--grid", "hidden_dim=4", "learning_rate=2e-4,1e30"]

    def command(config) -> list[str]:
        code = MAIN_WITH_PIXEL_MEANS.format(root=ROOT)
        return [sys.executable, "-c", code, *main_command(config)[2:]]

    monkeypatch.setattr(sweep_runs, "main_command", command)
    assert sweep.main(argv) == 1
    out, err = capsys.readouterr()
    assert out.count("  new\n") == 2
    assert "error: training broke down" in err
    finished, failed = json.loads(Path("mine/sweep.json").read_text())["runs"]
    assert finished["result"]["value"] > 0
    assert finished["result"]["step"] == 6
    assert failed["result"] is None
    log = Path(finished["log"]).read_bytes()
    assert b"6/6" in log
    sweep.main(argv[:-1])  # the good run alone
    assert Path(finished["log"]).read_bytes() == log


def test_the_script_itself_from_another_folder(base, tmp_path):
    keep(base, value=70.125)
    argv = [sys.executable, ROOT / "scripts" / "sweep.py", "--grid", "hidden_dim=16"]
    argv += flags(runs_dir="runs", num_training_steps=6)
    env = os.environ | OFFLINE
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| 16         | 1     | 70.12 " in done.stdout
    assert "One seed" in (tmp_path / "runs" / "sweep.md").read_text()

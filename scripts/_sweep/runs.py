"""Runs of main.py as subprocesses, some at a time; one that fails does not stop the others.

A run's whole output goes to RUN_DIR/log.txt. The file is locked while its process lives, so that
two sweeps, or one that was killed and started again, never train one run twice at the same time.
"""

import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from inception.weights import WEIGHTS_DIGEST, digest, find_weights
from lib import checkpoint
from lib.config import Config, differences, load_saved
from lib.errors import UserError
from lib.guards import Bar, lock
from lib.results import Result, drawing_of, read_results

MAIN = Path(__file__).resolve().parents[2] / "main.py"
POLL = 0.2  # seconds between two looks at the children


@dataclass(frozen=True)
class Outcome:
    """The end of a run: its FID's line of results.jsonl, or why there is none."""

    config: Config
    result: Result | None = None
    failure: str = ""
    stopped_by: int = 0  # the signal that ended the sweep before the run was done

    @property
    def status(self) -> str:
        return "finished" if self.result else "stopped" if self.stopped_by else "failed"

    @property
    def log(self) -> Path:
        return self.config.run_dir / "log.txt"


def find_result(config: Config) -> Result | None:
    """The newest FID of this run at its last step, by its protocol, precision, weights and z."""
    try:  # is the folder that of another configuration, as main.py will say then?
        if differences(config, load_saved(config.run_dir / "config.json")):
            return None
    except UserError:  # no settings, or none that can be read: main.py writes them anew
        pass
    wanted = {"metric": "fid", "step": config.num_training_steps}
    wanted |= {"protocol": config.fid_protocol, "precision": config.fid_precision}
    for result in reversed(read_results(config.run_dir)):
        alike = wanted.items() <= result.items() and result["value"] is not None
        found, weights = result.get("weights_sha256"), config.inception_weights
        if alike and drawing_of(result) == drawing_of(vars(config)):
            known = found == WEIGHTS_DIGEST and not weights  # without looking for 90 MB
            if known or found == digest_of(weights):
                return result
    return None


@functools.cache
def digest_of(weights: str) -> str:
    return digest(find_weights(weights or None))


def step_reached(config: Config) -> int:
    """The step of the run's newest checkpoint, by its name; 0 if there is none."""
    found = checkpoint.paths(config.run_dir / "checkpoints")
    return int(found[-1].stem) if found else 0


def main_command(config: Config) -> list[str]:
    """main.py with a flag for each setting that is not the default."""
    given = {f: value for f in fields(config) if (value := getattr(config, f.name)) != f.default}
    flags = (f"--{f.name}" + f"={value}" * (f.type is not bool) for f, value in given.items())
    return [sys.executable, str(MAIN), *flags]


def run_all(configs: list[Config], *, jobs: int = 1, threads: int | None = None) -> list[Outcome]:
    """Train and score all runs that are not finished, `jobs` at a time; outcomes as configs.

    Never raises for what happens to a run: see Outcome.failure. SIGINT and SIGTERM are passed to
    the children, which save. threads: each child's OMP_NUM_THREADS.
    """
    outcomes = {c.run_name: Outcome(c, r) for c in configs if (r := find_result(c))}
    todo = [config for config in configs if config.run_name not in outcomes]
    done, steps = sum(map(step_reached, todo)), sum(c.num_training_steps for c in todo)
    if todo:
        with stop_signals() as received, Bar(initial=done, total=steps, unit="step") as bar:
            for outcome in work_on(todo, jobs, threads, received):
                outcomes |= {outcome.config.run_name: outcome} if outcome else {}
                ended = len(outcomes) - len(configs) + len(todo)
                bar.set_description_str(f"{ended}/{len(todo)} runs", refresh=False)
                bar.update(max(0, sum(map(step_reached, todo)) - bar.n))
    return [outcomes[config.run_name] for config in configs]


def work_on(
    todo: list[Config], jobs: int, threads: int | None, received: list[int]
) -> Iterator[Outcome | None]:
    """Yield a run's outcome when it ends, None now and then. received: the signals that came."""
    waiting, sent = list(todo), 0
    running: dict[subprocess.Popen, Config] = {}
    while running or (waiting and not received):
        while waiting and len(running) < jobs and not received:
            config = waiting.pop(0)
            try:
                running[start(config, threads)] = config
            except (UserError, OSError) as error:
                yield Outcome(config, failure=f"not started: {error}")
        for number in received[sent:]:  # a second one too: main.py then stops without saving
            sent += 1
            for process in running:
                process.send_signal(number)
        time.sleep(POLL)
        for process in [p for p in running if p.poll() is not None]:
            yield ended(running.pop(process), process.returncode, received)
        yield None
    for config in waiting:
        yield Outcome(config, stopped_by=received[0])


def start(config: Config, threads: int | None) -> subprocess.Popen:
    """Start a run's process. Raises UserError or OSError if it can't be started."""
    argv = main_command(config)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    with open(Outcome(config).log, "ab") as log:
        lock(log, "another sweep's process is at work on it: wait for it.")  # the child's too
        log.write(f"$ {shlex.join(argv)}\n".encode(errors="surrogateescape"))
        log.flush()
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {}),
            start_new_session=True,  # a Ctrl-C reaches it once, through us: twice is too often
        )


def ended(config: Config, code: int, received: list[int]) -> Outcome:
    """The outcome of a run whose process ended: one that a signal of ours ended is stopped."""
    ends = {128 + signal.SIGINT, *(c for n in received for c in (-n, 128 + n))}
    if received and code in ends:  # main.py answers a second signal, of any kind, by 130
        return Outcome(config, stopped_by=received[0])
    if code == 0 and (result := find_result(config)):
        return Outcome(config, result)
    failure = f"left no FID of step {config.num_training_steps} in results.jsonl"
    if code < 0:
        hint = " (the system does so when memory runs out)" if code == -signal.SIGKILL else ""
        failure = f"killed by {signal.Signals(-code).name}{hint}"
    elif code > 0:
        printed = Outcome(config).log.read_bytes()[-65536:].decode(errors="replace").strip()
        lines = re.split(r"[\r\n]+", printed)
        errors = [line for line in lines if line.startswith("error: ")]
        failure = f"exit status {code}: {(errors or lines)[-1]}"
    return Outcome(config, failure=failure)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, for the loop to pass on."""
    received: list[int] = []
    handlers = (signal.SIGINT, signal.SIGTERM)
    previous = {s: signal.signal(s, lambda number, _: received.append(number)) for s in handlers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

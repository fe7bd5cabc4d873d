"""Runs of main.py as subprocesses, some at a time; one that fails does not stop the others.

A run's whole output goes to RUN_DIR/log.txt. The file is locked while its process lives, so that
two sweeps, or one that was killed and started again, never train one run twice at the same time.
"""

import dataclasses
import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from inception import WEIGHTS_DIGEST
from inception.weights import digest, find_weights
from lib import checkpoint
from lib.config import Config, differences, load_saved
from lib.errors import UserError
from lib.guards import lock
from lib.runlog import drawing_of, read_results
from scripts._sweep.cost import Cost

MAIN = Path(__file__).resolve().parents[2] / "main.py"
POLL = 0.2  # seconds between two looks at the children
STEP = re.compile(rb"(\d+)/\d+ \[[^\]\r\n]*step")  # of the trainer's progress bar


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its FID's line of results.jsonl, or why there is none.

    `stopped_by` is the signal that ended the sweep before the run was done, 0 if none did.
    """

    config: Config
    result: dict[str, Any] | None = None
    failure: str = ""
    stopped_by: int = 0

    @property
    def status(self) -> str:
        return "finished" if self.result else "stopped" if self.stopped_by else "failed"

    @property
    def log(self) -> Path:
        return log_path(self.config)


def log_path(config: Config) -> Path:
    return config.run_dir / "log.txt"


def find_result(config: Config) -> dict[str, Any] | None:
    """The newest FID of this run at its last step, by its protocol, precision and weights.

    And of z drawn alike, where the model knows --truncation or --latent_density.
    """
    if is_another(config):
        return None
    wanted = ["fid", config.num_training_steps, config.fid_protocol, config.fid_precision]
    wanted.append(drawing_of(vars(config)))
    for result in reversed(read_results(config.run_dir)):
        found = [result.get(key) for key in ("metric", "step", "protocol", "precision")]
        found.append(drawing_of(result))
        if found == wanted and result.get("value") is not None and same_weights(config, result):
            return result
    return None


def is_another(config: Config) -> bool:
    """Whether the folder is that of a run of another configuration, as main.py will say then."""
    try:
        return bool(differences(config, load_saved(config.run_dir / "config.json")))
    except UserError:  # no settings, or none that can be read: main.py writes them anew
        return False


def same_weights(config: Config, result: dict[str, Any]) -> bool:
    found = result.get("weights_sha256")
    if not config.inception_weights and found == WEIGHTS_DIGEST:
        return True  # without looking for 90 MB
    return found == digest_of(config.inception_weights)


@functools.cache
def digest_of(weights: str) -> str:
    return digest(find_weights(weights or None))


def step_reached(config: Config) -> int:
    """The step of the run's newest checkpoint, by its name; 0 if there is none."""
    found = checkpoint.paths(config.run_dir / "checkpoints")
    return int(found[-1].stem) if found else 0


def steps_to_do(config: Config) -> int:
    return config.num_training_steps - step_reached(config)


def main_command(config: Config) -> list[str]:
    """main.py with a flag for each setting that is not the default."""
    words = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            words.append(f"--{field.name}" if field.type is bool else f"--{field.name}={value}")
    return [sys.executable, str(MAIN), *words]


class Child:
    """A process at work on a run. Raises UserError or OSError if it can't be started."""

    def __init__(self, config: Config, argv: list[str], threads: int | None) -> None:
        self.config, self.first_step = config, step_reached(config)
        self.steps_to_do = steps_to_do(config)
        config.run_dir.mkdir(parents=True, exist_ok=True)
        with open(log_path(config), "ab") as log:
            lock(log, "another sweep's process is at work on it: wait for it.")  # the child's too
            log.write(f"$ {shlex.join(argv)}\n".encode())
            log.flush()
            self.log_start = log.tell()
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {}),
                start_new_session=True,  # a Ctrl-C reaches it once, through us: twice is too often
            )

    def output(self, last_bytes: int) -> bytes:
        """The end of what it has printed."""
        with open(log_path(self.config), "rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self.log_start, end - last_bytes))
            return log.read()

    def steps(self) -> int:
        """Steps done by this process, as its progress bar tells."""
        found = STEP.findall(self.output(4096))
        return max(0, int(found[-1]) - self.first_step) if found else 0

    def outcome(self, received: list[int]) -> Outcome:
        """After its end. What a signal of ours ended is stopped, not failed."""
        code = self.process.returncode
        ends = {128 + signal.SIGINT, *(c for n in received for c in (-n, 128 + n))}
        if received and code in ends:  # main.py answers a second signal, of any kind, by 130
            return Outcome(self.config, stopped_by=received[0])
        if code == 0 and (result := find_result(self.config)):
            return Outcome(self.config, result)
        return Outcome(self.config, failure=self.reason(code))

    def reason(self, code: int) -> str:
        if code < 0:
            hint = " (the system does so when memory runs out)" if code == -signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{hint}"
        if code == 0:
            return f"left no FID of step {self.config.num_training_steps} in results.jsonl"
        lines = re.split(r"[\r\n]+", self.output(65536).decode(errors="replace").strip())
        errors = [line for line in lines if line.startswith("error: ")]
        return f"exit status {code}: {(errors or lines)[-1] or 'it printed nothing'}"


def run_all(
    configs: list[Config],
    *,
    jobs: int = 1,
    threads: int | None = None,
    costs: dict[str, Cost] | None = None,
    command: Callable[[Config], list[str]] = main_command,
) -> list[Outcome]:
    """Trains and scores all runs that are not finished, `jobs` at a time; outcomes as configs.

    Never raises for what happens to a run: see Outcome.failure. SIGINT and SIGTERM are passed to
    the children, which save; the outcomes of what was not done then say `stopped_by`. threads: each
    child's OMP_NUM_THREADS, None leaves it alone. costs: by run name, the weight of each run in the
    progress bar; without them a step is a step. command: the argv of a run, other than main.py's
    in tests.
    """
    outcomes = {c.run_name: Outcome(c, r) for c in configs if (r := find_result(c))}
    todo = [config for config in configs if config.run_name not in outcomes]
    if todo:
        with stop_signals() as received, Queue(todo, costs or {}) as queue:
            while queue.goes_on(received):
                queue.start(jobs, threads, command, received)
                queue.forward(received)
                time.sleep(POLL)
                queue.collect(received)
            stopped = [Outcome(c, stopped_by=received[0]) for c in queue.waiting]
        outcomes |= {outcome.config.run_name: outcome for outcome in [*queue.outcomes, *stopped]}
    return [outcomes[config.run_name] for config in configs]


class Queue:
    """Runs that wait, run and are done, behind one progress bar."""

    def __init__(self, todo: list[Config], costs: dict[str, Cost]) -> None:
        self.waiting = list(todo)
        self.running: list[Child] = []
        self.outcomes: list[Outcome] = []
        self.costs = {config.run_name: costs.get(config.run_name, Cost()) for config in todo}
        self.work = {c.run_name: self.costs[c.run_name].of(steps_to_do(c)) for c in todo}
        self.forwarded = 0  # signals that the children have been sent
        self.steps, self.done = 0, 0.0  # of children that have ended: their steps, their work

    def __enter__(self) -> "Queue":
        self.bar = tqdm(
            desc=f"0/{len(self.work)} runs",
            total=sum(self.work.values()),
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
            smoothing=0,  # the children tell how far they are only now and then
            miniters=0,
            mininterval=0.2 if sys.stderr.isatty() else 30.0,
            dynamic_ncols=True,
        )
        self.show()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def goes_on(self, received: list[int]) -> bool:
        return bool(self.running or (self.waiting and not received))

    def start(
        self,
        jobs: int,
        threads: int | None,
        command: Callable[[Config], list[str]],
        received: list[int],
    ) -> None:
        while self.waiting and len(self.running) < jobs and not received:
            config = self.waiting.pop(0)
            try:
                self.running.append(Child(config, command(config), threads))
            except (UserError, OSError) as error:
                self.outcomes.append(Outcome(config, failure=f"not started: {error}"))
                self.work[config.run_name] = 0.0

    def forward(self, received: list[int]) -> None:
        """A second signal too: main.py then stops without saving."""
        for number in received[self.forwarded :]:
            for child in self.running:
                child.process.send_signal(number)
            self.forwarded += 1

    def collect(self, received: list[int]) -> None:
        for child in [c for c in self.running if c.process.poll() is not None]:
            self.running.remove(child)
            self.steps += child.steps()
            outcome = child.outcome(received)
            self.outcomes.append(outcome)
            name = child.config.run_name
            trained = child.steps() * self.costs[name].step
            self.done += self.work[name] if outcome.result else trained
            if outcome.status == "failed":
                self.work[name] = trained  # the rest of it nobody will do
        self.show()

    def show(self) -> None:
        """Work done, in seconds of the estimate; a run that is scored has done its steps."""
        steps = {child.config.run_name: child.steps() for child in self.running}
        done = self.done + sum(steps[name] * self.costs[name].step for name in steps)
        states = [outcome.status for outcome in self.outcomes]
        failed = states.count("failed")
        ended = f"{states.count('finished') + failed}/{len(self.work)} runs"
        words = f", {failed} failed" if failed else ""
        self.bar.set_description_str(ended + words, refresh=False)
        self.bar.total = sum(self.work.values())
        rate = (self.steps + sum(steps.values())) / (time.time() - self.bar.start_t + 1e-9)
        left = self.left(done)
        self.bar.set_postfix_str(f"{left}, {rate:.3g} step/s, {self.at_work(steps)}", refresh=False)
        self.bar.update(max(0.0, done - self.bar.n))  # which prints now and then

    def left(self, done: float) -> str:
        """Time left at the rate so far; no guess from less than a twentieth of the work."""
        elapsed, total = time.time() - self.bar.start_t, self.bar.total
        if done < 0.05 * total or not done:
            return "time left unknown"
        return f"{tqdm.format_interval(elapsed * (total - done) / done)} left"

    def at_work(self, steps: dict[str, int]) -> str:
        """ "2 training, 1 scoring"."""
        trained = [steps[c.config.run_name] >= c.steps_to_do for c in self.running]
        words = ((trained.count(False), "training"), (trained.count(True), "scoring"))
        return ", ".join(f"{n} {word}" for n, word in words if n) or "idle"


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, for the loop to pass on."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

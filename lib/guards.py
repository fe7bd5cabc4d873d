"""Guards around a training loop: stop signals, the progress bar, the refusal of NaN."""

import math
import os
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None


def refuse_nan(values: dict[str, float], step: int) -> None:
    """Raises UserError naming the tags that are no longer numbers."""
    bad = [f"{tag} is {value}" for tag, value in values.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"training broke down: {', '.join(bad)} at step {step}. Nothing was saved from there;"
            " try a lower --learning_rate (a checkpoint, if any was saved, holds finite weights)."
        )


def refuse_broken_weights(networks: dict[str, nn.Module], step: int) -> None:
    """The losses are those before a step's update: this looks at what came of it."""
    values = {
        f"{name}.{key}": value
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    whole = are_finite(list(values.values())).tolist()
    bad = [key for key, is_whole in zip(values, whole, strict=True) if not is_whole]
    refuse_nan(dict.fromkeys(bad[:3], math.nan), step)


def are_finite(values: list[Tensor]) -> Tensor:
    """n tensors, on any devices -> bool (n,) on the first's: True for those of finite values."""
    return torch.stack([value.isfinite().all().to(values[0].device) for value in values])


def refuse_misplaced(run_dir: Path) -> None:
    """Raises UserError if a name that a run writes to is taken by another kind of thing."""
    for folder in (run_dir, run_dir / "checkpoints", run_dir / "samples"):
        if os.path.lexists(folder) and not folder.is_dir():
            raise UserError(f"{folder} is no folder: move it away, or give another --run.")
    for file in (run_dir / "config.json", run_dir / "results.jsonl"):
        if file.exists() and not file.is_file():
            raise UserError(f"{file} is no file: move it away, or give another --run.")


def use_threads(asked: int, kept: int = 0) -> None:
    """Compute with --threads, else OMP_NUM_THREADS, else as many as a run was trained with.

    Another number rounds differently.
    """
    if asked or (kept and "OMP_NUM_THREADS" not in os.environ):
        torch.set_num_threads(asked or kept)


def run_lock(run_dir: Path) -> AbstractContextManager:
    """Lock a run's folder; UserError if another command trains it: both would lose curves."""
    return folder_lock(
        run_dir,
        f"another command is training {run_dir}: wait for it, or give this one another --run.",
    )


@contextmanager
def folder_lock(folder: Path, complaint: str = "") -> Iterator[None]:
    """Lock a folder against other commands: wait for them, or raise UserError(complaint)."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor, complaint)
        yield
    finally:
        os.close(descriptor)


def lock(file: int | BinaryIO, complaint: str = "") -> None:
    """Lock a file until all processes that have it open are gone; UserError if it is taken.

    Without a complaint, wait instead. A file system without locks is left alone.
    """
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if complaint else 0))
    except BlockingIOError:
        raise UserError(complaint) from None
    except OSError:  # a network's file system without locks
        pass


@contextmanager
def stop_signals(*, alone: bool = True) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM for the loop to act on; a second one interrupts at once.

    Not among several processes (alone=False): torchrun repeats the terminal's signal.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and alone:
            raise KeyboardInterrupt
        received.append(number)

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        stopped_together = received and not alone
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if stopped_together else handler)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit(143), so that what is at work is ended in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would disturb that ending
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(number: int, step: int, bar: "Bar") -> NoReturn:
    """Exit with the status of the signal of this number, after saving this step."""
    bar.close()
    name = signal.Signals(number).name
    print(f"{name}: saved step {step}; the same command goes on from there")
    sys.exit(128 + number)


class Pace:
    """Observe a training: print how long it will take, and once a hint if one thread is faster.

    Threads are measured at the start, and when a step takes twice its usual time.
    """

    STEPS = 20  # between two looks

    def __init__(self, trainer: Any, score_seconds: Callable[[], float] | None) -> None:
        self.trainer, self.score_seconds = trainer, score_seconds
        self.ends: list[float] = []  # of the steps since the last look
        self.usual = 0.0  # seconds of a step

    def __call__(self, *_: object) -> None:
        self.ends.append(time.perf_counter())
        if len(self.ends) <= self.STEPS:
            return
        if not self.usual:
            Bar.write(self.forecast((self.ends[-1] - self.ends[0]) / self.STEPS))
        now = statistics.median(end - start for start, end in pairwise(self.ends))
        self.ends.clear()
        if now > 2 * self.usual:
            self.usual = now
            if hint := self.hint():
                Bar.write(hint)
                self.usual = math.inf

    def forecast(self, seconds: float) -> str:
        step, form = self.trainer.step, Bar.format_interval
        left = self.trainer.config.num_training_steps - step
        training = f"step {step}: the other {left:,} will take about {form(left * seconds)}"
        score = self.score_seconds and f", a FID about {form(self.score_seconds())}"
        return training + (score or "")

    def hint(self) -> str:
        """Say how to be faster if one thread is, else "". Grids of samples stand for the steps."""
        threads = torch.get_num_threads()
        if threads == 1 or self.trainer.device.type != "cpu":
            return ""
        seconds: dict[int, list[float]] = {1: [], threads: []}
        for n in (1, threads) * 3:
            torch.set_num_threads(n)
            start = time.perf_counter()
            self.trainer.sample_images()
            seconds[n].append(time.perf_counter() - start)
        one, many = map(statistics.median, seconds.values())
        words = (
            f"this machine is busy: one thread makes samples in {one:.2g} s, {threads} threads in"
            f" {many:.2g} s. Stop this run (Ctrl-C saves) and go on faster by:"
            f" python {shlex.join(sys.argv)} --threads 1"
        )
        return words * (one < many)


class Lines:
    """Turn what tqdm writes for a terminal into lines of a log, each said once."""

    last = ""

    def write(self, text: str) -> None:
        if (text := text.strip().removeprefix(": ")) not in ("", self.last):
            print(text, file=sys.stderr)
            self.last = text

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return False


class Bar(tqdm):
    """A progress bar on a terminal. In a log, a line every LOG_SECONDS and one at the end.

    What is over before the delay, LOG_SECONDS unless given, prints nothing there.
    """

    LOG_SECONDS = 30.0
    LINE = "{desc}: {n_fmt}/{total_fmt} {unit}{postfix}, {rate_fmt}, {remaining} left"

    def __init__(self, *args: Any, **options: Any) -> None:
        options = {"mininterval": 0.2, "dynamic_ncols": True} | options
        if not sys.stderr.isatty():
            options = {"delay": self.LOG_SECONDS} | options
            options |= {"mininterval": self.LOG_SECONDS, "file": Lines(), "bar_format": self.LINE}
        super().__init__(*args, **options)

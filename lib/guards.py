"""What surrounds a training loop: stop signals, the progress bar, the refusal of NaN."""

import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.distributed import rank, together, world
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
    """Whether each tensor is finite in all its values, as one bool tensor on the first's device.

    They may lie on several: the counter of an average's updates stays on the CPU.
    """
    return torch.stack([value.isfinite().all().to(values[0].device) for value in values])


@contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """UserError, on all ranks, where another command trains the same run: both would lose curves.

    The folder itself is locked, by rank 0, while it trains; not where the system or its file system
    knows no locks.
    """
    held = together(lambda: None if rank() or os.name == "nt" else locked(run_dir))
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def locked(folder: Path) -> int:
    """The folder's open descriptor, with its lock."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(
            descriptor,
            f"another command is training {folder}: wait for it, or give this one another --run.",
        )
    except UserError:
        os.close(descriptor)
        raise
    return descriptor


def lock(file: int | BinaryIO, complaint: str) -> None:
    """Until the last process that has this very file open is gone; UserError if it is taken."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(complaint) from None
    except OSError:  # a network's file system without locks
        pass


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM for the loop to act on; a second one interrupts at once.

    Not so among several processes: torchrun passes on what the terminal has sent to all already,
    and signals the others again when the first one exits. It kills what lives 30 s later.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and world() == 1:
            raise KeyboardInterrupt
        received.append(number)

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        stopped_together = received and world() > 1
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if stopped_together else handler)


def progress_bar(done: int, total: int) -> Any:
    """Steps a second and the time left; a line now and then where nobody watches."""
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(initial=done, total=total, unit="step", mininterval=seconds, dynamic_ncols=True)

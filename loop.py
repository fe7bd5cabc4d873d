"""What surrounds a training loop: stop signals, the progress bar, the refusal of NaN."""

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tqdm import tqdm

from errors import UserError


def refuse_nan(values: dict[str, float], step: int) -> None:
    """Raises UserError naming the tags that are no longer numbers."""
    bad = [f"{tag} is {value}" for tag, value in values.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"training broke down: {', '.join(bad)} at step {step}. Nothing was saved from there;"
            " try a lower --learning_rate (the last checkpoint still holds finite weights)."
        )


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM for the loop to act on; a second one interrupts at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def progress_bar(done: int, total: int) -> Any:
    """Steps a second and the time left; a line now and then where nobody watches."""
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(initial=done, total=total, unit="step", mininterval=seconds, dynamic_ncols=True)

"""Rivals timed in turn (A B A B ...): medians, ratios in a round, shares of the peak; a table.

Machines drift and others use them, so rivals are compared within a round, between timings that lie
side by side. Quote the median over rounds; the minimum and maximum say how far to trust it.

torch.utils.flop_counter counts products and convolutions as our code runs, two operations a
multiply-add. Elementwise work is not counted, so shares err low; a peer's extra work earns nothing.
"""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from operator import truediv
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from inception.network import InceptionV3
from metrics.score import device_name, git_commit

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
PEAK = "matrix product, "
MOST_ROUNDS = 50
PEAK_SIZES = {"cpu": 2048, "cuda": 8192}  # of a product large enough to be at its best
HEAD = ["work", "who", "rounds", "ms", "GFLOP/s", "of the peak", "ours against it"]


@dataclass(frozen=True)
class Rival:
    """One call of `work` does `items` of the contest's unit, in `flops` operations."""

    name: str
    work: Callable[[], object]
    items: int = 1  # 0: of a matrix product, which is the peak
    flops: float = 0.0
    precision: str = ""  # of the product whose rate is its peak
    around: Callable[[], AbstractContextManager] = nullcontext  # outside the timing


@dataclass
class Contest:
    """Rivals on the same work."""

    name: str
    rivals: list[Rival]
    left_out: str = ""  # the peer, and why
    pairs: list[tuple[str, str]] = field(default_factory=list)  # (ours, peer); all by default
    warm_up: bool = True


def interleave(
    contest: Contest, rounds: int, budget: float = 0.0, device: torch.device = CPU
) -> dict[str, list[float]]:
    """Seconds of each rival in each round: so many rounds, and more within the budget's seconds."""
    finish = torch.cuda.synchronize if device.type == "cuda" else bool
    seconds: dict[str, list[float]] = {rival.name: [] for rival in contest.rivals}
    for rival in contest.rivals if contest.warm_up else []:
        rival.work()
    began = time.perf_counter()
    for done in range(MOST_ROUNDS):
        spent = time.perf_counter() - began
        if done >= rounds and spent * (done + 1) > budget * done:  # another would not fit
            break
        for rival in contest.rivals:
            with rival.around():
                finish()
                start = time.perf_counter()
                rival.work()
                finish()
                seconds[rival.name].append(time.perf_counter() - start)
    return seconds


def lines(contest: Contest, seconds: dict[str, list[float]]) -> list[list[str]]:
    """A line a rival, as HEAD has it; ratios and shares are of one round each, item for item."""
    own = {r.name: [s / (r.items or 1) for s in seconds[r.name]] for r in contest.rivals}
    rates = {r.name: [r.flops / s for s in seconds[r.name]] for r in contest.rivals}
    ours = [name for name in own if name.startswith("ours")]
    peers = [rival.name for rival in contest.rivals if rival.items and rival.name not in ours]
    pairs = contest.pairs or [(a, b) for a in ours for b in peers]
    found = []
    for rival in contest.rivals:
        name, peak = rival.name, rates.get(PEAK + rival.precision, [])
        ratios = {a: map(truediv, own[name], own[a]) for a, b in pairs if b == name}
        found.append(
            [
                *(contest.name, name, str(len(own[name]))),
                spread(own[name], "{:.2f}", 1e3) if rival.items else "",
                spread(rates[name], "{:.1f}", 1e-9) if rival.flops else "",
                spread(map(truediv, rates[name], peak), "{:.0%}") if rival.precision else "",
                "; ".join(f"{a} {spread(ratio, '{:.2f}x')}" for a, ratio in ratios.items()),
            ]
        )
    return found


def spread(values: Iterable[float], form: str, scale: float = 1.0) -> str:
    """The median (the minimum to the maximum)."""
    values = list(values)
    numbers = statistics.median(values), min(values), max(values)
    return "{} ({} to {})".format(*(form.format(scale * number) for number in numbers))


def provenance(device: torch.device) -> str:
    """The machine, how busy it is before the start, and the code."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.is_file() else []
    return (
        f"{device_name(device)}; {os.cpu_count()} of {[*names, platform.machine()][0]}{load};"
        f" torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}; {git_commit()}"
    )


def count_flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def inception_flops() -> int:
    """The operations for the features of one image."""
    with torch.device("meta"):
        network, image = InceptionV3(), torch.empty(1, 3, 299, 299)
    return count_flops(lambda: network(image))


def products(rivals: list[Rival], device: torch.device) -> list[Rival]:
    """The rivals that reach the peaks of these: n x n by n x n, as often as takes half a second."""
    n, found = PEAK_SIZES[device.type], []
    for precision in sorted({rival.precision for rival in rivals if rival.precision}):
        a, b = (torch.randn(n, n, device=device).to(DTYPES[precision]) for _ in "ab")
        once = partial(torch.matmul, a, b)
        times = max(1, round(0.5 / seconds_of(once, device)))
        work = partial(repeat, once, times)
        found.append(Rival(PEAK + precision, work, items=0, flops=times * 2 * n**3))
    return found


def repeat(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """The time of the second of two calls."""
    return interleave(Contest("", [Rival("", work)]), 1, 0, device)[""][0]

"""Rivals timed in turn (A B A B ...): medians, ratios in a round, shares of the peak; tables.

Machines drift and others use them, so rivals are compared within a round, between timings that lie
side by side. Quote the median over rounds; the minimum and maximum say how far to trust it.

torch.utils.flop_counter counts products and convolutions as our code runs, two operations a
multiply-add. Elementwise work is not counted, so shares err low; a peer's extra work earns nothing.
"""

import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from inception.network import InceptionV3
from metrics.score import device_name, git_commit
from scripts._sweep.table import padded

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
PEAK = "matrix product, "
PEAK_SIZES = {"cpu": 2048, "cuda": 8192}  # of a product large enough to be at its best

Spread = dict[str, float]  # median, min, max
Row = dict[str, Any]


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
    unit: str
    rivals: list[Rival]
    left_out: dict[str, str] = field(default_factory=dict)  # peer -> why
    values: dict[str, float] = field(default_factory=dict)  # results of the work
    pairs: list[tuple[str, str]] = field(default_factory=list)  # (ours, peer); all by default
    warm_up: bool = True


def interleave(
    contest: Contest, rounds: int, finish: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each rival in each round. finish waits for the device, before and after."""
    seconds: dict[str, list[float]] = {rival.name: [] for rival in contest.rivals}
    for rival in contest.rivals if contest.warm_up else []:
        rival.work()
    for _ in range(rounds):
        for rival in contest.rivals:
            with rival.around():
                finish()
                start = time.perf_counter()
                rival.work()
                finish()
                seconds[rival.name].append(time.perf_counter() - start)
    return seconds


def spread(values: Iterable[float]) -> Spread:
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def report(contest: Contest, seconds: dict[str, list[float]]) -> Row:
    """All that is known of a contest, as its JSON has it.

    A row a rival: timings, seconds an item, operations a second, the share round by round.
    """
    rates = {rival.name: [rival.flops / s for s in seconds[rival.name]] for rival in contest.rivals}
    rows = []
    for rival in contest.rivals:
        row: Row = {"name": rival.name, "items": rival.items, "timings": seconds[rival.name]}
        if rival.items:
            row["seconds_an_item"] = spread(s / rival.items for s in seconds[rival.name])
            row["flops_an_item"] = rival.flops / rival.items
        if rival.flops:
            row["flops_a_second"] = spread(rates[rival.name])
        if rival.precision:
            row["limit"] = PEAK + rival.precision
            row["share_of_limit"] = spread(map(truediv, rates[rival.name], rates[row["limit"]]))
        rows.append(row)
    about = {"what": contest.name, "unit": contest.unit, "rows": rows}
    about["ratios"] = ratios(contest, seconds)
    return about | {"values": contest.values, "left_out": contest.left_out}


def ratios(contest: Contest, seconds: dict[str, list[float]]) -> list[Row]:
    """How many times as fast ours is as the peer, item for item, from each round's own pair."""
    each = {r.name: [s / r.items for s in seconds[r.name]] for r in contest.rivals if r.items}
    ours = [name for name in each if name.startswith("ours")]
    pairs = contest.pairs or [(a, b) for a in ours for b in each if b not in ours]
    return [{"ours": a, "peer": b} | spread(map(truediv, each[b], each[a])) for a, b in pairs]


def table(reports: list[Row]) -> str:
    """GitHub Markdown, padded to be read in a terminal too: a line a rival, then the rest."""
    lines, rest = [["work", "who", "ms", "GFLOP/s", "of the peak", "ours against it"]], []
    for report in reports:
        for row in report["rows"]:
            ms = shown(row.get("seconds_an_item"), "{:.2f}", 1e3)
            rate = shown(row.get("flops_a_second"), "{:.1f}", 1e-9)
            share = shown(row.get("share_of_limit"), "{:.0%}")
            pairs = [pair for pair in report["ratios"] if pair["peer"] == row["name"]]
            against = "; ".join(f"{pair['ours']} {shown(pair, '{:.2f}x')}" for pair in pairs)
            lines.append([report["what"], row["name"], ms, rate, share, against])
        rest += [f"{name}: {value:.6g}" for name, value in report["values"].items()]
        rest += [f"left out: {peer}: {why}" for peer, why in report["left_out"].items()]
    return "\n".join([padded(lines), "", *rest])


def shown(values: Spread | None, form: str, scale: float = 1.0) -> str:
    """The median (the minimum to the maximum); "" for None."""
    if values is None:
        return ""
    median, low, high = (form.format(scale * values[key]) for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def provenance(device: torch.device) -> Row:
    """The command, the machine and the code; load: runnable processes a core before the start."""
    threads = os.environ.get("OMP_NUM_THREADS")
    prefix = f"OMP_NUM_THREADS={threads} " if threads else ""
    return {
        "command": f"{prefix}python scripts/benchmark.py {shlex.join(sys.argv[1:])}".rstrip(),
        "device": device_name(device),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "git_commit": git_commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def cpu_model() -> str:
    """The system's name for it, with the widest vector unit that PyTorch uses."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.is_file() else []
    return f"{[*names, platform.machine()][0]}, {torch.backends.cpu.get_cpu_capability()}"


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
    contest = Contest("", "", [Rival("work", work)])
    return interleave(contest, 1, finisher(device))["work"][0]


def finisher(device: torch.device) -> Callable[[], object]:
    """finish() returns when the device has done all work given to it; the CPU always has."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None

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
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from inception.network import InceptionV3
from metrics.score import device_name, git_commit

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
PEAK = "matrix product, "
PEAK_SIZES = {"cpu": 2048, "cuda": 8192}  # of a product large enough to be at its best

Spread = dict[str, float]  # median, min, max
Row = dict[str, Any]


@dataclass(frozen=True)
class Rival:
    """One call of `work` does `items` of the contest's unit, in `flops` floating-point operations.

    precision: names the matrix product whose rate is the peak; a product itself has no items.
    around is entered outside the timing.
    """

    name: str
    work: Callable[[], object]
    items: int = 1
    flops: float = 0.0
    precision: str = ""
    around: Callable[[], AbstractContextManager] = nullcontext


@dataclass
class Contest:
    """Rivals on the same work; pairs: (ours, peer), by default each "ours" with each other one.

    left_out: peer -> why. values: results of the work.
    """

    name: str
    unit: str
    rivals: list[Rival]
    left_out: dict[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
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


def spread(values: list[float]) -> Spread:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarize(contest: Contest, seconds: dict[str, list[float]]) -> list[Row]:
    """A row a rival: timings, seconds an item, operations a second, the share round by round."""
    rates = {rival.name: [rival.flops / s for s in seconds[rival.name]] for rival in contest.rivals}
    rows = []
    for rival in contest.rivals:
        row: Row = {"name": rival.name, "items": rival.items, "timings": seconds[rival.name]}
        if rival.items:
            row["seconds_an_item"] = spread([s / rival.items for s in seconds[rival.name]])
            row["flops_an_item"] = rival.flops / rival.items
        if rival.flops:
            row["flops_a_second"] = spread(rates[rival.name])
        if rival.precision:
            limit = PEAK + rival.precision
            pairs = zip(rates[rival.name], rates[limit], strict=True)
            row |= {"limit": limit, "share_of_limit": spread([r / most for r, most in pairs])}
        rows.append(row)
    return rows


def ratios(contest: Contest, seconds: dict[str, list[float]]) -> list[Row]:
    """How many times as fast ours is as the peer, item for item, from each round's own pair."""
    each = {r.name: [s / r.items for s in seconds[r.name]] for r in contest.rivals if r.items}
    ours = [name for name in each if name.startswith("ours")]
    pairs = contest.pairs or [(a, b) for a in ours for b in each if b not in ours]
    return [
        {"ours": a, "peer": b}
        | spread([theirs / mine for mine, theirs in zip(each[a], each[b], strict=True)])
        for a, b in pairs
    ]


def report(contest: Contest, seconds: dict[str, list[float]]) -> Row:
    """All that is known of a contest, as its JSON has it."""
    rows, pairs = summarize(contest, seconds), ratios(contest, seconds)
    about = {"what": contest.name, "unit": contest.unit, "rows": rows, "ratios": pairs}
    return about | {"values": contest.values, "left_out": contest.left_out}


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
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    cells = (" | ".join(map(str.ljust, line, widths)) for line in lines)
    return "\n".join([*(f"| {line} |" for line in cells), "", *rest])


def shown(values: Spread | None, form: str, scale: float = 1.0) -> str:
    """The median (the minimum to the maximum); "" for None."""
    if values is None:
        return ""
    median, low, high = (form.format(scale * values[key]) for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def provenance(device: torch.device, argv: list[str]) -> Row:
    """The command, the machine and the code; load: runnable processes a core before the start."""
    threads = os.environ.get("OMP_NUM_THREADS")
    prefix = f"OMP_NUM_THREADS={threads} " if threads else ""
    return {
        "command": f"{prefix}python scripts/benchmark.py {shlex.join(argv)}".rstrip(),
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
    names = re.findall(r"model name\s*: (.+)", info.read_text() if info.is_file() else "")
    return f"{[*names, platform.machine()][0]}, {torch.backends.cpu.get_cpu_capability()}"


# Operations and the peak


def count_flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def inception_flops() -> int:
    """The operations for the features of one image."""
    with torch.device("meta"):
        network, image = InceptionV3(), torch.empty(1, 3, 299, 299)
    return count_flops(lambda: network(image))


def frechet_flops(n: int) -> float:
    """Cholesky's factor F n^3 / 3, F^T C F n^3, its reduction to tridiagonal form 4 n^3 / 3.

    Golub & Van Loan 2013, sec. 4.2.5 and 8.3.1; LAPACK Working Note 41, of dpotrf, dsygst, dsytrd.
    """
    return 8 * n**3 / 3


def products(rivals: list[Rival], device: torch.device, n: int = 0) -> list[Rival]:
    """The rivals that reach the peaks of these: n x n by n x n, as often as takes half a second."""
    n, found = n or PEAK_SIZES[device.type], []
    for precision in sorted({rival.precision for rival in rivals}):
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
    finish = finisher(device)
    work()
    finish()
    start = time.perf_counter()
    work()
    finish()
    return time.perf_counter() - start


def finisher(device: torch.device) -> Callable[[], object]:
    """finish() returns when the device has done all work given to it; the CPU always has."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None

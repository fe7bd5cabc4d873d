"""Rivals timed in turn (A B A B ...): medians, ratios in a round, shares of a limit; table, JSON.

Machines drift and others use them, so whatever is compared is compared within a round, between
timings that lie side by side; the median over rounds is the figure to quote, minimum and maximum
beside it tell how far to trust it.
"""

import json
import os
import platform
import shlex
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from metrics.score import git_commit

Spread = dict[str, float]  # median, min, max


@dataclass(frozen=True)
class Rival:
    """What is timed: one call of `work`, in which `items` of the contest's unit are done.

    items is 0 for a limit, which does none of them. flops: floating-point operations that a call
    needs, the same for all who do the same work; moved: bytes read and written, of a copy. limit:
    name of the rival, timed in the same rounds, whose rate is the most that could be reached.
    """

    name: str
    work: Callable[[], object]
    items: int = 1
    flops: float = 0.0
    moved: float = 0.0
    limit: str = ""


@dataclass
class Contest:
    """Rivals on the same work, and what is said of them.

    pairs: (ours, peer), by name. left_out: peer -> why. values: filled by the rivals' work or by
    `compare`, which is called once after the timings.
    """

    unit: str
    rivals: list[Rival]
    pairs: list[tuple[str, str]]
    left_out: dict[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    compare: Callable[[], dict[str, float]] = dict
    warm_up: bool = True


def interleave(
    contest: Contest, rounds: int, finish: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each rival in each round. finish waits for the device, before and after."""
    seconds: dict[str, list[float]] = {rival.name: [] for rival in contest.rivals}
    if contest.warm_up:
        for rival in contest.rivals:
            rival.work()
    for _ in range(rounds):
        for rival in contest.rivals:
            finish()
            start = time.perf_counter()
            rival.work()
            finish()
            seconds[rival.name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float]) -> Spread:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarize(contest: Contest, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row a rival: seconds an item, operations or bytes a second, the share of its limit round by
    round, the raw timings. Entries that do not apply are left out."""
    rates = {
        rival.name: [(rival.flops or rival.moved) / s for s in seconds[rival.name]]
        for rival in contest.rivals
    }
    rows = []
    for rival in contest.rivals:
        timings, rate = seconds[rival.name], rates[rival.name]
        row: dict[str, Any] = {"name": rival.name, "items": rival.items, "timings": timings}
        if rival.items:
            row["seconds_an_item"] = spread([s / rival.items for s in timings])
        if rival.items and rival.flops:
            row["flops_an_item"] = rival.flops / rival.items
        if rival.flops:
            row["flops_a_second"] = spread(rate)
        if rival.moved:
            row["bytes_a_second"] = spread(rate)
        if rival.limit:
            shares = [r / most for r, most in zip(rate, rates[rival.limit], strict=True)]
            row |= {"limit": rival.limit, "share_of_limit": spread(shares)}
        rows.append(row)
    return rows


def ratios(contest: Contest, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """How many times as fast ours is as the peer, item for item, from each round's own pair."""
    items = {rival.name: rival.items for rival in contest.rivals}
    rows = []
    for ours, peer in contest.pairs:
        each = [
            (theirs / items[peer]) / (mine / items[ours])
            for mine, theirs in zip(seconds[ours], seconds[peer], strict=True)
        ]
        rows.append({"ours": ours, "peer": peer} | spread(each))
    return rows


def table(contest: Contest, rows: list[dict[str, Any]], pairs: list[dict[str, Any]]) -> str:
    """GitHub Markdown, padded to be read in a terminal too: the rivals, then the ratios."""
    heads = ["", f"ms a {contest.unit}", "min to max", f"{contest.unit}s/s", "rate", "of the limit"]
    blocks = [aligned([heads, *map(cells, rows)])]
    if pairs:
        lines = [[p["ours"], f"{p['median']:.2f}x", between(p, "{:.2f}"), p["peer"]] for p in pairs]
        heads = ["", "as fast as", "min to max", "peer"]
        blocks.append(aligned([heads, *lines]))
    if contest.values:
        blocks.append("\n".join(f"{name}: {value:.6g}" for name, value in contest.values.items()))
    if contest.left_out:
        blocks.append("\n".join(f"left out: {k}: {why}" for k, why in contest.left_out.items()))
    return "\n\n".join(blocks)


def cells(row: dict[str, Any]) -> list[str]:
    each, share = row.get("seconds_an_item"), row.get("share_of_limit")
    ms = {key: 1e3 * value for key, value in each.items()} if each else None
    return [
        row["name"],
        f"{ms['median']:.2f}" if ms else "",
        between(ms, "{:.2f}") if ms else "",
        f"{1e3 / ms['median']:.4g}" if ms else "",
        rate_in_words(row),
        f"{share['median']:.0%} ({between(share, '{:.0%}')})" if share else "",
    ]


def rate_in_words(row: dict[str, Any]) -> str:
    for key, unit in (("flops_a_second", "GFLOP/s"), ("bytes_a_second", "GB/s")):
        if key in row:
            return f"{row[key]['median'] / 1e9:.1f} {unit}"
    return ""


def between(values: Spread, form: str) -> str:
    return f"{form.format(values['min'])} to {form.format(values['max'])}"


def aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = (" | ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def circumstances(device: torch.device) -> dict[str, Any]:
    """What the figures depend on; load: runnable processes a core before the first timing."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "git_commit": git_commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def cpu_model() -> str:
    """As the system names it, with the widest vector unit that PyTorch makes use of."""
    name = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # no Linux, or a processor without a name there
    return f"{name or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def refuse_unwritable(path: Path) -> None:
    """OSError where no report can be written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.touch()
    part.unlink()


def write(path: Path, report: dict[str, Any]) -> None:
    """JSON, beside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(report, indent=1) + "\n")
    part.replace(path)


def command_line(argv: list[str]) -> str:
    """How to repeat it, the number of threads included where the environment sets it."""
    threads = os.environ.get("OMP_NUM_THREADS")
    prefix = f"OMP_NUM_THREADS={threads} " if threads else ""
    return f"{prefix}python scripts/benchmark.py {shlex.join(argv)}"

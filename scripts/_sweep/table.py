"""The outcomes of a sweep as a table, a row a grid point: terminal, sweep.md and sweep.json."""

import json
import statistics
from pathlib import Path
from typing import Any

from lib.runlog import drawing_of
from scripts._sweep.grid import grid_point
from scripts._sweep.runs import Outcome


def summarize(outcomes: list[Outcome], names: list[str]) -> list[dict[str, Any]]:
    """A row a grid point, in the runs' order; numbers over its finished seeds.

    Entries: point {name: value}, runs (how many), finished, mean, sd (over seeds, n - 1; None below
    two), min, max, errors (jackknife, one a run, None where unknown), floors, protocols.
    """
    groups: dict[tuple, list[Outcome]] = {}
    for outcome in outcomes:
        point = grid_point(outcome.config, names)
        groups.setdefault(tuple(point.values()), []).append(outcome)
    return [
        {"point": dict(zip(names, values, strict=True))} | numbers(group)
        for values, group in groups.items()
    ]


def numbers(group: list[Outcome]) -> dict[str, Any]:
    results = [outcome.result for outcome in group if outcome.result]
    fids = [result["value"] for result in results]
    return {
        "runs": len(group),
        "finished": len(fids),
        "mean": statistics.fmean(fids) if fids else None,
        "sd": statistics.stdev(fids) if len(fids) > 1 else None,
        "min": min(fids, default=None),
        "max": max(fids, default=None),
        "errors": [result.get("error") for result in results],
        "floors": sorted({r["floor"] for r in results if r.get("floor") is not None}),
        "protocols": sorted(set(map(protocol_in_words, results))),
    }


def protocol_in_words(result: dict[str, Any]) -> str:
    """And how z was drawn, where not from N(0, I)."""
    words = (result["protocol"], result["precision"], drawing_of(result))
    return ", ".join(filter(None, words))


def table(outcomes: list[Outcome], names: list[str]) -> str:
    """GitHub Markdown, padded to be read in a terminal too; names: the grid's, as columns."""
    heads = ["seeds", "FID", "min", "max", "error of a run", "floor", "protocol"]
    rows = [[*names, *heads]]
    for row in summarize(outcomes, names):
        rows.append([*map(str, row["point"].values()), *cells(row)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = (" | ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def cells(row: dict[str, Any]) -> list[str]:
    counted = f"{row['finished']}"
    if row["finished"] < row["runs"]:
        counted += f" of {row['runs']}"
    if not row["finished"]:
        return [counted, *["-"] * 6]
    sd = "" if row["sd"] is None else f" ± {row['sd']:.2f}"
    return [
        counted,
        f"{row['mean']:.2f}{sd}",
        f"{row['min']:.2f}",
        f"{row['max']:.2f}",
        span(row["errors"]),
        span(row["floors"]),
        " / ".join(row["protocols"]),
    ]


def span(values: list[float | None]) -> str:
    """ "0.66 to 1.19", or the one value that all share."""
    known = [value for value in values if value is not None]
    if not known:
        return "unknown"
    low, high = f"{min(known):.2f}", f"{max(known):.2f}"
    return low if low == high else f"{low} to {high}"


def notes(outcomes: list[Outcome], names: list[str]) -> list[str]:
    """What the numbers of the table are, and what they are not."""
    rows = summarize(outcomes, names)
    lines = []
    if any(row["sd"] is not None for row in rows):
        lines.append(
            "FID: mean ± standard deviation over seeds (n - 1), not the error of the mean."
        )
    if any(row["finished"] == 1 for row in rows):
        lines.append(
            "One seed: no standard deviation. The luck of the training seed is not in the error of"
            " a run; add --seeds before comparing rows."
        )
    if any(row["finished"] for row in rows):
        lines.append(
            "Error of a run: standard error from its generated images (jackknife). Floor: real"
            " images against other real images."
        )
    if any(outcome.result and outcome.result["protocol"] == "smoke" for outcome in outcomes):
        lines.append("The smoke protocol tries the pipeline; its values are no results.")
    return lines


def problems(outcomes: list[Outcome]) -> list[str]:
    """A line for each run that failed, and where to read why."""
    return [
        f"{outcome.config.run_name}: {outcome.failure} (log: {outcome.log})"
        for outcome in outcomes
        if outcome.status == "failed"
    ]


def as_json(outcomes: list[Outcome], names: list[str]) -> str:
    """{"grid": names, "rows": summarize(...), "runs": [a run's name, point, seed, status, ...]}."""
    runs = [
        {
            "run": outcome.config.run_name,
            "point": grid_point(outcome.config, names),
            "seed": outcome.config.seed,
            "status": outcome.status,
            "result": outcome.result,
            "failure": outcome.failure or None,
            "log": str(outcome.log),
        }
        for outcome in outcomes
    ]
    rows = summarize(outcomes, names)
    return json.dumps({"grid": names, "rows": rows, "runs": runs}, indent=2) + "\n"


def as_markdown(outcomes: list[Outcome], names: list[str]) -> str:
    config = outcomes[0].config
    parts = [
        f"# Sweep of {config.model}, {config.num_training_steps} steps",
        table(outcomes, names),
        *notes(outcomes, names),
    ]
    failed = problems(outcomes)
    if failed:
        parts.append("Failed:\n\n" + "\n".join(f"- {line}" for line in failed))
    return "\n\n".join(parts) + "\n"


def write(outcomes: list[Outcome], names: list[str]) -> tuple[Path, Path]:
    """sweep.md and sweep.json in the runs' folder, over those of the sweep before."""
    folder = Path(outcomes[0].config.runs_dir)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"sweep.md": as_markdown(outcomes, names), "sweep.json": as_json(outcomes, names)}
    for name, text in texts.items():
        part = folder / f"{name}.part"
        part.write_text(text)
        part.replace(folder / name)
    return folder / "sweep.md", folder / "sweep.json"

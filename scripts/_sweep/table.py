"""The outcomes of a sweep as a table, a row a grid point: terminal, sweep.md and sweep.json."""

import json
import statistics
from pathlib import Path
from typing import Any

from lib.files import write_beside_and_rename
from lib.results import drawing_of
from scripts._sweep.grid import grid_point
from scripts._sweep.runs import Outcome

NOTES = {
    "sd": "FID: mean ± standard deviation over seeds (n - 1), not the error of the mean.",
    "one": "One seed: no standard deviation. The luck of the training seed is not in the error of a"
    " run; add --seeds before comparing rows.",
    "error": "Error of a run: standard error from its generated images (jackknife). Floor: real"
    " images against other real images.",
    "smoke": "The smoke protocol tries the pipeline; its values are no results.",
}


def summarize(outcomes: list[Outcome], names: list[str]) -> list[dict[str, Any]]:
    """A row a grid point, in the runs' order; numbers over its finished seeds.

    sd: over seeds, n - 1; None below two. errors: jackknife, one a run, None if unknown.
    """
    groups: dict[tuple, list[Outcome]] = {}
    for outcome in outcomes:
        point = grid_point(outcome.config, names)
        groups.setdefault(tuple(point.values()), []).append(outcome)
    rows = []
    for values, group in groups.items():
        results = [outcome.result for outcome in group if outcome.result]
        fids = [result["value"] for result in results]
        row = {"point": dict(zip(names, values, strict=True)), "runs": len(group)}
        row |= {"finished": len(fids), "mean": statistics.fmean(fids) if fids else None}
        row |= {"sd": statistics.stdev(fids) if len(fids) > 1 else None}
        row |= {"min": min(fids, default=None), "max": max(fids, default=None)}
        row["errors"] = [result.get("error") for result in results]
        row["floors"] = sorted({r["floor"] for r in results if r.get("floor") is not None})
        by = ((r["protocol"], r["precision"], drawing_of(r)) for r in results)
        row["protocols"] = sorted({", ".join(filter(None, words)) for words in by})
        rows.append(row)
    return rows


def table(outcomes: list[Outcome], names: list[str]) -> str:
    """GitHub Markdown, padded to be read in a terminal too; names: the grid's, as columns."""
    head = [*names, "seeds", "FID", "min", "max", "error of a run", "floor", "protocol"]
    rows = summarize(outcomes, names)
    return padded([head, *([*map(str, row["point"].values()), *cells(row)] for row in rows)])


def padded(rows: list[list[str]]) -> str:
    """A Markdown table whose columns line up; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows)


def cells(row: dict[str, Any]) -> list[str]:
    finished, runs = row["finished"], row["runs"]
    counted = f"{finished}" + f" of {runs}" * (finished < runs)
    if not finished:
        return [counted, *["-"] * 6]
    sd = "" if row["sd"] is None else f" ± {row['sd']:.2f}"
    low, high = f"{row['min']:.2f}", f"{row['max']:.2f}"
    spans = span(row["errors"]), span(row["floors"])
    return [counted, f"{row['mean']:.2f}{sd}", low, high, *spans, " / ".join(row["protocols"])]


def span(values: list[float | None]) -> str:
    """Write '0.66 to 1.19', or the one value that all share."""
    known = sorted(value for value in values if value is not None)
    ends = dict.fromkeys(f"{value:.2f}" for value in (*known[:1], *known[-1:]))
    return " to ".join(ends) or "unknown"


def notes(outcomes: list[Outcome], names: list[str]) -> list[str]:
    """Say what the numbers of the table are, and what they are not."""
    finished = [row["finished"] for row in summarize(outcomes, names)]
    protocols = {outcome.result["protocol"] for outcome in outcomes if outcome.result}
    holds = {"sd": max(finished) > 1, "one": 1 in finished, "error": any(finished)}
    holds["smoke"] = "smoke" in protocols
    return [NOTES[name] for name in NOTES if holds[name]]


def problems(outcomes: list[Outcome]) -> list[str]:
    """A line for each run that failed, and where to read why."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    return [f"{o.config.run_name}: {o.failure} (log: {o.log})" for o in failed]


def write(outcomes: list[Outcome], names: list[str]) -> tuple[Path, Path]:
    """sweep.md and sweep.json in the runs' folder, over those of the sweep before.

    The JSON: {"grid": names, "rows": summarize(...), "runs": [name, point, seed, status, ...]}.
    """
    config, failed = outcomes[0].config, problems(outcomes)
    title = f"# Sweep of {config.model}, {config.num_training_steps} steps"
    parts = [title, table(outcomes, names), *notes(outcomes, names)]
    parts += ["Failed:\n\n" + "\n".join(f"- {line}" for line in failed)] * bool(failed)
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
    found = {"grid": names, "rows": summarize(outcomes, names), "runs": runs}
    folder = Path(config.runs_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "sweep.md", folder / "sweep.json"
    texts = "\n\n".join(parts), json.dumps(found, indent=2)
    for path, text in zip(paths, texts, strict=True):
        write_beside_and_rename(path, f"{text}\n".encode(errors="backslashreplace"))
    return paths

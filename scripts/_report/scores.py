"""The report's tables of scores: FID by settings, and KID where the runs have it."""

import statistics
from typing import Any

from lib.runlog import drawing_in_words
from scripts._report.plots import fid_plot
from scripts._report.runs import Group, Protocol, label, varying

PASS_MARK = 60.0  # the homework's, for the best of its four runs
DIGITS = {"fid": 1, "kid": 5}


def fid_section(groups: list[Group], names: list[str], protocol: Protocol | None) -> dict[str, Any]:
    scored = sorted((g for g in groups if g.values), key=lambda g: g.mean)
    without = [run.name for g in groups for run in g.runs if not run.fid]
    notes = []
    floor = None
    if scored:
        newest = next(run.fid for run in scored[0].runs if run.fid)
        floor = newest.get("floor")
        notes.append(
            f"Protocol {protocol[0]}, {protocol[1]}: {newest['n_real']:,} real images of the"
            f" {newest['split']} split against {newest['n_fake']:,}"
            f" generated{drawing_in_words(newest)}."
            " ± is the standard error from the draw of the generated images, not the luck of the"
            " training seed, which sd shows."
        )
        if floor:
            of = newest.get("floor_of") or "real against real"
            note = "half the counts: set too high" if "halves" in of else "the same counts"
            notes.append(f"Floor: {of} at {note}, {floor:.2f}.")
        if protocol[0] == "smoke":
            notes.append("This protocol tries the pipeline: its values are no results.")
    if without:
        notes.append(f"Not scored at their last step by this protocol: {', '.join(without)}.")
    rows = [score_row(group, names, "fid") for group in scored]
    mark = PASS_MARK if protocol and protocol[0] == "homework" else None
    plot = fid_plot(groups, names, floor, mark) if scored else None
    kid = {"rows": kid_rows(groups), "note": kid_note(groups)}
    return {"rows": rows, "plot": plot, "note": " ".join(notes), "kid": kid}


def own_section(groups: list[Group]) -> dict[str, Any]:
    """The scores that FID and KID are not: a row a metric, a column a group that has any."""
    scored = [group for group in groups if any(run.own for run in group.runs)]
    names = varying(scored)
    metrics = dict.fromkeys(m for group in scored for run in group.runs for m in run.own)
    return {
        "columns": [label(group, names) for group in scored],
        "rows": [[metric, *(own_cell(group, metric) for group in scored)] for metric in metrics],
    }


def own_cell(group: Group, metric: str) -> str:
    """Value ± error of one seed; mean, sd and number of several."""
    found = [run.own[metric] for run in group.runs if metric in run.own]
    if not found:
        return ""
    values = [float(result["value"]) for result in found]
    mean = f"{statistics.fmean(values):.4g}"
    if len(values) > 1:
        return f"{mean} (sd {statistics.stdev(values):.2g}, {len(values)} seeds)"
    error = found[0].get("error")
    return mean if error is None else f"{mean} ± {error:.2g}"


def kid_rows(groups: list[Group]) -> list[dict[str, str]]:
    """Of the groups that have a KID, the lowest first, told apart among themselves."""
    scored = [group for group in groups if group.scores("kid")]
    names = varying(scored)
    scored.sort(key=lambda g: statistics.fmean(r["value"] for _, r in g.scores("kid")))
    return [score_row(group, names, "kid") for group in scored]


def kid_note(groups: list[Group]) -> str:
    results = [result for group in groups for _, result in group.scores("kid")]
    if not results:
        return ""
    newest = results[0]
    return (
        f"Protocol {newest['protocol']}, {newest['precision']}: {newest['n_real']:,} real images of"
        f" the {newest['split']} split against {newest['n_fake']:,}"
        f" generated{drawing_in_words(newest)}."
        " KID is the unbiased squared MMD (not times 1000): about 0, within its error, where the"
        " two sets are alike, however few images there are. ± is the standard error from the draw"
        " of both sets."
    )


def score_row(group: Group, names: list[str], metric: str) -> dict[str, str]:
    digits, scores = DIGITS[metric], group.scores(metric)
    values = [result["value"] for _, result in scores]
    each = [
        f"{result['value']:.{digits}f} ± {result['error']:.{digits}f} ({seed})"
        if result["error"] is not None
        else f"{result['value']:.{digits}f} ({seed})"
        for seed, result in scores
    ]
    return {
        "label": label(group, names),
        "n": str(len(values)),
        "mean": f"{statistics.fmean(values):.{digits}f}",
        "sd": f"{statistics.stdev(values):.{digits}f}" if len(values) > 1 else "one seed",
        "each": ", ".join(each),
    }

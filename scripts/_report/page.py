"""The report's content, section by section, as blocks: words, tables, pictures."""

from dataclasses import fields
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from metrics.curve_rules import EQUILIBRIUM, NASH
from metrics.curves import Diagnosis, diagnose
from metrics.score import git_commit
from scripts._report.answers import fixed, interpolation, mlp_beside_cnn, pictures, sample
from scripts._report.blocks import Block, Fold, Heading, Items, Pictures, Table, Text, say
from scripts._report.groups import HIDDEN, SHORT, defining, differing, group_runs, name_runs
from scripts._report.plots import curve
from scripts._report.runs import Run, best_run
from scripts._report.scores import PASS_MARK, counted, effects_of, fid, other_scores
from scripts.evolution import evenly

MOST_OTHERS = 4  # curves of a system's own
MOST_GRIDS = 6  # of a run's samples over time


def content(
    runs: list[Run], unread: list[str], paths: dict[str, Any] | str, digits: dict[str, Any] | str
) -> list[Block]:
    """The whole page. A str in place of the interpolation or the digits says why it is left out."""
    problems = [*unread, *(problem for run in runs for problem in run.problems)]
    groups, best = group_runs(runs), best_run(runs)
    name_runs(groups)
    shown = best or runs[0]
    which = f"The {'best' if best else 'first'} run ({shown.short}{', none scored' * (not best)})"
    penalties = [getattr(run.config, "penalty", "none") for run in runs]
    diagnoses = [diagnose(r.curves, penalty=p) for r, p in zip(runs, penalties, strict=True)]
    return [
        *([head(shown, which)] if shown.samples else []),
        Text(made(runs), note=True),
        Items(summary(runs, diagnoses, digits), "box"),
        *([Text("Not in this report:"), Items(problems, "box bad")] if problems else []),
        *settings(runs),
        *fid(groups),
        *other_scores(groups),
        *effects_of(groups),
        Heading("Curves", "curves"),
        Text(say("curves"), note=True),
        *(block for run in runs for block in (Heading(run.short), curves(run))),
        Heading("Samples", "samples"),
        *(block for run in runs for block in samples(run)),
        Heading("Did the game reach the Nash equilibrium?", "equilibrium"),
        *equilibrium(runs, diagnoses),
        Heading("Interpolation", "interpolation"),
        *(left_out(paths) or interpolation(paths, which, shown)),
        Heading("Mode collapse", "collapse"),
        *(left_out(digits) or collapse(digits, which)),
        *mlp_beside_cnn(groups),
        *protocol_notes(runs),
    ]


def left_out(found: dict[str, Any] | str) -> list[Block]:
    return [Text(f"Left out: {found}")] if isinstance(found, str) else []


def head(run: Run, which: str) -> Pictures:
    caption = f"{which}: step {run.samples[-1][0]}, {fixed(run)}, not selected."
    return Pictures([sample(run, *run.samples[-1])], (caption,), "head")


def equilibrium(runs: list[Run], diagnoses: list[Diagnosis]) -> list[Block]:
    """Answer in a sentence and a table with a row a run; the reasons fold away."""
    rows, reasons = [], []
    for run, found in zip(runs, diagnoses, strict=True):
        values = found.windows[-1].values if found.windows else {}
        medians = [f"{np.median(values[tag]):.2f}" if tag in values else "" for tag in NASH]
        rows.append([run.short, found.verdict, *medians])
        reasons.append(Text(" ".join([f"{run.short}:", *found.sentences, found.advice])))
    head = ["run", "verdict", *(f"{tag} ({NASH[tag]:.3g})" for tag in NASH)]
    said = f"{near_equilibrium(diagnoses)} {say('equilibrium')}"
    return [Text(said), Table(head, rows, (0, 1)), Fold("The verdicts' reasons", reasons)]


def near_equilibrium(diagnoses: list[Diagnosis]) -> str:
    near = sum(found.verdict == EQUILIBRIUM for found in diagnoses)
    return f"By the curves {near or 'none'} of {len(diagnoses)} ended near the Nash equilibrium."


def made(runs: list[Run]) -> str:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    commit = git_commit()
    code = f", code {commit[:10]}{'+changes' * commit.endswith('+changes')}" * bool(commit)
    return f"Made {now} from {counted(len(runs), 'run')}{code}, torch {torch.__version__}."


def summary(runs: list[Run], diagnoses: list[Diagnosis], digits: dict[str, Any] | str) -> list[str]:
    best = best_run(runs)
    if best is None:
        return ["No run has a FID at its last step: score one by python main.py --run NAME."]
    value = best.fid["value"]
    first = f"The best run has FID {value:.1f} ({best.short})"
    if best.fid["protocol"] == "homework":
        side = "below" if value < PASS_MARK else "not below"
        first += f", {side} the pass mark of {PASS_MARK:.0f}"
    if floor := best.fid.get("floor"):
        first += f"; real images against real ones score {floor:.1f}"
    trial = [say("trial")] * (best.fid["protocol"] == "smoke")
    sentences = [*trial, f"{first}.", near_equilibrium(diagnoses)]
    if isinstance(digits, dict):
        sentences.append(f"Mode collapse of the best run: {digits['verdict']}.")
    return sentences


def settings(runs: list[Run]) -> list[Block]:
    """The settings in which the runs differ as columns; those that are alike fold away."""
    rows = []
    for run in runs:
        sizes = {f"parameters of {name}": f"{n:,}" for name, n in run.parameters.items()}
        rows.append(defining(run) | {"seed": run.config.seed} | sizes | {"full name": run.name})
    defaults = {f.name: f.default for f in fields(runs[0].config)}
    asked = ("latent_dim", *HIDDEN, "batch_size", "steps")  # by the homework, to be stated
    known = dict.fromkeys(n for row in rows for n in row)
    known = [n for n in asked if n in known] + [n for n in known if n not in asked]
    same = [n for n in known if n in defaults and n not in {*asked, *differing(rows)}]
    columns = [n for n in known if n not in same]
    cells = [
        [run.short, *(str(row.get(n, "")) for n in columns)]
        for run, row in zip(runs, rows, strict=True)
    ]
    table = Table(["run", *(SHORT.get(n, n) for n in columns)], cells, (0, len(columns)))
    chosen = [f"{n} {rows[0][n]}" for n in same if rows[0][n] != defaults[n]]
    usual = [f"{n} {rows[0][n]}" for n in same if rows[0][n] == defaults[n] != ""]
    texts = [Text(f"Chosen: {', '.join(chosen)}.")] * bool(chosen)
    folded = Fold("Settings alike in all runs", [*texts, Text(f"Defaults: {', '.join(usual)}.")])
    return [Heading("Settings", "settings"), table, folded]


def curves(run: Run) -> Pictures:
    """The five of a GAN, then some of the system's own, losses first."""
    own = [tag for tag, points in run.curves.items() if tag not in NASH and len(points) > 1]
    own = [tag for tag in own if "/" not in tag and not tag.startswith(("fid", "kid"))]
    own.sort(key=lambda tag: "loss" not in tag)
    tags = [tag for tag in NASH if run.curves.get(tag)] + own[:MOST_OTHERS]
    loss = getattr(run.config, "loss", "")
    shown = [curve(run.name, t, run.curves[t], loss=loss, of=run.short) for t in tags]
    return Pictures(shown, style="curves")


def samples(run: Run) -> list[Block]:
    if not run.samples:
        return [Heading(run.short), Text("No sample grids in its folder.", note=True)]
    shown = evenly(run.samples, MOST_GRIDS)
    steps, grids = [step for step, _ in shown], [sample(run, *grid) for grid in shown]
    caption = f"Step {steps[-1]}, {fixed(run)}, not selected."
    blocks = [Heading(run.short), Pictures(grids[-1:], (caption,), "samples")]
    if captions := tuple(f"step {step}" for step in steps[:-1]):
        blocks.append(Pictures(grids[:-1], captions, "strip", aside=True))
    return blocks


def collapse(found: dict[str, Any], which: str) -> list[Block]:
    of = f"{found['n']} generated images and the training set's"
    shown = pictures("collapse", found["files"], of)
    note = (
        f"{which}: {found['n']:,} images, labelled by a classifier with"
        f" {found['classifier']['errors']} errors on MNIST's {found['classifier']['n']:,} test"
        f" images. Entropy of the digits: {found['entropy_bits']:.2f} bits of 3.32; chi-square"
        f" against the training set: {found['chi2']:.1f} (p = {found['p_value']:.2g})."
    )
    verdict = f"{found['verdict'].capitalize()}. {found['evidence']}"
    return [Text(verdict), Pictures(shown), Text(note, note=True)]


def protocol_notes(runs: list[Run]) -> list[Block]:
    devices = sorted({run.fid.get("device", "an unknown device") for run in runs if run.fid})
    seeds = ", ".join(map(str, sorted({run.config.seed for run in runs})))
    notes = [say("fid"), say("bias"), f"Seeds: {seeds}; all that could be read are in this report."]
    notes += [f"Scored on: {'; '.join(devices)}."] if devices else []
    return [Heading("How it was measured", "protocol"), Items(notes)]

"""The report's content, section by section, as blocks: words, tables, pictures."""

from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from metrics.curve_rules import EQUILIBRIUM, NASH
from metrics.curves import Diagnosis, diagnose
from metrics.score import git_commit
from scripts._report.blocks import Block, Heading, Items, Picture, Pictures, Table, Text
from scripts._report.groups import HIDDEN, Group, defining, differing, group_runs, label, varying
from scripts._report.plots import curve, file_name, small
from scripts._report.runs import Run, best_run
from scripts._report.scores import PASS_MARK, counted, effects_of, fid, other_scores
from scripts.evolution import evenly, read_picture

MOST_OTHERS = 4  # curves of a system's own
MOST_GRIDS = 6  # of a run's samples over time

CURVES_NOTE = (
    "Thin: a point every logging step, the value of that step alone. Thick: moving average over 5 %"
    " of the curve. Dashed: the value at the equilibrium D(x) = D(G(z)) = 0.5."
)
EQUILIBRIUM_NOTE = (
    "At the equilibrium G makes the data's distribution and D can only guess: D(x) = D(G(z)) = 0.5,"
    " discriminator_loss = 2 log 2 = 1.386, generator_loss = log 2 = 0.693 (Goodfellow et al. 2014,"
    " theorem 1). The verdicts are those of doctor.py, from the curves alone."
)
FID_NOTES = (
    "FID: Inception-v3 of 2015, pool3 features (2048), images as bytes resized bilinearly to 299."
    " Inception was trained on photographs: these values compare with other FIDs on the same data"
    " and protocol, with nothing else.",
    "Few images bias FID upward, most for good generators.",
)


def content(
    runs: list[Run], unread: list[str], paths: dict[str, Any] | str, digits: dict[str, Any] | str
) -> list[Block]:
    """The whole page. A str in place of the interpolation or the digits says why it is left out."""
    problems = [*unread, *(problem for run in runs for problem in run.problems)]
    groups, best = group_runs(runs), best_run(runs)
    which = f"The best run, {best.name}" if best else f"The first run, {runs[0].name} (none scored)"
    penalties = [getattr(run.config, "penalty", "none") for run in runs]
    diagnoses = [diagnose(r.curves, penalty=p) for r, p in zip(runs, penalties, strict=True)]
    verdicts = Counter(diagnosis.verdict for diagnosis in diagnoses)
    return [
        Text(made(runs), note=True),
        Items(summary(runs, groups, verdicts, digits), "box"),
        *([Text("Not in this report:"), Items(problems, "box bad")] if problems else []),
        *settings(runs),
        *fid(groups),
        *other_scores(groups),
        *effects_of(groups),
        Heading("Curves", "curves"),
        Text(CURVES_NOTE, note=True),
        *(block for run in runs for block in (Heading(run.name), curves(run))),
        Heading("Samples", "samples"),
        *(block for run in runs for block in samples(run)),
        Heading("Did the game reach the Nash equilibrium?", "equilibrium"),
        Text(EQUILIBRIUM_NOTE, note=True),
        *(block for run, found in zip(runs, diagnoses, strict=True) for block in game(run, found)),
        Heading("Interpolation", "interpolation"),
        *([Text(f"Left out: {paths}")] if isinstance(paths, str) else interpolation(paths, which)),
        Heading("Mode collapse", "collapse"),
        *([Text(f"Left out: {digits}")] if isinstance(digits, str) else collapse(digits, which)),
        *mlp_beside_cnn(groups),
        *protocol_notes(runs),
    ]


def game(run: Run, found: Diagnosis) -> list[Block]:
    sentences = [*map(Text, found.sentences), Text(found.advice, note=True)]
    return [Heading(f"{run.name}: {found.verdict}"), *sentences]


def made(runs: list[Run]) -> str:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    commit = git_commit()
    code = f", code {commit[:10]}{'+changes' * commit.endswith('+changes')}" * bool(commit)
    return f"Made {now} from {counted(len(runs), 'run')}{code}, torch {torch.__version__}."


def summary(
    runs: list[Run], groups: list[Group], verdicts: Counter[str], digits: dict[str, Any] | str
) -> list[str]:
    best = best_run(runs)
    if best is None:
        return ["No run has a FID at its last step: score one by python main.py --run NAME."]
    value = best.fid["value"]
    group = next(g for g in groups if best in g.runs)
    of = f"{label(group, varying(groups))}, seed {best.config.seed}"
    first = f"The best run has FID {value:.1f} ({of})"
    if best.fid["protocol"] == "homework":
        side = "below" if value < PASS_MARK else "not below"
        first += f", {side} the pass mark of {PASS_MARK:.0f}"
    if floor := best.fid.get("floor"):
        first += f"; real images against real ones score {floor:.1f}"
    near = f"By its curves {verdicts[EQUILIBRIUM] or 'none'} of {len(runs)} ended near the Nash"
    listed = "; ".join(f"{verdict} ({n})" for verdict, n in verdicts.items())
    sentences = [f"{first}.", f"{near} equilibrium; verdicts, by number of runs: {listed}."]
    if isinstance(digits, dict):
        sentences.append(f"Mode collapse of the best run: {digits['verdict']}.")
    return sentences


def settings(runs: list[Run]) -> list[Block]:
    """The settings in which the runs differ as columns, those that are alike as one sentence."""
    rows = []
    for run in runs:
        sizes = {f"parameters of {name}": f"{n:,}" for name, n in run.parameters.items()}
        rows.append(defining(run) | {"seed": run.config.seed} | sizes)
    always = ("latent_dim", *HIDDEN, "batch_size", "steps")  # what the homework asks to be stated
    apart = differing(rows)
    columns = [n for n in dict.fromkeys(n for r in rows for n in r) if n in always or n in apart]
    alike = [f"{n} {v}" for n, v in rows[0].items() if n not in columns and v != ""]
    cells = [
        [run.name, *(str(r.get(c, "")) for c in columns)] for run, r in zip(runs, rows, strict=True)
    ]
    table = Table(["run", *columns], cells)
    note = f"Alike in all: {', '.join(alike) or 'nothing'}."
    return [Heading("Settings", "settings"), table, Text(note, note=True)]


def curves(run: Run) -> Pictures:
    """The five of a GAN, then some of the system's own, losses first."""
    own = [tag for tag, points in run.curves.items() if tag not in NASH and len(points) > 1]
    own = [tag for tag in own if "/" not in tag and not tag.startswith(("fid", "kid"))]
    own.sort(key=lambda tag: "loss" not in tag)
    tags = [tag for tag in NASH if run.curves.get(tag)] + own[:MOST_OTHERS]
    loss = getattr(run.config, "loss", "")
    return Pictures([curve(run.name, t, run.curves[t], loss=loss) for t in tags], style="curves")


def samples(run: Run) -> list[Block]:
    if not run.samples:
        return [Heading(run.name), Text("No sample grids in its folder.", note=True)]
    shown = evenly(run.samples, MOST_GRIDS)
    steps, grids = [step for step, _ in shown], [sample(run, *grid) for grid in shown]
    caption = f"Step {steps[-1]}, {fixed(run)}, not selected."
    blocks = [Heading(run.name), Pictures(grids[-1:], (caption,), "samples")]
    if captions := tuple(f"step {step}" for step in steps[:-1]):
        blocks.append(Pictures(grids[:-1], captions, "strip", aside=True))
    return blocks


def sample(run: Run, step: int, path: Path) -> Picture:
    alt = f"Grid of images that {run.name} makes of its {fixed(run)} at step {step}"
    return picture(run.name, path, alt)


def picture(prefix: str, path: Path | str, alt: str) -> Picture:
    path = Path(path)
    return Picture(file_name(prefix, path.stem), alt, small(read_picture(path)))


def fixed(run: Run) -> str:
    """Name what its sample grids are made from."""
    return "fixed noise" if hasattr(run.config, "latent_dim") else "fixed images"


def interpolation(found: dict[str, Any], which: str) -> list[Block]:
    intro = (
        f"{which}: {found['images']} images a pair from z1 (t = 0) to z2 (t = 1), {found['pairs']}"
        f" pairs that the seed {found['seed']} draws; orange frames lie beyond the ends"
        " (extrapolation)."
    )
    of = "images along paths between pairs of noise vectors"
    shown = [
        picture("interpolation", f, f"{Path(f).stem.capitalize()}: {of}") for f in found["files"]
    ]
    sentences = [
        f"{path.capitalize()}, {measure} change: the largest step of a pair is on average"
        f" {s['largest_to_mean']:.1f} times the pair's mean step (1: perfectly even)."
        for path, measures in found["change"].items()
        for measure, s in measures.items()
    ]
    return [Text(intro), Pictures(shown), *map(Text, sentences)]


def collapse(found: dict[str, Any], which: str) -> list[Block]:
    of = f"{found['n']} generated images and the training set's"
    shown = [picture("collapse", f, f"{Path(f).stem.capitalize()}: {of}") for f in found["files"]]
    note = (
        f"{which}: {found['n']:,} images, labelled by a classifier with"
        f" {found['classifier']['errors']} errors on MNIST's {found['classifier']['n']:,} test"
        f" images. Entropy of the digits: {found['entropy_bits']:.2f} bits of 3.32; chi-square"
        f" against the training set: {found['chi2']:.1f} (p = {found['p_value']:.2g})."
    )
    verdict = f"{found['verdict'].capitalize()}. {found['evidence']}"
    return [Text(verdict), Pictures(shown), Text(note, note=True)]


def mlp_beside_cnn(groups: list[Group]) -> list[Block]:
    """CNN and MLP runs that are otherwise alike, their FIDs and samples side by side."""
    blocks: list[Block] = [Heading("MLP beside CNN", "mlp")]
    mlps = [(g, g.settings | {"arch": "cnn"}) for g in groups if g.settings.get("arch") == "mlp"]
    pairs = [(cnn, mlp) for cnn in groups for mlp, alike in mlps if cnn.settings == alike]
    if not pairs:
        return [*blocks, Text("No MLP run beside an equal CNN run: --arch mlp makes one.")]
    for pair in pairs:
        at = label(pair[0], [n for n in ("latent_dim", *HIDDEN) if n in pair[0].settings])
        said, shown = [], {}
        for kind, group in zip(("CNN", "MLP"), pair, strict=True):
            run = group.runs[0]
            size = " and ".join(f"{n:,}" for n in run.parameters.values())
            score = f"{group.mean:.1f}" if group.fids else "not scored"
            said.append(f"{kind} ({size} parameters) FID {score}")
            if run.samples:
                caption = f"{kind}, {at}, seed {run.config.seed}"
                shown[caption] = sample(run, *run.samples[-1])
        blocks.append(Text(f"At {at}: {'; '.join(said)}."))
        blocks.append(Pictures(list(shown.values()), tuple(shown), "strip"))
    why = (
        "A convolution shares its weights over the image and ties each pixel to its neighbours; a"
        " linear layer has to learn every pixel's place anew."
    )
    return [*blocks, Text(why)]


def protocol_notes(runs: list[Run]) -> list[Block]:
    devices = sorted({run.fid.get("device", "an unknown device") for run in runs if run.fid})
    seeds = ", ".join(map(str, sorted({run.config.seed for run in runs})))
    notes = [*FID_NOTES, f"Seeds: {seeds}; all that could be read are in this report."]
    notes += [f"Scored on: {'; '.join(devices)}."] if devices else []
    return [Heading("How it was measured", "protocol"), Items(notes)]

"""The report's content, section by section, as blocks: words, tables, pictures."""

from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from metrics.curve_rules import EQUILIBRIUM, NASH
from metrics.curves import diagnose
from metrics.score import git_commit
from scripts._report.blocks import Block, Heading, Items, Picture, Pictures, Table, Text
from scripts._report.groups import HIDDEN, Group, defining, differing, group_runs, label, varying
from scripts._report.plots import curve, file_name, read_png
from scripts._report.runs import Protocol, Run, best_run
from scripts._report.scores import PASS_MARK, counted, effects_of, fid, other_scores

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
    runs: list[Run],
    protocol: Protocol | None,
    problems: list[str],
    paths: dict[str, Any] | str,
    digits: dict[str, Any] | str,
) -> list[Block]:
    """The whole page. A str in place of the interpolation or the digits says why it is left out."""
    groups = group_runs(runs)
    which = "The best run" if best_run(runs) else "The first run (none is scored)"
    diagnoses = [
        diagnose(run.curves, penalty=getattr(run.config, "penalty", "none")) for run in runs
    ]
    verdicts = Counter(diagnosis.verdict for diagnosis in diagnoses)
    return [
        Text(made(runs), note=True),
        Items(summary(runs, groups, verdicts, digits), "box"),
        *([Text("Not in this report:"), Items(problems, "box bad")] if problems else []),
        *settings(runs),
        *fid(groups, protocol),
        *other_scores(groups),
        *effects_of(groups),
        Heading("Curves", "curves"),
        Text(CURVES_NOTE, note=True),
        *(block for run in runs for block in (Heading(run.name), curves(run))),
        Heading("Samples", "samples"),
        *(block for run in runs for block in samples(run)),
        Heading("Did the game reach the Nash equilibrium?", "equilibrium"),
        Text(EQUILIBRIUM_NOTE, note=True),
        *(
            block
            for run, diagnosis in zip(runs, diagnoses, strict=True)
            for block in (
                Heading(f"{run.name}: {diagnosis.verdict}"),
                *map(Text, diagnosis.sentences),
                Text(diagnosis.advice, note=True),
            )
        ),
        Heading("Interpolation", "interpolation"),
        *([Text(f"Left out: {paths}")] if isinstance(paths, str) else interpolation(paths, which)),
        Heading("Mode collapse", "collapse"),
        *([Text(f"Left out: {digits}")] if isinstance(digits, str) else collapse(digits, which)),
        *mlp_beside_cnn(groups),
        *protocol_notes(runs),
    ]


def made(runs: list[Run]) -> str:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    commit = git_commit()
    code = f", code {commit[:10]}{'+changes' if commit.endswith('+changes') else ''}" * bool(commit)
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
    rows = [
        defining(run)
        | {"seed": run.config.seed}
        | {f"parameters of {name}": f"{n:,}" for name, n in run.parameters.items()}
        for run in runs
    ]
    always = ("latent_dim", *HIDDEN, "batch_size", "steps")  # what the homework asks to be stated
    apart = differing(rows)
    columns = [n for n in dict.fromkeys(n for r in rows for n in r) if n in always or n in apart]
    alike = [f"{n} {v}" for n, v in rows[0].items() if n not in columns and v != ""]
    cells = [
        [run.name, *(str(row.get(c, "")) for c in columns)]
        for run, row in zip(runs, rows, strict=True)
    ]
    return [
        Heading("Settings", "settings"),
        Table(["run", *columns], cells),
        Text(f"Alike in all: {', '.join(alike) or 'nothing'}.", note=True),
    ]


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
    *before, (last, path) = evenly(run.samples, MOST_GRIDS)
    caption = f"Step {last}, {run.fixed}, not selected."
    blocks = [Heading(run.name), Pictures([sample(run, last, path)], (caption,), "samples")]
    if before:
        steps = tuple(f"step {step}" for step, _ in before)
        blocks.append(Pictures([sample(run, *grid) for grid in before], steps, "strip", aside=True))
    return blocks


def evenly(items: list[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly spread, the last always among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def sample(run: Run, step: int, path: Path) -> Picture:
    alt = f"Grid of images that {run.name} makes of its {run.fixed} at step {step}"
    return Picture(file_name(run.name, path.stem), alt, read_png(path))


INTERPOLATION_ALT = {
    "linear": "Rows of images along straight lines between pairs of noise vectors",
    "spherical": "Rows of images along great circles between pairs of noise vectors",
    "change": "How much the image changes from step to step along the paths",
}


def interpolation(found: dict[str, Any], which: str) -> list[Block]:
    intro = (
        f"{which}, {found['run']}: {found['images']} images a pair from z1 (t = 0) to z2 (t = 1),"
        f" {found['pairs']} pairs that the seed {found['seed']} draws; orange frames lie beyond the"
        " ends (extrapolation)."
    )
    pictures = [
        file_picture("interpolation", name, INTERPOLATION_ALT[Path(name).stem])
        for name in found["files"]
    ]
    sentences = [
        f"{path.capitalize()}, {measure} change: the largest step of a pair is on average"
        f" {s['largest_to_mean']:.1f} times the pair's mean step (1: perfectly even)."
        for path, measures in found["change"].items()
        for measure, s in measures.items()
    ]
    return [Text(intro), Pictures(pictures), *map(Text, sentences)]


def file_picture(prefix: str, name: str, alt: str) -> Picture:
    return Picture(file_name(prefix, Path(name).stem), alt, read_png(Path(name)))


def collapse(found: dict[str, Any], which: str) -> list[Block]:
    of = f"the digits among {found['n']} generated images beside the training set's"
    alts = [f"Bar chart of {of}", *["Generated images beside their nearest training images"] * 5]
    pairs = zip(found["files"], alts, strict=False)
    note = (
        f"{which}: {found['n']:,} images, labelled by a classifier with"
        f" {found['classifier']['errors']} errors on MNIST's {found['classifier']['n']:,} test"
        f" images. Entropy of the digits: {found['entropy_bits']:.2f} bits of 3.32; chi-square"
        f" against the training set: {found['chi2']:.1f} (p = {found['p_value']:.2g})."
    )
    pictures = [file_picture("collapse", name, alt) for name, alt in pairs]
    verdict = f"{found['verdict'].capitalize()}. {found['evidence']}"
    return [Text(verdict), Pictures(pictures), Text(note, note=True)]


def mlp_beside_cnn(groups: list[Group]) -> list[Block]:
    """CNN and MLP runs that are otherwise alike, their FIDs and samples side by side."""
    blocks: list[Block] = [Heading("MLP beside CNN", "mlp")]
    pairs = [(a, b) for a in groups for b in groups if differ_in_arch_alone(a, b)]
    if not pairs:
        return [*blocks, Text("No MLP run beside an equal CNN run: --arch mlp makes one.")]
    for cnn, mlp in pairs:
        at = label(cnn, [n for n in ("latent_dim", *HIDDEN) if n in cnn.settings])
        said, pictures, captions = [], [], []
        for kind, group in (("CNN", cnn), ("MLP", mlp)):
            run = group.runs[0]
            size = " and ".join(f"{n:,}" for n in run.parameters.values())
            score = f"{group.mean:.1f}" if group.fids else "not scored"
            said.append(f"{kind} ({size} parameters) FID {score}")
            if run.samples:
                pictures.append(sample(run, *run.samples[-1]))
                captions.append(f"{kind}, {at}, seed {run.config.seed}")
        blocks.append(Text(f"At {at}: {'; '.join(said)}."))
        blocks.append(Pictures(pictures, tuple(captions), "strip"))
    why = (
        "A convolution shares its weights over the image and ties each pixel to its neighbours; a"
        " linear layer has to learn every pixel's place anew."
    )
    return [*blocks, Text(why)]


def differ_in_arch_alone(a: Group, b: Group) -> bool:
    if (a.settings.get("arch"), b.settings.get("arch")) != ("cnn", "mlp"):
        return False
    return a.settings | {"arch": ""} == b.settings | {"arch": ""}


def protocol_notes(runs: list[Run]) -> list[Block]:
    devices = sorted({run.fid.get("device", "an unknown device") for run in runs if run.fid})
    seeds = ", ".join(map(str, sorted({run.config.seed for run in runs})))
    notes = [*FID_NOTES, f"Seeds: {seeds}; all that could be read are in this report."]
    notes += [f"Scored on: {'; '.join(devices)}."] if devices else []
    return [Heading("How it was measured", "protocol"), Items(notes)]

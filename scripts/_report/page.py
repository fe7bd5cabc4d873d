"""The report's content, section by section: words, tables, pictures; no HTML and no Markdown."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from metrics.curve_rules import EQUILIBRIUM
from metrics.curves import diagnose
from metrics.score import git_commit
from scripts._report.plots import Picture, compact, curve
from scripts._report.runs import (
    HIDDEN,
    Effect,
    Group,
    Protocol,
    Run,
    best_run,
    defining,
    effects,
    group_runs,
    label,
    seed_spread,
    varying,
)
from scripts._report.scores import PASS_MARK, fid_section, own_section

TAGS = ("discriminator_loss", "generator_loss", "D(x)", "D(G(z1))", "D(G(z2))")
MOST_OTHERS = 4  # curves of a system's own
HOMEWORK = ("latent_dim", "hidden_dim", *HIDDEN)
MOST_GRIDS = 6  # of a run's samples over time


def content(
    runs: list[Run],
    protocol: Protocol | None,
    problems: list[str],
    interpolation: dict[str, Any] | str,
    collapse: dict[str, Any] | str,
) -> dict[str, Any]:
    """Everything the templates print. A str in place of a part says why it is left out."""
    groups = group_runs(runs)
    names = varying([group for group in groups if group.values])
    which = "The best run" if best_run(runs) else "The first run (none is scored)"
    sections = {
        "settings": settings_table(runs),
        "fid": fid_section(groups, names, protocol),
        "own": own_section(groups),
        "effects": effects_section(groups),
        "runs": [run_section(run) for run in runs],
        "interpolation": isinstance(interpolation, dict)
        and interpolation_section(interpolation, which),
        "interpolation_why": interpolation,
        "collapse": isinstance(collapse, dict) and collapse_section(collapse, which),
        "collapse_why": collapse,
        "mlp": mlp_section(groups),
        "protocol": protocol_notes(runs, protocol),
    }
    diagnoses = {run["name"]: run["diagnosis"] for run in sections["runs"]}
    return sections | {
        "title": "GAN experiments",
        "made": made(runs),
        "summary": summary(runs, groups, diagnoses, collapse),
        "problems": problems,
        "contents": [
            (id, sections["effects"]["title"] if id == "effects" else name) for id, name in CONTENTS
        ],
        "equilibrium_note": EQUILIBRIUM_NOTE,
    }


CONTENTS = [
    ("settings", "Settings"),
    ("fid", "FID"),
    ("own", "Other scores"),
    ("effects", ""),  # its title names the settings
    ("curves", "Curves"),
    ("samples", "Samples"),
    ("equilibrium", "The Nash equilibrium"),
    ("interpolation", "Interpolation"),
    ("collapse", "Mode collapse"),
    ("mlp", "MLP beside CNN"),
    ("protocol", "How it was measured"),
]
EQUILIBRIUM_NOTE = (
    "At the equilibrium G makes the data's distribution and D can only guess: D(x) = D(G(z)) = 0.5,"
    " discriminator_loss = 2 log 2 = 1.386, generator_loss = log 2 = 0.693 (Goodfellow et al. 2014,"
    " theorem 1). The verdicts are those of doctor.py, from the curves alone."
)


def made(runs: list[Run]) -> str:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    commit = git_commit()
    code = f", code {commit[:10]}{'+changes' if commit.endswith('+changes') else ''}" * bool(commit)
    return (
        f"Made {now} from {len(runs)} run{'s' * (len(runs) > 1)}{code}, torch {torch.__version__}."
    )


def summary(
    runs: list[Run], groups: list[Group], diagnoses: dict[str, Any], collapse: dict[str, Any] | str
) -> list[str]:
    best = best_run(runs)
    if best is None:
        return ["No run has a FID at its last step: score one by python main.py --run NAME."]
    value, protocol = best.fid["value"], best.fid["protocol"]
    names = varying(groups)
    group = next(g for g in groups if best in g.runs)
    first = f"The best run has FID {value:.1f} ({label(group, names)}, seed {best.config.seed})"
    if protocol == "homework":
        side = "below" if value < PASS_MARK else "not below"
        first += f", {side} the pass mark of {PASS_MARK:.0f}"
    floor = best.fid.get("floor")
    first += f"; real images against real ones score {floor:.1f}." if floor else "."
    verdicts: dict[str, int] = {}
    for diagnosis in diagnoses.values():
        verdicts[diagnosis.verdict] = verdicts.get(diagnosis.verdict, 0) + 1
    counted = "; ".join(f"{verdict} ({n})" for verdict, n in verdicts.items())
    near = verdicts.get(EQUILIBRIUM, 0) or "none"
    nash = f"By its curves {near} of {len(runs)} ended near the Nash equilibrium"
    sentences = [first, f"{nash}; verdicts on the game, by number of runs: {counted}."]
    if isinstance(collapse, dict):
        sentences.append(f"Mode collapse of the best run: {collapse['verdict']}.")
    return sentences


def settings_table(runs: list[Run]) -> dict[str, Any]:
    """The settings in which the runs differ as columns, those that are alike as one sentence."""
    rows = [settings_of(run) for run in runs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    always = ("latent_dim", *HIDDEN, "batch_size", "steps")  # what the homework asks to be stated
    columns = [n for n in names if n in always or len({str(r.get(n)) for r in rows}) > 1]
    shared = [f"{n} {rows[0].get(n)}" for n in names if n not in columns and rows[0].get(n) != ""]
    return {
        "columns": columns,
        "rows": [
            [run.name, *(str(row.get(c, "")) for c in columns)]
            for run, row in zip(runs, rows, strict=True)
        ],
        "shared": ", ".join(shared) or "nothing",
    }


def settings_of(run: Run) -> dict[str, Any]:
    counts = {f"parameters of {k}": f"{v:,}" for k, v in run.parameters.items()}
    return defining(run) | {"seed": run.config.seed} | counts


def effects_section(groups: list[Group]) -> dict[str, Any]:
    """Differences in FID of one setting at a time; what they are worth beside the seeds' spread.

    Of the homework's settings, but where none of them varies of those that do.
    """
    changed = varying([group for group in groups if group.values])
    others = () if {*HOMEWORK} & {*changed} else tuple(changed)
    at_all = HOMEWORK[:2] if any("latent_dim" in g.settings for g in groups) else ("settings",)
    title = f"What {' and '.join(others or at_all)} do{'es' * (len(others) == 1)}"
    found = effects(groups, others or HOMEWORK)
    rows = [
        {
            "factor": e.factor,
            "before": e.before,
            "after": e.after,
            "others": e.others,
            "fids": f"{e.mean_before:.1f} → {e.mean_after:.1f}",
            "difference": f"{e.difference:+.1f}"
            + (f" ± {e.standard_error:.1f}" if e.standard_error is not None else ""),
        }
        for e in found
    ]
    if not rows:
        none = "No two scored runs differ in just one of these."
        return {"title": title, "rows": [], "sentences": [none]}
    sentences = [s for f in dict.fromkeys(e.factor for e in found) for s in in_words(found, f)]
    spread = seed_spread(groups)
    sentences.append(
        f"The FID's spread over seeds is {spread}; ± above is the standard error of the difference"
        " that follows from it."
        if spread
        else "Every setting was run with one seed, so that the spread over seeds is not known:"
        " small differences may be luck. Several seeds tell: scripts/sweep.py --seeds 3."
    )
    return {"title": title, "rows": rows, "sentences": sentences}


def in_words(found: list[Effect], factor: str) -> list[str]:
    """What a factor does: a number is raised, a word or a switch takes the place of another."""
    own = [e for e in found if e.factor == factor]
    if all(is_number(e.before) and is_number(e.after) for e in own):
        return [mean_effect(f"Raising {factor}", own)]
    changes: dict[str, list[Effect]] = {}
    for e in own:
        changes.setdefault(f"{factor} {e.after} instead of {e.before}", []).append(e)
    return [mean_effect(change, same) for change, same in changes.items()]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def mean_effect(change: str, own: list[Effect]) -> str:
    mean = sum(e.difference for e in own) / len(own)
    way = "lowers" if mean < 0 else "raises"
    over = f"on average over {len(own)} comparison{'s' * (len(own) > 1)}"
    if mean == 0:
        return f"{change} leaves the FID as it is {over}."
    signs = {e.difference < 0 for e in own}
    text = f"{change} {way} the FID by {abs(mean):.1f} {over}"
    return text + ("." if len(signs) == 1 else ", but not in all of them.")


def run_section(run: Run) -> dict[str, Any]:
    own = [tag for tag, points in run.curves.items() if tag not in TAGS and len(points) > 1]
    own = [tag for tag in own if "/" not in tag and not tag.startswith(("fid", "kid"))]
    own.sort(key=lambda tag: "loss" not in tag)
    loss = getattr(run.config, "loss", "")
    tags = [tag for tag in TAGS if run.curves.get(tag)] + own[:MOST_OTHERS]
    curves = [curve(run.name, tag, run.curves[tag], loss=loss) for tag in tags]
    chosen = evenly(run.samples, MOST_GRIDS)
    return {
        "name": run.name,
        "curves": curves,
        "samples": [sample_picture(run, step, path) for step, path in chosen],
        "steps": [step for step, _ in chosen],
        "fixed": run.fixed,
        "diagnosis": diagnose(run.curves, penalty=getattr(run.config, "penalty", "none")),
    }


def evenly(items: list[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly spread, the last always among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def sample_picture(run: Run, step: int, path: Path) -> Picture:
    alt = f"Grid of images that {run.name} makes of its {run.fixed} at step {step}"
    return Picture(f"{run.name}-{path.name}", alt, compact(path.read_bytes(), colours=0))


def interpolation_section(found: dict[str, Any], which: str) -> dict[str, Any]:
    sentences = []
    for path, measures in found["change"].items():
        for measure, s in measures.items():
            sentences.append(
                f"{path.capitalize()}, {measure} change: the largest step of a pair is on average"
                f" {s['largest_to_mean']:.1f} times the pair's mean step (1: perfectly even)."
            )
    return {
        "intro": f"{which}, {found['run']}: {found['images']} images a pair from z1 (t = 0) to"
        f" z2 (t = 1), {found['pairs']} pairs that the seed {found['seed']} draws;"
        f" orange frames lie beyond the ends (extrapolation).",
        "pictures": [
            file_picture("interpolation", name, INTERPOLATION_ALT[Path(name).stem])
            for name in found["files"]
        ],
        "sentences": sentences,
    }


INTERPOLATION_ALT = {
    "linear": "Rows of images along straight lines between pairs of noise vectors",
    "spherical": "Rows of images along great circles between pairs of noise vectors",
    "change": "How much the image changes from step to step along the paths",
}


def file_picture(prefix: str, name: str, alt: str) -> Picture:
    return Picture(f"{prefix}-{Path(name).name}", alt, compact(Path(name).read_bytes()))


def collapse_section(found: dict[str, Any], which: str) -> dict[str, Any]:
    alts = [
        f"Bar chart of the digits among {found['n']} generated images beside the training set's"
    ]
    alts += ["Generated images beside their nearest training images"] * 5
    return {
        "verdict": found["verdict"].capitalize(),
        "evidence": found["evidence"],
        "pictures": [
            file_picture("collapse", n, a) for n, a in zip(found["files"], alts, strict=False)
        ],
        "note": f"{which}: {found['n']:,} images, labelled by a classifier with"
        f" {found['classifier']['errors']} errors on MNIST's {found['classifier']['n']:,} test"
        f" images. Entropy of the digits: {found['entropy_bits']:.2f} bits of 3.32; chi-square"
        f" against the training set: {found['chi2']:.1f} (p = {found['p_value']:.2g}).",
    }


def mlp_section(groups: list[Group]) -> dict[str, Any]:
    """CNN and MLP runs that are otherwise alike, their FIDs and samples side by side."""
    pairs = [(a, b) for a in groups for b in groups if differ_in_arch_alone(a, b)]
    if not pairs:
        none = "No MLP run beside an equal CNN run: --arch mlp makes one."
        return {"sentences": [none], "pictures": [], "captions": []}
    sentences, pictures, captions = [], [], []
    for cnn, mlp in pairs:
        at = label(cnn, [n for n in ("latent_dim", *HIDDEN) if n in cnn.settings])
        sizes = [" and ".join(f"{n:,}" for n in g.runs[0].parameters.values()) for g in (cnn, mlp)]
        fids = [f"{g.mean:.1f}" if g.values else "not scored" for g in (cnn, mlp)]
        sentences.append(
            f"At {at}: CNN ({sizes[0]} parameters) FID {fids[0]}; MLP ({sizes[1]}) FID {fids[1]}."
        )
        for kind, group in (("CNN", cnn), ("MLP", mlp)):
            if group.runs[0].samples:
                pictures.append(sample_picture(group.runs[0], *group.runs[0].samples[-1]))
                captions.append(f"{kind}, {at}, seed {group.runs[0].config.seed}")
    sentences.append(
        "A convolution shares its weights over the image and ties each pixel to its neighbours; a"
        " linear layer has to learn every pixel's place anew."
    )
    return {"sentences": sentences, "pictures": pictures, "captions": captions}


def differ_in_arch_alone(a: Group, b: Group) -> bool:
    if (a.settings.get("arch"), b.settings.get("arch")) != ("cnn", "mlp"):
        return False
    return a.settings | {"arch": ""} == b.settings | {"arch": ""}


def protocol_notes(runs: list[Run], protocol: Protocol | None) -> list[str]:
    devices = sorted({run.fid["device"] for run in runs if run.fid})
    seeds = sorted({run.config.seed for run in runs})
    notes = [
        "FID: Inception-v3 of 2015, pool3 features (2048), images as bytes resized bilinearly to"
        " 299. Inception was trained on photographs: these values compare with other FIDs on the"
        " same data and protocol, with nothing else.",
        "Few images bias FID upward, most for good generators.",
        f"Seeds: {', '.join(map(str, seeds))}; all that could be read are in this report.",
    ]
    if protocol and devices:
        notes.append(f"Scored on: {'; '.join(devices)}.")
    return notes

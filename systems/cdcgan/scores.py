"""The accuracy of a conditional GAN on every list of conditions: results, and tables of misses.

The objects asked for that are seen in generated images, by accuracy.py's rule, as mean and standard
deviation over several draws of z, never of the best draw.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.runlog import make_grid, save_grid
from sources.iclevr import LABELS, load_conditions
from systems.cdcgan.accuracy import confusion, parts_of, top_k_hits, worst

Value = tuple[float, float]  # mean and standard deviation over the draws
DRAWS = 20  # of z a condition


def chance(y: Tensor) -> float:
    """Expected accuracy of images that have nothing to do with y (M, L).

    Each of a row's k labels is among k of L with probability k / L.
    """
    k = y.sum(1).double()
    return float(k.square().sum() / (y.shape[1] * k.sum()))


@dataclass(frozen=True)
class LabelReport:
    """Accuracy of each draw, and of each colour, shape and number of objects over the draws.

    confused (L, L): how often, in all draws, the row's label was missed and the column's seen
    instead; of n misses in an image each pair counts 1 / n.
    """

    draws: tuple[float, ...]
    chance: float
    parts: dict[str, Value]
    confused: Tensor

    @property
    def value(self) -> Value:
        return spread(torch.tensor(self.draws))


def report(scores: Tensor, y: Tensor) -> LabelReport:
    """scores (D, M, L) of D draws for the conditions y (M, L)."""
    asked = y.expand_as(scores).flatten(0, 1)
    hits = top_k_hits(scores.flatten(0, 1), asked).view(scores.shape)
    parts = {k: spread((hits & part).sum((1, 2)) / part.sum()) for k, part in parts_of(y).items()}
    draws = hits.sum((1, 2)) / y.sum()
    confused = confusion(scores.flatten(0, 1), asked)
    return LabelReport(tuple(draws.tolist()), chance(y), parts, confused)


def spread(values: Tensor) -> Value:
    values = values.double()
    return float(values.mean()), float(values.std()) if len(values) > 1 else 0.0


def in_a_table(report: LabelReport, *, most: int = 10) -> str:
    """Markdown: accuracy of each part, then the misses that happened most."""
    lines = ["| of | accuracy | sd over draws |", "| --- | --- | --- |"]
    for name, (mean, sd) in {"all": report.value, **report.parts}.items():
        lines.append(f"| {name} | {mean:.3f} | {sd:.3f} |")
    misses = float(report.confused.sum())
    lines += ["", f"Missed: {misses:.0f} objects in {len(report.draws)} draws."]
    if misses:
        colour, shape = (kept_share(report.confused, word) for word in (0, 1))
        lines += [
            f"Of what was seen instead, {colour:.0%} had the colour and {shape:.0%} the shape.",
            "",
            "| missed | seen instead | share of the misses |",
            "| --- | --- | --- |",
        ]
        rows = worst(report.confused, most)
        lines += [f"| {missed} | {seen} | {value / misses:.1%} |" for missed, seen, value in rows]
    return "\n".join(lines)


def kept_share(confused: Tensor, word: int) -> float:
    """The share of the misses replaced by the same colour (word 0) or shape (word 1)."""
    words = [name.split()[word] for name in LABELS]
    same = torch.tensor([[a == b for b in words] for a in words])
    return float(confused[same].sum() / confused.sum())


def label_results(trainer) -> list[dict[str, Any]]:
    """Score the newest weights, and the best ones if there are any.

    Writes runs/<run>/labels-*: .md, parts and misses; .png, the first draw of each condition.
    """
    generators = {"accuracy": (trainer.sampled_generator(), trainer.step)}
    if trainer.best.exists:
        generators["accuracy_best"] = (trainer.best.network, int(trainer.best.step))
    results, folder = [], trainer.config.run_dir
    trainer.on_main(lambda: folder.mkdir(parents=True, exist_ok=True))
    for metric, (G, step) in generators.items():
        for name, y in lists_of_conditions(trainer).items():
            found = report(trainer.label_scores(G, y, f"accuracy {name}", DRAWS), y)
            path = folder / f"labels-{metric}-{name}.md"
            table = in_a_table(found) + "\n"
            trainer.on_main(lambda path=path, table=table: path.write_text(table, encoding="utf-8"))
            x = trainer.sample(trainer.fixed_noise(len(y), f"accuracy {name}", 0), y, G=G)
            grid, path = make_grid(x, columns=8), path.with_suffix(".png")
            trainer.on_main(lambda grid=grid, path=path: save_grid(grid, path))
            results.append(result(trainer, metric, name, found, len(y), step))
    return results


def lists_of_conditions(trainer) -> dict[str, Tensor]:
    """name -> (M, L) float: test, and new_test if it is there."""
    folder = Path(trainer.config.data_dir) / "iclevr"
    return {
        name: load_conditions(trainer.config.data_dir, f"{name}.json").float()
        for name in ("test", "new_test")
        if (folder / f"{name}.json").is_file()
    }


def result(
    trainer, metric: str, name: str, found: LabelReport, conditions: int, step: int
) -> dict[str, Any]:
    """A line of results.jsonl, without its provenance; error: the mean's own, over the draws."""
    chosen_on = "test" if metric == "accuracy_best" else ""
    chose = ", the list that picks the best weights" if name == chosen_on else ""
    (mean, sd), n = found.value, len(found.draws)
    return {
        "value": mean,
        "error": sd / math.sqrt(n) if n > 1 else math.nan,
        "sd": sd,
        "draws": n,
        "about": f"mean of {n} draws of z, sd {sd:.3f}, by chance {found.chance:.3f};"
        f" {conditions} conditions of {name}{chose}; weights of step {step}",
        "chance": found.chance,
        "parts": {name: value for name, (value, _) in found.parts.items()},
        "metric": f"{metric}/{name}",
        "conditions": conditions,
        "weights_step": step,
        "validated_on": chosen_on,
        "evaluator_sha256": trainer.evaluator.digest,
    }

"""The accuracy of a conditional GAN on every list of conditions: results, and tables of misses."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sources.iclevr import load_conditions
from systems.cdcgan.label_scores import LabelReport, in_a_table, report

if TYPE_CHECKING:
    from systems.cdcgan.trainer import CDCGAN

DRAWS = 20  # of z a condition
MOST_HELD_OUT = 320  # combinations of labels that are scored; ten times test.json's


def label_results(trainer: "CDCGAN") -> list[dict[str, Any]]:
    """Score the newest weights, and the best ones if there are any.

    Writes tables of the accuracy's parts and of the objects missed: runs/<run>/labels-*.md.
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
            results.append(result(trainer, metric, name, found, len(y), step))
    return results


def lists_of_conditions(trainer: "CDCGAN") -> dict[str, Tensor]:
    """name -> (M, L) float: test, new_test if it is there, and what --hold_out held out."""
    folder = Path(trainer.config.data_dir) / "iclevr"
    lists = {
        name: load_conditions(trainer.config.data_dir, f"{name}.json").float()
        for name in ("test", "new_test")
        if (folder / f"{name}.json").is_file()
    }
    if trainer.config.hold_out:
        lists["held_out"] = trainer.held_out[:MOST_HELD_OUT]
    return lists


def result(
    trainer: "CDCGAN", metric: str, name: str, found: LabelReport, conditions: int, step: int
) -> dict[str, Any]:
    """A line of results.jsonl, without its provenance."""
    chosen_on = trainer.config.validate_on if metric == "accuracy_best" else ""
    chose = ", the list that picks the best weights" if name == chosen_on else ""
    fields = found.as_result()
    fields["about"] += f"; {conditions} conditions of {name}{chose}; weights of step {step}"
    return fields | {
        "metric": f"{metric}/{name}",
        "conditions": conditions,
        "weights_step": step,
        "validated_on": chosen_on,
        "evaluator_sha256": trainer.evaluator.digest,
    }

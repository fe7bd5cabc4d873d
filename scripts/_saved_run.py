"""A run's folder -> its Trainer at the latest checkpoint, for the scripts that look at runs."""

from pathlib import Path
from typing import Any

import torch

from lib.config import load_saved, merge
from lib.errors import UserError
from main import SYSTEMS
from trainer import Trainer


def open_run(run_dir: str | Path, **changes: Any) -> Trainer:
    """The run's system with its saved settings and newest weights; `changes` as data_dir="data".

    Raises UserError if the folder is missing, has no settings, or has no whole checkpoint.
    """
    run_dir = Path(run_dir)
    if run_dir.name in ("", ".."):  # "." has no name, and the name says which run it is
        run_dir = run_dir.resolve()
    saved = saved_settings(run_dir)
    model = saved.get("model")
    if model not in SYSTEMS:
        raise UserError(
            f"{run_dir / 'config.json'} is of the model {model!r}: wanted one of"
            f" {', '.join(SYSTEMS)}."
        )
    folders = {"runs_dir": str(run_dir.parent), "run": run_dir.name}
    path = run_dir / "config.json"
    config = merge(SYSTEMS[model].config_class, saved, folders | changes, path)
    trainer = SYSTEMS[model].build(config, torch.device("cpu"))
    if not trainer.resume():
        raise UserError(
            f"{run_dir} has no checkpoint: found {contents(run_dir)}. Train it first:"
            f" python main.py --do_train --runs_dir {run_dir.parent} --run {run_dir.name}"
        )
    return trainer


def saved_settings(run_dir: Path) -> dict[str, Any]:
    """config.json of a run. Raises UserError if the folder is none of a run."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is no folder: wanted a run's, such as runs/NAME.")
    if not (run_dir / "config.json").is_file():
        raise UserError(
            f"{run_dir} is no run: found {contents(run_dir)}, wanted config.json, which"
            " python main.py --do_train writes."
        )
    return load_saved(run_dir / "config.json")


def contents(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return (", ".join(names[:4]) + (", ..." if names[4:] else "")) or "an empty folder"


def named_runs(names: list[str]) -> list[Path]:
    """The folders named on a command line, each once.

    runs/* names what lies beside the runs too, which is passed over: files, a report, a folder of
    other runs. Named alone, it is the caller's to complain of.
    """
    named = list({path.resolve(): path for path in map(Path, names)}.values())
    found = [path for path in named if len(named) == 1 or not lies_beside_runs(path)]
    if named and not found:
        raise UserError(
            f"none of {', '.join(map(str, named))} is a run: wanted folders of one run each, as"
            f" {named[0]}/NAME."
        )
    return found


def lies_beside_runs(path: Path) -> bool:
    if (path / "config.json").exists():
        return False
    return path.is_file() or (path / "report.html").exists() or any(path.glob("*/config.json"))

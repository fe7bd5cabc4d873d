"""Open saved runs, for the scripts that look at them."""

import argparse
import os
from pathlib import Path
from typing import Any

from lib import checkpoint
from lib.command import pick_device
from lib.config import load_saved, merge
from lib.errors import UserError
from main import SYSTEMS, build
from trainer import Trainer


def open_run(run_dir: str | Path, *, device: str = "cpu", **changes: Any) -> Trainer:
    """The run's trainer with its saved settings and newest weights; `changes` as data_dir="data".

    Raises UserError if the folder is missing, has no settings, or has no whole checkpoint.
    """
    run_dir = Path(run_dir)
    if run_dir.name in ("", ".."):  # "." has no name, and the name says which run it is
        run_dir = run_dir.resolve()
    saved, path = saved_settings(run_dir), run_dir / "config.json"
    model = saved.get("model")
    if not isinstance(model, str) or model not in SYSTEMS:
        raise UserError(
            f"{path} is of the model {model!r}, wanted one of {', '.join(SYSTEMS)}: mend the file."
        )
    own = {"runs_dir": str(run_dir.parent), "run": run_dir.name, "device": device}
    config = merge(SYSTEMS[model].config_class, saved, own | changes, path)
    trainer = build(config, pick_device(config))
    if not trainer.resume():
        raise UserError(
            f"{run_dir} has no checkpoint: found {contents(run_dir)}. Train it first:"
            f" python main.py --do_train --runs_dir {run_dir.parent} --run {run_dir.name}"
        )
    return trainer


def open_system(model: str, args: argparse.Namespace, **changes: Any) -> Trainer:
    """Open the run of --run (a folder, or a name in --runs_dir), or else the newest of the model.

    Raises UserError if it is a run of another model.
    """
    run_dir = Path(args.run) if args.run else newest_run(model, args.runs_dir)
    if not run_dir.is_dir() and (Path(args.runs_dir) / run_dir).is_dir():
        run_dir = Path(args.runs_dir) / run_dir
    if (found := saved_settings(run_dir).get("model")) != model:
        raise UserError(f"{run_dir} is a run of --model {found}: wanted one of --model {model}.")
    return open_run(run_dir, device=args.device, data_dir=args.data_dir, **changes)


def newest_run(model: str, runs_dir: str) -> Path:
    """The run whose checkpoint was written last. Raises UserError if the model has none."""
    for run in checkpoint.trained_runs(runs_dir):
        if load_saved(run / "config.json").get("model") == model:
            return run
    raise UserError(
        f"no run of --model {model} with a checkpoint is in {runs_dir}/: train one (python"
        f" main.py --do_train --model {model}), or name one by --run runs/NAME."
    )


def saved_settings(run_dir: Path) -> dict[str, Any]:
    """Read a run's config.json. Raises UserError if the folder is none of a run."""
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

    runs/* also names files, a report and folders of other runs, which are passed over; a single
    name is kept, for the caller to complain of.
    """
    named = list({os.path.realpath(path): path for path in map(Path, names)}.values())
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

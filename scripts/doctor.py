"""Say what the curves of runs tell: python scripts/doctor.py RUN..., see docs/doctor.md."""

import argparse
import sys
import textwrap
from functools import partial
from pathlib import Path

import _root  # noqa: F401

from lib.command import command, flag, run
from lib.config import load_saved
from lib.errors import UserError
from lib.events import read_scalars
from metrics.curves import WINDOW, diagnose
from scripts._saved_run import named_runs


@command(
    flag("run_dirs", nargs="+", metavar="RUN_DIR", help="folder of a run, such as runs/NAME"),
    flag("--window", type=int, default=WINDOW, bounds=(1, 10**9), help="steps judged together"),
)
def main(args: argparse.Namespace) -> int:
    """Return 0, or 1 if one of the runs could not be read; the others are shown."""
    folders = named_runs(args.run_dirs)
    return max([run(partial(show, folder, args.window)) for folder in folders])


def show(run_dir: Path, window: int) -> None:
    """Print the run, what was found, what to try. Raises UserError if it has no curves."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is no folder: wanted a run's, such as runs/NAME.")
    curves, settings = read_scalars(run_dir), run_dir / "config.json"
    penalty = load_saved(settings).get("penalty", "none") if settings.is_file() else "none"
    diagnosis = diagnose(curves, window=window, penalty=penalty)
    print(f"\n{run_dir.name}")
    for line in (*diagnosis.sentences, diagnosis.advice):
        print(textwrap.fill(line, 100, initial_indent="  ", subsequent_indent="    "))


if __name__ == "__main__":
    sys.exit(main())

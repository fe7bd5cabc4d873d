"""Judge the curves of runs: python scripts/doctor.py RUN_DIR... docs/doctor.md."""

import argparse
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from lib import command
from lib.config import load_saved
from lib.errors import UserError
from lib.flags import print_error
from lib.runlog import read_scalars
from metrics.curves import WINDOW, Diagnosis, diagnose
from scripts._saved_run import named_runs


def show(run_dir: Path, diagnosis: Diagnosis) -> None:
    """The run, what was found, what to try."""
    print(f"\n{run_dir.name}")
    for sentence in (*diagnosis.sentences, diagnosis.advice):
        print(textwrap.fill(sentence, 100, initial_indent="  ", subsequent_indent="    "))


def read(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """A run's curves. Raises UserError if the folder is not there or holds none."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is no folder: wanted a run's, such as runs/NAME.")
    return read_scalars(run_dir)


def penalty(run_dir: Path) -> str:
    """The run's --penalty; "none" if there are curves alone."""
    path = run_dir / "config.json"
    return load_saved(path).get("penalty", "none") if path.is_file() else "none"


@command.command(
    command.flag(
        "run_dirs", nargs="+", metavar="RUN_DIR", help="folder of a run, such as runs/NAME"
    ),
    command.flag(
        "--window", type=int, default=WINDOW, bounds=(1, 10**9), help="steps judged together"
    ),
)
def main(args: argparse.Namespace) -> int:
    status = 0
    for run_dir in named_runs(args.run_dirs):
        try:
            curves = read(run_dir)
            show(run_dir, diagnose(curves, window=args.window, penalty=penalty(run_dir)))
        except UserError as error:
            status = print_error(error)
        except OSError as error:
            status = print_error(UserError(command.sentence(error)))
    return status


if __name__ == "__main__":
    sys.exit(main())

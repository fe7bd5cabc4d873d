"""What the curves of runs say of their game: python scripts/doctor.py RUN_DIR... docs/doctor.md."""

import argparse
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from lib.config import load_saved
from lib.errors import UserError
from lib.flags import Parser, print_error
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
    """That of the run's settings; "none" where there are no settings, but curves alone."""
    path = run_dir / "config.json"
    return load_saved(path).get("penalty", "none") if path.is_file() else "none"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        allow_abbrev=False,
        description=__doc__.partition(":")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="as runs/NAME")
    parser.add_argument("--window", type=int, default=WINDOW, help="steps that are judged together")
    args = parser.parse_args(argv)
    if args.window < 1:
        return print_error(UserError(f"--window {args.window}: wanted at least 1 step."))
    status = 0
    try:
        run_dirs = named_runs(args.run_dirs)
    except UserError as error:
        return print_error(error)
    for run_dir in run_dirs:
        try:
            curves = read(run_dir)
            show(run_dir, diagnose(curves, window=args.window, penalty=penalty(run_dir)))
        except UserError as error:
            status = print_error(error)
        except OSError as error:
            reason = error.strerror or error
            status = print_error(UserError(f"{error.filename or run_dir} can't be read: {reason}."))
    return status


if __name__ == "__main__":
    sys.exit(main())

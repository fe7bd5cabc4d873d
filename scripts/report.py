"""Write the experiment report of one or many runs: one self-contained HTML page, and Markdown.

    python scripts/report.py runs/*                  report the runs that are there
    python scripts/report.py --all                   the homework: the grid, an MLP, then the report
    python scripts/report.py --all --quick           the same on a tiny budget, to see it work

Without folders it reports all runs in --runs_dir; with --all, flags of main.py are passed to every
run. Writes runs/report/report.html, report.md and its pictures. A run that can't be read is named
in the report and here, the others are reported, and the exit status is 1.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import _root  # noqa: F401

from inception import load_inception
from lib.command import command, flag
from lib.errors import UserError
from lib.files import write_beside_and_rename
from lib.flags import print_error
from scripts import collapse, interpolate, sweep
from scripts._report.blocks import Pictures, to_html, to_markdown
from scripts._report.page import content
from scripts._report.runs import Run, best_run, of_one_kind, read_run, score_runs
from scripts._saved_run import named_runs

TITLE = "GAN experiments"

# flags of the sweep: the four runs of the homework, and an MLP of the widths that people use
GRID = ["--grid", "latent_dim=16,100", "hidden_dim=16,100"]
MLP = ["--grid", "arch=mlp", "latent_dim=100", "hidden_dim=256"]
QUICK = ["--num_training_steps", "32", "--saving_steps", "16", "--logging_steps", "1"]
QUICK += ["--fid_protocol", "smoke"]


@command(
    flag("--all", action="store_true", help="train and score the homework's runs first"),
    flag("--quick", action="store_true", help="with --all: 32 steps, 64 images a score"),
    flag("--seeds", help="with --all: how many, or a list (default: 1)"),
    flag("--jobs", type=int, bounds=(1, 10_000), help="runs at a time (default: 1)"),
    flag("--runs_dir", default="runs", help="folder of runs"),
    flag("--data_dir", default="data", help="folder of datasets"),
    flag("--out", default="", help="folder to write to (default: RUNS_DIR/report)"),
    flag("--inception_weights", default="", help="file in place of the standard weights"),
    passes=lambda args: args.all,
)
def main(args: argparse.Namespace) -> int:
    """0; 1 if a run failed or can't be read (the report is made of the others); 130/143."""
    if (args.quick or args.seeds or args.jobs) and not args.all:
        raise UserError("--quick, --seeds and --jobs say how to train: give --all too.")
    args.seeds = args.seeds or "1"
    if args.quick and args.runs_dir == "runs":
        args.runs_dir = "runs/quick"  # tiny runs would be mistaken for the real ones
    out, failed = Path(args.out or Path(args.runs_dir) / "report"), 0
    if args.all:
        sweep.parse_seeds(args.seeds)  # else each of the sweeps would complain
        only_plans = "--dry_run" in args.rest
        if not only_plans:
            out.mkdir(parents=True, exist_ok=True)  # before hours of training, not after them
        failed = run_experiments(args)
        if only_plans or failed > 1:  # stopped by a signal
            return failed
    folders = [] if args.all else named_runs(args.rest)
    found = sorted(path.parent for path in Path(args.runs_dir).glob("*/config.json"))
    return max(failed, report(folders or found, out, args))


def run_experiments(args: argparse.Namespace) -> int:
    """Train and score what is not done of the homework's grid and the MLP, by scripts/sweep.py."""
    shared = ["--seeds", args.seeds, "--jobs", str(args.jobs or 1 + args.quick)]
    shared += ["--runs_dir", args.runs_dir, "--data_dir", args.data_dir]
    if args.inception_weights:
        shared += ["--inception_weights", args.inception_weights]
    shared += [*QUICK * args.quick, *args.rest]
    failed = 0
    for grid in (MLP, GRID):  # sweep.md is of the last
        failed = max(failed, sweep.main([*grid, *shared]))
        if failed > 1:  # a Ctrl-C is meant for all that would follow
            break
    return failed


def report(folders: list[Path], out: Path, args: argparse.Namespace) -> int:
    """Write both forms of the report into `out`; 1 if a folder could not be read."""
    runs, unread = read_runs(folders, args.data_dir)
    if not runs:
        raise UserError(
            " ".join(unread)
            or f"no run to report on in {args.runs_dir}: train one first, by python main.py"
            " --do_train, or python scripts/report.py --all does it all."
        )
    for sentence in unread:
        print_error(UserError(sentence))
    alike = of_one_kind(runs)
    notes = [f"{r.name} is of another system or other data." for r in runs if r not in alike]
    if notes:
        print(*notes, "Give their folders to get a report on those.", sep="\n")
    score_runs(alike)
    blocks = content(alike, [*unread, *notes], *examine(best_run(alike) or alike[0], out, args))
    out.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        for picture in block.pictures if isinstance(block, Pictures) else []:
            write_beside_and_rename(out / picture.name, picture.png)
    for name, render in (("report.html", to_html), ("report.md", to_markdown)):
        page = render(TITLE, blocks).encode(errors="backslashreplace")  # bytes of file names
        write_beside_and_rename(out / name, page)  # whole or not at all, as the pictures
    print(f"wrote {out / 'report.html'} and {out / 'report.md'}")
    return 1 if unread else 0


def read_runs(folders: list[Path], data_dir: str) -> tuple[list[Run], list[str]]:
    """The runs that can be read; a sentence on each that can't."""
    runs, unread = [], []
    for folder in folders:
        try:
            run = read_run(folder, data_dir=data_dir)
        except (UserError, OSError) as error:
            where = f"{folder} can't be read: " * isinstance(error, OSError)
            unread.append(f"{where}{error}")
            continue
        while run.name in {other.name for other in runs}:  # of another --runs_dir
            run.name = f"{folder.resolve().parent.name}-{run.name}"
        runs.append(run)
    return runs, unread


def examine(run: Run, out: Path, args: argparse.Namespace) -> list[dict[str, Any] | str]:
    """The run's interpolation and which digits it makes; a str says why there is none of it."""
    try:
        extractor = load_inception("cpu", "fp32", args.inception_weights or None)
    except UserError as error:  # pixels change without it too
        print(f"warning: no feature changes along the paths: {error}")
        extractor = None
    trainer, paths, folder = run.trainer, list(interpolate.PATHS), out / "interpolation"
    drawn = {"pairs": 5, "images": 10, "extrapolate": 2, "seed": 0}
    works = (
        partial(interpolate.examine, trainer, paths, folder, extractor, **drawn),
        partial(collapse.examine, trainer, 1000, run.config.seed, out / "collapse"),
    )
    found = []
    for work in works:
        try:
            found.append(work())
        except UserError as error:
            found.append(str(error))
    return found


if __name__ == "__main__":
    sys.exit(main())

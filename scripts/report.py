"""Write the experiment report of one or many runs: one self-contained HTML page, and Markdown.

    python scripts/report.py runs/*                  report the runs that are there
    python scripts/report.py --all                   the homework: the grid, an MLP, then the report
    python scripts/report.py --all --quick           the same on a tiny budget, to see it work

With --all, flags of main.py are passed to every run. Writes runs/report/report.html, report.md and
its pictures. A run that can't be read is named in the report and here, the others are reported,
and the exit status is 1.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from inception import load_inception
from lib.checkpoint import write_beside_and_rename
from lib.errors import UserError
from lib.flags import Parser, print_error
from scripts import collapse, interpolate, sweep
from scripts._report.blocks import Pictures, to_html, to_markdown
from scripts._report.page import content
from scripts._report.runs import Run, best_run, read_run, score_runs
from scripts._saved_run import named_runs

TITLE = "GAN experiments"

# flags of the sweep: the four runs of the homework, and the MLP at their smallest
GRID = ["--grid", "latent_dim=16,100", "hidden_dim=16,100"]
MLP = ["--grid", "arch=mlp"]
QUICK = ["--num_training_steps", "32", "--saving_steps", "16", "--logging_steps", "1"]
QUICK += ["--fid_protocol", "smoke"]


def main(argv: list[str] | None = None) -> int:
    """0; 1 if a run failed or can't be read (the report is made of the others); 130/143."""
    try:
        args, rest = parse(sys.argv[1:] if argv is None else argv)
        out = Path(args.out or Path(args.runs_dir) / "report")
        failed = 0
        if args.all:
            only_plans = "--dry_run" in rest
            if not only_plans:
                out.mkdir(parents=True, exist_ok=True)  # before hours of training, not after them
            failed = run_experiments(args, rest)
            if only_plans or failed > 1:  # stopped by a signal
                return failed
        folders = named_runs(args.run_dirs) or sorted(
            path.parent for path in Path(args.runs_dir).glob("*/config.json")
        )
        return max(failed, report(folders, out, args))
    except UserError as error:
        return print_error(error)
    except OSError as error:
        where, why = error.filename or "the report", error.strerror or error
        return print_error(UserError(f"{where} can't be used: {why}."))


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own flags, and with --all the words that are left for main.py."""
    p = parser()
    if "--all" not in argv:  # else a value of main.py's flags would be taken for a folder
        p.add_argument("run_dirs", nargs="*", help="folders of runs (default: all in --runs_dir)")
        args = p.parse_args(argv)
        if args.quick:
            raise UserError("--quick is the tiny budget of --all: give both.")
        return args, []
    args, rest = p.parse_known_args(argv)
    args.run_dirs = []
    if args.quick and args.runs_dir == "runs":
        args.runs_dir = "runs/quick"  # tiny runs would be mistaken for the real ones
    return args, rest


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    p.add_argument("--all", action="store_true", help="train and score the homework's runs first")
    p.add_argument("--quick", action="store_true", help="with --all: 32 steps, 64 images a score")
    p.add_argument("--seeds", default="1", help="with --all: how many, or a list (default: 1)")
    text = "with --all: runs at a time (default: 1; --quick: 2)"
    p.add_argument("--jobs", type=int, default=0, help=text)
    p.add_argument("--runs_dir", default="runs", help="folder of runs (default: runs)")
    p.add_argument("--data_dir", default="data", help="folder of datasets (default: data)")
    p.add_argument("--out", default="", help="folder to write to (default: RUNS_DIR/report)")
    p.add_argument("--inception_weights", default="", help="file in place of the standard weights")
    return p


def run_experiments(args: argparse.Namespace, rest: list[str]) -> int:
    """Train and score the homework's grid and the MLP by scripts/sweep.py, but what is done.

    The MLP comes first, so that sweep.md, which is of the last sweep, is of the grid.
    """
    shared = ["--seeds", args.seeds, "--jobs", str(args.jobs or 1 + args.quick)]
    shared += ["--runs_dir", args.runs_dir, "--data_dir", args.data_dir]
    if args.inception_weights:
        shared += ["--inception_weights", args.inception_weights]
    shared += [*(QUICK if args.quick else []), *rest]
    failed = 0
    for grid in (MLP, GRID):
        failed = max(failed, sweep.main([*grid, *shared]))
        if failed > 1:  # a Ctrl-C is meant for all that would follow
            break
    return failed


def report(folders: list[Path], out: Path, args: argparse.Namespace) -> int:
    """Write both forms of the report into `out`; 1 if a folder could not be read."""
    runs, unread, problems = read_runs(folders, args.data_dir)
    if not runs:
        where = " ".join(args.run_dirs) or args.runs_dir
        raise UserError(
            f"no run to report on in {where}: train one first, by"
            " python main.py --do_train, or python scripts/report.py --all does it all."
        )
    protocol = score_runs(runs)
    best = best_run(runs) or runs[0]
    examined = examine_paths(best, out, args), examine_digits(best, out)
    blocks = content(runs, protocol, [*unread, *problems], *examined)
    out.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        for picture in block.pictures if isinstance(block, Pictures) else []:
            write_beside_and_rename(out / picture.name, picture.png)
    for name, render in (("report.html", to_html), ("report.md", to_markdown)):
        page = render(TITLE, blocks).encode(errors="backslashreplace")  # bytes of file names
        write_beside_and_rename(out / name, page)  # whole or not at all, as the pictures
    print(f"wrote {out / 'report.html'} and {out / 'report.md'}")
    return 1 if unread else 0


def read_runs(folders: list[Path], data_dir: str) -> tuple[list[Run], list[str], list[str]]:
    """The runs that can be read; a sentence on each that can't; one on each part passed over."""
    runs, unread, problems = [], [], []
    for folder in folders:
        try:
            run, found = read_run(folder, data_dir=data_dir)
        except (UserError, OSError) as error:
            where = f"{folder} can't be read: " * isinstance(error, OSError)
            unread.append(f"{where}{error}")
            print_error(UserError(unread[-1]))
            continue
        while run.name in {other.name for other in runs}:  # of another --runs_dir
            run.name = f"{folder.resolve().parent.name}-{run.name}"
        runs.append(run)
        problems += found
    return runs, unread, problems


def examine_paths(run: Run, out: Path, args: argparse.Namespace) -> dict[str, Any] | str:
    """The best run's interpolation; a str says why there is none."""
    try:
        extractor = load_inception("cpu", "fp32", args.inception_weights or None)
    except UserError as error:  # pixels change without it too
        print(f"warning: no feature changes along the paths: {error}")
        extractor = None
    paths, folder = list(interpolate.PATHS), out / "interpolation"
    try:
        return interpolate.examine(
            run.trainer, paths, folder, extrapolate=2, extractor=extractor
        ) | {"run": run.name}
    except UserError as error:
        return str(error)


def examine_digits(run: Run, out: Path) -> dict[str, Any] | str:
    """Which digits the best run makes; a str says why that can't be told."""
    try:
        return collapse.examine(run.trainer, 1000, run.config.seed, out / "collapse")
    except UserError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main())

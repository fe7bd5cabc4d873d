"""Ours against its peers on the same work, interleaved, and the share of the machine's peak.

    pip install -r requirements-bench.txt    the peers; one that is missing is named, no more
    python scripts/benchmark.py              all of README's table "How fast", in ten minutes
    python scripts/benchmark.py --only train --ours= --ours="--precision bf16"
    python scripts/benchmark.py --only train-64px train-cdcgan train-cyclegan train-srgan --bf16
    python scripts/benchmark.py --only fid --files 4000 --rounds 1

JSON goes to docs/results/benchmark/. How to read it all: docs/benchmark.md.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from lib.errors import UserError
from lib.flags import Parser, print_error
from scripts._benchmark import timing
from scripts._benchmark.contests import CONTESTS

USUAL = ("train", "train-100", "busy", "inception", "frechet", "fid")
ON_CPU = ("busy", "frechet")  # whatever the device
RESULTS = Path(__file__).parent.parent / "docs/results/benchmark"


def parse_args(argv: list[str]) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=form, allow_abbrev=False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add_flag = parser.add_argument
    add_flag("--only", nargs="+", choices=CONTESTS, default=USUAL, help="these contests")
    add_flag("--rounds", type=int, default=5, help="timings of each rival (default: 5)")
    add_flag("--device", choices=["cpu", "cuda"], default=device, help="busy and frechet: cpu")
    add_flag("--bf16", action="store_true", help="ours in bf16 too")
    add_flag("--results", type=Path, default=RESULTS, help="folder of the JSON")
    add_flag("--ours", action="append", help='train: main.py\'s flags, as --ours="--ema 0.99"')
    add_flag("--steps", type=int, default=0, help="steps a timing (default: about a second)")
    add_flag("--data_dir", default="data", help="folder of datasets")
    add_flag("--images", type=int, default=20, help="inception: images (default: 20)")
    add_flag("--files", type=int, default=200, help="fid: PNGs, half in each folder (default: 200)")
    add_flag("--dims", type=int, default=2048, help="frechet: features (default: 2048)")
    add_flag("--inception_weights", type=Path, help="their file (default: found or fetched)")
    args = parser.parse_args(argv)
    least = {"rounds": 1, "steps": 0, "images": 1, "files": 4, "dims": 1}
    for name, low in least.items():
        if getattr(args, name) < low:
            parser.error(f"--{name} {getattr(args, name)}: wanted {low} or more")
    return args


def run(args: argparse.Namespace, argv: list[str], known: dict[str, Callable]) -> None:
    """Each contest is printed and written when it is over; README's table comes last."""
    args.results.mkdir(parents=True, exist_ok=True)
    (part := args.results / "benchmark.part").touch()  # a folder to write is wanted at once
    torch.backends.cudnn.allow_tf32 = False  # else CUDA's fp32 convolutions are no fp32, but ours
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            device = torch.device("cpu" if name in ON_CPU else args.device)
            shared = timing.provenance(device, argv) | {"rounds": args.rounds}
            contest = known[name](args, Path(folder) / name)
            seconds = timing.interleave(contest, args.rounds, timing.finisher(device))
            torch.set_num_threads(shared["threads"])
            reports.append(timing.report(contest, seconds) | shared)
            print(f"\n{timing.table(reports[-1:])}", flush=True)
            part.write_text(json.dumps(reports[-1], indent=1) + "\n")
            part.replace(args.results / f"{name}.json")
    print(f"\n{timing.table(reports)}\n{args.results}")


def main(argv: list[str] | None = None, known: dict[str, Callable] = CONTESTS) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    try:
        run(args, argv, known)
    except UserError as error:
        return print_error(error)
    except OSError as error:
        return print_error(UserError(f"{error.filename} can't be used: {error.strerror}."))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Ours against its peers on the same work, interleaved, and the share of the machine's peak.

    pip install -r requirements-bench.txt    the peers; one that is missing is named, no more
    python scripts/benchmark.py              all of README's table "How fast", in ten minutes
    python scripts/benchmark.py --only train --ours= --ours="--precision bf16"
    python scripts/benchmark.py --only train-64px --bf16
    python scripts/benchmark.py --only fid --files 4000 --rounds 1

JSON goes to docs/results/benchmark/. How to read it all: docs/benchmark.md.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from lib.command import command, flag
from scripts._benchmark import timing
from scripts._benchmark.contests import CONTESTS

USUAL = ("train", "train-100", "busy", "inception", "frechet", "fid")
ON_CPU = ("busy", "frechet")  # whatever the device
RESULTS = Path(__file__).parent.parent / "docs/results/benchmark"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MOST = 1_000_000


@command(
    flag("--only", nargs="+", choices=CONTESTS, default=USUAL, help="these contests"),
    flag("--rounds", type=int, default=5, bounds=(1, MOST), help="timings of each rival"),
    flag("--device", choices=["cpu", "cuda"], default=DEVICE, help="busy and frechet: cpu"),
    flag("--bf16", action="store_true", help="ours in bf16 too"),
    flag("--results", type=Path, default=RESULTS, help="folder of the JSON"),
    flag("--ours", action="append", help='train: main.py\'s flags, as --ours="--ema 0.99"'),
    flag("--steps", type=int, default=0, bounds=(1, MOST), help="a timing (default: for a second)"),
    flag("--data_dir", default="data", help="folder of datasets"),
    flag("--images", type=int, default=20, bounds=(1, MOST), help="inception: images"),
    flag("--files", type=int, default=200, bounds=(4, MOST), help="fid: PNGs, half in each folder"),
    flag("--dims", type=int, default=2048, bounds=(1, MOST), help="frechet: features"),
    flag("--inception_weights", type=Path, help="their file (default: found or fetched)"),
)
def main(args: argparse.Namespace) -> None:
    """Each contest is printed and written when it is over; README's table comes last."""
    args.results.mkdir(parents=True, exist_ok=True)
    (part := args.results / "benchmark.part").touch()  # a folder to write is wanted at once
    torch.backends.cudnn.allow_tf32 = False  # else CUDA's fp32 convolutions are no fp32, but ours
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            device = torch.device("cpu" if name in ON_CPU else args.device)
            shared = timing.provenance(device) | {"rounds": args.rounds}
            contest = CONTESTS[name](args, Path(folder) / name)
            contest.rivals += timing.products(contest.rivals, device)
            seconds = timing.interleave(contest, args.rounds, timing.finisher(device))
            torch.set_num_threads(shared["threads"])
            reports.append(timing.report(contest, seconds) | shared)
            print(f"\n{timing.table(reports[-1:])}", flush=True)
            part.write_text(json.dumps(reports[-1], indent=1) + "\n")
            part.replace(args.results / f"{name}.json")
    print(f"\n{timing.table(reports)}\n{args.results}")


if __name__ == "__main__":
    sys.exit(main())

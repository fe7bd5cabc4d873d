"""Ours against its peers on the same work, interleaved, and the share of the machine's peak.

    pip install -r requirements-bench.txt    the peers; one that is missing is named, no more
    python scripts/benchmark.py              the fp32 column of README's "How fast", 7 minutes
    python scripts/benchmark.py --only train busy --seconds 120
    python scripts/benchmark.py --only fid --files 4000 --rounds 1

How to read it all: docs/benchmark.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import _root  # noqa: F401
import torch

from lib.command import command, flag
from scripts._benchmark import timing
from scripts._benchmark.contests import CONTESTS
from scripts._sweep.table import padded

USUAL = ("train", "train-100", "busy", "inception", "frechet", "fid")
ON_CPU = ("busy", "frechet")  # whatever the device
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MOST = 1_000_000


@command(
    flag("--only", nargs="+", choices=CONTESTS, default=USUAL, help="these contests"),
    flag("--rounds", type=int, default=5, bounds=(1, MOST), help="timings of each rival, at least"),
    flag("--seconds", type=float, default=15.0, bounds=(0, MOST), help="more rounds until then"),
    flag("--device", choices=sorted({"cpu", DEVICE}), default=DEVICE, help="busy and frechet: cpu"),
    flag("--bf16", action="store_true", help="ours in bf16 too"),
    flag("--data_dir", default="data", help="folder of datasets"),
    flag("--files", type=int, default=200, bounds=(4, MOST), help="fid: PNGs, half in each folder"),
    flag("--dims", type=int, default=2048, bounds=(2, 20_000), help="frechet: features"),
    flag("--inception_weights", type=Path, help="their file (default: found or fetched)"),
)
def main(args: argparse.Namespace) -> None:
    """Each contest is printed when it is over; README's table comes last."""
    torch.backends.cudnn.allow_tf32 = False  # else CUDA's fp32 convolutions are no fp32, but ours
    print(timing.provenance(torch.device(args.device)), flush=True)
    threads, table = torch.get_num_threads(), [timing.HEAD]
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            device = torch.device("cpu" if name in ON_CPU else args.device)
            contest = CONTESTS[name](args, Path(folder) / name)
            contest.rivals += timing.products(contest.rivals, device)
            taken = timing.interleave(contest, args.rounds, args.seconds, device)
            torch.set_num_threads(threads)
            lines = timing.lines(contest, taken)
            left_out = contest.left_out and f"left out: {contest.left_out}\n"
            print(f"\n{padded([timing.HEAD, *lines])}\n{left_out}", end="", flush=True)
            table += lines
    print(f"\n{padded(table)}")


if __name__ == "__main__":
    sys.exit(main())

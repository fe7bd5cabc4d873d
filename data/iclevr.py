"""Render a set of pictures in the form of the course's i-CLEVR, as --dataset iclevr reads it.

    python data/iclevr.py render                          18,009 pictures into data/iclevr/
    python data/iclevr.py render --labels train.json      exactly that file's labels
    python data/iclevr.py render --n 300 --out /tmp/few/iclevr

Cubes, spheres and cylinders in CLEVR's eight colours on a grey ground, as in Johnson et al. 2017,
but drawn by rays in PyTorch instead of Blender (sources/clevr/). It goes on where it was stopped.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.command import command, flag
from lib.errors import UserError
from sources.clevr.folder import (
    Settings,
    check_labels,
    claim,
    draw_conditions,
    draw_rows,
    read_rows,
    render_missing,
    write_json,
)
from sources.iclevr import LABELS

HERE = Path(__file__).resolve().parent
N = 18_009  # pictures in the course's train.json
CONDITIONS = ("test.json", "new_test.json")


@command(
    flag("command", choices=["render"]),
    flag("--out", type=Path, default=HERE / "iclevr", help="the folder (default: beside this)"),
    flag("--n", type=int, default=N, bounds=(2, 1_000_000), help="pictures to train on"),
    flag("--n_val", type=int, bounds=(0, 1_000_000), help="held-out ones (default: --n / 10)"),
    flag("--labels", type=Path, help="a train.json whose pictures to render"),
    flag("--seed", type=int, default=0, bounds=(0, 2**63 - 1), help="of labels and scenes"),
    flag("--size", type=int, default=64, bounds=(16, 1024), help="pixels a side"),
    flag("--workers", type=int, default=os.cpu_count(), bounds=(1, 1024), help="processes"),
)
def main(args: argparse.Namespace) -> int:
    if args.labels and args.n != N:
        raise UserError(
            "--n is the number of drawn pictures, and --labels says which: leave one out."
        )
    try:
        make(args)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def make(args: argparse.Namespace) -> None:
    """The pictures, and the .json files last, so that a loader finds whole sets only."""
    settings = Settings(args.seed, args.size)
    train = (
        read_rows(args.labels) if args.labels else draw_rows(args.n, seed=args.seed, split="train")
    )
    n_val = max(len(train) // 10, 3) if args.n_val is None else args.n_val
    splits = {"train": train, "val": draw_rows(n_val, seed=args.seed, split="val")}
    if clash := splits["train"].keys() & splits["val"].keys():
        raise UserError(f"{args.labels} names {min(clash)}, as the held-out pictures are named.")
    claim(args.out, settings, labels=args.labels)
    check_labels(args.out, splits)
    pictures = splits["train"] | splits["val"]
    render_missing(pictures, settings, args.out / "iclevr", workers=args.workers)
    write_json(args.out / "objects.json", {label: i for i, label in enumerate(LABELS)})
    for name in CONDITIONS:
        write_conditions(args.out / name, args)
    for split, rows in splits.items():
        if rows:
            write_json(args.out / f"{split}.json", rows)
    print(f"{args.out}: {len(train):,} pictures to train on, {n_val:,} held out")


def write_conditions(path: Path, args: argparse.Namespace) -> None:
    """Drawn, but where the file lies beside the given labels: then that one."""
    given = args.labels.with_name(path.name) if args.labels else None
    if not given or not given.is_file():
        write_json(path, draw_conditions(seed=args.seed, name=path.name))
    elif given.resolve() != path.resolve():
        shutil.copyfile(given, path)


if __name__ == "__main__":
    sys.exit(main())

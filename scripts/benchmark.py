"""Ours against its peers on the same work, interleaved, and how near to the machine's limit.

    pip install -r requirements-bench.txt           the peers; one that is missing is named, no more
    python scripts/benchmark.py train               a training step at (16, 16)
    python scripts/benchmark.py train --hidden_dim 100
    python scripts/benchmark.py train --image_size 64 --hidden_dim 64 --latent_dim 100
    python scripts/benchmark.py train --model cdcgan --hidden_dim 64
    python scripts/benchmark.py train --model cyclegan     its preset emoji, on the emoji
    python scripts/benchmark.py train --model srgan        its preset course, on noise
    python scripts/benchmark.py inception           features of 32x32 images
    python scripts/benchmark.py frechet             Frechet distance of 2048-d Gaussians
    python scripts/benchmark.py end2end             python fid.py A B, two folders of 2000 PNGs
    python scripts/benchmark.py scaling             a training step with 1, 2, ... threads

A table on the screen, JSON under docs/results/benchmark/. How to read them: docs/benchmark.md.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from fid import frechet_distance
from GAN import IMAGE_SIZES
from inception import load_inception
from lib.errors import UserError
from lib.flags import print_error
from scripts._benchmark import timing
from scripts._benchmark.cyclegan import bench_cyclegan
from scripts._benchmark.end2end import bench_end2end
from scripts._benchmark.limits import (
    EMULATED,
    bf16_is_native,
    finisher,
    frechet_flops,
    inception_flops,
    limit_of,
    matrix_product,
    peak_name,
    timed_limits,
)
from scripts._benchmark.peers import (
    CENTRED_AT_128,
    NOT_INSTALLED,
    Features,
    inception_peers,
    torchmetrics_distance,
    write_weights,
)
from scripts._benchmark.ranks import bench_ranks
from scripts._benchmark.srgan import bench_srgan
from scripts._benchmark.timing import Contest, Rival
from scripts._benchmark.training import bench_scaling, bench_train
from scripts.compare_inception import image_sets

ROOT = Path(__file__).parent.parent


def bench_inception(args: argparse.Namespace, folder: Path) -> Contest:
    """Features of `--images` grey images of 32x32, in batches of 50."""
    device = torch.device(args.device)
    weights = write_weights(folder, args.inception_weights)
    images = image_sets(args.images or 100)["strokes, grey"].to(device)
    left_out = {}
    precisions = ["fp32", "bf16"]
    if not (args.bf16 or bf16_is_native(device)):
        precisions.remove("bf16")
        left_out["ours, bf16"] = f"{EMULATED} (--bf16 times it)"
    ours = {f"ours, {p}": load_inception(device, p, weights) for p in precisions}
    peers, missing = inception_peers(weights, device)
    timed, no_limit = timed_limits(set(precisions), device)
    flops = len(images) * inception_flops()

    def rival(name: str, network: Features) -> Rival:
        limit = limit_of("bf16" if name == "ours, bf16" else "fp32", timed)
        work = lambda: features(network, images)  # noqa: E731
        return Rival(name, work, items=len(images), flops=flops, limit=limit)

    rivals = [rival(name, network) for name, network in (ours | peers).items()]
    pairs = [(mine, peer) for mine in ours for peer in peers]
    return Contest(
        "image",
        rivals + timed,
        pairs,
        left_out | missing | no_limit,
        compare=lambda: agreement(ours | peers, images[:4]),
    )


def agreement(networks: dict[str, Features], images: Tensor) -> dict[str, float]:
    """Largest difference of a feature from the first network's, which is ours: of these images as
    each resizes and scales them, and of noise at 299x299 that all see alike, where the same weights
    give the same features."""
    (_, ours), *others = networks.items()
    stream = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (4, 1, 299, 299), generator=stream, dtype=torch.uint8)
    noise = noise.to(images.device)
    values = {}
    for name, network in others:
        as_seen = noise / 256 if name in CENTRED_AT_128 else noise
        for words, theirs, mine in (("as used", images, images), ("seen alike", noise, as_seen)):
            gap = features(network, theirs).float() - features(ours, mine)
            values[f"largest difference, {words}: {name}"] = gap.abs().max().item()
    return values


@torch.no_grad()
def features(network: Features, images: Tensor) -> Tensor:
    return torch.cat([network(batch) for batch in images.split(50)])


def bench_frechet(args: argparse.Namespace, folder: Path) -> Contest:
    """Full-rank covariances of `--dims` features, float64, on the CPU; the values are compared."""
    import scipy.linalg

    d, stream = args.dims, torch.Generator().manual_seed(0)
    moments = []
    for _ in "12":
        scale = 0.1 + 0.9 * torch.rand(d, generator=stream, dtype=torch.float64)
        x = torch.randn(3 * d // 2, d, generator=stream, dtype=torch.float64) * scale
        moments += [x.mean(0), x.T.cov()]
    mu1, cov1, mu2, cov2 = moments

    def by_sqrtm() -> float:
        root = scipy.linalg.sqrtm((cov1 @ cov2).numpy()).real
        return float((mu1 - mu2).square().sum() + cov1.trace() + cov2.trace() - 2 * root.trace())

    values: dict[str, float] = {}
    formulas = {"ours": lambda: frechet_distance(*moments), "scipy.linalg.sqrtm": by_sqrtm}
    left_out = {}
    eigvals = torchmetrics_distance()
    if eigvals is None:
        left_out["torchmetrics, eigvals"] = NOT_INSTALLED
    else:
        formulas["torchmetrics, eigvals"] = lambda: float(eigvals(*moments))

    def rival(name: str, formula: Callable[[], float]) -> Rival:
        limit = peak_name("fp64")
        work = lambda: values.update({name: formula()})  # noqa: E731
        return Rival(name, work, flops=frechet_flops(d), limit=limit)

    def compare() -> dict[str, float]:
        peers = [name for name in values if name != "ours"]
        return {f"relative difference of {n}": abs(values[n] / values["ours"] - 1) for n in peers}

    rivals = [rival(name, formula) for name, formula in formulas.items()]
    rivals.append(matrix_product("fp64", torch.device("cpu"), n=min(d, 2048)))
    pairs = [("ours", name) for name in formulas if name != "ours"]
    return Contest("distance", rivals, pairs, left_out, compare=compare, warm_up=False)


Benchmark = Callable[[argparse.Namespace, Path], Contest]
TRAININGS: dict[str, Benchmark] = {  # by --model
    "dcgan": bench_train,
    "cdcgan": bench_train,
    "cyclegan": bench_cyclegan,
    "srgan": bench_srgan,
}

BENCHMARKS: dict[str, Benchmark] = {
    "train": lambda args, folder: TRAININGS[args.model](args, folder),
    "inception": bench_inception,
    "frechet": bench_frechet,
    "end2end": bench_end2end,
    "scaling": bench_scaling,
    "ranks": bench_ranks,
}

ON_CPU = ("frechet", "scaling", "ranks")  # whatever the device


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add_flag = parser.add_argument
    add_flag("what", choices=BENCHMARKS)
    add_flag("--rounds", type=int, default=5, help="timings of each rival")
    add_flag("--device", choices=["cpu", "cuda"], default=device, help="frechet and scaling: cpu")
    add_flag("--results", type=Path, default=ROOT / "docs/results/benchmark", help="JSON's folder")
    add_flag("--model", choices=TRAININGS, default="dcgan", help="train: which system")
    add_flag("--hidden_dim", type=int, default=16, help="of a step: widths")
    add_flag("--latent_dim", type=int, default=0, help="of a step: z; 0: as --hidden_dim")
    add_flag("--image_size", type=int, choices=IMAGE_SIZES, default=32, help="of a step")
    add_flag("--steps", type=int, default=0, help="steps a timing; 0: about a second")
    add_flag("--ours", action="append", help='train: main.py\'s flags, as --ours="--ema 0.99"')
    add_flag("--workers", type=int, default=0, help="train: of the plain DataLoader")
    add_flag("--dataset", choices=["mnist", "fashion"], default="mnist", help="of a step")
    add_flag("--data_dir", default="data", help="folder of datasets")
    add_flag("--images", type=int, default=0, help="inception (0: 100), end2end (0: 2000 a folder)")
    add_flag("--inception_weights", type=Path, help="inception, end2end: None: found or fetched")
    add_flag("--bf16", action="store_true", help="inception: bf16 even where it is emulated")
    add_flag("--dims", type=int, default=2048, help="frechet: features")
    add_flag("--max_threads", type=int, default=cores, help="scaling")
    add_flag("--max_ranks", type=int, default=2, help="ranks: processes")
    args = parser.parse_args(argv)
    if args.what in ("scaling", "ranks") and args.model in ("cyclegan", "srgan"):
        parser.error(f"{args.what}: wanted --model dcgan or cdcgan")
    for name in ("rounds", "hidden_dim", "max_threads", "max_ranks", "dims"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: wanted 1 or more")
    for name in ("steps", "images", "workers"):
        if getattr(args, name) < 0:
            parser.error(f"--{name} {getattr(args, name)}: wanted 0 or more")
    return args


def file_name(args: argparse.Namespace) -> str:
    """train.json; of other models and sizes than the defaults' train-cdcgan-64-64px.json."""
    marks = {"dcgan": args.model, "16": str(args.hidden_dim), "32px": f"{args.image_size}px"}
    marked = [mark for usual, mark in marks.items() if mark != usual]
    steps = args.what in ("train", "scaling", "ranks")
    return "-".join([args.what, *(marked if steps else [])]) + ".json"


def run(args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """The report, printed and returned."""
    device = torch.device("cpu" if args.what in ON_CPU else args.device)
    threads = torch.get_num_threads()
    report = {"what": args.what, "command": timing.command_line(argv), "rounds": args.rounds}
    report |= timing.circumstances(device)
    torch.backends.cudnn.allow_tf32 = False  # else CUDA's fp32 convolutions are no fp32, but ours
    print(f"{report['device']}, {report['cpu']}, torch {report['torch']}, {threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        contest = BENCHMARKS[args.what](args, Path(folder))
        seconds = timing.interleave(contest, args.rounds, finisher(device))
        contest.values |= contest.compare()
    torch.set_num_threads(threads)
    rows, pairs = timing.summarize(contest, seconds), timing.ratios(contest, seconds)
    print(timing.table(contest, rows, pairs))
    values, left_out = contest.values, contest.left_out
    return report | {"rows": rows, "ratios": pairs, "values": values, "left_out": left_out}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    path = args.results / file_name(args)
    try:
        timing.refuse_unwritable(path)  # before minutes of timing
        report = run(args, argv)
        timing.write(path, report)
    except UserError as error:
        return print_error(error)
    except OSError as error:
        return print_error(UserError(f"{error.filename or path} can't be used: {error.strerror}."))
    print(f"\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Ours against its peers on the same work, interleaved, and how near to the machine's limit.

    pip install -r requirements-bench.txt           the peers; one that is missing is named, no more
    python scripts/benchmark.py train               a training step at (16, 16)
    python scripts/benchmark.py train --hidden_dim 100
    python scripts/benchmark.py inception           features of 32x32 images
    python scripts/benchmark.py frechet             Frechet distance of 2048-d Gaussians
    python scripts/benchmark.py end2end             python fid.py A B, two folders of 2000 PNGs
    python scripts/benchmark.py scaling             a training step with 1, 2, ... threads

A table on the screen, JSON under docs/results/benchmark/. How to read them: docs/benchmark.md.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from config import Config, parse, print_error
from errors import UserError
from fid import frechet_distance
from inception import load_inception
from main import pick_device
from scripts import bench_timing as timing
from scripts.bench_end2end import bench_end2end
from scripts.bench_limits import (
    bf16_is_native,
    finisher,
    frechet_flops,
    inception_flops,
    limits,
    matrix_product,
    peak_name,
    step_flops,
)
from scripts.bench_peers import (
    CENTRED_AT_128,
    NOT_INSTALLED,
    Features,
    inception_peers,
    plain_loop,
    torchmetrics_distance,
    write_weights,
)
from scripts.bench_timing import Contest, Rival
from scripts.compare_inception import image_sets
from systems import SYSTEMS
from trainer import Trainer

ROOT = Path(__file__).parent.parent
EMULATED = "emulated on this machine (a bf16 product is slower than an fp32 one); --bf16 times it"


def training_config(args: argparse.Namespace, extra: str = "") -> Config:
    """The DCGAN of --hidden_dim, with the flags of main.py that `extra` adds."""
    width = str(args.hidden_dim)
    flags = ["--dataset", args.dataset, "--data_dir", args.data_dir, "--device", args.device]
    for name in ("latent_dim", "generator_hidden_dim", "discriminator_hidden_dim"):
        flags += [f"--{name}", width]
    classes = {name: system.config_class for name, system in SYSTEMS.items()}
    return parse([*flags, *shlex.split(extra)], classes, "")


def training_steps(config: Config) -> Callable[[int], None]:
    """take(n): n more steps as Trainer.train takes them, curves read back on logging steps."""
    trainer: Trainer = SYSTEMS[config.model](config, pick_device(config))
    batches = trainer.batches()

    def take(n: int) -> None:
        for _ in range(n):
            scalars = trainer.train_step(batches(trainer.step))
            trainer.step += 1
            if trainer.step % config.logging_steps == 0:
                {tag: float(value) for tag, value in scalars.items()}

    return take


def steps_a_second(take: Callable[[int], None]) -> int:
    """How many steps take about a second: one to warm up, then three."""
    take(1)
    start = time.perf_counter()
    take(3)
    return max(1, round(3 / (time.perf_counter() - start)))


def bench_train(args: argparse.Namespace, folder: Path) -> Contest:
    """Training steps at batch 64: ours, once for every `--ours`, against the plain loop."""
    takes, precisions = {}, {}
    for extra in args.ours or [""]:
        config, name = training_config(args, extra), f"ours {extra}".strip()
        takes[name] = training_steps(config)
        precisions[name] = getattr(config, "precision", "fp32")
    steps = args.steps or steps_a_second(next(iter(takes.values())))
    device = pick_device(config)
    plain = plain_loop(
        args.data_dir,
        latent_dim=args.hidden_dim,
        hidden_dim=args.hidden_dim,
        device=device,
        dataset=args.dataset,
        workers=args.workers,
    )
    takes["plain loop"] = lambda n: [next(plain) for _ in range(n)]
    precisions["plain loop"] = "fp32"
    timed, left_out = timed_limits(set(precisions.values()), device)
    flops = steps * step_flops(args.hidden_dim, args.hidden_dim)
    rivals = [
        Rival(
            name,
            lambda take=take: take(steps),
            items=steps,
            flops=flops,
            limit=limit_of(precisions[name], timed),
        )
        for name, take in takes.items()
    ]
    pairs = [(name, "plain loop") for name in takes if name != "plain loop"]
    return Contest("step", rivals + timed, pairs, left_out)


def timed_limits(precisions: set[str], device: torch.device) -> tuple[list[Rival], dict[str, str]]:
    """The limits in these precisions; left out: the bf16 product where it would take for ever."""
    emulated = "bf16" in precisions and not bf16_is_native(device)
    kept = sorted(precisions - ({"bf16"} if emulated else set()))
    return limits(kept, device), ({peak_name("bf16"): EMULATED} if emulated else {})


def limit_of(precision: str, timed: list[Rival]) -> str:
    """The name of this precision's peak, "" if it is not timed."""
    name = peak_name(precision)
    return name if name in {rival.name for rival in timed} else ""


def bench_inception(args: argparse.Namespace, folder: Path) -> Contest:
    """Features of `--images` grey images of 32x32, in batches of 50."""
    device = torch.device(args.device)
    weights = write_weights(folder, args.inception_weights)
    images = image_sets(args.images or 100)["strokes, grey"].to(device)
    left_out = {}
    precisions = ["fp32", "bf16"]
    if not (args.bf16 or bf16_is_native(device)):
        precisions.remove("bf16")
        left_out["ours, bf16"] = EMULATED
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


def bench_scaling(args: argparse.Namespace, folder: Path) -> Contest:
    """The same training steps with 1, 2, ... `--max_threads` threads, each beside its own peak."""
    take = training_steps(training_config(args, "--device cpu"))
    torch.set_num_threads(1)
    steps = args.steps or steps_a_second(take)
    return thread_scaling(
        take, steps, steps * step_flops(args.hidden_dim, args.hidden_dim), args.max_threads
    )


def thread_scaling(
    take: Callable[[int], None], steps: int, flops: int, max_threads: int
) -> Contest:
    """Ratios over one thread, which divided by the number of threads are the efficiency."""
    names = {n: f"{n} thread{'s' if n > 1 else ''}" for n in range(1, max_threads + 1)}
    rivals, products = [], []
    for n, name in names.items():
        torch.set_num_threads(n)
        limit = f"{peak_name('fp32')}, {name}"
        product = matrix_product("fp32", torch.device("cpu"), name=limit)
        work = with_threads(n, lambda: take(steps))
        rivals.append(Rival(name, work, items=steps, flops=flops, limit=limit))
        products.append(Rival(limit, with_threads(n, product.work), items=0, flops=product.flops))
    interleaved = [rival for pair in zip(rivals, products, strict=True) for rival in pair]
    return Contest("step", interleaved, [(name, names[1]) for n, name in names.items() if n > 1])


def with_threads(n: int, work: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        torch.set_num_threads(n)
        work()

    return run


BENCHMARKS: dict[str, Callable[[argparse.Namespace, Path], Contest]] = {
    "train": bench_train,
    "inception": bench_inception,
    "frechet": bench_frechet,
    "end2end": bench_end2end,
    "scaling": bench_scaling,
}

ON_CPU = ("frechet", "scaling")  # whatever the device


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
    add_flag("--hidden_dim", type=int, default=16, help="train, scaling: widths, and size of z")
    add_flag("--steps", type=int, default=0, help="train, scaling: a timing; 0: about a second")
    add_flag("--ours", action="append", help='train: main.py\'s flags, as --ours="--ema 0.99"')
    add_flag("--workers", type=int, default=0, help="train: of the plain DataLoader")
    add_flag("--dataset", choices=["mnist", "fashion"], default="mnist", help="train, scaling")
    add_flag("--data_dir", default="data", help="train, scaling: folder of datasets")
    add_flag("--images", type=int, default=0, help="inception (0: 100), end2end (0: 2000 a folder)")
    add_flag("--inception_weights", type=Path, help="inception, end2end: None: found or fetched")
    add_flag("--bf16", action="store_true", help="inception: bf16 even where it is emulated")
    add_flag("--dims", type=int, default=2048, help="frechet: features")
    add_flag("--max_threads", type=int, default=cores, help="scaling")
    args = parser.parse_args(argv)
    for name in ("rounds", "hidden_dim", "max_threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: wanted 1 or more")
    return args


def file_name(args: argparse.Namespace) -> str:
    """train.json; at other widths than the defaults' train-100.json."""
    wide = args.what in ("train", "scaling") and args.hidden_dim != 16
    return f"{args.what}-{args.hidden_dim}.json" if wide else f"{args.what}.json"


def run(args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """The report, printed and returned."""
    device = torch.device("cpu" if args.what in ON_CPU else args.device)
    threads = torch.get_num_threads()
    report = {"what": args.what, "command": timing.command_line(argv), "rounds": args.rounds}
    report |= timing.circumstances(device)
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
    try:
        report = run(args, argv)
    except UserError as error:
        return print_error(error)
    path = args.results / file_name(args)
    timing.write(path, report)
    print(f"\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

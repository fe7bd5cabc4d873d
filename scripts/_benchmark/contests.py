"""The contests of scripts/benchmark.py: who meets whom on which work. docs/benchmark.md."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor

from fid import frechet_distance
from inception import load_inception
from inception.weights import RELEASE, find_weights
from lib.errors import UserError
from lib.flags import parse
from main import SYSTEMS
from main import build as build_trainer
from scripts._benchmark import plain, timing
from scripts._benchmark.timing import Contest, Rival, inception_flops, repeat
from trainer import Trainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
IMAGES = 20
TRAININGS = {  # flags of main.py
    "train": "",
    "train-100": "--latent_dim 100 --generator_hidden_dim 100 --discriminator_hidden_dim 100",
    "train-64px": "--preset mnist64",
}


def training(args: argparse.Namespace, folder: Path, name: str, flags: str) -> Contest:
    """A training step of ours against the plain loop's."""
    device, trainer = torch.device(args.device), build(args, flags)
    loops = {"ours": steps_of(trainer), "plain loop": plain.dcgan(trainer.config, device)}
    if args.bf16:
        loops["ours, bf16"] = steps_of(build(args, f"{flags} --precision bf16"))
    steps = pace(loops["ours"], device)
    flops = steps * timing.count_flops(partial(next, loops["ours"]))
    contest = Contest(name, [])
    for rival, loop in loops.items():
        work = partial(repeat, partial(next, loop), steps)
        contest.rivals.append(Rival(rival, work, steps, flops, precision_of(rival)))
    return contest


def build(args: argparse.Namespace, flags: str) -> Trainer:
    """The system that main.py trains by these flags."""
    argv = ["--data_dir", args.data_dir, "--device", args.device, *shlex.split(flags)]
    config = parse(argv, SYSTEMS, "")
    return build_trainer(config, torch.device(config.device))


def steps_of(trainer: Trainer) -> Iterator[None]:
    """Steps as Trainer.train takes them, curves read back on logging steps."""
    batches = trainer.batches()
    while True:
        scalars = trainer.train_step(batches(trainer.step))
        trainer.step += 1
        if trainer.step % trainer.config.logging_steps == 0:
            {tag: float(value) for tag, value in scalars.items()}
        yield


def pace(steps: Iterator[None], device: torch.device) -> int:
    """Count the steps that take about half a second, from three."""
    return max(1, round(1.5 / timing.seconds_of(partial(repeat, partial(next, steps), 3), device)))


def busy(args: argparse.Namespace, folder: Path, flags: str = "") -> Contest:
    """Training steps by two threads against one: alone, beside one busy process, beside two."""
    steps = steps_of(build(args, f"{flags} --device cpu"))
    items = pace(steps, CPU)

    def work(threads: int) -> None:
        torch.set_num_threads(threads)
        repeat(partial(next, steps), items)

    contest = Contest("busy", [])
    for others, beside in enumerate(("alone", "beside one busy process", "beside two")):
        one, two = f"1 thread, {beside}", f"2 threads, {beside}"
        around = partial(busy_processes, others)
        for threads, name in ((1, one), (2, two)):
            contest.rivals.append(Rival(name, partial(work, threads), items, around=around))
        contest.pairs.append((two, one))
    return contest


@contextmanager
def busy_processes(n: int) -> Iterator[None]:
    """Inside, n other processes compute without end."""
    argv = [sys.executable, "-ISc", "print(flush=True)\nwhile True: pass"]
    others = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(n)]
    try:
        for other in others:
            other.stdout.readline()  # it has started
        yield
    finally:
        for other in others:
            other.kill()
            other.communicate()


def inception(args: argparse.Namespace, folder: Path) -> Contest:
    """Features of IMAGES grey images of 32x32, against pytorch-fid's network."""
    device, contest = torch.device(args.device), Contest("inception", [])
    weights = write_weights(folder, args.inception_weights)
    images = torch.randint(0, 256, (IMAGES, 1, 32, 32), dtype=torch.uint8, device=device)
    networks = {"ours": load_inception(device, "fp32", weights)}
    if args.bf16:
        networks["ours, bf16"] = load_inception(device, "bf16", weights)
    if peer_is_there(contest):
        networks["pytorch-fid"] = pytorch_fid(weights, device)
    for name, network in networks.items():
        work, flops = torch.no_grad()(partial(network, images)), IMAGES * inception_flops()
        contest.rivals.append(Rival(name, work, IMAGES, flops, precision_of(name)))
    return contest


def pytorch_fid(weights: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Grey bytes (N, 1, H, W) -> features (N, 2048), by its network with the same weights."""
    from pytorch_fid import inception

    torch.hub.set_dir(weights.parents[1])
    network = inception.InceptionV3([3]).eval().to(device)
    return lambda images: network((images.float() / 255).expand(-1, 3, -1, -1))[0].flatten(1)


def peer_is_there(contest: Contest) -> bool:
    """True if pytorch-fid is installed; else the contest says so."""
    if not find_spec("pytorch_fid"):
        contest.left_out = "pytorch-fid, not installed: pip install -r requirements-bench.txt"
    return not contest.left_out


def precision_of(name: str) -> str:
    return "bf16" if "bf16" in name else "fp32"


def write_weights(folder: Path, source: Path | None) -> Path:
    """The weights as torch.hub finds them if TORCH_HOME is `folder`, with a classifier of zeros."""
    classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = folder / "hub" / "checkpoints" / RELEASE
    path.parent.mkdir(parents=True)
    torch.save(find_weights(source) | classifier, path)
    return path


def frechet(args: argparse.Namespace, folder: Path) -> Contest:
    """Full-rank covariances of --dims features, float64, on the CPU."""
    d, stream, moments = args.dims, torch.Generator().manual_seed(0), []
    for _ in "12":
        scale = 0.1 + 0.9 * torch.rand(d, generator=stream, dtype=torch.float64)
        x = torch.randn(3 * d // 2, d, generator=stream, dtype=torch.float64) * scale
        moments += [x.mean(0), x.T.cov()]

    def by_sqrtm(mu1: Tensor, cov1: Tensor, mu2: Tensor, cov2: Tensor) -> Tensor:
        root = scipy.linalg.sqrtm((cov1 @ cov2).numpy()).real
        return (mu1 - mu2).square().sum() + cov1.trace() + cov2.trace() - 2 * root.trace()

    formulas = {"ours": frechet_distance, "scipy.linalg.sqrtm": by_sqrtm}
    # Cholesky's factor F n^3 / 3, F^T C F n^3, its reduction to tridiagonal form 4 n^3 / 3: Golub &
    # Van Loan 2013, sec. 4.2.5 and 8.3.1; LAPACK Working Note 41, of dpotrf, dsygst, dsytrd
    flops = 8 * d**3 / 3
    rivals = [Rival(k, partial(f, *moments), 1, flops, "fp64") for k, f in formulas.items()]
    return Contest("frechet", rivals, warm_up=False)


TOOLS = {  # python ...; the weights reach pytorch-fid by TORCH_HOME
    "ours": "fid.py --inception_weights {weights}",
    "ours, bf16": "fid.py --inception_weights {weights} --fid_precision bf16",
    "pytorch-fid": "-m pytorch_fid",
}


def command(args: argparse.Namespace, folder: Path) -> Contest:
    """TOOLS as whole processes, started cold, on two folders of half of --files PNGs each."""
    weights = write_weights(folder, args.inception_weights)
    half = args.files // 2
    sets = [str(make_images(folder / name, half, seed=s)) for s, name in enumerate("AB")]
    contest = Contest("fid", [], warm_up=False)
    for name, tool in TOOLS.items():
        if not (args.bf16 if "bf16" in name else name == "ours" or peer_is_there(contest)):
            continue
        argv = [sys.executable, *shlex.split(tool.format(weights=weights)), *sets]
        work = partial(run, [*argv, "--device", args.device], folder)
        flops = 2 * half * inception_flops()
        contest.rivals.append(Rival(name, work, 1, flops, precision_of(name)))
    return contest


def run(command: list[str], folder: Path) -> None:
    """Run it to its end; UserError with its last words if it fails."""
    env = os.environ | {"TORCH_HOME": str(folder)}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"{' '.join(command)} failed with status {done.returncode}: {last}")


def make_images(folder: Path, n: int, *, seed: int = 0) -> Path:
    """n PNGs of noise, as bright as the seed has it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    brightest = rng.integers(100, 256)
    for i in range(n):
        pixels = rng.integers(0, brightest, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:05d}.png")
    return folder


CONTESTS = {n: partial(training, name=n, flags=flags) for n, flags in TRAININGS.items()}
CONTESTS |= {"busy": busy, "inception": inception, "frechet": frechet, "fid": command}

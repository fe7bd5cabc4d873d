"""FID of two folders of PNGs as whole processes: `python fid.py A B` against pytorch-fid's command.

Both start cold, read the same files with the same weights, and are timed from the fork to the exit;
again with the moments of A, then of both, cached in a .npz that both can read.
"""

import argparse
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib.errors import UserError
from scripts._benchmark.limits import EMULATED, bf16_is_native, inception_flops, limits, peak_name
from scripts._benchmark.peers import NOT_INSTALLED, write_weights
from scripts._benchmark.timing import Contest, Rival

ROOT = Path(__file__).parents[2]
CACHED = {0: "", 1: ", A cached", 2: ", A and B cached"}  # sets read from a .npz -> how it is named


def make_images(folder: Path, n: int, *, seed: int) -> Path:
    """n grey PNGs of 32x32: noise whose brightness and contrast are the seed's."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    low, high = sorted(rng.integers(0, 256, 2))
    for i, image in enumerate(rng.integers(low, high + 1, (n, 32, 32), dtype=np.uint8)):
        Image.fromarray(image).save(folder / f"{i:05d}.png")
    return folder


def our_command(a: Path, b: Path, weights: Path, device: str) -> list[str]:
    flags = ["--inception_weights", str(weights), "--device", device]
    return [sys.executable, str(ROOT / "fid.py"), str(a), str(b), *flags]


def our_bf16_command(a: Path, b: Path, weights: Path, device: str) -> list[str]:
    return [*our_command(a, b, weights, device), "--fid_precision", "bf16"]


def pytorch_fid_command(a: Path, b: Path, weights: Path, device: str) -> list[str]:
    """The weights reach it by TORCH_HOME."""
    return [sys.executable, "-m", "pytorch_fid", str(a), str(b), "--device", device]


OURS, BF16, PEER = "ours", "ours, bf16", "pytorch-fid"
TOOLS = {OURS: our_command, BF16: our_bf16_command, PEER: pytorch_fid_command}
MOMENTS = {OURS: "fp32", BF16: "bf16", PEER: "fp32"}  # what each reads where a set is cached


def run(command: list[str], folder: Path) -> str:
    """What it printed; UserError with its last words if it failed."""
    done = subprocess.run(
        command,
        env=os.environ | {"TORCH_HOME": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"{' '.join(command)} failed with status {done.returncode}: {last}")
    return done.stdout


def fid_of(output: str) -> float:
    """The last FID that a tool printed; both print "FID:  1.23"."""
    return float(re.findall(r"FID:\s+(\S+)", output)[-1])


def bench_end2end(args: argparse.Namespace, folder: Path) -> Contest:
    """Two folders of `--images` PNGs."""
    n = args.images or 2000
    device = torch.device(args.device)
    weights = write_weights(folder, args.inception_weights)
    sets = [make_images(folder / name, n, seed=seed) for seed, name in enumerate("AB")]
    tools = dict(TOOLS)
    contest = Contest("run", [], [], warm_up=False)
    if find_spec("pytorch_fid") is None:
        contest.left_out[PEER] = NOT_INSTALLED
        del tools[PEER]
    if BF16 in tools and not bf16_is_native(device):
        contest.left_out[BF16] = EMULATED
        del tools[BF16]
    ours = [tool for tool in tools if tool != PEER]
    moments = {}
    for tool in ours:
        targets = [path.with_suffix(f".{MOMENTS[tool]}.npz") for path in sets]
        for path, target in zip(sets, targets, strict=True):
            run([*tools[tool](path, target, weights, args.device), "--save-stats"], folder)
        moments[MOMENTS[tool]] = targets
    for cached, words in CACHED.items():
        flops = (2 - cached) * n * inception_flops()
        for tool, command in tools.items():
            paths = [*moments[MOMENTS[tool]][:cached], *sets[cached:]]
            name, argv = tool + words, command(*paths, weights, args.device)

            def work(name: str = name, argv: list[str] = argv) -> None:
                contest.values[f"FID, {name}"] = fid_of(run(argv, folder))

            limit = peak_name(MOMENTS[tool]) if flops else ""
            contest.rivals.append(Rival(name, work, flops=flops, limit=limit))
    if PEER in tools:
        contest.pairs += [
            (tool + words, PEER + words) for tool in ours for words in CACHED.values()
        ]
        contest.pairs += [(f"{tool}, A cached", PEER) for tool in ours]
    contest.rivals += limits([MOMENTS[tool] for tool in ours], device)
    return contest

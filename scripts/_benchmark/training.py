"""A training step: ours against the plain loop, and ours with 1, 2, ... threads."""

import argparse
import dataclasses
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from lib.config import Config
from lib.errors import UserError
from lib.flags import parse
from main import SYSTEMS, pick_device
from scripts._benchmark.conditional import (
    conditional_flags,
    conditional_step_flops,
    plain_conditional_loop,
)
from scripts._benchmark.limits import (
    limit_of,
    matrix_product,
    peak_name,
    seconds_of,
    step_flops,
    timed_limits,
)
from scripts._benchmark.peers import plain_loop
from scripts._benchmark.timing import Contest, Rival
from trainer import Trainer


def training_config(args: argparse.Namespace, extra: str = "") -> Config:
    """The system of the sizes asked for, with the flags of main.py that `extra` adds."""
    flags = ["--data_dir", args.data_dir, "--device", args.device]
    if args.model == "cdcgan":
        flags += conditional_flags(args.hidden_dim)
    else:
        flags += ["--dataset", args.dataset, "--image_size", str(args.image_size)]
        flags += ["--latent_dim", str(latent_dim(args))]
        for name in ("generator_hidden_dim", "discriminator_hidden_dim"):
            flags += [f"--{name}", str(args.hidden_dim)]
    classes = {name: system.config_class for name, system in SYSTEMS.items()}
    return parse([*flags, *shlex.split(extra)], classes, "")


SAME_WORK = ("precision", "compile", "log_lines", "seed", "ema")  # an average is work on top


def refuse_other_work(config: Config, plain: Config, extra: str) -> None:
    """UserError where --ours asks for another game than the plain loop plays."""
    changed = [
        f.name
        for f in dataclasses.fields(config)
        if f.metadata["role"] == "defines"
        and f.name not in SAME_WORK
        and getattr(config, f.name) != getattr(plain, f.name)
    ]
    if changed:
        raise UserError(
            f'--ours "{extra}" changes the work, by {", ".join(changed)}: wanted flags that leave'
            " it the same, as --precision bf16 or --compile."
        )


def latent_dim(args: argparse.Namespace) -> int:
    return args.latent_dim or args.hidden_dim


def training_steps(config: Config) -> Callable[[int], None]:
    """take(n): n more steps as Trainer.train takes them, curves read back on logging steps."""
    trainer: Trainer = SYSTEMS[config.model].build(config, pick_device(config))
    trainer.record_steps()
    batches = trainer.batches()

    def take(n: int) -> None:
        for _ in range(n):
            scalars = trainer.train_step(batches(trainer.step))
            trainer.step += 1
            if trainer.step % config.logging_steps == 0:
                {tag: float(value) for tag, value in scalars.items()}

    return take


def steps_a_second(take: Callable[[int], None], device: torch.device) -> int:
    """How many steps take about a second, from three."""
    return max(1, round(3 / seconds_of(lambda: take(3), device)))


def bench_train(args: argparse.Namespace, folder: Path) -> Contest:
    """Training steps at batch 64: ours, once for every `--ours`, against the plain loop."""
    takes, precisions = {}, {}
    for extra in args.ours or [""]:
        config, name = training_config(args, extra), f"ours {extra}".strip()
        refuse_other_work(config, training_config(args), extra)
        takes[name] = training_steps(config)
        precisions[name] = getattr(config, "precision", "fp32")
    device = pick_device(config)
    steps = args.steps or steps_a_second(next(iter(takes.values())), device)
    plain, flops = plain_peer(args, device)
    takes["plain loop"] = lambda n: [next(plain) for _ in range(n)]
    precisions["plain loop"] = "fp32"
    timed, left_out = timed_limits(set(precisions.values()), device)
    rivals = [
        Rival(
            name,
            lambda take=take: take(steps),
            items=steps,
            flops=steps * flops,
            limit=limit_of(precisions[name], timed),
        )
        for name, take in takes.items()
    ]
    pairs = [(name, "plain loop") for name in takes if name != "plain loop"]
    return Contest("step", rivals + timed, pairs, left_out)


def plain_peer(args: argparse.Namespace, device: torch.device) -> tuple[Iterator[None], int]:
    """The loop that others write for the same system, and the operations that a step needs."""
    width, loop = args.hidden_dim, {"device": device, "workers": args.workers}
    if args.model == "cdcgan":
        peer = plain_conditional_loop(args.data_dir, hidden_dim=width, **loop)
        return peer, conditional_step_flops(width)
    sizes = {"latent_dim": latent_dim(args), "hidden_dim": width, "image_size": args.image_size}
    peer = plain_loop(args.data_dir, dataset=args.dataset, **sizes, **loop)
    return peer, step_flops(latent_dim(args), width, args.image_size)


def bench_scaling(args: argparse.Namespace, folder: Path) -> Contest:
    """The same training steps with 1, 2, ... `--max_threads` threads, each beside its own peak."""
    take = training_steps(training_config(args, "--device cpu"))
    torch.set_num_threads(1)
    steps = args.steps or steps_a_second(take, torch.device("cpu"))
    flops = steps * plain_peer(args, torch.device("cpu"))[1]
    return thread_scaling(take, steps, flops, args.max_threads)


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

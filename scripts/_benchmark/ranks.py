"""Training steps by 1, 2, ... processes that share each batch over gloo, with one thread each.

What `torchrun --nproc_per_node=N main.py --do_train` does a step, without curves and checkpoints.
"""

import argparse
import multiprocessing
import os
import socket
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from lib import distributed
from lib.config import Config
from lib.errors import UserError
from main import SYSTEMS
from scripts._benchmark.timing import Contest, Rival
from scripts._benchmark.training import steps_a_second, training_config

CPU = torch.device("cpu")


class Ranks:
    """Processes that take n steps together when they are told to, and say when they have."""

    def __init__(self, number: int, config: Config) -> None:
        context = multiprocessing.get_context("spawn")
        env = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        self.ends = []
        for rank in range(number):
            ours, theirs = context.Pipe()
            own = env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            context.Process(target=work, args=(theirs, own, config), daemon=True).start()
            theirs.close()  # so that the end of the process is seen here
            self.ends.append(ours)
        self.wait()

    def take(self, n: int) -> None:
        for end in self.ends:
            end.send(n)
        self.wait()

    def wait(self) -> None:
        try:
            for end in self.ends:
                end.recv()
        except EOFError:
            raise UserError("a process of the benchmark has ended; it says above why.") from None

    def close(self) -> None:
        for end in self.ends:
            end.send(0)


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def work(end: Connection, env: dict[str, str], config: Config) -> None:
    """A rank's main function: says that it is ready, then after every n steps that it has them."""
    os.environ.update(env)
    torch.set_num_threads(1)
    with distributed.session(CPU):
        trainer = SYSTEMS[config.model].build(config, CPU)
        networks = trainer.networks
        distributed.prepare(networks, trainer.optimizers, step=0, sync_bn=False)
        batches = trainer.batches()
        end.send("ready")
        while n := end.recv():
            for _ in range(n):
                trainer.train_step(batches(trainer.step))
                distributed.average_batchnorm(networks.values())
                distributed.agreed_signal([])
                trainer.step += 1
            end.send("done")


def bench_ranks(args: argparse.Namespace, folder: Path) -> Contest:
    """Ratios over one process, which divided by the number of processes are the efficiency."""
    config = training_config(args, "--device cpu")
    numbers = [n for n in range(1, args.max_ranks + 1) if config.batch_size % n == 0]
    ranks = {f"{n} process{'es' if n > 1 else ''}": Ranks(n, config) for n in numbers}
    first, *others = ranks
    steps = args.steps or steps_a_second(ranks[first].take, CPU)
    rivals = [
        Rival(name, lambda group=group: group.take(steps), items=steps)
        for name, group in ranks.items()
    ]

    def end() -> dict[str, float]:
        for group in ranks.values():
            group.close()
        return {}

    return Contest("step", rivals, [(name, first) for name in others], compare=end)

"""What test_distributed.py runs once a rank: main.py on little networks, without Inception.

The environment says what befalls it: at step POISON rank 1 has a NaN in its images, at step OOM its
memory runs out, and at step SIGNAL it gets a SIGTERM. Beside the checkpoints each rank leaves the
weights it ended with, as rank-0.pt and rank-1.pt.
"""

import json
import math
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from conftest import PixelMeans
from torch import nn

import main
from lib import distributed
from lib.config import Config
from metrics import score
from systems import System
from systems.dcgan import DCGANConfig
from trainer import GANTrainer, Trainer

TESTS = Path(__file__).parent


def befalls(variable: str, step: int) -> bool:
    return distributed.rank() == 1 and os.environ.get(variable) == str(step)


def without_batchnorm(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())


class Watched(GANTrainer):
    def train_step(self, batch):
        if befalls("SIGNAL", self.step):
            os.kill(os.getpid(), signal.SIGTERM)
        if befalls("OOM", self.step):
            raise torch.OutOfMemoryError("CUDA out of memory")
        if befalls("POISON", self.step):
            batch.x.fill_(math.nan)
        return super().train_step(batch)

    def train(self, *args) -> None:
        try:
            super().train(*args)
        finally:
            weights = {name: network.state_dict() for name, network in self.networks.items()}
            if self.config.run_dir.is_dir():
                torch.save(weights, self.config.run_dir / f"rank-{distributed.rank()}.pt")


def build_watched(config: DCGANConfig, device: torch.device) -> Watched:
    plain = main.build_dcgan(config, device)
    return Watched(config, device, G=plain.G, D=plain.D)


def run_main(argv: list[str]) -> int:
    torch.set_num_threads(1)
    score.load_inception = lambda *_: PixelMeans()
    main.SYSTEMS = {"dcgan": System(lambda: (DCGANConfig, build_watched))}
    return main.main(argv)


def two_steps(trainer: Trainer) -> list[dict[str, float]]:
    """After each, the sums of each network's weights and the means of the scalars over the ranks.

    Without BatchNorm in G, which would normalise by each rank's own share.
    """
    without_batchnorm(trainer.networks["G"])
    distributed.prepare(trainer.networks, trainer.optimizers, step=0, sync_bn=False)
    batches, found = trainer.batches(), []
    for trainer.step in range(2):
        scalars = distributed.mean_scalars(trainer.train_step(batches(trainer.step)))
        states = {name: network.state_dict() for name, network in trainer.networks.items()}
        sums = {f"{n}.{k}": v.abs().sum().item() for n, s in states.items() for k, v in s.items()}
        found.append(sums | scalars)
    return found


def print_two_steps(config: Config) -> None:
    torch.set_num_threads(1)
    with distributed.session(torch.device("cpu")):
        print(json.dumps(two_steps(main.build(config, torch.device("cpu")))))


# Starting ranks


class Ended(NamedTuple):
    status: int
    stdout: str
    stderr: str


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def run_ranks(number: int, action: Callable, *args, folder: Path, **env: str) -> list[Ended]:
    """action(*args) in so many processes, told of each other as torchrun tells them.

    They are forked from a server that has imported everything once: that takes most of the time.
    """
    os.environ["PYTHONPATH"] = f"{TESTS.parent}{os.pathsep}{TESTS}"  # of the server
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ranks"])
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(number)}
    processes, files = [], []
    for i in range(number):
        own = env | {"RANK": str(i), "LOCAL_RANK": str(i)}
        files.append([folder / f"{name}-{i}.txt" for name in ("stdout", "stderr")])
        processes.append(context.Process(target=speak_to, args=(files[i], own, action, args)))
        processes[i].start()
    try:
        for process in processes:
            process.join(120)
        assert all(process.exitcode is not None for process in processes), "a rank hangs"
    finally:
        for process in processes:
            process.kill()
    return [
        Ended(process.exitcode, *(file.read_text() for file in pair))
        for process, pair in zip(processes, files, strict=True)
    ]


def speak_to(files: list[Path], env: dict[str, str], action: Callable, args: tuple) -> None:
    """The process's main function: stdout and stderr into files, then the action."""
    os.environ.update(env)
    sys.stdout, sys.stderr = (open(file, "w", buffering=1) for file in files)  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    sys.exit(action(*args))


if __name__ == "__main__":  # under torchrun
    sys.exit(run_main(sys.argv[1:]))

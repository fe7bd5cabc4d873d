"""What test_distributed.py starts once a rank: main.py on little networks, without Inception.

    PYTHONPATH=.:tests python tests/rank.py --do_train ...      as main.py, with stand-ins

The environment says what else befalls it: NO_BATCHNORM takes BatchNorm out of G and D; at step
POISON rank 1 has a NaN in its images, and at step SIGNAL it gets a SIGTERM. Beside the checkpoint
each rank leaves the weights it ended with, as rank-0.pt and rank-1.pt.
"""

import math
import os
import signal
import sys

import torch
from conftest import PixelMeans
from torch import nn

import main
import score
from distributed import rank
from systems.dcgan import DCGAN


def befalls(variable: str, step: int) -> bool:
    return rank() == 1 and os.environ.get(variable) == str(step)


def without_batchnorm(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())


class Watched(DCGAN):
    def __init__(self, config, device) -> None:
        super().__init__(config, device)
        if "NO_BATCHNORM" in os.environ:
            without_batchnorm(self.G)
            without_batchnorm(self.D)
            for name, network in (("G", self.G), ("D", self.D)):
                group = self.optimizers[name].param_groups[0]
                group["params"] = list(network.parameters())

    def train_step(self, batch):
        if befalls("SIGNAL", self.step):
            os.kill(os.getpid(), signal.SIGTERM)
        if befalls("POISON", self.step):
            batch.x.fill_(math.nan)
        return super().train_step(batch)

    def train(self, *args) -> None:
        try:
            super().train(*args)
        finally:
            weights = {name: network.state_dict() for name, network in self.networks.items()}
            if self.config.run_dir.is_dir():
                torch.save(weights, self.config.run_dir / f"rank-{rank()}.pt")


torch.set_num_threads(1)
score.load_inception = lambda *_: PixelMeans()
main.SYSTEMS = {"dcgan": Watched}
sys.exit(main.main())

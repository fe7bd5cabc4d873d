"""The weights that validated best: part of every checkpoint, and a file of their own beside it."""

import copy
import io
from pathlib import Path

import torch
from torch import nn

from lib import checkpoint
from lib.config import Config


class BestWeights(nn.Module):
    """A network as it was at its best validation; none yet while `step` is 0.

    It is one of the trainer's networks, so that a run that was stopped and goes on compares with
    the same best, whatever the steps that were lost had found.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("value", torch.tensor(-1.0, dtype=torch.float64))  # below any accuracy
        self.register_buffer("step", torch.tensor(0))

    @property
    def exists(self) -> bool:
        return int(self.step) > 0

    def offer(self, network: nn.Module, value: float, step: int) -> bool:
        """Takes the network's weights over if its value is higher; the first of equals stays."""
        if value <= float(self.value):
            return False
        self.network.load_state_dict(network.state_dict())
        self.value.fill_(value)
        self.step.fill_(step)
        return True

    def save(self, path: Path, config: Config) -> None:
        """Write a checkpoint that `checkpoint.read` reads, without optimizers."""
        facts = {"format": checkpoint.FORMAT, "step": int(self.step), "value": float(self.value)}
        state = checkpoint.pack(config, {"G": self.network}, {}, facts)
        serialized = io.BytesIO()
        torch.save(state, serialized)
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_beside_and_rename(path, serialized.getbuffer())

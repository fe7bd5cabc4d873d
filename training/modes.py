"""The modes a network is run in: as it trains, without gradients of its own, for sampling."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lib.config import Config
from lib.errors import UserError

Forward = Callable[..., Tensor]  # of one tensor or more


def in_training_form(forward: Forward, config: Config, device: torch.device) -> Forward:
    """A forward pass as --compile and --precision have it; what comes out is float32.

    Penalties and sampling do without: they use the network itself.
    """
    if config.compile:
        forward = compiled(forward, device)
    if config.precision == "fp32":
        return forward
    if device.type == "mps":
        raise UserError("--precision bf16: MPS runs in fp32 only. Leave the flag out.")

    def in_bf16(*inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return forward(*inputs).float()

    return in_bf16


def compiled(forward: Forward, device: torch.device) -> Forward:
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and not shutil.which(compiler):
        raise UserError(f"--compile: no C++ compiler ({compiler}): install one, or leave it out.")
    return torch.compile(forward)


def mixes_samples(network: nn.Module) -> bool:
    """Whether what it makes of a sample depends on the rest of the batch."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())


# _NormBase is batch and instance norm
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def is_bounded(network: nn.Module) -> bool:
    """Whether spectral norm bounds its slope: not where a norm layer divides by what it meets."""
    modules = list(network.modules())
    return any(map(is_parametrized, modules)) and not any(isinstance(m, NORMS) for m in modules)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """The network passes gradients through but gathers none of its own."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


@contextmanager
def sampling(network: nn.Module) -> Iterator[None]:
    """No gradients and eval mode (BatchNorm's running statistics); the mode found is restored."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


class Average(AveragedModel):
    """An average of a network's weights over the steps, w <- decay w + (1 - decay) theirs.

    The first update copies them; buffers are always theirs. As torch's, which sends its counter to
    the device at each update, for which a GPU waits.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, multi_avg_fn=get_ema_multi_avg_fn(decay))

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        ours, theirs = list(self.parameters()), list(model.parameters())
        if self.n_averaged:  # on the CPU
            self.multi_avg_fn(ours, theirs, self.n_averaged)
        else:
            for mine, new in zip(ours, theirs, strict=True):
                mine.copy_(new)
        for mine, new in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(new)
        self.n_averaged += 1


class Paired(nn.Module):
    """G of the pair (z, y) as one argument, which is how torch's update_bn passes a batch on."""

    def __init__(self, G: nn.Module) -> None:
        super().__init__()
        self.G = G

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.G(*pair)

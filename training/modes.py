"""The modes a network runs in, and what its layers say about it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lib.errors import UserError
from training.config import GANConfig


def mixes_samples(network: nn.Module) -> bool:
    """True if the output for a sample depends on the rest of the batch: with BatchNorm."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())


# _NormBase is batch and instance norm
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def check_slope(D: nn.Module, config: GANConfig, bounds: str) -> None:
    """Raises UserError if D can't have the penalty; warns of a Wasserstein D without bounds."""
    if config.penalty != "none" and mixes_samples(D):
        raise UserError(
            f"--penalty {config.penalty}: it takes the gradient of D at one image, and in a D with"
            " BatchNorm that depends on the whole batch. Add --d_norm none (or layer)."
        )
    # spectral norm bounds the Lipschitz constant; a norm layer would break the bound
    normed = any(isinstance(layer, NORMS) for layer in D.modules())
    bounded = any(map(is_parametrized, D.modules())) and not normed
    if config.loss == "wgan" and config.penalty == "none" and not bounded:
        warnings.warn(f"--loss wgan with nothing to bound D's slope: add {bounds}", stacklevel=3)


def logits_of(D: nn.Module, x: Tensor, *labels: Tensor) -> Tensor:
    """D's value before the sigmoid, (N,): `D.logits`, or from the probability that D gives."""
    if hasattr(D, "logits"):
        return D.logits(x, *labels)
    return D(x, *labels).reshape(len(x)).logit(eps=1e-7)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients pass through the network, but gather none for its own weights."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


@contextmanager
def sampling(network: nn.Module) -> Iterator[None]:
    """Run the network in eval mode without gradients; its former mode is restored."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)

"""A network's modes for a while: without gradients of its own, or for sampling."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


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

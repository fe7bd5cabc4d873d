"""Exponential moving averages of weights, and BatchNorm statistics that fit them."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

Inputs = tuple[Tensor, ...]  # a network's arguments


class Average(AveragedModel):
    """An average of a network's weights over the steps: w <- decay w + (1 - decay) theirs.

    The first update copies the weights; buffers are always copied. Torch's own class sends its
    counter to the device at each update, and a GPU waits for that.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.cache: dict[Any, nn.Module] = {}  # of `sampled`, for the weights as they are

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
        self.cache.clear()

    def load_state_dict(self, *args, **kwargs) -> Any:
        self.cache.clear()
        return super().load_state_dict(*args, **kwargs)

    def sampled(self, batches: Callable[[], Iterable[Inputs]], key: Any = None) -> nn.Module:
        """The averaged network with fresh statistics on these inputs, made once for each key."""
        if key not in self.cache:
            self.cache[key] = fresh_statistics(self.module, batches())
        return self.cache[key]


class Unpacked(nn.Module):
    """network(*inputs) as a function of one tuple, the form in which update_bn passes a batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Inputs) -> Tensor:
        return self.network(*inputs)


@torch.no_grad()
def fresh_statistics(network: nn.Module, batches: Iterable[Inputs]) -> nn.Module:
    """Copy the network, with BatchNorm statistics re-estimated on these inputs.

    The statistics seen in training belong to other weights than averaged ones. "Standing
    statistics": Brock et al. 2018, app. D.
    """
    network = copy.deepcopy(network)
    device = next(network.parameters()).device
    inputs = ([tuple(x.to(device) for x in batch)] for batch in batches)
    update_bn(inputs, Unpacked(network))
    return network

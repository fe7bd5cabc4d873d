"""Parts that several systems share: the memory format, and upsampling with a convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def memory_format(device: torch.device | str) -> torch.memory_format:
    """Choose the format in which a device's convolutions are fastest: channels last.

    Not on MPS, where BatchNorm's backward pass fails on it in many releases of torch.
    """
    mps = torch.device(device).type == "mps"
    return torch.contiguous_format if mps else torch.channels_last


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """Move the network to the device, in the format in which its convolutions are fastest there."""
    return network.to(device, memory_format=memory_format(device))


class UpsampledConv2d(nn.Conv2d):
    """(N, C, H, W) -> (N, K, 2H, 2W): nearest upsampling, then nn.Conv2d(C, K, 3, padding=1).

    Of the nine taps that cover an output pixel, those on one and the same input pixel are summed
    first: what is left is a transposed convolution, 4x4 with stride 2 and padding 1, of 4 products
    a pixel instead of 9, and the upsampled map is never made. The same values to rounding.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)
        # tap j of the 4 is the sum of those taps k of the 3 that it stands for
        sums = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        self.register_buffer("sums", sums, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.einsum("jm,oimn,kn->iojk", self.sums, self.weight, self.sums)
        return F.conv_transpose2d(x, weight, self.bias, stride=2, padding=1)

"""The blocks of BigGAN: Brock et al. 2018 (arXiv:1809.11096), appendix B, fig. 15.

Where a convolution stands beside a resizing the two are one operation here: the values are the same
to rounding, in less time.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.layers import UpsampledConv2d


class ConditionalBatchNorm2d(nn.Module):
    """x (N, C, H, W), condition (N, E) -> normalised x times 1 + gain(condition) plus its bias.

    Both are linear without biases of their own: what all classes share would be the affine part of
    a plain BatchNorm. Dumoulin et al. 2017; Brock et al. 2018, app. B.
    """

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Linear(condition_dim, channels, bias=False)
        self.bias = nn.Linear(condition_dim, channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain = 1 + self.gain(condition)[:, :, None, None]
        return torch.addcmul(self.bias(condition)[:, :, None, None], self.norm(x), gain)


class PooledConv2d(nn.Conv2d):
    """(N, C, 2H, 2W) -> (N, K, H, W): nn.Conv2d(C, K, 3, padding=1), then the mean of each 2x2.

    The four 3x3 windows that are averaged overlap: together they are one of 4x4 with stride 2, of
    16 products an output pixel instead of 36. `layers.UpsampledConv2d` is the other way round.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        # tap j of the 4 is half the sum of those taps k of the 3 that come to lie on it
        sums = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]]) / 2
        self.register_buffer("sums", sums, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.einsum("jm,oimn,kn->oijk", self.sums, self.weight, self.sums)
        return F.conv2d(x, weight, self.bias, stride=2, padding=1)


class GeneratorBlock(nn.Module):
    """x (N, in, S, S), condition (N, E) -> (N, out, 2S, 2S)."""

    def __init__(self, in_channels: int, out_channels: int, condition_dim: int) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm2d(in_channels, condition_dim)
        self.conv1 = UpsampledConv2d(in_channels, out_channels, bias=True)
        self.norm2 = ConditionalBatchNorm2d(out_channels, condition_dim)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x, condition)))
        h = self.conv2(F.relu(self.norm2(h, condition)))
        # a 1x1 convolution and nearest upsampling commute
        return h + F.interpolate(self.skip(x), scale_factor=2, mode="nearest")


class DiscriminatorBlock(nn.Module):
    """x (N, in, S, S) -> (N, out, S/2, S/2), or of S where it does not halve.

    The first one of a network sees the image itself, which no ReLU may cut.
    """

    def __init__(self, in_channels: int, out_channels: int, *, halves: bool, first: bool) -> None:
        super().__init__()
        self.halves, self.first = halves, first
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        make = PooledConv2d if halves else partial(nn.Conv2d, kernel_size=3, padding=1)
        self.conv2 = make(out_channels, out_channels)
        changes = halves or in_channels != out_channels
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(x))
        h = self.conv2(F.relu(h))
        # a 1x1 convolution and the mean of 2x2 commute
        return h + self.skip(F.avg_pool2d(x, 2) if self.halves else x)


class SelfAttention(nn.Module):
    """x (N, C, S, S) -> x + gamma * attention, gamma 0 at the start: the identity.

    Zhang et al. 2019 (arXiv:1805.08318), sec. 3, with keys and values max-pooled to S/2, as its
    authors' and BigGAN's code have it. Queries and keys have C/8 channels, values C/2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, wide = max(channels // 8, 1), max(channels // 2, 1)
        self.query = nn.Conv2d(channels, narrow, 1, bias=False)
        self.key = nn.Conv2d(channels, narrow, 1, bias=False)
        self.value = nn.Conv2d(channels, wide, 1, bias=False)
        self.out = nn.Conv2d(wide, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)  # (N, C/8, S^2)
        key = F.max_pool2d(self.key(x), 2).flatten(2)  # (N, C/8, S^2 / 4)
        value = F.max_pool2d(self.value(x), 2).flatten(2)  # (N, C/2, S^2 / 4)
        weights = (query.transpose(1, 2) @ key).softmax(2)  # (N, S^2, S^2 / 4)
        seen = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * self.out(seen)

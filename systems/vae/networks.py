"""Encoders and decoders of a variational autoencoder: linear layers alone, or convolutions.

An encoder maps x (N, C, S, S) in [0, 1] to (N, 2 latent_dim): the means of q(z | x), then its
log-variances. A decoder maps z (N, latent_dim), or (N, latent_dim, 1, 1), to logits (N, C, S, S):
their sigmoid is the mean of p(x | z).
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.layers import memory_format

BORDERS = {28: 2, 32: 0, 64: 0}  # black pixels a side that convolutions add: 28 halves twice


def widths_of(config) -> list[int]:
    """Channels of the maps, from the largest (side 16, or 32 of 64 pixels) to that of 4x4."""
    return [config.width * 2**i for i in range(4 if config.image_size == 64 else 3)]


class Encoder(nn.Module):
    """With --arch conv 4x4 convolutions of stride 2 down to 4x4; then one hidden layer.

    784 - 400 - 2 x 20 on MNIST without convolutions. The two heads are one matrix.
    """

    def __init__(self, channels: int, config) -> None:
        super().__init__()
        convolved = config.arch == "conv"
        maps = [channels, *(widths_of(config) if convolved else [])]
        self.border = BORDERS[config.image_size] if convolved else 0
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(maps))
        side = 4 if convolved else config.image_size
        self.hidden = nn.Linear(maps[-1] * side**2, config.hidden_dim)
        self.heads = nn.Linear(config.hidden_dim, 2 * config.latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, 4 * [self.border])  # (N, C, 32, 32)
        for down in self.down:
            x = F.relu(down(x))  # (N, w, 16, 16), (N, 2w, 8, 8), (N, 4w, 4, 4)
        return self.heads(F.relu(self.hidden(x.flatten(1))))


class LinearDecoder(nn.Module):
    """20 - 400 - 784 on MNIST."""

    def __init__(self, channels: int, config) -> None:
        super().__init__()
        self.shape = (channels, config.image_size, config.image_size)
        self.hidden = nn.Linear(config.latent_dim, config.hidden_dim)
        self.out = nn.Linear(config.hidden_dim, math.prod(self.shape))

    def forward(self, z: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(z.flatten(1)))).unflatten(1, self.shape)


class ConvDecoder(nn.Module):
    """The encoder's mirror: two linear layers to a map of 4x4, then transposed convolutions."""

    def __init__(self, channels: int, config) -> None:
        super().__init__()
        maps = [*widths_of(config)[::-1], channels]
        self.border = BORDERS[config.image_size]
        self.hidden = nn.Linear(config.latent_dim, config.hidden_dim)
        self.project = nn.Linear(config.hidden_dim, 16 * maps[0])
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(maps))

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.project(F.relu(self.hidden(z.flatten(1)))))
        x = x.unflatten(1, (-1, 4, 4)).contiguous(memory_format=memory_format(x.device))
        for i, up in enumerate(self.up):
            x = up(F.relu(x) if i else x)  # (N, 2w, 8, 8), (N, w, 16, 16), (N, C, 32, 32)
        return F.pad(x, 4 * [-self.border])  # the border is no part of the image


class SignedMeans(nn.Module):
    """z -> 2 sigmoid(logits) - 1: the means of p(x | z) as images in [-1, 1]."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.decoder(z) / 2)


DECODERS = {"fc": LinearDecoder, "conv": ConvDecoder}  # by --arch

"""Encoders and decoders of a variational autoencoder: linear layers alone, or convolutions.

An encoder maps x (N, C, S, S) in [0, 1] to (N, 2 latent_dim): the means of q(z | x), then its
log-variances. A decoder maps z (N, latent_dim), or (N, latent_dim, 1, 1), to logits (N, C, S, S):
their sigmoid is the mean of p(x | z).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.layers import memory_format

IMAGE_SIZES = (28, 32, 64)
BORDERS = {28: 2, 32: 0, 64: 0}  # black pixels a side that the convolutions add: 28 halves twice


class LinearEncoder(nn.Module):
    """784 - 400 - 2 x 20 on MNIST: one hidden layer. The two heads are one matrix."""

    def __init__(
        self, *, num_channels: int, image_size: int, latent_dim: int, hidden_dim: int
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_channels * image_size**2, hidden_dim)
        self.heads = nn.Linear(hidden_dim, 2 * latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.heads(F.relu(self.hidden(x.flatten(1))))


class LinearDecoder(nn.Module):
    """20 - 400 - 784 on MNIST."""

    def __init__(
        self, *, num_channels: int, image_size: int, latent_dim: int, hidden_dim: int
    ) -> None:
        super().__init__()
        self.shape = (num_channels, image_size, image_size)
        self.hidden = nn.Linear(latent_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, num_channels * image_size**2)

    def forward(self, z: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(z.flatten(1)))).unflatten(1, self.shape)


def widths_of(image_size: int, width: int) -> list[int]:
    """Channels of the maps, from the largest (side 16, or 32 of 64 pixels) to that of 4x4."""
    halvings = {28: 3, 32: 3, 64: 4}[image_size]
    return [width * 2**i for i in range(halvings)]


class ConvEncoder(nn.Module):
    """4x4 convolutions of stride 2 down to a map of 4x4, then one hidden layer."""

    def __init__(
        self, *, num_channels: int, image_size: int, latent_dim: int, width: int, hidden_dim: int
    ) -> None:
        super().__init__()
        widths = widths_of(image_size, width)
        self.border = BORDERS[image_size]
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, 2, 1) for a, b in zip([num_channels, *widths], widths, strict=False)
        )
        self.hidden = nn.Linear(16 * widths[-1], hidden_dim)
        self.heads = nn.Linear(hidden_dim, 2 * latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, 4 * [self.border])  # (N, C, 32, 32)
        for down in self.down:
            x = F.relu(down(x))  # (N, w, 16, 16), (N, 2w, 8, 8), (N, 4w, 4, 4)
        return self.heads(F.relu(self.hidden(x.flatten(1))))


class ConvDecoder(nn.Module):
    """The encoder's mirror: two linear layers to a map of 4x4, then transposed convolutions."""

    def __init__(
        self, *, num_channels: int, image_size: int, latent_dim: int, width: int, hidden_dim: int
    ) -> None:
        super().__init__()
        widths = widths_of(image_size, width)[::-1]
        self.border = BORDERS[image_size]
        self.hidden = nn.Linear(latent_dim, hidden_dim)
        self.project = nn.Linear(hidden_dim, 16 * widths[0])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, 2, 1)
            for a, b in zip(widths, [*widths[1:], num_channels], strict=True)
        )

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


ARCHITECTURES: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "fc": (LinearEncoder, LinearDecoder),
    "conv": (ConvEncoder, ConvDecoder),
}

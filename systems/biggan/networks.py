"""G and D of BigGAN (Brock et al. 2018, appendix B) at 32, 64 and 128 pixels.

At 128 pixels, width 96, z 120, embedding 128, attention at 64 and ImageNet's 1000 classes they have
70,433,988 and 87,982,370 parameters, as the authors' code has.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from systems.biggan.blocks import DiscriminatorBlock, GeneratorBlock, SelfAttention
from systems.biggan.spectral import SpectralNetwork, init_orthogonal


class Layout(NamedTuple):
    """Channels in units of the width.

    generator: of the first map, 4x4, and behind each block, which doubles its side. discriminator:
    behind each block, of which the first `halvings` halve the side.
    """

    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    halvings: int

    @property
    def sides_g(self) -> list[int]:
        """The side of the map behind each of G's blocks."""
        return [8 * 2**i for i in range(len(self.generator) - 1)]

    def sides_d(self, image_size: int) -> list[int]:
        last = len(self.discriminator)
        return [image_size // 2 ** min(i, self.halvings) for i in range(1, last + 1)]


# --layout -> --image_size -> channels. "published": 128 and 64 by Brock et al. 2018, table 4, and
# the authors' code; 32 is that code's layout for CIFAR-10. "tapered": ours, for small budgets: at
# 32 pixels most of the time goes into the largest maps, so that they are the narrow ones.
LAYOUTS: dict[str, dict[int, Layout]] = {
    "published": {
        32: Layout((4, 4, 4, 4), (4, 4, 4, 4), 2),
        64: Layout((16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4),
        128: Layout((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
    },
    "tapered": {32: Layout((4, 4, 2, 1), (1, 2, 4, 4), 3)},
}
IMAGE_SIZES = tuple(LAYOUTS["published"])


class BigGANGenerator(SpectralNetwork):
    """z (N, latent_dim) ~ N(0, I), class y (N,) -> image (N, C, S, S) in [-1, 1].

    z is cut into chunks: the first one makes the 4x4 map, each block's conditional BatchNorm has
    one of its own beside the class vector (hierarchical z). `shared` is the class embedding.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_channels: int,
        latent_dim: int,
        embedding_dim: int,
        width: int,
        layout: Layout,
        attention: int = 0,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        channels = [width * times for times in layout.generator]
        self.chunks = len(channels)
        chunk = latent_dim // self.chunks
        self.shared = nn.Embedding(num_classes, embedding_dim)
        self.project = nn.Linear(chunk, 4 * 4 * channels[0])
        self.blocks = nn.ModuleList(
            GeneratorBlock(a, b, embedding_dim + chunk) for a, b in pairwise(channels)
        )
        self.attend = attention_layers(layout.sides_g, channels[1:], attention)
        self.norm = nn.BatchNorm2d(channels[-1])
        self.to_image = nn.Conv2d(channels[-1], num_channels, 3, padding=1)
        self.apply(init_orthogonal)
        if spectral_norm:
            self.normalize_spectrally(but=(self.shared,))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.of_vectors(z, self.shared(y))

    def of_vectors(self, z: Tensor, r: Tensor) -> Tensor:
        """z, class vectors r (N, embedding_dim) -> images; r need not be those of a class."""
        first, *chunks = z.chunk(self.chunks, 1)
        x = self.project(first).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)  # (N, c, 4, 4)
        for block, attend, chunk in zip(self.blocks, self.attend, chunks, strict=True):
            x = attend(block(x, torch.cat((r, chunk), 1)))
        return torch.tanh(self.to_image(F.relu(self.norm(x))))


class ProjectionDiscriminator(SpectralNetwork):
    """image x (N, C, S, S) in [-1, 1], class y (N,) -> probability (N,) that x is a real y.

    The logit is linear in the features h, summed over places: w h + b + embed(y) h. Miyato & Koyama
    2018 (arXiv:1802.05637), eq. 3.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_channels: int,
        width: int,
        image_size: int,
        layout: Layout,
        attention: int = 0,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        channels = [num_channels, *(width * times for times in layout.discriminator)]
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(a, b, halves=i < layout.halvings, first=i == 0)
            for i, (a, b) in enumerate(pairwise(channels))
        )
        self.attend = attention_layers(layout.sides_d(image_size), channels[1:], attention)
        self.to_logit = nn.Linear(channels[-1], 1)
        self.embed = nn.Embedding(num_classes, channels[-1])
        self.apply(init_orthogonal)
        if spectral_norm:
            self.normalize_spectrally()

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """The value under the sigmoid, (N,): what every loss uses."""
        for block, attend in zip(self.blocks, self.attend, strict=True):
            x = attend(block(x))
        h = F.relu(x).sum((2, 3))
        return self.to_logit(h).squeeze(1) + (self.embed(y) * h).sum(1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x, y))


def attention_layers(sides: list[int], channels: list[int], side: int) -> nn.ModuleList:
    """Self-attention behind the first block whose map has this side; nothing behind the others."""
    at = sides.index(side) if side in sides else -1
    return nn.ModuleList(
        SelfAttention(width) if i == at else nn.Identity() for i, width in enumerate(channels)
    )

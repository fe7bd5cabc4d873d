"""The networks of 16 -> 64: an encoder-decoder with skips, a residual generator, a discriminator.

    UNet        the course's, at width 32; its image is the bilinearly enlarged input
    input (N, 3, 64, 64)  e1 32x32x32  e2 64x16x16  e3 128x8x8  e4 256x4x4  e5 512x2x2
                          d1 256x4x4 + e4   d2 128x8x8 + e3   d3 64x16x16 + e2   d4 32x32x32 + e1
                          d5 16x64x64 + input  ->  image (N, 3, 64, 64)

    Residual    works at 16x16 and grows at its end: EDSR's blocks (Lim et al. 2017) before
                sub-pixel convolutions (Shi et al. 2016) or nearest upsampling and convolutions
                (Odena et al. 2016), and learns what bilinear lacks

Both take any side that is a multiple of 32 (in the image) and are used at the one they trained on.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from GAN import INITS, down
from systems.srgan.resampling import enlarge
from training.layers import UpsampledConv2d

DEPTH = 5  # halvings of the image in the UNet and in D


def encoder(channels: int, width: int, norm: str = "batch") -> nn.ModuleList:
    """DEPTH layers (N, a, S, S) -> (N, b, S/2, S/2), b from width to 16 width."""
    sides = [channels, *(width * 2**i for i in range(DEPTH))]
    return nn.ModuleList(down(a, b, norm) for a, b in pairwise(sides))


class UNet(nn.Module):
    """low (N, C, S/4, S/4) -> image (N, C, S, S), both in [-1, 1]; S a multiple of 32."""

    def __init__(self, num_channels: int = 3, width: int = 32, init: str = "normal") -> None:
        super().__init__()
        self.downs = encoder(num_channels, width)
        inner = [width * 2**i for i in range(DEPTH)][::-1]  # 512 256 128 64 32
        outputs = [*inner[1:], width // 2]  # 256 128 64 32 16
        inputs = [inner[0], *(2 * b for b in outputs[:-1])]  # joined with their like
        self.ups = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False),
                nn.BatchNorm2d(b),
                nn.LeakyReLU(0.2, inplace=True),
            )
            for a, b in zip(inputs, outputs, strict=True)
        )
        self.to_image = nn.Conv2d(outputs[-1] + num_channels, num_channels, 3, padding=1)
        self.apply(INITS[init])

    def forward(self, low: Tensor) -> Tensor:
        skips = [enlarge(low)]
        for layer in self.downs:
            skips.append(layer(skips[-1]))
        y = skips.pop()
        for up in self.ups:
            y = torch.cat([up(y), skips.pop()], 1)
        return torch.tanh(self.to_image(y))


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), (N, C, S, S), without norm: Lim et al. 2017, fig. 2c."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


# --upsample -> layers (N, a, S, S) -> (N, b, 2S, 2S). A sub-pixel convolution makes the four pixels
# that each becomes by weights of their own: on a smooth sky they show as a lattice.
UPSAMPLINGS: dict[str, Callable[[int, int], nn.Module]] = {
    "subpixel": lambda a, b: nn.Sequential(
        nn.Conv2d(a, 4 * b, 3, padding=1), nn.PixelShuffle(2), nn.LeakyReLU(0.2, inplace=True)
    ),
    "resize": lambda a, b: nn.Sequential(
        UpsampledConv2d(a, b, bias=True), nn.LeakyReLU(0.2, inplace=True)
    ),
}


class Residual(nn.Module):
    """low (N, C, S/4, S/4) -> image (N, C, S, S) in [-1, 1] (cut off so in eval mode alone).

    Ledig et al. 2017's generator in EDSR's form, half as wide from the first doubling on.
    """

    def __init__(
        self, num_channels: int = 3, width: int = 64, blocks: int = 8, upsample: str = "subpixel"
    ) -> None:
        super().__init__()
        self.from_image = nn.Conv2d(num_channels, width, 3, padding=1)
        self.body = nn.Sequential(
            *(ResidualBlock(width) for _ in range(blocks)),
            nn.Conv2d(width, width, 3, padding=1),
        )
        double = UPSAMPLINGS[upsample]
        self.grow = nn.Sequential(double(width, width // 2), double(width // 2, width // 2))
        self.to_image = nn.Conv2d(width // 2, num_channels, 3, padding=1)
        nn.init.normal_(self.to_image.weight, std=1e-3)  # so that training begins near bilinear
        nn.init.zeros_(self.to_image.bias)

    def forward(self, low: Tensor) -> Tensor:
        x = self.from_image(low)
        image = enlarge(low) + self.to_image(self.grow(x + self.body(x)))
        return image if self.training else image.clamp(-1, 1)


class Discriminator(nn.Module):
    """image (N, C, S, S) in [-1, 1] -> probability that it is real, (N,) up to S = 64.

    Beyond, a value for each patch, (N P,). By the course's table a norm on the first layer too,
    and a 3x3 convolution with stride 2 at the end.
    """

    def __init__(
        self, channels: int = 3, width: int = 32, *, norm: str = "batch", init: str = "normal"
    ) -> None:
        super().__init__()
        self.downs = encoder(channels, width, norm)
        self.to_logit = nn.Conv2d(width * 2 ** (DEPTH - 1), 1, 3, 2, 1, bias=norm == "none")
        self.apply(INITS[init])

    def maps(self, x: Tensor) -> list[Tensor]:
        """image -> the map of each layer, from (N, w, S/2, S/2) to (N, 16w, S/32, S/32)."""
        found = [x]
        for layer in self.downs:
            found.append(layer(found[-1]))
        return found[1:]

    def features(self, x: Tensor) -> Tensor:
        """(N, F): all maps in a row, scaled: the sum over F of |a - b| is the mean of its means."""
        return torch.cat([m.flatten(1) / (m[0].numel() * DEPTH) for m in self.maps(x)], 1)

    def logits(self, x: Tensor) -> Tensor:
        """The value under the sigmoid, (N,) up to S = 64, (N P,) of P patches beyond."""
        last, convolution = self.maps(x)[-1], self.to_logit
        if last.shape[-1] > 1:
            return convolution(last).flatten()
        # Of a 1x1 map (S = 32) the kernel's centre meets all there is. Written so because bf16
        # gradients of that convolution are often NaN on a CPU (seen with torch 2.14).
        return F.linear(last.flatten(1), convolution.weight[:, :, 1, 1], convolution.bias).flatten()

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x))


# --arch -> G of channels, width, init, blocks, upsample. The residual one keeps PyTorch's
# initialisation: there is no norm that would lift N(0, 0.02).
GENERATORS: dict[str, Callable[[int, int, str, int, str], nn.Module]] = {
    "unet": lambda channels, width, init, *_: UNet(channels, width, init),
    "residual": lambda channels, width, init, *form: Residual(channels, width, *form),
}

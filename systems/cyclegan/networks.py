"""The networks of image-to-image translation: two residual generators and a patch discriminator.

Zhu et al. 2017 (arXiv:1703.10593), app. 7.2, after Johnson et al. 2016 and Isola et al. 2017; and
the smaller generator of an emoji course, which works on no map of the image's own size.

    --stem 7, width 64 (the paper's):   c7s1-64  d128  d256  R256 x blocks  u128  u64  c7s1-3
    --stem 0, width 32 (the course's):           d32   d64   R64  x blocks  u32        u3
    --arch blend, width 32 (ours):      d32  d64  R64 x blocks  u32 (+ d32)  u32 (+ x)  c3s1-4

The last draws an image and a mask, which says where that image covers the source.
d halves the map and u doubles it. A convolution in front of a norm has no bias: the norm would take
it away again.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from GAN import INITS, Discriminator
from lib.distributed import of_all_ranks, shard
from lib.seeding import generator
from training.layers import UpsampledConv2d

# --norm; the instances' is without weights, as in the authors' code
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": nn.InstanceNorm2d,
    "batch": nn.BatchNorm2d,
}
STEMS = (0, 3, 5, 7)


def normed(conv: nn.Module, norm: str) -> nn.Sequential:
    return nn.Sequential(conv, NORMS[norm](conv.out_channels), nn.ReLU(inplace=True))


def same(a: int, b: int, kernel: int, *, reflect: bool, bias: bool = False) -> nn.Conv2d:
    """(N, a, S, S) -> (N, b, S, S)."""
    mode = "reflect" if reflect else "zeros"
    return nn.Conv2d(a, b, kernel, padding=kernel // 2, padding_mode=mode, bias=bias)


class ResidualBlock(nn.Module):
    """x + f(x), (N, C, S, S): f is one or two 3x3 convolutions with norms, and a ReLU between them.

    The paper's block has two and reflects at the border; the course's has one and pads with zeros.
    """

    def __init__(self, channels: int, *, convs: int, norm: str, reflect: bool) -> None:
        super().__init__()
        layers = []
        for _ in range(convs):
            layers += normed(same(channels, channels, 3, reflect=reflect), norm)
        self.f = nn.Sequential(*layers[:-1])  # no ReLU in front of the sum

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


UPSAMPLINGS = ("resize", "transposed")


def grow(a: int, b: int, upsample: str, *, bias: bool = False, paper: bool = False) -> nn.Module:
    """(N, a, S, S) -> (N, b, 2S, 2S); with a stem the transposed kernel is the paper's 3x3."""
    if upsample == "resize":
        return UpsampledConv2d(a, b, bias=bias)
    if paper:
        return nn.ConvTranspose2d(a, b, 3, 2, padding=1, output_padding=1, bias=bias)
    return nn.ConvTranspose2d(a, b, 4, 2, 1, bias=bias)


class TranslationGenerator(nn.Module):
    """image (N, C, S, S) in [-1, 1] -> image of the same shape and range; S a multiple of 4."""

    def __init__(
        self,
        *,
        num_channels: int = 3,
        width: int = 32,
        stem: int = 0,
        blocks: int = 1,
        block_convs: int = 1,
        norm: str = "batch",
        upsample: str = "resize",
    ) -> None:
        super().__init__()
        if stem:
            widths = [width, 2 * width, 4 * width]
            first = [normed(same(num_channels, width, stem, reflect=True), norm)]
            halve = lambda a, b: nn.Conv2d(a, b, 3, 2, 1, bias=False)  # noqa: E731
            last = same(width, num_channels, stem, reflect=True, bias=True)
        else:
            widths = [width, 2 * width]
            first = [normed(nn.Conv2d(num_channels, width, 4, 2, 1, bias=False), norm)]
            halve = lambda a, b: nn.Conv2d(a, b, 4, 2, 1, bias=False)  # noqa: E731
            last = grow(width, num_channels, upsample, bias=True)
        downs = [normed(halve(a, b), norm) for a, b in pairwise(widths)]
        pairs = reversed(list(pairwise(widths)))
        ups = [normed(grow(b, a, upsample, paper=stem > 0), norm) for a, b in pairs]
        make = partial(ResidualBlock, widths[-1], convs=block_convs, norm=norm, reflect=stem > 0)
        self.encode = nn.Sequential(*first, *downs)  # (N, 2w or 4w, S/4, S/4)
        self.transform = nn.Sequential(*(make() for _ in range(blocks)))
        self.decode = nn.Sequential(*ups, last)  # (N, C, S, S)
        self.apply(INITS["normal"])

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.decode(self.transform(self.encode(x))))


class BlendingGenerator(nn.Module):
    """image x (N, C, S, S) in [-1, 1] -> x + m (y - x), same shape and range; S a multiple of 4.

    y (N, C, S, S) in [-1, 1] and the mask m (N, 1, S, S) in (0, 1) come of a U-Net (Ronneberger et
    al. 2015, arXiv:1505.04597), whose maps, and x itself, pass the narrow middle by: what is to
    stay need not be drawn anew. The mask is that of Pumarola et al. 2018 (arXiv:1807.09251), sec.
    4; here it begins at 0.12, so that G begins near x.
    """

    def __init__(
        self,
        *,
        num_channels: int = 3,
        width: int = 32,
        blocks: int = 1,
        block_convs: int = 1,
        norm: str = "batch",
        upsample: str = "resize",
    ) -> None:
        super().__init__()
        inner = 2 * width
        self.encode1 = normed(nn.Conv2d(num_channels, width, 4, 2, 1, bias=False), norm)
        self.encode2 = normed(nn.Conv2d(width, inner, 4, 2, 1, bias=False), norm)
        make = partial(ResidualBlock, inner, convs=block_convs, norm=norm, reflect=False)
        self.transform = nn.Sequential(*(make() for _ in range(blocks)))
        self.decode1 = normed(grow(inner, width, upsample), norm)
        self.decode2 = normed(grow(2 * width, width, upsample), norm)
        self.to_image = same(width + num_channels, num_channels + 1, 3, reflect=False, bias=True)
        self.apply(INITS["normal"])
        nn.init.constant_(self.to_image.bias[num_channels:], -2.0)

    def forward(self, x: Tensor) -> Tensor:
        outer = self.encode1(x)  # (N, w, S/2, S/2)
        h = self.decode1(self.transform(self.encode2(outer)))  # (N, w, S/2, S/2)
        h = self.decode2(torch.cat([h, outer], 1))  # (N, w, S, S)
        drawn, mask = self.to_image(torch.cat([h, x.to(h.dtype)], 1)).split([x.shape[1], 1], 1)
        return x + torch.sigmoid(mask) * (torch.tanh(drawn) - x)


class PatchDiscriminator(nn.Module):
    """image (N, C, S, S) in [-1, 1] -> a value for each patch of 70x70, (N, 1, S/8 - 2, S/8 - 2).

    C64-C128-C256-C512 at width 64. Isola et al. 2017, app. 6.1.2: no norm on the first layer.
    """

    def __init__(self, *, num_channels: int = 3, hidden_dim: int = 64, norm: str = "batch") -> None:
        super().__init__()
        h = hidden_dim

        def layer(a: int, b: int, stride: int) -> list[nn.Module]:
            conv = nn.Conv2d(a, b, 4, stride, 1, bias=False)
            return [conv, NORMS[norm](b), nn.LeakyReLU(0.2, inplace=True)]

        self.layers = nn.Sequential(
            nn.Conv2d(num_channels, h, 4, 2, 1),  # (N,  h, S/2, S/2)
            nn.LeakyReLU(0.2, inplace=True),
            *layer(h, 2 * h, 2),  # (N, 2h, S/4, S/4)
            *layer(2 * h, 4 * h, 2),  # (N, 4h, S/8, S/8)
            *layer(4 * h, 8 * h, 1),  # (N, 8h, S/8 - 1, S/8 - 1)
            nn.Conv2d(8 * h, 1, 4, 1, 1),
        )
        self.apply(INITS["normal"])

    def logits(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x))


class ImagePool(nn.Module):
    """The last images shown, or so: `swap` gives each new one back, or an old one in its place.

    Shrivastava et al. 2017 (arXiv:1612.07828), sec. 2.3; Zhu et al. 2017, sec. 4: a pool of 50.
    A module, so that a checkpoint holds the images. Which ones are drawn is a function of the key
    and the step, and how many there are one of the step, so that nothing else needs to be kept.
    """

    def __init__(self, size: int, image_shape: tuple[int, ...], *, key: tuple[str | int, ...]):
        super().__init__()
        self.size, self.key = size, key
        self.register_buffer("images", torch.zeros(size, *image_shape))

    @torch.no_grad()
    def swap(self, images: Tensor, step: int) -> Tensor:
        """images (N, C, S, S), as many at every step, counted from 0 -> as many, without gradient.

        One by one: while the pool is not full it takes the image and gives it back. Then, at even
        chance, it gives the image back and forgets it, or gives an old one and keeps it instead.
        """
        images = of_all_ranks(images.detach().float())  # all processes keep one and the same pool
        given, kept = self.choose(len(images), step)
        both = torch.cat([self.images, images])
        given, kept = (torch.tensor(x, device=both.device) for x in (given, kept))
        self.images.copy_(both[kept])
        return shard(both[given])

    def choose(self, n: int, step: int) -> tuple[list[int], list[int]]:
        """Of the pool's images and the n new ones, in one row: those given back, those kept."""
        stream = generator("cpu", "image pool", *self.key, step)
        swaps = (torch.rand(n, generator=stream) < 0.5).tolist()
        places = torch.randint(self.size, (n,), generator=stream).tolist()
        filled = min(step * n, self.size)
        kept, given = list(range(self.size)), []
        for new, swapped, place in zip(range(self.size, self.size + n), swaps, places, strict=True):
            shown = new
            if filled < self.size:
                kept[filled] = new
                filled += 1
            elif swapped:
                shown, kept[place] = kept[place], new
            given.append(shown)
        return given, kept


GENERATORS = {"plain": TranslationGenerator, "blend": BlendingGenerator}  # --arch -> G

# --judge -> D of channels, width, image size, norm: a value of an image (DCGAN's) or of each patch
DISCRIMINATORS: dict[str, Callable[[int, int, int, str], nn.Module]] = {
    "image": lambda channels, width, size, norm: Discriminator(
        num_channels=channels, hidden_dim=width, image_size=size, norm=norm
    ),
    "patch": lambda channels, width, size, norm: PatchDiscriminator(
        num_channels=channels, hidden_dim=width, norm=norm
    ),
}

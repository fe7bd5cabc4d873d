"""Networks that make and judge an image of given labels: DCGAN's (GAN.py) with y beside z and x.

y (N, L) is multi-hot float: which of L things the image shows. At 64x64, width 64, these are the
networks of the course report on i-CLEVR, which keeps the convolutions' biases and has
BatchNorm behind D's first convolution too. DISCRIMINATORS is what --condition chooses from.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from GAN import INITS, NORMS, down, up, widths

# --arch -> the slope of LeakyReLU; 0.01 is torch's default, as the source has it
SLOPES = {"plain": 0.01, "residual": 0.2}
MAPPED = 512  # what "residual" makes of z and y before the first map
NAMES_SIZE = 1024  # bytes of a network's list of labels; i-CLEVR's 24 take 308


class ConditionalGenerator(nn.Module):
    """z (N, latent_dim, 1, 1) ~ N(0, I), y (N, L) -> image (N, C, S, S) in [-1, 1].

    y is embedded and joined to z, as if it were more of it; "residual" has two linear layers behind
    (Karras et al. 2019, sec. 2: a mapping network).
    """

    def __init__(
        self,
        *,
        label_names: tuple[str, ...],
        num_channels: int = 3,
        latent_dim: int = 100,
        embedding_dim: int = 300,
        hidden_dim: int = 64,
        image_size: int = 64,
        arch: str = "plain",
        init: str = "normal",
    ) -> None:
        super().__init__()
        wide_to_narrow = widths(hidden_dim, image_size)[::-1]
        widest = wide_to_narrow[0]
        self.embed = nn.Sequential(nn.Linear(len(label_names), embedding_dim), nn.ReLU())
        code_dim, self.map = latent_dim + embedding_dim, nn.Sequential()
        if arch == "residual":
            for width in (code_dim, MAPPED):
                self.map.extend([nn.Linear(width, MAPPED), nn.LeakyReLU(SLOPES[arch])])
            code_dim = MAPPED
        self.project = nn.Sequential(
            Project(code_dim, widest),
            nn.BatchNorm2d(widest),
            nn.ReLU(inplace=True),
        )  # (N, 8h, 4, 4)
        ups = []
        for a, b in pairwise(wide_to_narrow):
            ups += [up(a, b, bias=True), *([Residual(b, "batch")] if arch == "residual" else [])]
        self.ups = nn.Sequential(*ups)
        self.to_image = nn.ConvTranspose2d(hidden_dim, num_channels, 4, 2, 1)
        self.register_buffer("label_names", encoded(label_names))  # so a checkpoint knows its own
        self.apply(INITS[init])

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        code = self.map(torch.cat((z.flatten(1), self.embed(y)), 1))
        return torch.tanh(self.to_image(self.ups(self.project(code))))


class Project(nn.ConvTranspose2d):
    """(N, in) -> (N, out, 4, 4): nn.ConvTranspose2d(in, out, 4, stride=2) of one pixel.

    That is a linear map, and as one it takes a quarter of the time on a CPU (in 400, out 128).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2)

    def forward(self, code: Tensor) -> Tensor:
        maps = code @ self.weight.flatten(1)
        return maps.unflatten(1, (-1, 4, 4)) + self.bias.view(-1, 1, 1)


def encoded(label_names: tuple[str, ...]) -> Tensor:
    """Names -> (NAMES_SIZE,) uint8: a line each, then zeros."""
    text = "\n".join(label_names).encode().ljust(NAMES_SIZE, b"\0")
    return torch.tensor(list(text), dtype=torch.uint8)


def decoded(label_names: Tensor) -> tuple[str, ...]:
    return tuple(bytes(label_names.tolist()).rstrip(b"\0").decode().split("\n"))


class Residual(nn.Module):
    """x (N, C, S, S) -> x + act(norm(conv(x))), a 3x3 convolution, act leaky by slope.

    After He et al. 2016 (arXiv:1512.03385). G has one behind each transposed convolution between
    the first and the last, D behind each strided one but the first.
    """

    def __init__(self, channels: int, norm: str, slope: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = NORMS[norm](channels)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return x + F.leaky_relu(self.norm(self.conv(x)), self.slope)


class ConditionalDiscriminator(nn.Module):
    """image x (N, C, S, S) in [-1, 1], y (N, L) -> probability (N,) that x is real and shows y.

    A subclass adds the layers that deal with y, `channels` being those of the last map, 4x4.
    `condition(y)` is what it makes of y alone, which serves as many images as are judged with the
    same weights. `judge(x, condition)` is the value under the sigmoid, (N,), which every loss uses;
    of K conditions (K, N, ...) for the same images, (K, N).
    """

    painted = 0  # channels that y adds to the image
    add_condition: Callable[[int, int, int], None]  # of num_labels, channels, image_size
    condition: Callable[[Tensor], Tensor]
    judge: Callable[[Tensor, Tensor], Tensor]

    def __init__(
        self,
        *,
        num_labels: int,
        num_channels: int = 3,
        hidden_dim: int = 64,
        image_size: int = 64,
        norm: str = "batch",
        arch: str = "plain",
        init: str = "normal",
    ) -> None:
        super().__init__()
        slope = SLOPES[arch]
        channels = [num_channels + self.painted, *widths(hidden_dim, image_size)]
        downs = []
        for a, b in pairwise(channels):
            downs.append(down(a, b, norm, bias=True, slope=slope))
            if arch == "residual" and len(downs) > 1:
                downs.append(Residual(b, norm, slope))
        self.downs = nn.Sequential(*downs)
        self.to_logit = nn.Conv2d(channels[-1], 1, 4)  # (N, 1, 1, 1)
        self.add_condition(num_labels, channels[-1], image_size)
        self.apply(INITS[init])

    def real_logit(self, features: Tensor) -> Tensor:
        """(N, channels, 4, 4) -> (N,): a linear map, which as one is faster on a CPU."""
        weight, bias = self.to_logit.weight.flatten(1), self.to_logit.bias
        return F.linear(features.flatten(1), weight, bias)[:, 0]

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        return self.judge(x, self.condition(y))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x, y))


class ConcatDiscriminator(ConditionalDiscriminator):
    """y is painted as one more channel of the image: the source's way (Mirza & Osindero 2014)."""

    painted = 1

    def add_condition(self, num_labels: int, channels: int, image_size: int) -> None:
        self.paint = nn.Sequential(
            nn.Linear(num_labels, image_size**2),
            nn.LeakyReLU(SLOPES["plain"], inplace=True),
            nn.Unflatten(1, (1, image_size, image_size)),
        )

    def condition(self, y: Tensor) -> Tensor:
        """(N, 1, S, S)."""
        return self.paint(y)

    def judge(self, x: Tensor, condition: Tensor) -> Tensor:
        if condition.dim() > x.dim():
            return torch.stack([self.judge(x, one) for one in condition])
        return self.real_logit(self.downs(torch.cat((x, condition), 1)))


class ProjectionDiscriminator(ConditionalDiscriminator):
    """logit = psi(h(x)) + y^T V sum h(x), h the last map. Miyato & Koyama 2018, sec. 3.

    They derive it for one class: log p(y|x) of a softmax. For many labels that are independent
    given x it is a sum over the labels that hold, which a multi-hot y gives: y^T V again.
    """

    def add_condition(self, num_labels: int, channels: int, image_size: int) -> None:
        self.embed = nn.Linear(num_labels, channels, bias=False)

    def condition(self, y: Tensor) -> Tensor:
        """y (N, L) -> its embedding (N, channels)."""
        return self.embed(y)

    def judge(self, x: Tensor, condition: Tensor) -> Tensor:
        features = self.downs(x)
        return self.real_logit(features) + (features.sum((2, 3)) * condition).sum(-1)


# --condition -> how D judges that an image shows y
DISCRIMINATORS: dict[str, type[ConditionalDiscriminator]] = {
    "concat": ConcatDiscriminator,
    "projection": ProjectionDiscriminator,
}

"""The Inception-v3 that FID is defined with: the TensorFlow graph of 2015-12-05 up to pool3.

Architecture: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision". In
the last branch of blocks A, C and E the graph of 2015 pools differently from the paper and from
torchvision.models.inception_v3 (see `mean_pool_conv` and `max_pool_conv`), so an FID computed with
any other network is another number. Submodules have the names of mseitzer/pytorch-fid's state dict,
in the order of the graph.

This is the network at inference: it was trained as convolution, BatchNorm and ReLU, and `fold` puts
the BatchNorm into the convolution, which is exact up to rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
TRAINED_PARTS = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
BATCHNORM_EPS = 1e-3  # of the 2015 graph; PyTorch's default is 1e-5


class InceptionV3(nn.Module):
    """Images (N, 1 or 3, H, W), uint8 or float in [0, 1] -> pool3 features (N, 2048), float32.

    `precision` is that of all layers but the first and the final mean, which are float32. `digest`
    names the weights: features compare only between extractors of one name, digest and precision.
    """

    name = "inception-v3-2015-pool3"
    dims = 2048
    digest: str | None = None

    def __init__(self, precision: str = "fp32"):
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}, choose from {', '.join(PRECISIONS)}")
        self.precision = precision
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, padding="valid")  # (N, 32, 149, 149)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, padding="valid")  # (N, 32, 147, 147)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)  # (N, 64, 147, 147), pooled to 73
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)  # (N, 80, 73, 73)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, padding="valid")  # (N, 192, 71, 71), pooled to 35
        self.Mixed_5b = BlockA(192, pool_width=32)  # (N, 256, 35, 35)
        self.Mixed_5c = BlockA(256, pool_width=64)  # (N, 288, 35, 35)
        self.Mixed_5d = BlockA(288, pool_width=64)  # (N, 288, 35, 35)
        self.Mixed_6a = BlockB(288)  # (N, 768, 17, 17)
        self.Mixed_6b = BlockC(768, width=128)  # (N, 768, 17, 17)
        self.Mixed_6c = BlockC(768, width=160)  # (N, 768, 17, 17)
        self.Mixed_6d = BlockC(768, width=160)  # (N, 768, 17, 17)
        self.Mixed_6e = BlockC(768, width=192)  # (N, 768, 17, 17)
        self.Mixed_7a = BlockD(768)  # (N, 1280, 8, 8)
        self.Mixed_7b = BlockE(1280, pool_conv=mean_pool_conv)  # (N, 2048, 8, 8)
        self.Mixed_7c = BlockE(2048, pool_conv=max_pool_conv)  # (N, 2048, 8, 8)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        x = prepare(images.to(self.Conv2d_1a_3x3.weight.device))
        with full_float32():
            x = self.Conv2d_1a_3x3(x.contiguous(memory_format=torch.channels_last))
            x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(x.to(PRECISIONS[self.precision])))
            x = F.max_pool2d(x, 3, stride=2)
            x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
            x = F.max_pool2d(x, 3, stride=2)
            x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
            x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
            x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.float().mean(dim=(2, 3))

    @torch.no_grad()
    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a trained state dict, folded, and put the network in working form.

        The first layer stays float32: rounding pixels and first kernels does the most harm, and
        float32 costs no time there. MNIST against blurred MNIST, 400 images each: FID 161.16 in
        fp32, 162.80 all in bf16, 160.99 so; 161.16 with two more layers in fp32, at 1.5 the time.
        """
        self.to(PRECISIONS[self.precision], memory_format=torch.channels_last)
        self.Conv2d_1a_3x3.float()
        for name, conv in named_convs(self):
            weight, bias = fold(*(state[f"{name}.{part}"] for part in TRAINED_PARTS))
            conv.weight.copy_(weight)
            conv.bias.copy_(bias)
        self.eval()


def prepare(images: Tensor) -> Tensor:
    """Images as the network takes them: (N, 3, 299, 299) float32 in [-1, 1].

    Bilinear without antialiasing and with align_corners=False, as pytorch-fid resizes.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images are {tuple(images.shape)}, wanted (N, 1 or 3, H, W)")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}, wanted uint8 or float in [0, 1]")
    x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
    return (2 * x - 1).expand(-1, 3, -1, -1)  # grey is resized once, then seen as three channels


class Conv(nn.Module):
    """Convolution with bias, then ReLU. (N, channels, H, W) -> (N, width, H', W')."""

    def __init__(self, channels: int, width: int, kernel, *, stride: int = 1, padding="same"):
        super().__init__()
        height_width = (kernel, kernel) if isinstance(kernel, int) else kernel
        weight = torch.zeros(width, channels, *height_width)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.stride = stride
        self.padding = padding  # "same" or "valid", TensorFlow's words

    def before_relu(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.before_relu(x).relu_()


def mean_pool_conv(x: Tensor, conv: Conv) -> Tensor:
    """A 3x3 mean, then a 1x1 convolution. (N, C, H, W) -> (N, width, H, W).

    TensorFlow takes the mean over the pixels inside the image; torchvision counts the zeros of the
    padding as well. Both steps are linear and a mean leaves a bias alone, so the convolution goes
    first and leaves 4 to 7 times fewer channels to pool.
    """
    x = conv.before_relu(x)
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False).relu_()


def max_pool_conv(x: Tensor, conv: Conv) -> Tensor:
    """A 3x3 maximum, then a 1x1 convolution: only in the graph's last block; the paper and
    torchvision have a mean there. (N, C, H, W) -> (N, width, H, W).
    """
    return conv(F.max_pool2d(x, 3, stride=1, padding=1))


class BlockA(nn.Module):
    """(N, C, 35, 35) -> (N, 224 + pool_width, 35, 35). Szegedy et al. 2016, fig. 5 and its 5x5."""

    def __init__(self, channels: int, pool_width: int):
        super().__init__()
        self.branch1x1 = Conv(channels, 64, 1)
        self.branch5x5_1 = Conv(channels, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5)
        self.branch3x3dbl_1 = Conv(channels, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(channels, pool_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pool = mean_pool_conv(x, self.branch_pool)
        return torch.cat([self.branch1x1(x), five, double, pool], dim=1)


class BlockB(nn.Module):
    """(N, C, 35, 35) -> (N, 480 + C, 17, 17). Szegedy et al. 2016, fig. 10."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch3x3 = Conv(channels, 384, 3, stride=2, padding="valid")
        self.branch3x3dbl_1 = Conv(channels, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2, padding="valid")

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pool = F.max_pool2d(x, 3, stride=2)
        return torch.cat([self.branch3x3(x), double, pool], dim=1)


class BlockC(nn.Module):
    """(N, C, 17, 17) -> (N, 768, 17, 17), width channels inside. Szegedy et al. 2016, fig. 6."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.branch1x1 = Conv(channels, 192, 1)
        self.branch7x7_1 = Conv(channels, width, 1)
        self.branch7x7_2 = Conv(width, width, (1, 7))
        self.branch7x7_3 = Conv(width, 192, (7, 1))
        self.branch7x7dbl_1 = Conv(channels, width, 1)
        self.branch7x7dbl_2 = Conv(width, width, (7, 1))
        self.branch7x7dbl_3 = Conv(width, width, (1, 7))
        self.branch7x7dbl_4 = Conv(width, width, (7, 1))
        self.branch7x7dbl_5 = Conv(width, 192, (1, 7))
        self.branch_pool = Conv(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pool = mean_pool_conv(x, self.branch_pool)
        return torch.cat([self.branch1x1(x), seven, double, pool], dim=1)


class BlockD(nn.Module):
    """(N, C, 17, 17) -> (N, 512 + C, 8, 8). Fig. 10 again, with a 7x7 in the longer branch."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch3x3_1 = Conv(channels, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2, padding="valid")
        self.branch7x7x3_1 = Conv(channels, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1))
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2, padding="valid")

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        pool = F.max_pool2d(x, 3, stride=2)
        return torch.cat([three, self.branch7x7x3_4(seven), pool], dim=1)


class BlockE(nn.Module):
    """(N, C, 8, 8) -> (N, 2048, 8, 8). Szegedy et al. 2016, fig. 7."""

    def __init__(self, channels: int, pool_conv: Callable[[Tensor, Conv], Tensor]):
        super().__init__()
        self.branch1x1 = Conv(channels, 320, 1)
        self.branch3x3_1 = Conv(channels, 384, 1)
        self.branch3x3_2a = Conv(384, 384, (1, 3))
        self.branch3x3_2b = Conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = Conv(channels, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1))
        self.branch_pool = Conv(channels, 192, 1)
        self.pool_conv = pool_conv

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        three = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        double = [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        pool = self.pool_conv(x, self.branch_pool)
        return torch.cat([self.branch1x1(x), *three, *double, pool], dim=1)


def fold(weight: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor):
    """Weight and bias of the one convolution that equals a convolution followed by BatchNorm.

    gamma (w * x - mean) / sqrt(var + eps) + beta, multiplied out in float64.
    """
    scale = gamma.double() / (var.double() + BATCHNORM_EPS).sqrt()
    return weight.double() * scale[:, None, None, None], beta.double() - mean.double() * scale


def named_convs(network: nn.Module) -> Iterator[tuple[str, Conv]]:
    """Every convolution with its dotted name, in the order of the graph."""
    return ((name, conv) for name, conv in network.named_modules() if isinstance(conv, Conv))


def trained_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the trained state dict, 5 x 94 tensors in the order of the graph."""
    with torch.device("meta"):
        network = InceptionV3()
    shapes = {}
    for name, conv in named_convs(network):
        shapes |= {f"{name}.{part}": tuple(conv.bias.shape) for part in TRAINED_PARTS}
        shapes[f"{name}.conv.weight"] = tuple(conv.weight.shape)
    return shapes


@contextmanager
def full_float32():
    """float32 products on CUDA: cuDNN's default for convolutions is TF32, with 10 mantissa bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before

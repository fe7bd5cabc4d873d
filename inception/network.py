"""The Inception-v3 that FID is defined with: the TensorFlow graph of 2015-12-05 up to pool3.

Architecture: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision". In
the last branch of blocks A, C and E the graph of 2015 pools differently from the paper and from
torchvision.models.inception_v3 (see `mean_pool_conv` and `max_pool_conv`), so an FID computed with
any other network is another number. The rest is torchvision's blocks, with its names, which are
those of mseitzer/pytorch-fid's state dict in the order of the graph.

This is the network at inference: it was trained as convolution, BatchNorm and ReLU, and `fold` puts
the BatchNorm into the convolution, which is exact up to rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception as tv

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
        self.precision = precision
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)  # (N, 32, 149, 149)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)  # (N, 32, 147, 147)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)  # (N, 64, 147, 147), pooled to 73
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)  # (N, 80, 73, 73)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)  # (N, 192, 71, 71), pooled to 35
        self.Mixed_5b = BlockA(192, 32, Conv)  # (N, 256, 35, 35)
        self.Mixed_5c = BlockA(256, 64, Conv)  # (N, 288, 35, 35)
        self.Mixed_5d = BlockA(288, 64, Conv)  # (N, 288, 35, 35)
        self.Mixed_6a = tv.InceptionB(288, Conv)  # (N, 768, 17, 17)
        self.Mixed_6b = BlockC(768, 128, Conv)  # (N, 768, 17, 17)
        self.Mixed_6c = BlockC(768, 160, Conv)  # (N, 768, 17, 17)
        self.Mixed_6d = BlockC(768, 160, Conv)  # (N, 768, 17, 17)
        self.Mixed_6e = BlockC(768, 192, Conv)  # (N, 768, 17, 17)
        self.Mixed_7a = tv.InceptionD(768, Conv)  # (N, 1280, 8, 8)
        self.Mixed_7b = BlockE(1280, Conv)  # (N, 2048, 8, 8)
        self.Mixed_7c = LastBlockE(2048, Conv)  # (N, 2048, 8, 8)
        self.requires_grad_(False)

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


class Conv(nn.Conv2d):
    """Convolution with bias, then ReLU: of torchvision's blocks, whose BatchNorm is folded away."""

    def reset_parameters(self) -> None:
        """Zeros: trained weights follow, and no random stream moves."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()


def mean_pool_conv(x: Tensor, conv: Conv) -> Tensor:
    """A 3x3 mean, then a 1x1 convolution. (N, C, H, W) -> (N, width, H, W).

    TensorFlow takes the mean over the pixels inside the image; torchvision counts the zeros of the
    padding as well. Both steps are linear and a mean leaves a bias alone, so the convolution goes
    first and leaves 4 to 7 times fewer channels to pool.
    """
    x = nn.Conv2d.forward(conv, x)
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False).relu_()


def max_pool_conv(x: Tensor, conv: Conv) -> Tensor:
    """(N, C, H, W) -> (N, width, H, W): a 3x3 maximum, then a 1x1 convolution.

    Only in the graph's last block; the paper and torchvision have a mean there.
    """
    return conv(F.max_pool2d(x, 3, stride=1, padding=1))


class BlockA(tv.InceptionA):
    """(N, C, 35, 35) -> (N, 224 + pool_features, 35, 35). Szegedy et al. 2016, fig. 5, its 5x5."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return [self.branch1x1(x), five, double, mean_pool_conv(x, self.branch_pool)]


class BlockC(tv.InceptionC):
    """(N, C, 17, 17) -> (N, 768, 17, 17), channels_7x7 inside. Szegedy et al. 2016, fig. 6."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return [self.branch1x1(x), seven, double, mean_pool_conv(x, self.branch_pool)]


class BlockE(tv.InceptionE):
    """(N, C, 8, 8) -> (N, 2048, 8, 8). Szegedy et al. 2016, fig. 7."""

    pool_conv = staticmethod(mean_pool_conv)

    def _forward(self, x: Tensor) -> list[Tensor]:
        three = self.branch3x3_1(x)
        three = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        double = [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return [self.branch1x1(x), *three, *double, self.pool_conv(x, self.branch_pool)]


class LastBlockE(BlockE):
    pool_conv = staticmethod(max_pool_conv)


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

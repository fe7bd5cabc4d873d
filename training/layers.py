"""Layers that several networks use: the 4x4 convolutions, stride 2, padding 1, of a DCGAN, and a
convolution of the upsampled image, which is one of them in disguise.

Two of their derivatives are slow in the CPU's convolution routines, and there they are written as
matrix products of the same arithmetic:
- between an image of one to three channels and a feature map, all of them (1.8 to 4 times as fast);
- towards the weight from a map of 4x4, where the channels are many (1.1 to 2.8 times at widths of
  64 to 512 channels). The forward pass and the gradient of the image are not: they are near the
  peak of the machine as they are.
Those factors are of AVX2. With AVX-512 the routines' weight gradients are as fast or faster, but
for a grey image's and many channels (1.7 to 4 times), so that there the others are left to them.
On other devices, and in bf16, the layers are the framework's own, but for the image's convolutions,
which on a CPU stay in float32 under autocast: they are a small share of the work.

With y = conv(x, w) the three maps below are each other's derivatives, of any order:
    conv (x, w) -> y        transposed (y, w) -> x        weight_gradient (x, y) -> w
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

in_float32 = torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
outside_autocast = torch.amp.custom_bwd(device_type="cpu")

FEW_CHANNELS = 3  # of an image, up to which the matrix product wins (measured: 1 and 3, not 4)
SMALL_MAP = 4  # side of a map, up to which it wins for the weight's gradient (measured: 4, not 8)
AVX512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
MANY = 32  # channels, from which it wins there for a grey image's (measured: 64, not 16)


def memory_format(device: torch.device | str) -> torch.memory_format:
    """That in which a device's convolutions are fastest: channels last, but for MPS.

    There BatchNorm's backward pass fails on it in many releases of torch.
    """
    mps = torch.device(device).type == "mps"
    return torch.contiguous_format if mps else torch.channels_last


class HalvingConv2d(nn.Conv2d):
    """(N, C, 2H, 2W) -> (N, K, H, W): nn.Conv2d(C, K, 4, stride=2, padding=1)."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 4, 2, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        odd = x.shape[-1] % 2 or x.shape[-2] % 2  # whose gradient is no doubled map
        if odd or not by_matrix_product(x, self.weight, side=x.shape[-1] // 2):
            return super().forward(x)
        y = Conv.apply(x, self.weight)
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)


class DoublingConvTranspose2d(nn.ConvTranspose2d):
    """(N, K, H, W) -> (N, C, 2H, 2W): nn.ConvTranspose2d(K, C, 4, stride=2, padding=1)."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 4, 2, 1, bias=bias)

    def forward(self, y: Tensor) -> Tensor:
        if not by_matrix_product(y, self.weight, side=y.shape[-1]):
            return super().forward(y)
        x = Transposed.apply(y, self.weight)
        return x if self.bias is None else x + self.bias.view(1, -1, 1, 1)


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
        if by_matrix_product(x, weight, side=x.shape[-1]):
            y = Transposed.apply(x, weight)
            return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)
        return F.conv_transpose2d(x, weight, self.bias, stride=2, padding=1)


def by_matrix_product(x: Tensor, weight: Tensor, *, side: int) -> bool:
    """weight (K, C, 4, 4), C on the side of the larger map; side: that of the smaller map."""
    if x.device.type != "cpu":
        return False
    small = side <= SMALL_MAP and not AVX512 and not torch.is_autocast_enabled("cpu")
    return is_image(weight) or small


def is_image(weight: Tensor) -> bool:
    return weight.shape[1] <= FEW_CHANNELS


class Conv(Function):
    """x (N, C, 2H, 2W), w (K, C, 4, 4) -> y (N, K, H, W), the framework's own forward pass."""

    @staticmethod
    @in_float32
    def forward(ctx, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return F.conv2d(x, w, stride=2, padding=1)

    @staticmethod
    @outside_autocast
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        for_x, for_w = ctx.needs_input_grad
        return (
            Transposed.apply(g, w) if for_x else None,
            WeightGradient.apply(x, g) if for_w else None,
        )


class Transposed(Function):
    """y (N, K, H, W), w (K, C, 4, 4) -> x (N, C, 2H, 2W): each y paints a 4x4 patch, all summed."""

    @staticmethod
    @in_float32
    def forward(ctx, y: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(y, w)
        if not is_image(w):
            return F.conv_transpose2d(y, w, stride=2, padding=1)
        n, _, height, width = y.shape
        channels = w.shape[1]
        patches = rows(y) @ w.flatten(1)
        patches = patches.view(n, height, width, channels, 4, 4).permute(0, 3, 1, 4, 2, 5)
        x = y.new_zeros(n, channels, 2 * height + 2, 2 * width + 2)
        pairs = x.view(n, channels, height + 1, 2, width + 1, 2)
        for i in (0, 1):  # a patch covers 2x2 cells of 2x2 pixels
            for j in (0, 1):
                cell = patches[:, :, :, 2 * i : 2 * i + 2, :, 2 * j : 2 * j + 2]
                pairs[:, :, i : i + height, :, j : j + width, :] += cell
        return x[:, :, 1:-1, 1:-1].contiguous()

    @staticmethod
    @outside_autocast
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        y, w = ctx.saved_tensors
        for_y, for_w = ctx.needs_input_grad
        return (
            Conv.apply(g, w) if for_y else None,
            WeightGradient.apply(g, y) if for_w else None,
        )


class WeightGradient(Function):
    """x (N, C, 2H, 2W), y (N, K, H, W) -> w (K, C, 4, 4): sum over places of y times x's patch."""

    @staticmethod
    @in_float32
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        channels = x.shape[1]
        if AVX512 and not (channels == 1 and y.shape[1] >= MANY):
            shape = (y.shape[1], channels, 4, 4)
            return nn.grad.conv2d_weight(x, shape, y, stride=2, padding=1)
        x = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()
        n, down, right, _ = x.stride()
        shape = (len(y), *y.shape[2:], 4, 4 * channels)
        patches = x.as_strided(shape, (n, 2 * down, 2 * right, down, 1))
        w = rows(y).T @ patches.reshape(-1, 16 * channels)
        return w.view(-1, 4, 4, channels).permute(0, 3, 1, 2)

    @staticmethod
    @outside_autocast
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        for_x, for_y = ctx.needs_input_grad
        return (
            Transposed.apply(y, g) if for_x else None,
            Conv.apply(x, g) if for_y else None,
        )


def rows(y: Tensor) -> Tensor:
    """(N, K, H, W) -> (N * H * W, K); free where the channels lie last in memory."""
    return y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])

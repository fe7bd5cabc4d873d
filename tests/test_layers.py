"""The upsampled convolution against the framework's, in value and in derivatives."""

import pytest
import torch
import torch.nn.functional as F

from training.layers import UpsampledConv2d


@pytest.mark.parametrize("channels", [1, 3, 6])  # an image's, a map's
@pytest.mark.parametrize("side", [4, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_an_upsampled_convolution_is_the_convolution_of_the_upsampled_map(channels, side, bias):
    torch.manual_seed(0)
    conv = UpsampledConv2d(5, channels, bias=bias).double()
    x = torch.randn(2, 5, side, side, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0), conv.weight, conv.bias, padding=1)
    ours, weights = conv(x), torch.randn_like(plain)
    torch.testing.assert_close(ours, plain)
    inputs = (x, *conv.parameters())
    for found, wanted in zip(
        *(torch.autograd.grad((y * weights).sum(), inputs) for y in (ours, plain)), strict=True
    ):
        torch.testing.assert_close(found, wanted)

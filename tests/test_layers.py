"""The convolutions against the framework's, in value and in derivatives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training import layers
from training.layers import (
    Conv,
    DoublingConvTranspose2d,
    HalvingConv2d,
    Transposed,
    UpsampledConv2d,
    WeightGradient,
)

channels = pytest.mark.parametrize("channels", [1, 3, 6])  # an image's, a map's
layout = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


@pytest.fixture(params=[False, True], autouse=True)
def either_processor(request, monkeypatch):
    monkeypatch.setattr(layers, "AVX512", request.param)
    monkeypatch.setattr(layers, "MANY", 6)  # the 5 channels of these tests are few


def tensors(channels: int, layout=torch.contiguous_format):
    """image (2, C, 8, 6), features (2, 5, 4, 3), weight (5, C, 4, 4), float64."""
    torch.manual_seed(0)
    shapes = ((2, channels, 8, 6), (2, 5, 4, 3), (5, channels, 4, 4))
    return [
        torch.randn(s, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
        for s in shapes
    ]


@channels
@layout
def test_values_and_gradients_are_the_frameworks(channels, layout):
    x, y, w = tensors(channels, layout)
    pairs = [
        (Conv.apply(x, w), F.conv2d(x, w, stride=2, padding=1), (x, w)),
        (Transposed.apply(y, w), F.conv_transpose2d(y, w, stride=2, padding=1), (y, w)),
    ]
    for ours, theirs, inputs in pairs:
        torch.testing.assert_close(ours, theirs)
        g = torch.randn_like(ours)
        for a, b in zip(
            torch.autograd.grad(ours, inputs, g),
            torch.autograd.grad(theirs, inputs, g),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


@channels
def test_derivatives_of_both_orders_against_finite_differences(channels):
    x, y, w = tensors(channels)
    for function, inputs in ((Conv, (x, w)), (Transposed, (y, w)), (WeightGradient, (x, y))):
        assert torch.autograd.gradcheck(function.apply, inputs)
        assert torch.autograd.gradgradcheck(function.apply, inputs)


@channels
@pytest.mark.parametrize("bias", [True, False])
def test_the_layers_are_the_frameworks_in_all_but_speed(channels, bias, monkeypatch):
    x, y, _ = (t.float() for t in tensors(channels))
    torch.manual_seed(1)
    conv, transposed = HalvingConv2d(channels, 5, bias=bias), DoublingConvTranspose2d(5, channels)
    ours = conv(x), transposed(y)
    monkeypatch.setattr(layers, "by_matrix_product", lambda *_, **__: False)
    theirs = conv(x), transposed(y)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert {k: v.shape for k, v in conv.state_dict().items()} == {
        k: v.shape for k, v in nn.Conv2d(channels, 5, 4, 2, 1, bias=bias).state_dict().items()
    }


@pytest.mark.parametrize("many", [5, 6])
def test_both_forms_of_the_weights_gradient_are_the_frameworks(many, monkeypatch):
    monkeypatch.setattr(layers, "MANY", many)
    x, y, w = tensors(1)
    wanted = torch.autograd.grad(F.conv2d(x, w, stride=2, padding=1), w, y.detach())[0]
    torch.testing.assert_close(WeightGradient.apply(x, y), wanted)


def test_only_what_needs_a_gradient_is_computed(monkeypatch):
    x, _, w = tensors(1)
    monkeypatch.setattr(WeightGradient, "apply", None)  # would fail if it were called
    (g,) = torch.autograd.grad(Conv.apply(x, w.detach()).sum(), x)
    assert g.shape == x.shape


@channels
@pytest.mark.parametrize("side", [4, 7])  # a matrix product, a convolution unless to an image
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

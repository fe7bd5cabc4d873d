"""The adversarial losses in closed form."""

import math

import pytest
import torch

from losses import BCE


def test_an_undecided_discriminator_pays_2_log_2():
    zero = torch.zeros(5)
    assert (BCE.real(zero) + BCE.fake(zero)).item() == pytest.approx(2 * math.log(2), abs=1e-6)
    assert BCE.generator(zero).item() == pytest.approx(math.log(2), abs=1e-6)


def test_losses_are_cross_entropies_averaged_over_the_batch():
    logits = torch.tensor([-3.0, 0.5, 2.0])
    p = torch.sigmoid(logits)
    torch.testing.assert_close(BCE.real(logits), -p.log().mean())
    torch.testing.assert_close(BCE.fake(logits), -(1 - p).log().mean())
    torch.testing.assert_close(BCE.generator(logits), -p.log().mean())


def test_log_d_keeps_its_gradient_where_the_minimax_loss_loses_it():
    logit = torch.tensor([-20.0], requires_grad=True)
    (log_d,) = torch.autograd.grad(BCE.generator(logit), logit)
    (minimax,) = torch.autograd.grad(-BCE.fake(logit), logit)
    assert log_d.item() == pytest.approx(-1, abs=1e-6)
    assert minimax.item() == pytest.approx(-math.exp(-20), rel=1e-3)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_extreme_logits_stay_finite(logit):
    x = torch.tensor([logit], requires_grad=True)
    for loss in BCE:
        value = loss(x)
        (gradient,) = torch.autograd.grad(value, x)
        assert value.isfinite()
        assert gradient.isfinite()

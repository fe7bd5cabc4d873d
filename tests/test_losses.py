"""The adversarial losses and penalties in closed form."""

import pytest
import torch

from training.losses import BCE, HINGE, LOSSES, LSGAN, PENALTIES, WGAN


def test_losses_are_cross_entropies_averaged_over_the_batch():
    logits = torch.tensor([-3.0, 0.5, 2.0])
    p = torch.sigmoid(logits)
    torch.testing.assert_close(BCE.real(logits), -p.log().mean())
    torch.testing.assert_close(BCE.fake(logits), -(1 - p).log().mean())
    torch.testing.assert_close(BCE.generator(logits), -p.log().mean())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_extreme_logits_stay_finite(name, logit):
    x = torch.tensor([logit], requires_grad=True)
    for loss in LOSSES[name]:
        value = loss(x)
        (gradient,) = torch.autograd.grad(value, x)
        assert value.isfinite()
        assert gradient.isfinite()


def test_least_squares_are_zero_at_their_targets_and_a_half_a_unit_squared_away():
    one, zero, values = torch.ones(4), torch.zeros(4), torch.tensor([0.0, 3.0])
    assert LSGAN.real(one).item() == LSGAN.fake(zero).item() == LSGAN.generator(one).item() == 0
    assert LSGAN.real(values).item() == pytest.approx((1 + 4) / 4, abs=1e-6)
    assert LSGAN.fake(values).item() == pytest.approx(9 / 4, abs=1e-6)
    assert LSGAN.generator(values).item() == pytest.approx((1 + 4) / 2, abs=1e-6)


def test_hinge_stops_at_the_margin_and_g_does_not():
    logits = torch.tensor([-2.0, 0.0, 3.0])
    assert HINGE.real(logits).item() == pytest.approx((3 + 1 + 0) / 3, abs=1e-6)
    assert HINGE.fake(logits).item() == pytest.approx((0 + 1 + 4) / 3, abs=1e-6)
    assert HINGE.generator(logits).item() == pytest.approx(-1 / 3, abs=1e-6)


def test_wasserstein_is_a_difference_of_means():
    real, fake = torch.tensor([1.0, 4.0]), torch.tensor([-1.0, 0.0])
    assert (WGAN.real(real) + WGAN.fake(fake)).item() == pytest.approx(-3, abs=1e-6)
    assert WGAN.generator(fake).item() == pytest.approx(0.5, abs=1e-6)


x, fake = torch.randn(2, 6, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
share = torch.linspace(0, 1, 6).view(6, 1, 1, 1).double()


@pytest.mark.parametrize(
    ("name", "steep", "flat"), [("r1", 25 / 2, 0.125), ("zero", 25.0, 0.25), ("gp", 16.0, 0.25)]
)
def test_the_penalty_of_a_linear_discriminator(name, steep, flat):
    for slope, wanted in ((5.0, steep), (0.5, flat)):  # whatever the image; below 1 counts too
        w = torch.zeros(16, dtype=torch.float64)
        w[:2] = torch.tensor([0.6, 0.8]) * slope
        penalty = PENALTIES[name](lambda images, w=w: images.flatten(1) @ w, x, fake, share)
        assert penalty.item() == pytest.approx(wanted, rel=1e-6)


def curved(weights):
    """A smooth D whose gradient depends on the image."""
    return lambda images: (images.flatten(1).tanh().square() @ weights).sin()


@pytest.mark.parametrize("name", ["r1", "zero", "gp"])
def test_the_gradient_of_a_penalty_against_finite_differences(name):
    weights = torch.linspace(-1, 1, 16, dtype=torch.float64).requires_grad_()
    penalty = PENALTIES[name]
    assert torch.autograd.gradcheck(lambda w: penalty(curved(w), x, fake, share), weights)


between = share * x + (1 - share) * fake


@pytest.mark.parametrize(("name", "where"), [("r1", x), ("zero", between), ("gp", between)])
def test_where_a_penalty_is_taken(name, where):
    weights = torch.linspace(-1, 1, 16, dtype=torch.float64)
    logits, h = curved(weights), 1e-6
    step = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4) * h
    slopes = torch.stack([(logits(where + d) - logits(where - d)) / (2 * h) for d in step])
    squares = slopes.square().sum(0)
    of_slope = {"r1": squares / 2, "zero": squares, "gp": (squares.sqrt() - 1).square()}
    wanted = of_slope[name].mean().item()
    assert PENALTIES[name](logits, x, fake, share).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", ["r1", "zero", "gp"])
def test_a_penalty_sends_nothing_back_into_the_images(name):
    images, fakes = x.clone().requires_grad_(), fake.clone().requires_grad_()
    weights = torch.ones(16, dtype=torch.float64, requires_grad=True)
    PENALTIES[name](curved(weights), images, fakes, share).backward()
    assert images.grad is None
    assert fakes.grad is None
    assert weights.grad.isfinite().all()

"""DiffAugment: closed forms of each part, what it may draw, and where it stands in the game."""

import pytest
import torch

from lib.seeding import generator
from training.augment import Augment, Draws, cut_out, diffaug, draw, translate


def images(n=5, channels=3, size=8):
    return 2 * torch.rand(n, channels, size, size, generator=generator("cpu", "images")) - 1


def drawn(n, size, index=0):
    return draw(n, size, generator("cpu", index), "cpu")


def changed(x, **draws):
    """diffaug with these draws alone: no shift, and the cut far outside."""
    neutral = {"brightness": torch.zeros(len(x)), "saturation": torch.ones(len(x))}
    neutral |= {"contrast": torch.ones(len(x)), "shift": torch.zeros(len(x), 2).long()}
    return diffaug(x, Draws(**neutral | {"centre": torch.full((len(x), 2), -99)} | draws))


def same(a, b, atol=1e-6):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_brightness_shifts_each_images_mean_by_its_draw():
    x, amount = images(), torch.tensor([-0.5, -0.1, 0.0, 0.2, 0.5])
    y = changed(x, brightness=amount)
    same(y.mean((1, 2, 3)) - x.mean((1, 2, 3)), amount)
    same(y - y.mean((1, 2, 3), keepdim=True), x - x.mean((1, 2, 3), keepdim=True))


def test_saturation_scales_the_distance_from_grey():
    x, factor = images(), torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])
    y = changed(x, saturation=factor)
    same(y.mean(1), x.mean(1))
    same(y.std(1), factor.view(-1, 1, 1) * x.std(1))
    same(y[0], x[0].mean(0, keepdim=True).expand(3, -1, -1))


def test_contrast_scales_the_spread_around_the_mean():
    x, factor = images(), torch.tensor([0.5, 0.8, 1.0, 1.2, 1.5])
    y = changed(x, contrast=factor)
    same(y.mean((1, 2, 3)), x.mean((1, 2, 3)))
    same(y.std((1, 2, 3)), factor * x.std((1, 2, 3)))


def test_translation_moves_by_whole_pixels_and_fills_with_zeros():
    x, shift = images(), torch.tensor([[1, 0], [0, -2], [-1, 1], [0, 0], [2, 2]])
    y = translate(x, shift)
    assert torch.equal(y[0, :, 1:], x[0, :, :-1])
    assert torch.equal(y[1, :, :, :-2], x[1, :, :, 2:])
    assert torch.equal(y[2, :, :-1, 1:], x[2, :, 1:, :-1])
    assert torch.equal(y[3], x[3])
    assert torch.equal(y[4, :, 2:, 2:], x[4, :, :-2, :-2])
    zeros = [(y[i] == 0).all(0).sum().item() for i in range(5)]
    assert zeros == [8, 16, 8 + 8 - 1, 0, 2 * 16 - 4]


def test_cutout_makes_its_square_zero_and_nothing_else():
    x, centre = images(3), torch.tensor([[4, 3], [0, 8], [8, 6]])
    y = cut_out(x, centre, side=4)
    square = torch.zeros(3, 8, 8, dtype=torch.bool)
    square[0, 2:6, 1:5] = True
    square[1, 0:2, 6:8] = True
    square[2, 6:8, 4:8] = True
    assert torch.equal((y == 0).all(1), square)
    assert torch.equal(y, x.masked_fill(square[:, None], 0))


def test_draws_fill_their_ranges_evenly():
    draws = drawn(20_000, 32)
    for values, low, high in (
        (draws.brightness, -0.5, 0.5),
        (draws.saturation, 0, 2),
        (draws.contrast, 0.5, 1.5),
    ):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02)
    for values, low, high in ((draws.shift, -4, 4), (draws.centre, 0, 32)):
        counts = torch.bincount((values - low).flatten(), minlength=high - low + 1)
        assert len(counts) == high - low + 1
        assert counts / counts.sum() == pytest.approx(1 / len(counts), rel=0.15)


def test_the_parts_come_in_turn_and_grey_images_have_no_saturation():
    x, draws = images(size=16), drawn(5, 16)
    y = changed(changed(x, brightness=draws.brightness), saturation=draws.saturation)
    y = translate(changed(y, contrast=draws.contrast), draws.shift)
    same(diffaug(x, draws), cut_out(y, draws.centre, side=8))
    grey = images(channels=1, size=16)
    unsaturated = draws._replace(saturation=torch.zeros(5))
    assert torch.equal(diffaug(grey, draws), diffaug(grey, unsaturated))


def test_the_same_key_gives_the_same_images_and_another_others():
    x = images(size=16)
    assert Augment("none", 42)(x, "real", 0) is x
    a = Augment("diffaug", 42)
    assert torch.equal(a(x, "real", 3), Augment("diffaug", 42)(x, "real", 3))
    others = [a(x, "real", 4), a(x, "fake", 3), Augment("diffaug", 43)(x, "real", 3)]
    assert not any(torch.equal(a(x, "real", 3), other) for other in others)


def test_the_gradient_is_that_of_finite_differences():
    x = images(2, size=4).double().requires_grad_()
    one = Draws(*(d.double() if d.is_floating_point() else d for d in drawn(2, 4)))
    assert torch.autograd.gradcheck(lambda x: diffaug(x, one), x)


def test_d_sees_augmented_images_alone_and_g_learns_through_them(build):
    changes = {"d_norm": "none", "penalty": "r1", "d_steps": 2, "fresh_noise": True}
    trainer = build(augment="diffaug", **changes)
    made, seen, asked = [], [], []
    do, judge, penalty = trainer.augment, trainer.step_D, trainer.penalty

    def note(images, purpose, index):
        asked.append((purpose, index))
        made.append(do(images, purpose, index))
        return made[-1]

    def note_penalty(D, x, fake, share):
        seen.extend((x, fake))
        return penalty(D, x, fake, share)

    trainer.augment, trainer.penalty = note, note_penalty
    trainer.step_D = lambda x: (seen.append(x), judge(x))[1]
    trainer.step = 5
    before = [p.clone() for p in trainer.G.parameters()]
    trainer.train_step(trainer.batches()(5))
    assert asked == [("real", 10), ("fake", 10), ("real", 11), ("fake", 11), ("for G", 5)]
    assert len(seen) == 9
    assert all(any(image is one for one in made) for image in seen)
    assert all((p != q).any() for p, q in zip(trainer.G.parameters(), before, strict=True))


def test_a_mirror_takes_half_of_the_images_each_as_a_whole():
    x = images(n=2000, size=4)
    y = Augment("mirror", 42)(x, "real", 0)
    kept, mirrored = ((y == z).flatten(1).all(1) for z in (x, x.flip(3)))
    assert torch.equal(mirrored, ~kept)
    assert kept.double().mean().item() == pytest.approx(0.5, abs=0.05)

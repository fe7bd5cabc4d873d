"""Super-resolution: the course's layers, the degradation, scores in closed form, tiles."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import paint
from test_presets import table
from torch import nn

from dataset import to_bytes, to_signed
from GAN import count_parameters
from lib.errors import UserError
from lib.flags import parse
from main import SYSTEMS
from metrics import lpips as perceptual
from metrics.lpips import VGGMaps
from systems.srgan import scores
from systems.srgan import trainer as system
from systems.srgan.config import PRESETS, SRGANConfig
from systems.srgan.flips import POSITIONS, in_random_positions
from systems.srgan.losses import euclidean, squared
from systems.srgan.networks import Discriminator, Residual, UNet
from systems.srgan.resampling import UPSCALERS, enlarge, shrink
from systems.srgan.scores import mse, psnr, restoration_scores, ssim
from systems.srgan.tiles import MARGIN, upscale_in_tiles

MODEL = "srgan"
ENCODER = [(3, 32), (32, 64), (64, 128), (128, 256), (256, 512)]
DECODER = [(512, 256), (512, 128), (256, 64), (128, 32), (64, 16)]  # in: the skip joined


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def no_lpips(monkeypatch):
    monkeypatch.setattr(scores, "lpips_if_any", lambda device: None)


# Networks


def test_the_courses_layers_and_parameters():
    four = [(a, b, 4, 2, 1) for a, b in ENCODER]
    G, D = UNet(), Discriminator()
    assert table(G) == [*four, *((a, b, 4, 2, 1) for a, b in DECODER), (16 + 3, 3, 3, 1, 1)]
    assert table(D) == [*four, (512, 1, 3, 2, 1)]
    assert (count_parameters(G), count_parameters(D)) == (6_280_100, 2_793_408)


def test_shapes_ranges_and_probabilities():
    low = random_images(2, 3, 16, 16)
    for G in (UNet(width=4), Residual(width=4, blocks=1), Residual(3, 4, 1, "resize")):
        image = G.eval()(low)
        assert image.shape == (2, 3, 64, 64)
        assert image.abs().max() <= 1
    D = Discriminator(width=4)
    x = random_images(2, 3, 64, 64)
    assert D.logits(x).shape == (2,)
    assert torch.equal(D.eval()(x), torch.sigmoid(D.logits(x)))
    assert D.logits(random_images(2, 3, 128, 128)).shape == (2 * 4,)


def test_the_residual_generator_begins_near_bilinear():
    low = random_images(2, 3, 16, 16) * 0.9
    assert torch.allclose(Residual(width=16, blocks=2)(low), enlarge(low), atol=0.02)


def test_features_sum_to_the_mean_of_the_maps_means():
    D = Discriminator(width=4).eval()
    x, y = random_images(2, 3, 64, 64), random_images(2, 3, 64, 64, seed=1)
    maps = zip(D.maps(x), D.maps(y), strict=True)
    wanted = sum((a - b).abs().mean() for a, b in maps) / 5
    found = (D.features(x) - D.features(y)).abs().sum(1).mean()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_distances_in_closed_form():
    """Squared: in [0, 1], where fakes off by 0.2 of [-1, 1] are off by 0.1: 3 * 64 * 64 * 0.01."""
    x = torch.zeros(2, 3, 64, 64)
    assert euclidean(x + 0.2, x).item() == pytest.approx(0.2 * 12288**0.5, rel=1e-5)
    assert squared(x + 0.2, x).item() == pytest.approx(122.88, rel=1e-5)


# Degradation


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize("value", [-0.3, 1.0])
def test_a_constant_image_stays_that_constant(kernel, value):
    x = torch.full((1, 3, 64, 64), value)
    low = shrink(x, kernel)
    assert low.shape == (1, 3, 16, 16)
    for upscale in UPSCALERS.values():
        assert torch.allclose(upscale(low), x, atol=1e-6)


def test_shrinking_by_bilinear_is_a_triangle_over_eight_pixels():
    x = torch.zeros(1, 1, 64, 64)
    x[..., 8:10, :] = 1  # rows 8 and 9 lie 1.5 and 0.5 before the centre 9.5 + 0.5 of row 2
    triangle = torch.tensor([0.5, 1.5, 2.5, 3.5, 3.5, 2.5, 1.5, 0.5]) / 16  # over rows 6 to 13
    assert shrink(x)[0, 0, 2, 5].item() == pytest.approx(triangle[2:4].sum().item(), abs=1e-6)


# A step


def test_without_an_adversarial_loss_there_is_no_d(build):
    trainer = build(adversarial_weight=0.0)
    trainer.D.register_forward_pre_hook(lambda *_: pytest.fail("D was asked"))
    scalars = trainer.train_step(trainer.batches()(0))
    assert set(scalars) == {"reconstruction_loss"}
    assert set(trainer.networks) == set(trainer.optimizers) == {"G"}


def test_g_is_run_once_a_step_and_learns_from_the_weighted_sum(build):
    game = {"reconstruction": "l1", "reconstruction_weight": 3.0, "adversarial_weight": 0.5}
    trainer, calls, found = build(**game), [], []
    trainer.G.register_forward_hook(lambda *_: calls.append(1))
    trainer.optimizers["G"].register_step_pre_hook(
        lambda optimizer, *_: found.append(optimizer.param_groups[0]["params"][0].grad.clone())
    )
    x = trainer.batches()(0).x
    scalars = trainer.train_step(trainer.batches()(0))
    assert len(calls) == 1
    assert all(p.requires_grad for p in trainer.D.parameters())
    again = build(**game)
    fake = again.G(again.shrunk(x))
    again.update_discriminator(x, fake.detach(), 0)
    logits, distance = again.D.logits(fake), (fake - x).abs().mean()
    loss = 3 * distance + 0.5 * F.softplus(-logits).mean()
    (gradient,) = torch.autograd.grad(loss, next(again.G.parameters()))
    assert torch.allclose(found[0], gradient, rtol=1e-4, atol=1e-8)
    assert scalars["reconstruction_loss"].item() == pytest.approx(distance.item(), rel=1e-5)


@pytest.mark.parametrize("size", [32, 128])
def test_a_penalty_is_of_the_mean_over_the_patches_that_the_losses_take(build, size):
    trainer = build(image_size=size, penalty="r1", d_norm="none")
    D, x = trainer.D, random_images(3, 1, size, size)
    assert D.logits(x).shape == ({32: 3, 128: 12}[size],)
    found = trainer.penalize(x, x, 0)["gradient_penalty"]
    leaf = x.clone().requires_grad_()
    values = D.logits(leaf).view(3, -1).mean(1)
    (gradient,) = torch.autograd.grad(values.sum(), leaf, create_graph=True)
    assert found.item() == pytest.approx(gradient.square().sum().item() / 3 / 2, rel=1e-5)


def test_the_perceptual_loss_teaches_g_and_leaves_vgg_alone(build, monkeypatch):
    maps = VGGMaps()
    monkeypatch.setattr(system, "load_vgg_maps", lambda *_: maps)
    trainer = build(adversarial_weight=0.0, reconstruction_weight=0.0, perceptual_weight=1.0)
    before = next(maps.parameters()).clone()
    first = next(trainer.G.parameters()).clone()
    scalars = trainer.train_step(trainer.batches()(0))
    assert scalars["perceptual_loss"] > 0
    assert not torch.equal(first, next(trainer.G.parameters()))
    assert torch.equal(before, next(maps.parameters()))


def test_vgg_takes_the_first_convolutions_of_the_backbone(monkeypatch):
    state = [torch.randn_like(p) / 10 for p in VGGMaps().parameters()]
    monkeypatch.setattr(perceptual, "find_backbone", lambda net: [*state, torch.zeros(256)])
    maps = perceptual.load_vgg_maps("cpu")
    assert maps(torch.zeros(1, 1, 32, 32)).shape == (1, 128, 16, 16)
    assert len(state) == 2 * 4
    assert all(torch.equal(a, b) for a, b in zip(maps.parameters(), state, strict=True))
    x = random_images(1, 3, 32, 32)
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    y = ((x + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    first = F.relu(F.conv2d(y, state[0], state[1], padding=1))
    assert torch.allclose(maps.layers[:2](y), first, atol=1e-5)


def test_the_preset_course_is_the_source_and_the_default():
    config = parse(["--model", "srgan", "--preset", "course"], SYSTEMS, "")
    assert config == SRGANConfig(model="srgan")
    assert config.num_training_steps == 100 * 20_000 // config.batch_size
    assert (config.loss, config.learning_rate, config.batch_size) == ("bce", 2e-4, 32)
    assert config.reconstruction_weight == config.adversarial_weight == 1
    for name in PRESETS:
        SRGANConfig(**PRESETS[name])
        # a sweep over the weight begins at 0, whatever it says of D
        SRGANConfig(**PRESETS[name] | {"adversarial_weight": 0, "feature_matching_weight": 0})
    of_d = {"loss": "wgan", "penalty": "gp", "d_norm": "none", "augment": "diffaug"}
    SRGANConfig(adversarial_weight=0, **of_d)


# Scores


def test_an_image_with_itself_and_with_its_shift():
    """A shift by 51 of 255 is 0.2: MSE 0.04, 13.979 dB."""
    x = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    ceiling = 10 * math.log10(12 * 255**2)
    for y, error, decibels in ((x, 0, ceiling), (x + 51, 0.04, 13.9794)):
        assert mse(x, y).tolist() == pytest.approx([error] * 2, abs=1e-7)
        assert psnr(x, y).tolist() == pytest.approx([decibels] * 2, abs=1e-3)
    assert ssim(x, x).tolist() == pytest.approx([1, 1], abs=1e-6)


def test_ssim_agrees_with_a_second_implementation():
    """Window by window, from the definitions, in NumPy."""
    x, y = (to_bytes(random_images(1, 1, 14, 13, seed=s)) for s in (0, 1))
    a, b = (t[0, 0].numpy().astype(float) / 255 for t in (x, y))
    g = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    w = np.outer(g, g) / g.sum() ** 2
    values = []
    for i in range(4):
        for j in range(3):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            m, n = (w * p).sum(), (w * q).sum()
            vp, vq = (w * (p - m) ** 2).sum(), (w * (q - n) ** 2).sum()
            cov = (w * (p - m) * (q - n)).sum()
            top = (2 * m * n + 1e-4) * (2 * cov + 9e-4)
            values.append(top / ((m * m + n * n + 1e-4) * (vp + vq + 9e-4)))
    assert ssim(x, y).item() == pytest.approx(np.mean(values), abs=1e-6)


def test_scores_are_over_all_test_images_beside_the_untrained(build, no_lpips):
    trainer = build()
    trainer.sample = lambda low, G=None: enlarge(low, "bicubic")
    results = {r["metric"]: r for r in restoration_scores(trainer)}
    assert set(results) == {
        m + u for m in ("mse", "psnr", "ssim") for u in ("", "_nearest", "_bilinear", "_bicubic")
    }
    for name in ("mse", "psnr", "ssim"):
        assert results[name]["value"] == results[f"{name}_bicubic"]["value"]
        ratio = results[f"{name}_bilinear"].get("of_bilinear")
        assert ratio == (None if name == "psnr" else 1)  # none of decibels
    assert all(r["n"] == 140 and r["error"] > 0 for r in results.values())
    data, _ = trainer.held_out()
    made = to_bytes(enlarge(trainer.shrunk(to_signed(data.images))))
    values = mse(made, data.images)
    assert results["mse_bilinear"]["value"] == pytest.approx(values.mean().item(), rel=1e-5)


@pytest.mark.parametrize("positions", sorted(POSITIONS))
def test_images_are_trained_on_in_positions_that_seed_and_step_alone_decide(positions):
    x = random_images(400, 1, 4, 4)
    made = in_random_positions(x, positions, 0, 7)
    ways = [turned.rot90(k, (-2, -1)) for turned in (x, x.flip(-1)) for k in range(4)]
    found = [[k for k in range(8) if torch.equal(ways[k][i], made[i])] for i in range(400)]
    counts = {k: sum(f == [k] for f in found) for k in range(8)}
    assert {k for k, n in counts.items() if n} == set(POSITIONS[positions])
    n = 400 / positions
    assert all(abs(counts[k] - n) < 5 * n**0.5 for k in POSITIONS[positions])
    if positions > 1:
        assert not torch.equal(made, in_random_positions(x, positions, 0, 8))
        assert not torch.equal(made, in_random_positions(x, positions, 1, 7))


def test_a_step_trains_on_the_images_in_their_positions(build):
    trainer = build(positions=8, adversarial_weight=0.0)
    x = trainer.batches()(0).x
    seen = []
    trainer.shrunk = lambda x: seen.append(x) or shrink(x, "bilinear")
    trainer.train_step(trainer.batches()(0))
    assert torch.equal(seen[0], in_random_positions(x, 8, trainer.config.seed, 0))
    assert not torch.equal(seen[0], x)


def test_on_plain_colours_which_bilinear_restores_there_is_no_ratio(build, tmp_path, no_lpips):
    """Of a folder that has no test images."""
    paint(tmp_path / "plain", 3, mode="L", size=(32, 32))
    trainer = build(**folder(tmp_path, "plain"))
    assert trainer.channels == 1
    results = {r["metric"]: r for r in restoration_scores(trainer)}
    assert results["mse"]["value"] > 0 == results["mse_bilinear"]["value"]
    assert results["mse"]["about"] == "3 training images by G"
    assert "of_bilinear" not in results["mse"]
    assert results["ssim"]["of_bilinear"] < 1


def test_the_mode_tells_how_many_images_batchnorm_saw(build):
    assert build().sampling_mode() == {"ema": False, "batchnorm": "running statistics"}
    trainer, seen = build(ema=0.9), []
    mode = {"ema": True, "batchnorm": "re-estimated on 150 training images"}
    assert trainer.sampling_mode() == mode
    trainer.shrunk = lambda x: seen.append(len(x)) or shrink(x)
    trainer.sampled_generator()
    assert sum(seen) == 150
    trainer = build(arch="residual", residual_blocks=1, ema=0.9)  # which has no BatchNorm
    trainer.load_data = lambda split: pytest.fail("images were read")
    assert trainer.sampled_generator() is trainer.averages["G"].module
    assert trainer.sampling_mode() == {"ema": True, "batchnorm": "none"}


def test_generated_images_are_the_test_images_enlarged(build):
    trainer = build()
    trainer.sampled_generator = lambda: nn.Upsample(scale_factor=4)
    images = torch.cat(list(trainer.generate(150, seed=3)))
    assert torch.equal(images[:10], images[140:])  # 140 test images, which come round
    data, _ = trainer.held_out()
    wanted = to_bytes(UPSCALERS["nearest"](trainer.shrunk(to_signed(data.images))))
    assert {i.numpy().tobytes() for i in images} == {w.numpy().tobytes() for w in wanted}


# Pictures of any size


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (37, 50)])
@pytest.mark.parametrize("name", ["nearest", "bilinear"])
def test_tiles_reproduce_the_untiled_picture(size, name):
    """Both look at most a pixel beyond, and mirroring repeats the edge as bilinear does."""
    picture = random_images(3, *size)
    made = upscale_in_tiles(picture, UPSCALERS[name], batch_size=5)
    assert made.shape == (3, 4 * size[0], 4 * size[1])
    assert torch.allclose(made, UPSCALERS[name](picture[None])[0], atol=1e-5)


def test_tiles_leave_no_seam_where_a_network_sees_its_own_padding():
    """A border of garbage as wide as MARGIN in every tile does not show."""

    def spoilt(low):
        made = enlarge(low)
        edge = torch.ones_like(made, dtype=torch.bool)
        edge[..., 4 * MARGIN : -4 * MARGIN, 4 * MARGIN : -4 * MARGIN] = False
        return made.masked_fill(edge, 100.0)

    picture = random_images(1, 40, 23)
    assert torch.allclose(upscale_in_tiles(picture, spoilt), enlarge(picture[None])[0], atol=1e-4)


# Data


def folder(tmp_path, name: str) -> dict[str, str]:
    return {"dataset": "folder", "folder": str(tmp_path / name), "data_dir": str(tmp_path)}


def test_a_folder_with_a_test_split_and_odd_sizes(build, tmp_path):
    paint(tmp_path / "set" / "train", 3, size=(33, 47))
    paint(tmp_path / "set" / "test", 2, size=(51, 37))
    trainer = build(**folder(tmp_path, "set"))
    scalars = trainer.train_step(trainer.batches()(0))  # 4 of 3 images: an epoch and a piece
    assert all(math.isfinite(float(v)) for v in scalars.values())
    assert trainer.sample_images()["samples"].shape == (3, 2 * 34 + 2, 3 * 34 + 2)
    assert trainer.sample_images()["fixed_input"].shape == (3, 34 + 2, 3 * 34 + 2)
    data, split = trainer.held_out()
    assert (len(data), split) == (2, "test")


def test_a_bad_test_split_is_told_before_the_first_step(build, tmp_path):
    paint(tmp_path / "set" / "train", 4)
    paint(tmp_path / "set" / "test", 1)
    (tmp_path / "set" / "test" / "00.png").write_bytes(b"no picture")
    trainer = build(**folder(tmp_path, "set"))
    with pytest.raises(UserError, match="test"):
        trainer.train()
    assert trainer.step == 0


@pytest.mark.parametrize("bias", [False, True])
def test_at_32_pixels_the_last_convolution_is_its_kernels_centre(bias):
    torch.manual_seed(0)
    D = Discriminator(width=2, norm="none" if bias else "batch")
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(D.logits(x), D.to_logit(D.maps(x)[-1]).flatten())

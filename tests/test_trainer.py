"""The loop: resume bit for bit, signals, NaN, checkpoints that a kill or a full disk can't harm."""

import functools
import math
import os
import re
import shutil
import signal
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from unittest.mock import Mock

import pytest
import torch
from conftest import CPU
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn

from dataset import ImageData
from lib import checkpoint, guards
from lib.config import setting
from lib.errors import UserError
from lib.seeding import global_stream
from trainer import GANTrainer
from training.config import GANConfig
from training.modes import frozen, sampling


@dataclass(frozen=True, kw_only=True)
class ToyConfig(GANConfig):
    latent_dim: int = setting(3, "size of z", group="networks", tag="z{}", at_least=1)
    learning_rate: float = setting(1e-2, "of Adam", group="training", above=0)
    image_size = 4


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

    def __init__(self, config: ToyConfig) -> None:
        with global_stream("weights", config.seed):
            G, D = ToyG(config.latent_dim), ToyD()
        super().__init__(config, CPU, G=G, D=D)

    def load_data(self, split: str) -> ImageData:
        images = torch.arange(37 * 16, dtype=torch.int64).mul(7).remainder(256).to(torch.uint8)
        return ImageData(images.view(37, 1, 4, 4), torch.zeros(37, dtype=torch.int64))


def make_toy(folder, run: str = "toy", **changes) -> Toy:
    steps = {"num_training_steps": 23, "saving_steps": 8, "logging_steps": 3, "batch_size": 5}
    return Toy(ToyConfig(run=run, runs_dir=str(folder), **(steps | changes)))


@pytest.fixture
def toy(tmp_path):
    """toy(run="a", ...) -> a fresh trainer of 23 steps, checkpoints at 8 and 16, curves each 3."""
    return functools.partial(make_toy, tmp_path)


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


def killed_at(trainer: Toy, step: int, *args) -> Toy:
    """Train, until a kill -9 comes in place of the step after `step` steps."""
    die_at(trainer, step, kill)
    with pytest.raises(Killed):
        trainer.train(*args)
    return trainer


def final_state(trainer: Toy):
    return checkpoint.load_newest(trainer.checkpoint_dir, model=trainer.config.model)


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


def assert_same_end(a: GANTrainer, b: GANTrainer) -> None:
    """The newest checkpoints of both hold the same weights and moments."""
    for part in ("networks", "optimizers"):
        assert_same(final_state(a)[part], final_state(b)[part])


def curves(run_dir) -> Counter:
    """(tag, step, value) of every scalar in the event files, with how often it stands there."""
    found = Counter()
    for path in sorted(run_dir.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found[value.tag, event.step, value.tensor.float_val[0]] += 1
    return found


def assert_alike(a: Toy, b: Toy) -> None:
    """Two runs left the same weights and curves, a point a step."""
    assert_same_end(a, b)
    found = curves(a.config.run_dir)
    assert len(found) == 5 * 7  # five tags at steps 3, 6, ..., 21
    assert found == curves(b.config.run_dir)
    assert set(found.values()) == {1}


@pytest.mark.parametrize("step", [1, 8, 9, 13, 16, 22])
def test_a_killed_run_ends_as_an_uninterrupted_one(toy, step):
    killed_at(toy("killed"), step)
    for trainer in (whole := toy("whole"), again := toy("killed")):
        trainer.train()
    assert_alike(whole, again)


def test_the_step_count_may_grow_and_the_result_is_that_of_one_run(toy):
    for trainer in (
        whole := toy("whole"),
        toy("grown", num_training_steps=11),
        grown := toy("grown"),
    ):
        trainer.train()
    assert_alike(whole, grown)


def test_a_run_keeps_its_number_of_threads_unless_another_is_asked_for(toy, threads, monkeypatch):
    threads(3)
    toy(num_training_steps=11).train()
    threads(1)
    toy().train()
    assert torch.get_num_threads() == final_state(toy())["threads"] == 3
    guards.use_threads(2)  # as main.py does for --threads 2
    toy(threads=2, num_training_steps=24).train()
    assert torch.get_num_threads() == final_state(toy())["threads"] == 2
    assert ToyConfig(threads=2).run_name == ToyConfig().run_name
    threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    toy(num_training_steps=25).train()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_its_status(toy, number):
    trainer, whole, resumed = toy(), toy("whole"), toy()
    die_at(trainer, 10, lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as stop:
        trainer.train()
    assert stop.value.code == 128 + number
    assert final_state(trainer)["step"] == 11
    whole.train()
    resumed.train()
    assert_alike(whole, resumed)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (9, "generator_loss is nan.*at step 12"),
        (15, r"G\.linear\.weight is nan at step 16"),  # which is saved, after finite losses
    ],
)
def test_weights_that_break_stop_the_run_and_are_not_saved(toy, step, told):
    trainer = toy()
    update = trainer.optimizers["G"].step

    def poison():
        update()
        if trainer.step == step:
            with torch.no_grad():
                trainer.G.linear.weight.fill_(math.nan)

    trainer.optimizers["G"].step = poison
    with pytest.raises(UserError, match=told):
        trainer.train()
    assert final_state(trainer)["step"] == 8


def test_nothing_left_to_train_changes_nothing(toy, capsys):
    toy().train()
    before = {p: p.read_bytes() for p in toy().config.run_dir.rglob("*") if p.is_file()}
    (toy().checkpoint_dir / "0000004.pt").write_bytes(b"a kill came before its turn to go")
    toy().train()
    assert "nothing to train" in capsys.readouterr().out
    assert before == {p: p.read_bytes() for p in toy().config.run_dir.rglob("*") if p.is_file()}


DAMAGE = {  # to a file in which a weight begins at this place
    "torn": lambda whole, at: whole[: len(whole) // 2],
    "flipped": lambda whole, at: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
    "empty": lambda whole, at: b"",
}


def moments(state) -> dict:
    return state["optimizers"]["G"]["state"][0]


def bias(state, value: torch.Tensor) -> None:
    state["networks"]["D"]["linear.bias"] = value


WRONG = {
    "networks None": lambda s: s.update(networks=None),
    "a network None": lambda s: s["networks"].update(G=None),
    "a weight missing": lambda s: s["networks"]["G"].pop("linear.bias"),
    "a weight a list": lambda s: s["networks"]["G"].update({"linear.bias": [0.0] * 16}),
    "a weight of another shape": lambda s: bias(s, torch.ones(2)),
    "a weight of whole numbers": lambda s: bias(s, torch.ones(1, dtype=torch.int64)),
    "a weight without values": lambda s: bias(s, torch.ones(1, device="meta")),
    "an optimizer None": lambda s: s["optimizers"].update(G=None),
    "an optimizer missing": lambda s: s["optimizers"].pop("D"),
    "moments by name": lambda s: s["optimizers"]["G"].update(
        state={str(k): v for k, v in s["optimizers"]["G"]["state"].items()}
    ),
    "moments of no parameter": lambda s: s["optimizers"]["G"]["state"].update({7: {}}),
    "exp_avg missing": lambda s: moments(s).pop("exp_avg"),
    "exp_avg_sq turned over": lambda s: moments(s).update(exp_avg_sq=moments(s)["exp_avg_sq"].T),
    "exp_avg sparse": lambda s: moments(s).update(exp_avg=torch.zeros(16, 3).to_sparse()),
    "Adam's step many": lambda s: moments(s).update(step=torch.zeros(5)),
    "Adam's step below 0": lambda s: moments(s)["step"].neg_(),
    "exp_avg infinite": lambda s: moments(s)["exp_avg"].fill_(math.inf),
    "moments of one less": lambda s: s["optimizers"]["G"]["state"].pop(0),
    "no moments": lambda s: s["optimizers"]["D"]["state"].clear(),
    "weights of no number": lambda s: next(iter(s["networks"]["G"].values())).fill_(math.nan),
    "threads below 0": lambda s: s.update(threads=-5),
    "threads too many": lambda s: s.update(threads=10**9),
    "step a word": lambda s: s.update(step="x"),
    "step a flag": lambda s: s.update(step=True),
    "step a tensor": lambda s: s.update(step=torch.tensor([23, 23])),
    "step of another file": lambda s: s.update(step=5),
    "config of another type": lambda s: s["config"].update(latent_dim="x"),
    "config with a tensor": lambda s: s["config"].update(latent_dim=torch.ones(3)),
    "config of another size": lambda s: s["config"].update(latent_dim=4),
    "format a tensor": lambda s: s.update(format=torch.ones(2)),
    "model None": lambda s: s.update(model=None),
    "data a number": lambda s: s.update(data=5),
    "code": lambda s: s.update(code=Killed),
    "two hundred levels": lambda s: s["networks"].update(
        G=functools.reduce(lambda value, _: [value], range(200), [])
    ),
    "no dict": lambda s: s.clear(),
}


@pytest.mark.parametrize("wrong", [*DAMAGE, *WRONG])
def test_whatever_is_wrong_in_a_checkpoint_the_one_before_it_is_used(toy, wrong, capsys):
    toy().train()
    path = checkpoint.paths(toy().checkpoint_dir)[-1]
    whole = torch.load(path, weights_only=True)
    state, data = torch.load(path, weights_only=True), path.read_bytes()
    if wrong in DAMAGE:
        at = data.index(state["networks"]["G"]["linear.weight"].numpy().tobytes())
        path.write_bytes(DAMAGE[wrong](data, at))
    else:
        WRONG[wrong](state)
        torch.save(state, path)
    capsys.readouterr()
    trainer = toy()
    trainer.train()
    out = capsys.readouterr().out
    assert out.count("warning: ") == 1
    assert re.search(r"warning: .*(0000023.pt|step 23 in ).*\. The one before it is used\.\n", out)
    assert "goes on from step 16" in out
    assert_same(final_state(trainer), whole)
    assert {p.name[5:] for p in trainer.checkpoint_dir.iterdir()} == {"08.pt", "16.pt", "23.pt"}


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
    state = {"model": trainer.config.model, "config": {}, "networks": {}, "optimizers": {}}
    trainer.config.run_dir.mkdir()
    for step in (9_999_998, 9_999_999, 10_000_000):
        checkpoint.save(trainer.checkpoint_dir, state | {"step": step}, keep=2)
    assert [int(p.stem) for p in checkpoint.paths(trainer.checkpoint_dir)] == [9_999_999, 10**7]
    assert final_state(trainer)["step"] == 10**7
    (trainer.checkpoint_dir / "20000000.pt").symlink_to("/dev/zero")  # would be read for ever
    with pytest.raises(UserError, match=r"20000000.pt is no file: move it away"):
        trainer.resume()


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), MemoryError(), RuntimeError("DefaultCPUAllocator")]
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


@pytest.mark.skipif(guards.fcntl is None, reason="this system has no such locks")
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


@pytest.mark.parametrize(("keep", "left"), [(1, [23]), (2, [16, 23]), (0, [8, 16, 23])])
def test_keep_checkpoints_bounds_the_disk(toy, keep, left):
    trainer = toy(keep_checkpoints=keep)
    trainer.train()
    assert [int(p.stem) for p in checkpoint.paths(trainer.checkpoint_dir)] == left
    assert not list(trainer.checkpoint_dir.glob("*.part"))


def test_a_full_disk_costs_no_checkpoint(toy, monkeypatch):
    trainer = toy(sample_every=100)
    full = Mock(side_effect=OSError(28, "No space left on device"))
    die_at(trainer, 9, lambda: monkeypatch.setattr(os, "fsync", full))
    with pytest.raises(UserError, match=r"0000016\.pt.*No space left.*0000008\.pt"):
        trainer.train()
    assert [p.name for p in trainer.checkpoint_dir.iterdir()] == ["0000008.pt"]


@pytest.mark.parametrize("name", ["checkpoints", "samples", "results.jsonl", ""])
def test_a_name_that_is_taken_is_told_before_the_first_step(toy, name):
    trainer = toy()
    path = trainer.config.run_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name == "results.jsonl" else path.symlink_to("nowhere")
    die_at(trainer, 0, kill)
    with pytest.raises((UserError, FileExistsError)) as stop:
        trainer.train()
    assert str(path) in str(stop.value)


@pytest.mark.parametrize("settings", [{}, {"sample_every": 100}])
def test_a_run_deleted_while_it_trains_does_not_come_back(toy, settings):
    trainer = toy(**settings)
    die_at(trainer, 12, lambda: shutil.rmtree(trainer.config.run_dir))
    with pytest.raises((UserError, OSError), match=str(trainer.config.run_dir)):
        trainer.train()
    assert not trainer.config.run_dir.exists()


def test_the_step_is_the_two_part_algorithm(toy):
    """Against the same step written out with binary cross-entropy on probabilities."""
    ours, plain = toy(num_training_steps=3), toy()
    ours.train()
    batches, bce = plain.batches(), nn.functional.binary_cross_entropy
    for i in range(3):
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
        pairs = zip(
            ours.networks[name].parameters(), plain.networks[name].parameters(), strict=True
        )
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", [True, False])
def test_what_a_network_is_run_in_is_undone_whatever_happens(mode):
    layer = nn.BatchNorm1d(3).train(mode)
    with suppress(Killed), sampling(layer), frozen(layer):
        assert not layer.training
        assert not torch.is_grad_enabled()
        assert not layer.weight.requires_grad
        raise Killed
    assert layer.training is mode
    assert torch.is_grad_enabled()
    assert layer.weight.requires_grad


def test_ema_is_the_geometric_average_of_the_weights_from_the_first_step_on(toy):
    trainer, seen = toy(ema=0.75, num_training_steps=3), []
    trainer.observers.append(lambda *_: seen.append(trainer.G.linear.weight.detach().clone()))
    trainer.train()
    wanted = 0.75 * (0.75 * seen[0] + 0.25 * seen[1]) + 0.25 * seen[2]
    assert torch.allclose(trainer.averages["G"].module.linear.weight, wanted, atol=1e-6)
    assert trainer.sampling_mode()["ema"] is True


def test_ema_samples_with_batchnorm_statistics_of_the_averaged_weights(build):
    trainer = build(ema=0.5)
    trainer.train()
    average = trainer.averages["G"].module
    kept = {k: v.clone() for k, v in average.state_dict().items()}
    G = trainer.sampled_generator()
    norm = next(m for m in G.modules() if isinstance(m, nn.BatchNorm2d))
    with torch.no_grad():
        z = torch.cat([trainer.fixed_noise(100, "statistics", i) for i in range(20)])
        before_norm = G.project[0](z)
    assert torch.allclose(norm.running_mean, before_norm.mean((0, 2, 3)), atol=1e-4)
    assert all(torch.equal(v, kept[k]) for k, v in average.state_dict().items())


def test_a_penalty_is_refused_where_the_discriminator_has_batchnorm(build):
    for model in ("dcgan", "cdcgan"):
        with pytest.raises(UserError, match=r"--penalty r1.*BatchNorm.*--d_norm none"):
            build(model, penalty="r1")
    build(penalty="r1", arch="mlp")  # whose D has none


def test_the_penalty_comes_every_so_often_and_so_much_heavier(toy):
    """Over 4 steps with frozen weights, D's gradient from the penalty adds up to the same."""
    sums = []
    for every in (1, 4):
        trainer = toy(penalty="r1", penalty_every=every, penalty_weight=3.0)
        batches, tags = trainer.batches(), []
        for trainer.step in range(4):
            tags.append(list(trainer.penalize(batches(0).x, batches(1).x, trainer.step)))
        assert tags == [["gradient_penalty"] if (i + 1) % every == 0 else [] for i in range(4)]
        sums.append(trainer.D.linear.weight.grad.clone())
    torch.testing.assert_close(*sums)


def test_d_steps_take_images_noise_and_a_penalty_of_their_own(toy):
    trainer = toy(d_steps=3, fresh_noise=True, penalty="gp", num_training_steps=2)
    seen, shares, for_g = [], [], []
    update, penalty, learn = trainer.update_discriminator, trainer.penalty, trainer.update_generator
    trainer.update_discriminator = lambda x, z, k: (seen.append((x, z)), update(x, z, k))[1]
    trainer.penalty = lambda D, x, z, share: (shares.append(share), penalty(D, x, z, share))[1]
    trainer.update_generator = lambda fake: (for_g.append(fake), learn(fake))[1]
    trainer.train()
    assert [len(x) for x, _ in seen] == [5] * 6
    for drawn in ([x for x, _ in seen], [z for _, z in seen], shares):
        assert len({values.sum().item() for values in drawn}) == 6
    assert not any(torch.equal(z, fake) for _, z in seen for fake in for_g)


def test_learning_rates_fall_linearly_and_are_a_function_of_the_step(toy):
    decay = {"decay_from": 10, "decay_to": 20, "num_training_steps": 20}
    trainer, rates = toy(learning_rate=1e-2, learning_rate_d=2e-2, **decay), []
    batch = trainer.batches()(0)
    for trainer.step in (0, 10, 15, 19, 20, 25):
        trainer.train_step(batch)
        rates.append([100 * trainer.optimizers[n].param_groups[0]["lr"] for n in ("G", "D")])
    wanted = [[1, 2], [1, 2], [0.5, 1], [0.1, 0.2], [0, 0], [0, 0]]
    assert rates == [pytest.approx(pair, abs=1e-12) for pair in wanted]
    with pytest.raises(UserError, match="--decay_from 30 --decay_to 20"):
        ToyConfig(decay_from=30, decay_to=20)


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


def test_wgan_without_a_bound_on_d_is_warned_of(build):
    with pytest.warns(UserWarning, match="--loss wgan"):
        build(loss="wgan")
    with pytest.warns(UserWarning, match="--loss wgan"):  # BatchNorm divides by what it meets
        build(loss="wgan", spectral_norm=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(loss="wgan", spectral_norm=True, d_norm="none")
        build(loss="wgan", penalty="gp", d_norm="none")


# A student's own networks


class WithLogits(nn.Module):
    """The D of `students`, which says its logits too."""

    def __init__(self, D: nn.Sequential) -> None:
        super().__init__()
        self.layers = D

    def logits(self, x):
        return self.layers[:2](x).squeeze(1)


def students(*last: nn.Module) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    G = nn.Sequential(nn.Flatten(), nn.Linear(5, 1024), nn.Tanh(), nn.Unflatten(1, (1, 32, 32)))
    return G, nn.Sequential(nn.Flatten(), nn.Linear(1024, 1), nn.Sigmoid(), *last)


@pytest.mark.parametrize("last", [[], [nn.Flatten(0)]], ids=["(N, 1)", "(N,)"])
@pytest.mark.parametrize("settings", [{}, {"penalty": "gp", "ema": 0.9}])
def test_networks_of_a_students_own_train(last, settings, tiny_config):
    """D gives a probability, (N, 1) or (N,), and has no logits."""
    losses = {}
    for run, wrapped in (("plain", nn.Sequential), ("logits", WithLogits)):
        G, D = students(*last)
        config = tiny_config(run=run, logging_steps=1, **settings)
        trainer, losses[run] = GANTrainer(config, CPU, G=G, D=wrapped(D)), []
        trainer.observers.append(lambda log, values, run=run: losses[run].append(values))
        trainer.train()
        assert next(trainer.generate(3, 0)).shape == (3, 1, 32, 32)
    assert losses["plain"][0] == pytest.approx(losses["logits"][0], rel=1e-4)
    for tag in ("discriminator_loss", "generator_loss"):
        values = [step[tag] for step in losses["plain"]]
        assert all(map(math.isfinite, values))
        assert len(set(values)) == 6

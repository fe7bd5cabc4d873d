"""Steps from a recording, as CUDA plays them: here every operation is noted and done again."""

import dataclasses
import gc
import weakref
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import graphs
from graphs import GraphedUpdate, NotRecorded, WithFallback
from lib.errors import UserError
from systems import SYSTEMS
from systems.dcgan import DCGAN
from trainer import GANTrainer

CPU = torch.device("cpu")
GAMES = {
    "homework": {},
    "best": {"d_norm": "none", "penalty": "r1", "penalty_every": 2, "ema": 0.9, "beta2": 0.99},
    "falling": {"decay_from": 1, "decay_to": 8},
    "emoji": {"loss": "lsgan", "fresh_noise": True, "upsample": "resize", "d_steps": 2},
    "gp": {"loss": "wgan", "penalty": "gp", "d_norm": "layer", "d_steps": 2},
    "small": {"augment": "diffaug", "loss": "hinge"},
    "spectral": {"spectral_norm": True},
    "mlp": {"arch": "mlp", "image_size": 16},
    "bf16": {"precision": "bf16"},
}
WAITS = ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero")
DRAWS = ("rand", "normal", "uniform", "bernoulli", "dropout", "multinomial", "exponential")


class Recorder(TorchDispatchMode):
    """A CUDA graph on the CPU: the kernels, on the memory they had, and nothing of Python.

    play() does each operation again with the tensors it had, and puts what is new where it was
    put before. What a graph may not do is refused: to wait for a value, and to draw. Not seen are
    streams, memory that is freed and taken by others, and what lies below torch's operators.
    """

    def __init__(self) -> None:
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = function._schema.name
        short = name.split("::")[1]
        assert short not in WAITS, f"{name} waits for the device"
        assert not short.startswith(DRAWS), f"{name} draws"
        if not name.startswith("profiler::"):
            self.done.append((function, args, kwargs, result))
        return result

    @torch.no_grad()
    def play(self) -> None:
        for function, args, kwargs, result in self.done:
            again = function(*args, **kwargs)
            for old, new in zip(flat(result), flat(again), strict=True):
                if old.data_ptr() != new.data_ptr():  # no view, and not in place
                    old.copy_(new)


def flat(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [t for part in result for t in flat(part)] if isinstance(result, tuple | list) else []


def record(run):
    """graphs.Capture, by a Recorder. Unlike CUDA's it does what it records."""
    recorder = Recorder()
    with recorder:
        scalars = run()
    return recorder.play, scalars


def steps(trainer, n):
    """n steps of it, as Trainer.train takes them; the scalars of each."""
    batches, found = trainer.batches(), []
    for _ in range(n):
        scalars = trainer.train_step(batches(trainer.step))
        found.append({tag: value.clone() for tag, value in scalars.items()})
        trainer.step += 1
    return found


def assert_alike(trainer, other):
    for name, network in trainer.networks.items():
        theirs = other.networks[name].state_dict()
        for key, value in network.state_dict().items():
            assert torch.equal(value, theirs[key]), (name, key)
    for name, optimizer in trainer.optimizers.items():
        ours, theirs = optimizer.state_dict(), other.optimizers[name].state_dict()
        assert ours["param_groups"] == theirs["param_groups"]
        for i, state in ours["state"].items():
            for key, value in state.items():
                assert torch.equal(value, theirs["state"][i][key])


@pytest.mark.parametrize("game", GAMES)
def test_replayed_steps_are_the_steps_themselves(tiny_config, game):
    """Bit for bit, over an epoch's end; rates of a power of two are the same in float32."""
    config = tiny_config(learning_rate=2.0**-10, **GAMES[game])
    plain, replayed = (DCGAN(config, CPU) for _ in range(2))
    replayed.graphed = GraphedUpdate(replayed, capture=record)
    ours, theirs = steps(replayed, 7), steps(plain, 7)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[tag], b[tag]) for tag in a)
    assert_alike(replayed, plain)
    assert len(replayed.graphed.recordings) == (2 if config.penalty_every > 1 else 1)


def test_a_run_goes_on_with_or_without(tiny_config):
    config = tiny_config(learning_rate=2.0**-10, ema=0.5)
    plain, mixed = (DCGAN(config, CPU) for _ in range(2))
    steps(plain, 6)
    steps(mixed, 2)
    mixed.graphed = GraphedUpdate(mixed, capture=record)
    steps(mixed, 2)
    mixed.graphed = None
    steps(mixed, 2)
    assert_alike(mixed, plain)


def test_a_step_that_is_not_repeated_is_not_trusted(tiny_config):
    """Recorded once, a step that looks at Python's state goes on with what it saw."""

    class Stubborn(DCGAN):
        def update(self, batch):
            self.seen = getattr(self, "seen", 0) + 1
            return {tag: value * self.seen for tag, value in super().update(batch).items()}

    trainer = Stubborn(tiny_config(), CPU)
    before = {key: value.clone() for key, value in trainer.G.state_dict().items()}
    with pytest.raises(NotRecorded, match=r"of step 1 is .*, not"):
        GraphedUpdate(trainer, capture=record)(trainer.batches()(0))
    assert all(torch.equal(value, before[key]) for key, value in trainer.G.state_dict().items())


def test_a_recording_of_stale_inputs_is_not_trusted(tiny_config, monkeypatch):
    """Of noise that is put elsewhere than the graph looks for it, or of baked-in rates."""
    trainer = DCGAN(tiny_config(learning_rate=0.01), CPU)

    def elsewhere(run):
        recorded = record(run)
        trainer.tape.held = [tensor.clone() for tensor in trainer.tape.held]
        return recorded

    with pytest.raises(NotRecorded, match=r"of step 2 is .*, not"):
        GraphedUpdate(trainer, capture=elsewhere)(trainer.batches()(0))
    monkeypatch.setattr(GraphedUpdate, "rates_on_the_device", lambda self: nullcontext())
    with pytest.raises(NotRecorded, match=r"of step [123] is .*, not"):
        GraphedUpdate(trainer, capture=record)(trainer.batches()(0))


def failing(run):
    run()
    raise RuntimeError("operation not permitted when stream is capturing")


def test_where_no_graph_is_to_be_had_steps_go_on(tiny_config, capsys):
    plain, trainer = (DCGAN(tiny_config(), CPU) for _ in range(2))
    trainer.graphed = WithFallback(trainer, insist=False, capture=failing)
    assert [list(s) for s in steps(trainer, 3)] == [list(s) for s in steps(plain, 3)]
    assert_alike(trainer, plain)
    assert capsys.readouterr().out.count("no CUDA graph") == 1
    insisting = WithFallback(trainer, insist=True, capture=failing)
    with pytest.raises(UserError, match=r"--cuda_graph on: .*not permitted when stream"):
        insisting(trainer.batches()(0))


def test_a_warm_up_without_memory_leaves_nothing_behind(tiny_config, monkeypatch):
    """Half of Adam's moments made, and then none left: the step itself finds a fresh optimizer."""
    plain, trainer = (DCGAN(tiny_config(), CPU) for _ in range(2))
    step, calls = trainer.optimizers["G"].step, []

    def no_memory():
        calls.append(None)
        if len(calls) == 1:
            parameter = next(trainer.G.parameters())
            trainer.optimizers["G"].state[parameter]["step"] = torch.zeros(())
            raise torch.OutOfMemoryError("out of memory")
        return step()

    monkeypatch.setattr(trainer.optimizers["G"], "step", no_memory)
    trainer.graphed = WithFallback(trainer, insist=False, capture=record)
    steps(trainer, 3)
    steps(plain, 3)
    assert_alike(trainer, plain)


def test_a_second_graph_that_fails_leaves_the_first_ones_work(tiny_config):
    changes = {"d_norm": "none", "penalty": "r1", "penalty_every": 3, "learning_rate": 2.0**-10}
    plain, trainer = (DCGAN(tiny_config(**changes), CPU) for _ in range(2))
    captures = [record, failing]
    trainer.graphed = WithFallback(trainer, insist=False, capture=lambda run: captures.pop(0)(run))
    steps(trainer, 6)
    steps(plain, 6)
    assert_alike(trainer, plain)
    assert not captures


def test_the_flag_is_for_cuda_and_for_dcgans_step(tiny_config):
    on = dataclasses.replace(tiny_config(), cuda_graph="on")
    with pytest.raises(UserError, match="--cuda_graph on: this is cpu"):
        DCGAN(on, CPU)
    may = partial(graphs.may_record, device=torch.device("cuda"), recordable=True)
    assert may(tiny_config())
    assert not graphs.may_record(tiny_config(), CPU, recordable=True)
    assert not may(dataclasses.replace(tiny_config(), cuda_graph="off"))
    assert not may(tiny_config(compile=True))
    with pytest.raises(UserError, match="--compile"):
        may(dataclasses.replace(on, compile=True))
    with pytest.raises(UserError, match="step of --model dcgan"):
        may(on, recordable=False)


def test_a_trainer_is_freed_with_its_last_name(tiny_config):
    """No cycle that waits for the collector with the device's memory in its hands."""
    trainer = DCGAN(tiny_config(), CPU)
    weak = weakref.ref(trainer.G)
    gc.collect()
    gc.disable()
    try:
        del trainer
        assert weak() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("game", GAMES)
def test_graphs_on_cuda(tiny_config, game):
    """The steps' scalars to within rounding, and a step that waits is found out harmlessly."""
    cuda = torch.device("cuda")
    plain, replayed = (DCGAN(tiny_config(**GAMES[game]), cuda) for _ in range(2))
    replayed.graphed = WithFallback(replayed, insist=True)
    for ours, theirs in zip(steps(replayed, 7), steps(plain, 7), strict=True):
        for tag, value in ours.items():
            torch.testing.assert_close(value, theirs[tag], atol=1e-2, rtol=1e-2)
    waiting = DCGAN(tiny_config(**GAMES[game]), cuda)
    update, waiting.graphed = waiting.update, WithFallback(waiting, insist=False)
    waiting.update = lambda batch: {
        tag: value + float(value) for tag, value in update(batch).items()
    }
    steps(waiting, 2)
    assert waiting.graphed.graphed is None


@pytest.mark.parametrize("model", [name for name in SYSTEMS if name != "dcgan"])
def test_a_system_with_a_step_of_its_own_is_not_recorded(model):
    assert SYSTEMS[model].train_step is not GANTrainer.train_step
    assert not SYSTEMS[model].recordable

"""A training step as a CUDA graph: recorded once, then replayed without Python in between.

A step of a small GAN is some 400 kernels of a few microseconds each, and a GPU waits for the CPU
that starts them one by one; a graph is started as one. Its arithmetic is the step's. What changes
from step to step must lie where the recorded kernels look for it: the batch, all that is drawn
(Tape) and the learning rates are copied into tensors of their own before a replay. They are made
outside, by the code that makes them without a graph, so that a run can be resumed with or without.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from config import Config
from dataset import Batch
from distributed import world
from errors import UserError

Scalars = dict[str, Tensor]
Make = Callable[[], Any]  # of a Tensor, or of a tuple of Tensors
TRIES = 3  # steps that a recording is compared over before it is trusted
TOLERANCE = 1e-2  # of their losses: another kernel may round differently, a stale tensor is far off


class Tape:
    """What a step draws, in its order. tape(make) is make(), or the tensor held in its place."""

    def __init__(self) -> None:
        self.makes: list[Make] = []
        self.held: list[Any] = []
        self.position: int | None = None  # the next draw, while a step runs on what is held

    def __call__(self, make: Make) -> Any:
        if self.position is None:
            return make()
        if self.position == len(self.held):  # the first pass
            self.makes.append(make)
            self.held.append(cloned(make()))
        self.position += 1
        return self.held[self.position - 1]

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Inside, a step finds what is held; on the first pass it is drawn and kept."""
        self.position = 0
        try:
            yield
        finally:
            self.position = None

    def draw(self) -> None:
        """Everything held anew, as of the step that comes."""
        for make, held in zip(self.makes, self.held, strict=True):
            for old, new in zip(tensors(held), tensors(make()), strict=True):
                old.copy_(new)


def tensors(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return type(value)(*(tensor.clone() for tensor in value))  # a NamedTuple


# capture(run) records what run() does on the device, which may or may not do it; returns what does
# it again, and what run() returned, whose tensors each replay fills
Capture = Callable[[Callable[[], Scalars]], tuple[Callable[[], None], Scalars]]


def cuda_capture(run: Callable[[], Scalars]) -> tuple[Callable[[], None], Scalars]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scalars = run()
    return graph.replay, scalars


@contextmanager
def beside() -> Iterator[None]:
    """A stream of its own, on which what a graph will record must have run before."""
    if not torch.cuda.is_available():
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


class Recording(NamedTuple):
    """A graph and the tensors through which it is spoken to."""

    batch: Batch
    tape: Tape
    play: Callable[[], None]
    scalars: Scalars


class Recordable(Protocol):
    """What a trainer must have: `update` is a function of the batch, the weights and its tape.

    It may decide by `variant()`, and by nothing else that changes from step to step.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    tape: Tape

    def update(self, batch: Batch) -> Scalars: ...
    def variant(self) -> Hashable: ...


class NotRecorded(Exception):
    """No graph can be had of the step, or one that does something else; no weight has changed."""


class GraphedUpdate:
    """update(batch) -> scalars, from a graph for each variant of the step.

    The scalars are overwritten by the next step. Raises NotRecorded.
    """

    def __init__(self, trainer: Recordable, capture: Capture = cuda_capture) -> None:
        self.trainer, self.capture = trainer, capture
        self.rates = {  # by optimizer, what its groups' learning rates are replaced by
            name: [torch.zeros((), device=device_of(optimizer)) for _ in optimizer.param_groups]
            for name, optimizer in trainer.optimizers.items()
        }
        self.recordings: dict[Hashable, Recording] = {}

    def __call__(self, batch: Batch) -> Scalars:
        variant = self.trainer.variant()
        if variant not in self.recordings:
            self.recordings[variant] = self.record(batch)
        recording = self.recordings[variant]
        self.refresh(recording, batch)
        recording.play()
        return recording.scalars

    def refresh(self, recording: Recording, batch: Batch) -> None:
        for held, new in zip(recording.batch, batch, strict=True):
            held.copy_(new)
        recording.tape.draw()
        self.set_rates()

    def set_rates(self) -> None:
        for name, rates in self.rates.items():
            groups = self.trainer.optimizers[name].param_groups
            for rate, group in zip(rates, groups, strict=True):
                rate.fill_(group["lr"])

    def record(self, batch: Batch) -> Recording:
        """A graph of the step, tried for TRIES steps beside the step itself; both are undone."""
        trainer = self.trainer
        before = kept(trainer)
        trainer.tape = tape = Tape()
        batch = Batch(*(tensor.clone() for tensor in batch))
        self.set_rates()

        def update() -> Scalars:
            with tape.playing():
                return trainer.update(batch)

        try:
            with beside():
                wanted = [read(update()) for _ in range(TRIES)]
                put_back(trainer, before)
            with self.rates_on_the_device():
                play, scalars = self.capture(update)
            put_back(trainer, before)  # where the capture did what it recorded
            found = []
            for _ in range(TRIES):
                play()
                found.append(read(scalars))
            refuse_another_step(wanted, found)
        except RuntimeError as error:  # torch's
            raise NotRecorded(" ".join(str(error).split())[:200]) from error
        finally:
            put_back(trainer, before)
        return Recording(batch, tape, play, scalars)

    @contextmanager
    def rates_on_the_device(self) -> Iterator[None]:
        """The optimizers read their rates from tensors, which a replay finds filled anew."""
        groups = [
            (group, rate)
            for name, rates in self.rates.items()
            for group, rate in zip(self.trainer.optimizers[name].param_groups, rates, strict=True)
        ]
        before = [(group["lr"], group["capturable"]) for group, _ in groups]
        for group, rate in groups:
            group["lr"], group["capturable"] = rate, rate.is_cuda
        try:
            yield
        finally:
            for (group, _), (rate, capturable) in zip(groups, before, strict=True):
                group["lr"], group["capturable"] = rate, capturable


def device_of(optimizer: Optimizer) -> torch.device:
    return optimizer.param_groups[0]["params"][0].device


def read(scalars: Scalars) -> dict[str, float]:
    return {tag: float(value) for tag, value in scalars.items()}


def refuse_another_step(wanted: list[dict[str, float]], found: list[dict[str, float]]) -> None:
    """NotRecorded where the values of some steps, by tag, are not the same within TOLERANCE."""
    for step, (ours, theirs) in enumerate(zip(wanted, found, strict=True)):
        for tag, value in ours.items():
            if not abs(theirs[tag] - value) <= TOLERANCE * max(abs(value), TOLERANCE):
                raise NotRecorded(f"{tag} of step {step + 1} is {theirs[tag]}, not {value}")


def state_of(trainer: Recordable) -> Iterator[tuple[Any, Tensor]]:
    """(key, tensor) of all that a step changes."""
    for name, network in trainer.networks.items():
        yield from (((name, key), value) for key, value in network.state_dict().items())
    for optimizer in trainer.optimizers.values():
        for parameter, state in optimizer.state.items():
            yield from (((parameter, key), value) for key, value in state.items())


def kept(trainer: Recordable) -> dict[Any, Tensor]:
    return {key: value.detach().clone() for key, value in state_of(trainer)}


def put_back(trainer: Recordable, before: dict[Any, Tensor]) -> None:
    """In place, where the graph looks for it. What Adam remembers since then was zero before."""
    with torch.no_grad():
        for key, value in state_of(trainer):
            value.copy_(before[key]) if key in before else value.zero_()


def wanted(config: Config, device: torch.device, *, recordable: bool = True) -> bool:
    """Whether --cuda_graph has steps recorded here. UserError where it asks for what can't be."""
    obstacle = ""
    if not recordable:
        obstacle = f"no graph is made of the step of --model {config.model}"
    elif device.type != "cuda":
        obstacle = f"this is {device.type}"
    elif world() > 1:
        obstacle = "several processes train together"
    elif config.compile:
        obstacle = "--compile has kernels of its own"
    if config.cuda_graph == "on" and obstacle:
        raise UserError(f"--cuda_graph on: {obstacle}. Leave the flag out.")
    return config.cuda_graph != "off" and not obstacle


class WithFallback:
    """GraphedUpdate, or the step itself from the moment where no graph can be had of it."""

    def __init__(self, trainer: Recordable, *, insist: bool) -> None:
        self.trainer, self.insist = trainer, insist
        self.graphed: GraphedUpdate | None = GraphedUpdate(trainer)

    def __call__(self, batch: Batch) -> Scalars:
        if self.graphed:
            try:
                return self.graphed(batch)
            except NotRecorded as why:
                if self.insist:
                    raise UserError(
                        f"--cuda_graph on: a step can't be recorded ({why}). Leave the flag out."
                    ) from None
                tqdm.write(f"no CUDA graph, steps go on one kernel at a time: {why}")
                self.graphed = None
        return self.trainer.update(batch)

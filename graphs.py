"""A training step as a CUDA graph: recorded once, then replayed without Python in between.

A step of a small GAN is some 400 kernels of a few microseconds each, and a GPU waits for the CPU
that starts them one by one; a graph is started as one. Its arithmetic is the step's. What changes
from step to step must lie where the recorded kernels look for it: the batch, all that is drawn
(Tape) and the learning rates are copied into tensors of their own before a replay. They are made
outside, by the code that makes them without a graph, so that a run can be resumed with or without.
"""

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from dataset import Batch
from lib.config import Config
from lib.distributed import world
from lib.errors import UserError

Scalars = dict[str, Tensor]
Make = Callable[[], Any]  # of a Tensor, or of a tuple of Tensors
TRIES = 3  # steps over which a recording is compared with the step before it is trusted
TOLERANCE = 1e-3  # of their scalars, or of 1: what other kernels' rounding may do


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

    def everything(self) -> Iterator[Tensor]:
        """All tensors that are held."""
        for held in self.held:
            yield from tensors(held)

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


class CUDACapture:
    """Capture by torch.cuda. The graphs are played one at a time, and so share their memory."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Scalars]) -> tuple[Callable[[], None], Scalars]:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                scalars = run()
        finally:
            torch.cuda.set_stream(stream)  # torch leaves its own in place where a capture fails
        return graph.replay, scalars


@contextmanager
def beside() -> Iterator[None]:
    """A stream of its own, on which what a graph will record must have run before."""
    if not torch.cuda.is_available():
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def no_waiting() -> Iterator[None]:
    """RuntimeError where something waits for the device: harmless here, fatal to a capture."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


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

    def __init__(self, trainer: Recordable, capture: Capture | None = None) -> None:
        self.trainer, self.capture = trainer, capture or CUDACapture()
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
        for group, rate in self.groups():
            rate.fill_(group["lr"])

    def groups(self) -> list[tuple[dict[str, Any], Tensor]]:
        """Every optimizer's groups, and what replaces their learning rates."""
        return [
            (group, rate)
            for name, rates in self.rates.items()
            for group, rate in zip(self.trainer.optimizers[name].param_groups, rates, strict=True)
        ]

    def record(self, batch: Batch) -> Recording:
        """A graph of the step, tried beside the step itself; what both did is undone."""
        before = None
        try:
            before = kept(self.trainer)
            recording = self.tried_recording(batch, before)
        except RuntimeError as error:  # torch's; of a failed capture the cause lies behind it
            cause = " ".join(str(error.__context__ or error).split())[:200]
            raise NotRecorded(cause) from error
        finally:
            if before is not None:
                put_back(self.trainer, before)
        return recording

    def tried_recording(self, batch: Batch, before: dict[Any, Tensor]) -> Recording:
        trainer = self.trainer
        trainer.tape = tape = Tape()
        batch = Batch(*(tensor.clone() for tensor in batch))

        def update() -> Scalars:
            with tape.playing():
                return trainer.update(batch)

        with beside():
            expected = self.steps(update, batch, tape)
            with no_waiting():
                update()
            put_back(trainer, before)
        with self.rates_on_the_device():
            play, scalars = self.capture(update)
        put_back(trainer, before)  # where the capture did what it recorded

        def replay() -> Scalars:
            play()
            return scalars

        refuse_another_step(expected, self.steps(replay, batch, tape))
        return Recording(batch, tape, play, scalars)

    def steps(
        self, step: Callable[[], Scalars], batch: Batch, tape: Tape
    ) -> list[dict[str, float]]:
        """What TRIES steps give. After the first all inputs change their sign, and rates grow."""
        found, rates = [], [group["lr"] for group, _ in self.groups()]
        try:
            for k in range(TRIES):
                for tensor in (*batch, *tape.everything()) if k else ():
                    if tensor.is_floating_point():
                        tensor.neg_()
                for (group, _), rate in zip(self.groups(), rates, strict=True):
                    group["lr"] = rate * (k + 1)
                self.set_rates()
                found.append({tag: float(value) for tag, value in step().items()})
        finally:
            for (group, _), rate in zip(self.groups(), rates, strict=True):
                group["lr"] = rate
        return found

    @contextmanager
    def rates_on_the_device(self) -> Iterator[None]:
        """The optimizers read their rates from tensors, which a replay finds filled anew."""
        groups = self.groups()
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


def refuse_another_step(expected: list[dict[str, float]], found: list[dict[str, float]]) -> None:
    """NotRecorded where the values of some steps, by tag, are not the same within TOLERANCE.

    A step that itself gives no number is left to `loop.refuse_nan`.
    """
    for i, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        for tag, value in ours.items():
            if not math.isfinite(value):
                return
            if not abs(theirs[tag] - value) <= TOLERANCE * max(abs(value), 1):
                raise NotRecorded(f"{tag} of step {i + 1} is {theirs[tag]}, not {value}")


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


def forget_idle_moments(trainer: Recordable) -> None:
    """Adam's of parameters that it has not moved yet: a step that failed may leave half of them."""
    for optimizer in trainer.optimizers.values():
        for parameter, state in list(optimizer.state.items()):
            if not state.get("step", 0):
                del optimizer.state[parameter]


def may_record(config: Config, device: torch.device, *, recordable: bool) -> bool:
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

    def __init__(
        self, trainer: Recordable, *, insist: bool, capture: Capture | None = None
    ) -> None:
        self.trainer, self.insist = trainer, insist
        self.graphed: GraphedUpdate | None = GraphedUpdate(trainer, capture)

    def __call__(self, batch: Batch) -> Scalars:
        if self.graphed:
            try:
                return self.graphed(batch)
            except NotRecorded as why:
                forget_idle_moments(self.trainer)
                if self.insist:
                    raise UserError(
                        f"--cuda_graph on: a step can't be recorded ({why}). Leave the flag out."
                    ) from None
                tqdm.write(f"no CUDA graph, steps go on one kernel at a time: {why}")
                self.graphed = None
        return self.trainer.update(batch)

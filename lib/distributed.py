"""Several processes train one model: each holds all of it and takes its share of every batch.

    torchrun --nproc_per_node=2 main.py --do_train

torchrun puts each process's rank and their number into the environment. With one process every
function here returns at once, and changes nothing.

One all-reduce averages the gradients before an optimizer's step. DistributedDataParallel hooks on
`forward` and on the first backward pass, but a GAN's step calls `D.logits`, accumulates several
backward passes, and passes gradients through a frozen D: each would need a workaround.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lib.errors import UserError

T = TypeVar("T")
PATIENCE = timedelta(hours=1)  # the longest that ranks wait: a machine's first one may be fetching


def world() -> int:
    """Count the processes that work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number this process among them, from 0; rank 0 writes the files and prints."""
    return dist.get_rank() if world() > 1 else 0


def launched() -> bool:
    """True if torchrun (or what sets the same variables) started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and {"RANK", "MASTER_ADDR"} <= set(os.environ)


def local_rank() -> int:
    """Number this process on its machine: the CUDA device that it takes."""
    return int(os.environ.get("LOCAL_RANK", 0)) if launched() else 0


def own_device(device: torch.device) -> torch.device:
    """Give each process a CUDA device of its own. Raises UserError if there are too few."""
    if device.type != "cuda" or not launched():
        return device
    here, there = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if here > there:
        raise UserError(
            f"{here} processes on a machine of {there} CUDA devices: start one for each"
            f" (--nproc_per_node={there}), or add --no_cuda."
        )
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    return device


def silence_other_ranks() -> None:
    """Ranks above 0 print nothing from here on, except for unexpected errors."""
    if launched() and int(os.environ["RANK"]) > 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        sys.excepthook = lambda *error: traceback.print_exception(*error, file=sys.__stderr__)


@contextmanager
def session(device: torch.device) -> Iterator[None]:
    """Connect the processes: CPU tensors travel by gloo, CUDA's by nccl."""
    if not launched():
        yield
        return
    if device.type == "mps":
        raise UserError("several processes train on the CPU or on CUDA: add --device cpu.")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    except (UserError, SystemExit):  # all ranks raise these together, see `agree`
        disconnect()
        raise
    disconnect()


def disconnect() -> None:
    """Leave the process group.

    torch 2.6 can deadlock here: it holds the GIL while waiting for gloo threads that need it. A
    short sleep lets them finish.
    """
    time.sleep(0.2)
    dist.destroy_process_group()


def check(device: torch.device, *, batch_size: int, sync_bn: bool) -> None:
    """Raises UserError if the batch can't be shared evenly, or --sync_bn can't run here."""
    if batch_size % world() or (world() > 1 and batch_size < 2 * world()):
        raise UserError(
            f"--batch_size {batch_size} is shared by {world()} processes: wanted a multiple of"
            f" {world()}, and two images or more for each."
        )
    if sync_bn and device.type != "cuda":
        raise UserError(
            f"--sync_bn: torch's SyncBatchNorm runs on CUDA alone, and this is {device.type}."
            " Leave it out: each process then normalises by its own share of the batch."
        )


def refuse_other_number(ranks: int) -> None:
    """Raises UserError if another number of processes trained the checkpoint.

    Sums would round differently, and BatchNorm would see batches of another size.
    """
    if ranks != world():
        raise UserError(
            f"the checkpoint was trained by {ranks} processes and here are {world()}, which gives"
            f" another run. Start as many (torchrun --nproc_per_node), or give another --run."
        )


def prepare(
    networks: dict[str, nn.Module], optimizers: dict[str, Optimizer], step: int, sync_bn: bool
) -> None:
    """Average the gradients before every optimizer's step from here on.

    Raises UserError if the ranks do not begin at the same step with the same weights.
    """
    if world() == 1:
        return
    weights = (p for network in networks.values() for p in network.parameters())
    mine = (step, sum(p.detach().double().sum().item() for p in weights))
    if len(set(gather(mine))) > 1:
        raise UserError(
            f"the {world()} processes begin at different steps or weights: wanted one folder of"
            " runs, shared by all machines (--runs_dir)."
        )
    for network in networks.values():
        if sync_bn and not isinstance(network, AveragedModel):  # that one never sees a batch
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for optimizer in optimizers.values():
        optimizer.register_step_pre_hook(average_gradients)


def shard(x: Tensor, start: int = 0) -> Tensor:
    """Take this rank's share of the rows of x, every world()-th; x begins at row `start`.

    Row i goes to rank i % world(). A batch of several parts is shared part by part if the length
    of each divides by world().
    """
    return x if world() == 1 else x[(rank() - start) % world() :: world()]


def of_all_ranks(x: Tensor) -> Tensor:
    """Join the ranks' shares in the order of the whole: undoes `shard`."""
    if world() == 1:
        return x
    whole = x.new_zeros(len(x) * world(), *x.shape[1:])
    shard(whole).copy_(x)
    return total(whole)


def share_size(n: int) -> int:
    """Count this rank's share of n rows."""
    return len(range(rank(), n, world()))


def total(x: Tensor) -> Tensor:
    """Sum x over the ranks, bit-identical on each."""
    if world() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def average(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, by one all-reduce for all of them."""
    if not tensors or world() == 1:
        return
    flat = total(torch.cat([t.reshape(-1) for t in tensors])).div_(world())
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view(tensor.shape))


def average_gradients(optimizer: Optimizer, *_: Any) -> None:
    """Shares are equally large, so the mean of their means is the mean of the batch."""
    parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    average([p.grad for p in parameters if p.grad is not None])


def average_batchnorm(networks: Iterable[nn.Module]) -> None:
    """Average BatchNorm's running statistics over the ranks; so that a resumed run ends alike."""
    if world() == 1:
        return
    layers = (m for net in networks for m in net.modules() if isinstance(m, _BatchNorm))
    average([b for m in layers for b in (m.running_mean, m.running_var) if b is not None])


def mean_scalars(scalars: dict[str, Tensor]) -> dict[str, float]:
    """Read the means over the ranks back from the device; a NaN of one rank is a NaN of all."""
    if not scalars:
        return {}
    tensors = [torch.as_tensor(value).detach().float() for value in scalars.values()]
    values = torch.stack([tensor.to(tensors[0].device) for tensor in tensors])
    return dict(zip(scalars, total(values).div_(world()).tolist(), strict=True))


def gather(value: T) -> list[T]:
    """Collect every rank's value, by rank."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def agreed_signal(received: list[int]) -> int:
    """Return a signal that some rank has received, the same on all of them, or 0.

    It travels as an integer on the CPU, so that nobody waits for a CUDA device.
    """
    number = received[0] if received else 0
    if world() == 1:
        return number
    highest = torch.tensor([number])
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return int(highest)


def agree(action: Callable[[], T]) -> T:
    """Run action() on every rank; if one fails in a way the user can mend, all raise UserError.

    So no rank waits for one that has given up, and rank 0 can print why. Nobody returns before
    all are done.
    """
    if world() == 1:
        return action()
    result, complaint = None, ""
    try:
        result = action()
    except UserError as error:
        complaint = str(error)
    except OSError as error:
        complaint = f"{error.filename or 'a file of this run'} can't be used: {error.strerror}."
    for other in gather(complaint):
        if other:
            raise UserError(other)
    return result


def on_main_process(action: Callable[[], T]) -> T | None:
    """Run action() on rank 0 alone; the others wait for it."""
    return agree(action if rank() == 0 else lambda: None)


def main_process_first(action: Callable[[], T]) -> T:
    """Run action() on each machine's first rank, then on the others: they find what it fetched."""
    if world() == 1:
        return action()
    first = local_rank() == 0
    result = agree(action if first else lambda: None)
    late = agree(lambda: None if first else action())
    return result if first else late

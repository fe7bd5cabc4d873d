"""--precision and --compile: the form in which a training step runs its networks."""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from lib.config import Config
from lib.errors import UserError

Forward = Callable[..., Tensor]


def autocast(config: Config, device: torch.device) -> AbstractContextManager:
    """Build the context of a step's forward passes: bfloat16 with --precision bf16.

    Penalties and sampling stay outside and run in float32. Raises UserError on MPS.
    """
    if config.precision == "fp32":
        return nullcontext()
    if device.type == "mps":
        raise UserError("--precision bf16: MPS runs in fp32 only. Leave the flag out.")
    return torch.autocast(device.type, torch.bfloat16)


def compiled(forward: Forward, config: Config, device: torch.device) -> Forward:
    """Compile a forward pass with --compile; on CUDA it is replayed as a CUDA graph.

    Raises UserError if a CPU has no C++ compiler.
    """
    if not config.compile:
        return forward
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and not shutil.which(compiler):
        raise UserError(f"--compile: no C++ compiler ({compiler}): install one, or leave it out.")
    if device.type != "cuda":
        return torch.compile(forward)
    graphed = torch.compile(forward, mode="reduce-overhead")
    return lambda *inputs: graphed(*inputs).clone()  # a graph's next run uses its memory again

"""Which device a command runs on."""

import os

import torch

from lib.config import Config
from lib.errors import UserError


def pick_device(config: Config) -> torch.device:
    """Choose the device of --device and --no_cuda.

    Raises UserError if this machine has no such device.
    """
    if config.no_cuda and config.device == "cuda":
        raise UserError("--no_cuda and --device cuda contradict each other: leave one out.")
    cuda = torch.cuda.is_available() and not config.no_cuda
    mps = torch.backends.mps.is_available()
    if config.device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if not {"cpu": True, "cuda": cuda, "mps": mps}[config.device]:
        raise UserError(f"--device {config.device}: this machine has none; leave the flag out.")
    return torch.device(config.device)


def be_deterministic() -> None:
    """Make CUDA's results bit-identical from run to run."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False

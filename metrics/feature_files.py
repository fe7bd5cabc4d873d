"""Features of real images, kept beside the reference moments: computed once, read after that."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def kept_features(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """(n, d) float32 on the CPU, from the .npy file `path`; where it is torn or missing, anew.

    The path names all that the features depend on. Where it can't be written, one line says so.
    """
    with suppress(OSError, ValueError, EOFError):
        return torch.from_numpy(np.load(path))
    found = compute().float().cpu()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.save(file, found.numpy())
        part.replace(path)
    except OSError as error:
        print(f"could not keep {path}: {error.strerror}", file=sys.stderr)
    return found

"""The one exception for what the user can mend: its text says found, wanted, what to do."""

import importlib
from types import ModuleType

import torch

# of a RuntimeError or TypeError: the CPU's allocator; sizes beyond what 64 bits can count
OF_MEMORY = ("DefaultCPUAllocator", "size calculation overflowed", "Overflow when unpacking")


class UserError(Exception):
    """Raised for bad flags, files, checkpoints, disks and networks.

    Commands print it as one sentence, without a traceback, and exit with status 1.
    """


def is_out_of_memory(error: Exception) -> bool:
    """True if the CPU's or a GPU's memory ran out."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in OF_MEMORY)


def need(package: str, purpose: str) -> ModuleType:
    """Import an optional package by its name in the package index ("scikit-learn").

    Raises UserError, with the pip command, if it is not installed.
    """
    try:
        return importlib.import_module(package.replace("-", "_").replace("scikit_learn", "sklearn"))
    except ImportError:
        raise UserError(
            f"{purpose} needs the package {package}, which is not installed: pip install {package}"
        ) from None
    except ValueError as error:  # matplotlib's, of a wrong MPLBACKEND
        raise UserError(f"{purpose} needs {package}, which can't be imported: {error}") from None

"""The one exception for what the user can mend: its text says found, wanted, what to do.

And by what an error tells that memory ran out, which torch says in several ways.
"""

import torch

# of a RuntimeError or TypeError: the CPU's allocator; sizes beyond what 64 bits can count
OF_MEMORY = (
    "DefaultCPUAllocator",
    "Storage size calculation overflowed",
    "Overflow when unpacking",
)


class UserError(Exception):
    """Raised for bad flags, files, checkpoints, disks and networks.

    Commands print it as one sentence, without a traceback, and exit with status 1.
    """


def is_out_of_memory(error: Exception) -> bool:
    """Of the CPU or of a GPU."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in OF_MEMORY)

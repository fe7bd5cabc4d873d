"""Randomness as a function of a key: a draw depends on (seed, purpose, step) alone.

No generator state has to survive a kill: the noise of step 1234 is drawn from the key
("noise", seed, 1234), whether the run came there in one go or in five.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lib.distributed import rank


def key_seed(*key: str | int) -> int:
    """Hash the key to 63 bits by BLAKE2b: neighbouring keys give unrelated streams."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device | str, *key: str | int) -> torch.Generator:
    """A torch.Generator on `device` at the start of the key's stream, alike in all processes."""
    return torch.Generator(device).manual_seed(key_seed(*key))


def stream(device: torch.device | str, *key: str | int) -> torch.Generator:
    """The generator of a training step's draws: each process (rank) has a stream of its own."""
    return generator(device, *key, rank()) if rank() else generator(device, *key)


@contextmanager
def global_stream(*key: str | int) -> Iterator[None]:
    """Draw from the key's stream where a library takes no generator (layer constructors).

    The process's own CPU stream is put back afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_seed(*key))
        yield

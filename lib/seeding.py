"""Randomness as a function of a key: what a run draws depends on (seed, purpose, step) alone.

No generator state has to survive a kill: the noise of step 1234 is drawn from the key
("noise", seed, 1234), whether the run came there in one go or in five.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def key_seed(*key: str | int) -> int:
    """63 bits of BLAKE2b over the key: neighbouring keys give unrelated streams."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device | str, *key: str | int) -> torch.Generator:
    """A torch.Generator on `device` at the start of the key's stream."""
    return torch.Generator(device).manual_seed(key_seed(*key))


@contextmanager
def global_stream(*key: str | int) -> Iterator[None]:
    """Draw from the key's stream where a library takes no generator (layer constructors).

    The process's own CPU stream is put back afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_seed(*key))
        yield

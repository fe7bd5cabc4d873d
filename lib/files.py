"""Write files that are whole or not there; name them in errors."""

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch


def is_endless(path: str | Path) -> bool:
    """True for a pipe or a device, which may be read for ever."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path into an OSError that names no file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None
        raise


@contextmanager
def beside(path: Path, name: str = "") -> Iterator[Path]:
    """Give a path to write to, which then becomes `path`; after an error it is removed.

    The name is a random one, so that two commands may write the same file.
    """
    part = path.with_name(name or f".{secrets.token_hex(8)}.part")
    try:
        with naming(path):
            yield part
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


def write_beside_and_rename(path: Path, data: bytes | memoryview) -> None:
    """Write a file whole or not at all. Raises OSError, which names it."""
    with beside(path, f".{path.name}.part") as part:
        part.unlink(missing_ok=True)  # to open a FIFO of that name would wait for ever
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def save_tensors(state: Any, path: Path) -> None:
    """Write what torch.save makes; to a path it would meet a full disk by a RuntimeError."""
    torch.save(state, serialized := io.BytesIO())
    write_beside_and_rename(path, serialized.getbuffer())

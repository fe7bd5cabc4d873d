"""Decoded images on disk: NAME.u8, raw bytes (N, C, S, S), and NAME.json, what they are.

A path is data_dir/cache/NAME, without a suffix. The .json is written last, so that its presence
says that the bytes are whole.
"""

import json
import math
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import UserError
from lib.files import beside

ABANDONED = 24 * 3600  # seconds


def described(path: Path) -> dict[str, Any] | None:
    """Read a cache's description: its "shape" and what `write` was told; None if it isn't whole.

    A torn or foreign file counts as none and is written anew.
    """
    try:
        told, pixels = suffixed(path, ".json"), suffixed(path, ".u8")
        about = json.loads(told.read_text() if told.is_file() else "")
        whole = pixels.stat().st_size == math.prod(about["shape"]) and len(about["shape"]) == 4
        left_out = [about.setdefault(kind, []) for kind in ("unreadable", "too_small")]
        known = all(isinstance(names, list | dict) for names in left_out)
        return about if whole and known and min(about["shape"]) > 0 else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write(path: Path, chunks: Iterable[np.ndarray], about: dict[str, Any]) -> None:
    """Append the chunks (n, C, S, S) uint8 as they come; `about` is read after the last of them.

    UserError where the folder can't be written.
    """
    n, shape = 0, ()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        with beside(suffixed(path, ".u8")) as part, open(part, "wb") as file:
            for chunk in chunks:
                file.write(np.ascontiguousarray(chunk).data)
                n, shape = n + len(chunk), chunk.shape[1:]
        with beside(suffixed(path, ".json")) as part:
            part.write_text(json.dumps({"shape": [n, *shape]} | about, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"{path.parent} can't be written ({error.strerror}): make room, or give a --data_dir"
            " that can be."
        ) from None


def remove_abandoned(folder: Path) -> None:
    """Parts that nobody has written to for a day: their command was killed."""
    for part in folder.glob("*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()


def read(path: Path) -> np.ndarray:
    """The images (N, C, S, S) uint8; mapped, not read, where they'd fill more than half the RAM."""
    shape = tuple(described(path)["shape"])
    file = suffixed(path, ".u8")
    if math.prod(shape) > physical_memory() / 2:
        return np.memmap(file, np.uint8, mode="r", shape=shape)  # "c" is refused beyond the RAM
    return np.fromfile(file, np.uint8).reshape(shape)


def physical_memory() -> float:
    """Bytes of RAM; infinity on systems that don't say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def suffixed(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)

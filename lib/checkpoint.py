"""Checkpoints: tensors and plain values in runs/<run>/checkpoints/0005000.pt.

Each opens with torch.load(weights_only=True). A file is written beside and renamed, so that a
kill or a full disk never harms the one before; the newest whole one is the one that counts.
"""

import io
import os
import re
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lib.config import Config, differences
from lib.errors import UserError, is_out_of_memory

FORMAT = 1
KEYS = {"format", "model", "config", "step", "networks", "optimizers"}


def save(folder: Path, state: dict[str, Any], *, keep: int) -> Path:
    """Write state["step"]'s checkpoint, then delete all but the newest `keep` (0: none).

    Raises UserError if the disk refuses; the checkpoints that were there stay.
    """
    path = folder / f"{state['step']:07d}.pt"
    serialized = io.BytesIO()
    torch.save({"format": FORMAT} | state, serialized)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_beside_and_rename(path, serialized.getbuffer())
    except OSError as error:
        raise UserError(
            f"the checkpoint {path} ({serialized.tell() / 1e6:.1f} MB) can't be written:"
            f" {error.strerror}. Make room and run the same command again: it goes on from"
            f" {latest_name(folder)}."
        ) from None
    for later in [p for p in paths(folder) if int(p.stem) > state["step"]]:
        later.replace(later.with_suffix(".unusable"))  # torn or foreign: it was passed over
    for old in paths(folder)[:-keep] if keep else []:
        old.unlink()
    return path


def write_beside_and_rename(path: Path, data: bytes | memoryview) -> None:
    part = path.with_suffix(".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def paths(folder: Path) -> list[Path]:
    """All checkpoints of a folder, oldest step first."""
    found = (p for p in folder.glob("*.pt") if re.fullmatch(r"\d{7,}", p.stem))
    return sorted(found, key=lambda p: int(p.stem))  # by name 10,000,000 would lie before 9,999,999


def latest_name(folder: Path) -> str:
    found = paths(folder)
    return str(found[-1]) if found else "the start"


def load_newest(folder: Path, *, model: str) -> dict[str, Any] | None:
    """The newest whole checkpoint of this model; None if the folder has no checkpoint at all.

    A torn or foreign file is named and passed over; UserError if no other is left. What is raised
    where one can't be read now passes through: it may be whole, and going on without it would cut
    the run's history back to an older one.
    """
    found = paths(folder)
    for path in reversed(found):
        try:
            return read(path, model=model)
        except UserError as error:
            print(f"warning: {error}")
    if found:
        raise UserError(
            f"none of the {len(found)} files in {folder} is a whole checkpoint of {model}."
            " Move them away to start afresh, or give another --run."
        )
    return None


def read(path: Path, *, model: str) -> dict[str, Any]:
    """One checkpoint on the CPU. Raises UserError if it is torn, damaged or not one of ours.

    OSError, naming it, if it can't be read, and torch's errors where memory runs out.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not look at the checksums
        if damaged:
            raise zipfile.BadZipFile(f"bad checksum in {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is torn or damaged ({error}).") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    except Exception as error:  # an unpickler that is fed a foreign file raises anything
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path} is no checkpoint of tensors and plain values.") from None
    if not isinstance(state, dict) or not set(state) >= KEYS:
        raise UserError(f"{path} is foreign: wanted the entries {', '.join(sorted(KEYS))}.")
    if state["format"] != FORMAT or state["model"] != model:
        raise UserError(
            f"{path} is a checkpoint of {state['model']}, format {state['format']}:"
            f" wanted {model}, format {FORMAT}."
        )
    return state


def pack(
    config: Config,
    networks: dict[str, nn.Module],
    optimizers: dict[str, Optimizer],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Collect what a checkpoint holds; facts: at least the step."""
    return facts | {
        "model": config.model,
        "config": asdict(config),
        "networks": {name: network.state_dict() for name, network in networks.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
    }


def restore(
    state: dict[str, Any],
    config: Config,
    networks: dict[str, nn.Module],
    optimizers: dict[str, Optimizer],
) -> None:
    """Load a checkpoint's tensors into networks and optimizers.

    Raises UserError if it is of another configuration, naming the fields, or of another model.
    """
    where = f"the checkpoint of step {state['step']} in {config.run_dir / 'checkpoints'}"
    if differing := differences(config, state["config"]):
        raise UserError(
            f"{where} is of another configuration: {'; '.join(differing)}. Match it, or give"
            " another --run."
        )
    try:
        for name, network in networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{where} holds other tensors than this model's"
            f" ({' '.join(str(error).split())[:200]}). Move it away, or give another --run."
        ) from None


def same_data(known: str, batches: Any, config: Config) -> str:
    """Return the images' fingerprint.

    Raises UserError if they are not those that the checkpoint was trained on, which are `known`.
    """
    found = batches.fingerprint()
    if known not in ("", found):
        raise UserError(
            f"the checkpoint in {config.run_dir / 'checkpoints'} was trained on other images:"
            f" {known} there, {found} here. Bring them back, or give another --run."
        )
    return found

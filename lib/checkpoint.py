"""Checkpoints: tensors and plain values in runs/<run>/checkpoints/0005000.pt.

Each opens with torch.load(weights_only=True). A file is written beside and renamed, so that a
kill or a full disk never harms the one before; the newest whole one is the one that counts.
"""

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lib.config import Config, differences
from lib.errors import UserError, is_out_of_memory
from lib.files import write_beside_and_rename

FORMAT = 1
ENTRIES = {"format": 1, "model": "", "config": {}, "step": 0, "networks": {}, "optimizers": {}}
MOST_THREADS = 1024
LATER = {"ranks": 1, "data": "", "threads": 0}  # what older checkpoints lack


def save(folder: Path, state: dict[str, Any], *, keep: int) -> Path:
    """Write state["step"]'s checkpoint, then delete all but the newest `keep` (0: none).

    Raises UserError if the disk refuses; the checkpoints that were there stay.
    """
    path = folder / f"{state['step']:07d}.pt"
    serialized = io.BytesIO()
    torch.save({"format": FORMAT} | state, serialized)
    try:
        folder.mkdir(exist_ok=True)  # in the run's folder: a deleted one does not come back
        write_beside_and_rename(path, serialized.getbuffer())
    except OSError as error:
        raise UserError(
            f"the checkpoint {path} ({serialized.tell() / 1e6:.1f} MB) can't be written:"
            f" {error.strerror}. Make room, or mend that, and run the same command again: it goes"
            f" on from {(paths(folder) or ['the start'])[-1]}."
        ) from None
    for later in [p for p in paths(folder) if int(p.stem) > state["step"]]:
        later.replace(later.with_suffix(".unusable"))  # torn or foreign: it was passed over
    prune(folder, state["step"], keep=keep)
    return path


def prune(folder: Path, step: int, *, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints (0: none) of those up to this whole one."""
    found = [path for path in paths(folder) if int(path.stem) <= step]
    for old in found[:-keep] if keep else []:
        old.unlink()


def paths(folder: Path) -> list[Path]:
    """All checkpoints of a folder, oldest step first; UserError if one has no end, as a FIFO."""
    there = folder.iterdir() if folder.is_dir() else ()  # glob would hide one that can't be read
    named = [p for p in there if re.fullmatch(r"\d{7,}\.pt", p.name)]
    if endless := [p for p in named if p.is_fifo() or p.is_char_device()]:
        raise UserError(f"{endless[0]} is no file: move it away.")
    return sorted(named, key=lambda p: int(p.stem))  # by name 10,000,000 would lie before 9,999,999


def trained_runs(runs_dir: Path | str) -> list[Path]:
    """The folders of runs that have a checkpoint, newest first."""
    runs = [path.parent for path in Path(runs_dir).glob("*/config.json")]
    newest = {run: found[-1] for run in runs if (found := paths(run / "checkpoints"))}
    return sorted(newest, key=lambda run: newest[run].lstat().st_mtime_ns, reverse=True)


def load_newest(
    folder: Path, model: str, check: Callable[[dict[str, Any]], None] = lambda state: None
) -> dict[str, Any] | None:
    """The newest whole checkpoint of this model; None if the folder has no checkpoint at all.

    One that is torn or foreign, or that `check` refuses by UserError, is named and passed over;
    UserError if no other is left. An OSError passes through: that one may be whole, and going on
    without it would cut the run's history.
    """
    found, reasons = paths(folder), []
    for path in reversed(found):
        try:
            state = read(path, model=model)
            check(state)
        except UserError as error:
            reasons.append(error)
            continue
        for reason in reasons:
            print(f"warning: {reason} The one before it is used.")
        return state
    if not found:
        return None
    raise UserError(
        f"none of the {len(found)} files in {folder} is a whole checkpoint of this run:"
        f" {reasons[0]} Move them away to start afresh, or give another --run."
        " (Those of a G or D of your own open in your script.)"
    )


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
    state = LATER | state if isinstance(state, dict) else {}
    likes = (ENTRIES | LATER).items()
    wrong = [name for name, like in likes if type(state.get(name)) is not type(like)]
    if wrong:
        raise UserError(f"{path} is foreign: wrong or missing entries: {', '.join(wrong)}.")
    if (state["format"], state["model"]) != (FORMAT, model):
        raise UserError(
            f"{path} is a checkpoint of {state['model']}, format {state['format']}:"
            f" wanted {model}, format {FORMAT}."
        )
    if not 0 <= state["threads"] <= MOST_THREADS:
        raise UserError(f"{path} is foreign: it was trained with {state['threads']} threads.")
    if path.stem.isdigit() and state["step"] != int(path.stem):
        raise UserError(f"{path} is foreign: it holds step {state['step']}.")
    return state


def pack(
    config: Config,
    networks: dict[str, nn.Module],
    optimizers: dict[str, Optimizer],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Collect what a checkpoint holds; facts: at least the step."""
    return facts | {
        "threads": torch.get_num_threads(),
        "model": config.model,
        "config": asdict(config),
        "networks": {name: network.state_dict() for name, network in networks.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
    }


def check_state(
    state: dict[str, Any],
    config: Config,
    networks: dict[str, nn.Module],
    optimizers: dict[str, Optimizer],
) -> None:
    """Raise UserError if a checkpoint is of another configuration, or of other networks.

    Each value is held against ours before any is loaded: fused Adam would crash on a wrong one.
    """
    about = f"the checkpoint of step {state['step']} in {config.run_dir / 'checkpoints'}"
    try:
        if differing := differences(config, state["config"]):
            raise UserError(f"{about} is of another configuration: {'; '.join(differing)}.")
        for name, network in networks.items():
            weights = state["networks"][name]
            compare(weights, network.state_dict(), name)
            if any((v < 0).any() for k, v in weights.items() if k.endswith("running_var")):
                raise ValueError(f"{name} has a negative variance")
        for name, optimizer in optimizers.items():
            saved = state["optimizers"][name]["state"]
            params = [p for group in optimizer.param_groups for p in group["params"]]
            moments = [{"step": torch.tensor(0.0), "exp_avg": p, "exp_avg_sq": p} for p in params]
            compare(saved, dict(enumerate(moments)), f"{name}'s Adam")
            if state["step"] and not (saved and all(s["step"] > 0 for s in saved.values())):
                raise ValueError(f"{name}'s Adam has made no step")
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{about} holds other values than this model's ({' '.join(str(error).split())[:200]})."
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


def compare(found: Any, wanted: Any, name: str) -> None:
    """Raise ValueError at the first place where two nested values aren't built alike."""
    found, wanted = dict(built(found, name)), dict(built(wanted, name))
    for place in wanted | found:
        if found.get(place) != wanted.get(place):
            raise ValueError(f"{place} is {found.get(place)}, wanted {wanted.get(place)}")


def built(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Each place of a nested value and what is there: ("G['linear.weight']", "float32 (3, 4)")."""
    if isinstance(value, Tensor):
        kind = "meta" if value.is_meta else f"{value.layout} {value.dtype}"
        is_finite = value.is_meta or bool(value.isfinite().all())
        odd = " with NaN or infinity" * (not is_finite)
        yield name, f"{kind} {tuple(value.shape)}{odd}".replace("torch.", "")
    elif isinstance(value, dict | list | tuple):
        yield name, "a dict" if isinstance(value, dict) else "a list"
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from built(item, f"{name}[{key!r}]")
    else:
        yield name, type(value).__name__

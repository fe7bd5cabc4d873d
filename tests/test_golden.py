"""What older code left must go on: names of runs, settings, and checkpoints of each system.

tests/golden holds runs that stopped at step 40, and what older code made of them in ten more steps:
the same to the last bit on the machine that made them, to 1e-5 on any other.
"""

import io
import json
import lzma
import math
import platform
import re
import shlex
import shutil
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import main
from lib.flags import parse
from main import SYSTEMS

GOLDEN = Path(__file__).resolve().parent / "golden"
SAVED, MORE = 40, 10  # steps of the checkpoint, and those that are added here
RUNS = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))
# A bias under BatchNorm has no gradient but rounding, of which Adam makes whole steps: on another
# machine it goes elsewhere, and with it the mean that BatchNorm takes away again.
ROUNDING = {
    "biggan": r"(conv1|conv2|skip)\.bias|running_mean",
    "cdcgan": r"(project|ups\.\d|downs\.\d)\.0\.bias|running_mean",
}
NAMES = json.loads((GOLDEN / "names.json").read_text())  # flags -> the name of their run


# The product, by as few of its names as will do


def parsed(argv: list[str]) -> Any:
    """The config that main.py makes of these flags."""
    return parse(argv, SYSTEMS, "")


def presets() -> set[tuple[str, str]]:
    return {(name, preset) for name in SYSTEMS for preset in SYSTEMS[name].config_class.PRESETS}


def train(name: str, folders: list[str], steps: int, *flags: str) -> int:
    """Run main.py until the run of this name has so many steps; its exit status."""
    how = ["--do_train", "--no_score", "--device", "cpu", "--num_training_steps", str(steps)]
    return main.main(["--run", name, *folders, *how, *flags])


def generate(name: str, folders: list[str]) -> Tensor:
    """Four uint8 images (4, C, S, S) by the run's newest checkpoint."""
    config = parsed(["--run", name, *folders])
    trainer = SYSTEMS[config.model].build(config, torch.device("cpu"))
    assert trainer.resume()
    return torch.cat(list(trainer.generate(4, seed=0)))


# Files


def checkpoint(runs_dir: Path, name: str, step: int) -> Path:
    return runs_dir / name / "checkpoints" / f"{step:07d}.pt"


def unpack(name: str, runs_dir: Path) -> None:
    """Put the run where it can be resumed. Under xz a checkpoint has a third of its size."""
    path = checkpoint(runs_dir, name, SAVED)
    path.parent.mkdir(parents=True)
    path.write_bytes(lzma.decompress((GOLDEN / name / f"{path.name}.xz").read_bytes()))
    shutil.copy(GOLDEN / name / "config.json", runs_dir / name)


def expected(name: str) -> dict[str, Any]:
    """An `outcome` at the last step, `images` of the checkpoint, the `machine` that made both."""
    packed = (GOLDEN / name / "expected.pt.xz").read_bytes()
    return torch.load(io.BytesIO(lzma.decompress(packed)), weights_only=True)


def outcome(path: Path) -> dict[str, Any]:
    """A checkpoint's weights by key, norms of Adam's moments, and a digest of the bits of both."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    networks, norms, digest = state["networks"], {}, blake2b(digest_size=8)
    weights = {f"{net}/{key}": v for net in networks for key, v in networks[net].items()}
    for name, optimizer in state["optimizers"].items():
        for moments in optimizer["state"].values():
            for key, tensor in moments.items():
                part = tensor.double().norm().item()
                norms[f"{name}/{key}"] = math.hypot(norms.get(f"{name}/{key}", 0.0), part)
                digest.update(tensor.numpy().tobytes())
    for tensor in weights.values():
        digest.update(tensor.numpy().tobytes())
    return {"step": state["step"], "weights": weights, "norms": norms, "digest": digest.hexdigest()}


def machine() -> str:
    """Two machines with the same description compute the same bits."""
    info = Path("/proc/cpuinfo")
    fields = r"^(?:vendor_id|cpu family|model|model name|stepping)\s*: (.*)$"
    found = re.findall(fields, info.read_text(), re.M)[:5] if info.is_file() else []
    kernels = torch.backends.cpu.get_cpu_capability()
    return ", ".join([f"torch {torch.__version__}", kernels, *(found or [platform.processor()])])


# Tests


@pytest.fixture(scope="module", params=RUNS)
def resumed(request, tmp_path_factory, data_dir) -> dict[str, Any]:
    """What ten more steps make of a run, and what they should."""
    name, runs_dir = request.param, tmp_path_factory.mktemp("runs")
    unpack(name, runs_dir)
    folders = ["--runs_dir", str(runs_dir), "--data_dir", str(data_dir)]
    wanted = expected(name)
    wanted["old weights"] = outcome(checkpoint(runs_dir, name, SAVED))["weights"]
    shown = generate(name, folders)
    assert train(name, folders, SAVED + MORE) == 0
    found = outcome(checkpoint(runs_dir, name, SAVED + MORE)) | {"images": shown}
    return {"name": name, "found": found, "wanted": wanted}


def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    """The largest |a - b| / max(1, |b|) of each tensor, by key."""
    pairs = {key: (a[key].double(), b[key].double()) for key in b}
    return {k: ((x - y).abs() / y.abs().clamp(min=1)).max().item() for k, (x, y) in pairs.items()}


def test_an_old_checkpoint_goes_on_as_it_did(resumed):
    found, wanted = resumed["found"], resumed["wanted"]
    assert found["step"] == wanted["step"] == SAVED + MORE
    assert signatures(found) == signatures(wanted)
    noisy = ROUNDING.get(resumed["name"], "(?!)")
    strays = {
        key: distance
        for key, distance in furthest(found["weights"], wanted["weights"]).items()
        if not distance < (0.01 if re.search(noisy, key) else 1e-5)
    }
    assert not strays
    assert found["norms"] == pytest.approx(wanted["norms"], rel=5e-3)
    assert max(furthest(wanted["old weights"], wanted["weights"]).values()) > 1e-3  # they moved


def signatures(result: dict[str, Any]) -> list[tuple]:
    return [(key, v.shape, v.dtype) for key, v in result["weights"].items()]


def test_an_old_checkpoint_goes_on_to_the_last_bit(resumed):
    found, wanted = resumed["found"], resumed["wanted"]
    if machine() != wanted["machine"]:
        pytest.skip(f"bits are those of another machine: {wanted['machine']}; this: {machine()}")
    assert found["digest"] == wanted["digest"]
    assert torch.equal(found["images"], wanted["images"])


def test_an_old_checkpoint_generates_the_images_that_it_did(resumed):
    found, wanted = (resumed[k]["images"].int() for k in ("found", "wanted"))
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max().item() <= 1  # a grey level
    assert wanted.float().std().item() > 2  # not all grey


def saved_settings(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name / "config.json").read_text())


def test_each_system_has_an_old_run():
    assert {saved_settings(name)["model"] for name in RUNS} == {name for name, _ in presets()}


def test_an_old_config_has_every_setting_of_its_day():
    saved = saved_settings("dcgan")
    assert len(saved) == 55
    assert saved["cuda_graph"] == "auto"


@pytest.mark.parametrize("flags", NAMES)
def test_an_old_run_is_found_by_the_same_flags(flags):
    assert parsed(shlex.split(flags)).run_name == NAMES[flags]


def test_each_preset_is_among_the_names():
    found = set()
    for flags in map(shlex.split, NAMES):
        given = dict(pairwise(flags))
        if "--preset" in given:
            found.add((given.get("--model", "dcgan"), given["--preset"]))
    assert found == presets()
    assert len(found) == 17

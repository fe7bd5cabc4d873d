"""What several test files share: a tiny dataset, tiny settings, a stand-in for Inception."""

import dataclasses
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import main
from lib.config import Config
from metrics import score
from sources.iclevr import LABELS
from trainer import Trainer

CPU = torch.device("cpu")
torch.set_num_threads(1)  # tiny work, and a busy machine makes threads wait for each other

TINY = {
    "dataset": "fashion",  # whose unpacked files have no published md5: a test can make them
    "batch_size": 4,
    "num_training_steps": 6,
    "logging_steps": 2,
    "saving_steps": 4,
    "latent_dim": 5,
    "generator_hidden_dim": 4,
    "discriminator_hidden_dim": 4,
}
TINY_OF = {  # where a system wants other data
    "cdcgan": {"dataset": "iclevr", "image_size": 16, "embedding_dim": 6, "g_steps": 2},
    "biggan": {"latent_dim": 8, "embedding_dim": 6, "ema": 0.0},
    "srgan": {"image_size": 32},
}


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def make_data(folder: Path) -> Path:
    """Write FashionMNIST's four files with 150 / 140 made-up images, emoji and i-CLEVR.

    tests/golden has runs that were trained on them: they may not change.
    """
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 150), ("t10k", 140)):
        images = rng.integers(0, 60, (n, 28, 28))
        labels = np.arange(n) % 10
        for image, label in zip(images, labels, strict=True):
            image[4 + label : 14 + label, 8:20] = 230
        raw = folder / "FashionMNIST" / "raw"
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
    emoji = {"Windows": (0, 30), "Test_Windows": (30, 12), "Apple": (4, 28), "Test_Apple": (0, 4)}
    for name, (first, n) in emoji.items():  # colour, 36x36, half clear
        (folder / "emoji" / name).mkdir(parents=True)
        for i in range(first, first + n):
            pixels = rng.integers(0, 256, (36, 36, 4), dtype=np.uint8)
            pixels[:18, :, 3] = 0
            Image.fromarray(pixels).save(folder / "emoji" / name / f"U+{0x1F600 + i:X}.png")
    make_iclevr(folder / "iclevr")
    return folder


def make_iclevr(folder: Path, n: int = 28) -> None:
    """i-CLEVR's folder with n made-up images of 20x20, all labels among them, and two lists."""
    rng = np.random.default_rng(1)
    (folder / "iclevr").mkdir(parents=True)
    rows = {}
    for i in range(n):
        name = f"CLEVR_train_{i:06d}_0.png"
        pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "iclevr" / name)
        rows[name] = [LABELS[(i + (5 + i // 24) * k) % 24] for k in range(3 if i % 3 else 1)]
    lists = {"test": [[label] for label in LABELS[:9]], "new_test": [list(LABELS[:3])] * 2}
    objects = {label: i for i, label in enumerate(LABELS)}
    for name, value in ({"train": rows, "objects": objects} | lists).items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def paint(folder: Path, n: int, *, mode: str = "RGB", size: tuple[int, int] = (40, 34)) -> Path:
    """Make the folder with n images of a colour each, 00.png and so on."""
    folder.mkdir(parents=True)
    for i in range(n):
        colour = (3 * i, 200, 90) if mode == "RGB" else 3 * i
        Image.new(mode, size, colour).save(folder / f"{i:02}.png")
    return folder


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """Make a .tar.gz of these files."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def tiny_config(data_dir, tmp_path):
    """tiny_config(model="dcgan", seed=1, ...) -> a config that trains in moments."""

    def make(model: str = "dcgan", **changes) -> Config:
        config_class = main.SYSTEMS[model].config_class
        choices = {f.name: f.metadata["choices"] for f in dataclasses.fields(config_class)}
        tiny = {
            name: value  # a system of other datasets keeps its own default
            for name, value in TINY.items()
            if name in choices and (not choices[name] or value in choices[name])
        }
        tiny |= TINY_OF.get(model, {})
        folders = {"data_dir": str(data_dir), "runs_dir": str(tmp_path / "runs")}
        return config_class(**(tiny | folders | {"model": model} | changes))

    return make


@pytest.fixture
def build(tiny_config, request):
    """build(model, seed=1, ...) -> a fresh trainer on the CPU, as main.py builds it.

    Without a model it is the MODEL of the test's file, if there is one, and else dcgan.
    """
    own = getattr(request.module, "MODEL", "dcgan")

    def make(model: str = own, **changes) -> Trainer:
        return main.build(tiny_config(model, **changes), CPU)

    return make


@pytest.fixture
def refusal(capsys):
    """refusal(main, word, ...) -> the one sentence with which the command ends in status 1."""

    def make(main, *argv, before: str = "") -> str:
        """before: a pattern of the lines that the command printed first, as a bar's."""
        capsys.readouterr()
        assert main([*map(str, argv)]) == 1, argv
        error = capsys.readouterr().err
        assert re.fullmatch(rf"({before}.*\n)*error: .*\n" if before else r"error: .*\n", error)
        return error

    return make


@pytest.fixture
def threads(monkeypatch):
    """Set the number of threads, without OMP_NUM_THREADS; one thread again afterwards."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield torch.set_num_threads
    torch.set_num_threads(1)


class PixelMeans(nn.Module):
    """Stands in for Inception: 16 means over quarters of rows and columns, in [0, 1]."""

    name, precision, digest, dims = "pixel-means", "fp32", "0" * 64, 16

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        return nn.functional.adaptive_avg_pool2d(pixels.mean(1, keepdim=True), 4).flatten(1)


@pytest.fixture
def pixel_means(monkeypatch) -> PixelMeans:
    """Scoring with PixelMeans in place of Inception."""
    extractor = PixelMeans()
    monkeypatch.setattr(score, "load_inception", lambda *_: extractor)
    return extractor


@pytest.fixture
def train(tiny_config):
    """train(model, steps=1, **settings) -> the folder of a run that main.py has trained."""

    def make(model: str = "dcgan", steps: int = 1, **settings) -> Path:
        config = tiny_config(model, run=model, num_training_steps=steps, **settings)
        given = {
            f.name: getattr(config, f.name)
            for f in dataclasses.fields(config)
            if getattr(config, f.name) != f.default
        }
        flags = [f"--{name}={'on' if v is True else v}" for name, v in given.items()]
        assert main.main([*flags, "--do_train", "--no_score", "--no_cuda"]) == 0
        return config.run_dir

    return make

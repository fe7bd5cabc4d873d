"""translate.py and upscale.py on pictures that people have: found, read, made, written."""

import errno
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from test_pictures import encoded, swapped_profile

from lib.errors import UserError
from scripts import translate, upscale
from scripts._pictures import find_pictures
from systems.srgan.resampling import enlarge


def paint(path: Path, size=(33, 21), mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def run(train, data_dir, runs, tmp_path):
    """run(script, pictures, ..., out=...) -> exit status, by a run trained once a module."""

    def make(script, pictures, *flags, out=tmp_path / "out") -> int:
        model = {translate: "cyclegan", upscale: "srgan"}[script]
        if not (runs / model).is_dir():
            train(model, runs_dir=str(runs), dataset="emoji", image_size=32)
        where = ["--runs_dir", runs, "--data_dir", data_dir, "--out", out, *flags]
        return script.main([os.fspath(pictures), *map(str, where)])

    return make


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_pictures_of_every_kind_are_enlarged_under_their_names(run, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    paint(photos / "odd.png")
    paint(photos / "tiny.png", (2, 3))
    paint(photos / "deep" / "grey.jpg", mode="L")
    paint(photos / "turned.jpg", exif=exif)
    Image.new("RGBA", (33, 21)).save(photos / "clear.png")
    (photos / "torn.png").write_bytes(b"no picture")
    (photos / "film.gif").write_bytes(b"not read")
    (photos / "gone.png").symlink_to("nowhere")
    os.mkfifo(photos / "pipe.png")
    assert run(upscale, photos) == 0
    told = capsys.readouterr().out
    assert "5 pictures 4 times as wide and as high" in told
    assert "skipped 1 unreadable: torn.png (no image that Pillow reads)" in told
    assert "; passed over 1 .gif, 1 broken link, 1 no file" in told
    assert "transparent parts are on white" in told
    sizes = {"odd.png": (132, 84), "deep/grey.jpg": (132, 84), "tiny.png": (8, 12),
             "clear.png": (132, 84), "turned.jpg": (84, 132)}  # fmt: skip
    assert files_below(out) == sorted(sizes)
    for name, size in sizes.items():
        with Image.open(out / name) as image:
            mode = "L" if name in ("deep/grey.jpg", "clear.png") else "RGB"
            assert (image.size, image.mode) == (size, mode)
    assert run(upscale, photos / "o*.png", out=tmp_path / "one") == 0
    assert "1 picture 4 times" in (told := capsys.readouterr().out)
    assert "transparent" not in told
    assert (tmp_path / "one" / "odd.png").read_bytes() == (out / "odd.png").read_bytes()


def test_a_folder_is_translated_at_the_models_size(run, tmp_path, capsys):
    paint(tmp_path / "photos" / "a.png", (90, 50))
    paint(tmp_path / "photos" / "deep" / "a.jpg", (8, 8), mode="L")
    (tmp_path / "photos" / "torn.png").write_bytes(b"no picture")
    assert run(translate, tmp_path / "photos", "--direction", "b2a") == 0
    told = capsys.readouterr().out
    assert "2 pictures translated b2a at 32x32" in told
    assert "skipped 1 unreadable: torn.png" in told
    assert files_below(tmp_path / "out") == ["a.png", "deep/a.jpg"]
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
    assert run(translate, tmp_path / "photos" / "a.png", out=tmp_path / "other") == 0
    other = (tmp_path / "other" / "a.png").read_bytes()
    assert other != (tmp_path / "out" / "a.png").read_bytes()  # the other direction


def test_what_cannot_be_done_is_one_sentence(run, tmp_path, capsys):
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.gif").write_bytes(b"GIF89a")
    cases = {
        "found no picture; wanted .bmp": (tmp_path / "none*",),
        "the empty name: found no picture": ("",),
        "found no picture (passed over: 1 .gif); wanted .bmp, .jpeg": (tmp_path / "b.gif",),
        "no picture could be read; skipped 1 unreadable": (torn,),
        "is a file: name a folder": (torn, "--out", tmp_path / "b.gif"),
        "the pictures' own folder": (torn, "--out", torn),
        "lies in the pictures' folder": (torn, "--out", torn / "a" / "large"),
        "name one outside": (f"{torn}/**", "--out", torn / "large"),
        "holds the pictures' folder": (torn, "--out", tmp_path),
        "is no folder: wanted a run's": (torn, "--run", tmp_path / "none"),
        "no run of --model srgan with a checkpoint is in": (torn, "--runs_dir", torn),
    }
    for words, flags in cases.items():
        assert run(upscale, *flags) == 1, words
        error = capsys.readouterr().err
        assert words in error
        assert error.startswith("error: ")
    assert run(translate, torn, out=tmp_path / "t") == 1  # trains a run of another model
    assert run(translate, torn, "--run", "srgan", out=tmp_path / "t") == 1
    assert "is a run of --model srgan: wanted one of --model cyclegan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("../d", ["a.png"]),
        ("a.png", ["a.png"]),
        ("../.cache/a.png", ["a.png"]),
        ("~/.cache/a.png", ["a.png"]),
        ("../ph [2019]/*.png", ["a [1].png", "a.png"]),
        ("../ph [2019]/a [1].png", ["a [1].png"]),
        ("../ph [2019]/a [1]*", ["a [1].png"]),
        ("../p*/*.png", ["ph [2019]/a [1].png", "ph [2019]/a.png"]),
        ("../**/a.png", ["d/a.png", "here/a.png", "ph [2019]/a.png"]),
        ("../[d]/*.PNG", []),
        ("../[d]/*.png", ["d/a.png"]),
    ],
)
def test_what_the_user_names_is_found(source, names, tmp_path, monkeypatch):
    for name in ("d/a.png", ".cache/a.png", "ph [2019]/a.png", "ph [2019]/a [1].png", "2/x.png"):
        paint(tmp_path / name, (2, 2))
    paint(tmp_path / "here" / "a.png", (2, 2))
    (tmp_path / "d" / "round").symlink_to(tmp_path / "d")  # what is below it is there already
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path.with_name("elsewhere")
    with nullcontext() if names else pytest.raises(UserError, match="found no picture"):
        found = find_pictures(source, out)
        assert found.names == names
        assert all((found.root / name).is_file() for name in found.names)


def test_a_full_disk_ends_a_batch_and_other_errors_do_not(run, tmp_path, monkeypatch, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    paint(photos / "a_strip.webp", (4200, 1))  # WebP ends at 16,383 pixels
    paint(photos / "b.webp", (5, 5))
    paint(photos / "c.png", (5, 5))
    (out / "c.png").mkdir(parents=True)  # in the way
    assert run(upscale, photos) == 1
    told = capsys.readouterr().out
    assert "1 picture 4 times" in told
    assert "skipped 2 that can't be written: a_strip.webp (" in told
    assert "c.png (Is a directory)" in told
    assert files_below(out) == ["b.webp"]
    before = (out / "b.webp").read_bytes()

    def full(image, file, *_, **__):
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(Image.Image, "save", full)
    assert run(upscale, photos) == 1
    assert "has no room for what this run writes" in capsys.readouterr().err
    assert files_below(out) == ["b.webp"]
    assert (out / "b.webp").read_bytes() == before


def test_names_that_are_no_text_are_printed_all_the_same(run, tmp_path, capfd):
    photos = tmp_path / "photos"
    paint(photos / "a.png", (5, 5))
    (photos / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"junk")
    assert run(upscale, photos) == 0
    assert "skipped 1 unreadable: caf\\udce9.jpg" in capfd.readouterr().out
    (photos / "a.png").rename(photos / os.fsdecode(b"\xe9.png"))
    assert run(translate, photos) == 0
    assert (tmp_path / "out" / os.fsdecode(b"\xe9.png")).is_file()


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "I;16"])
def test_a_single_pixel_is_read(mode):
    picture, transparent = upscale.read_picture(encoded(Image.new(mode, (1, 1))))
    assert picture.shape == (1, 1, 1)
    assert picture.item() == (1.0 if mode == "LA" else -1.0)  # on white
    assert transparent is (mode == "LA")
    deep = Image.fromarray(np.array([[700, 65535 - 700]], np.uint16))
    picture, transparent = upscale.read_picture(encoded(deep, transparency=700))
    assert transparent
    assert picture[0, 0, 0] == 1  # white, where 700 was nearly black


def test_a_colour_profile_is_converted_to_srgb(tmp_path):
    """Display P3's green lies outside sRGB, and its (255, 0, 0) is no (255, 0, 0) here either."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    red = Image.new("RGB", (3, 3), (255, 0, 0))

    def seen(profile: bytes, image: Image.Image = red) -> list[int]:
        picture, _ = upscale.read_picture(encoded(image, icc_profile=profile))
        return (picture[:, 1, 1] * 127.5 + 127.5).round().int().tolist()

    assert seen(swapped_profile()) == [0, 0, 255]
    assert seen(swapped_profile(), red.convert("P")) == [0, 0, 255]
    assert seen(swapped_profile(), red.convert("RGBA")) == [0, 0, 255]
    for unusable in (srgb, lab, b"no profile", srgb[:200]):
        assert seen(unusable) == [255, 0, 0]


@pytest.mark.parametrize(("planes", "channels"), [(1, 1), (1, 3), (3, 1)])
def test_colours_go_in_one_by_one_or_grey_as_three(planes, channels):
    tint = torch.tensor([0.1, 0.0, -0.1]).view(3, 1, 1) if channels == 3 else 0
    picture = 2 * torch.rand(planes, 9, 20) - 1
    made = upscale.upscale_picture(
        picture, lambda low: enlarge(low * 0.5) + tint, channels=channels
    )
    assert made.shape == (planes, 36, 80)
    assert torch.allclose(made, enlarge(picture[None] * 0.5)[0], atol=1e-5)

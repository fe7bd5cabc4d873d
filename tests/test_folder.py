"""--dataset folder: what is found, what is refused, what is kept and where."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dataset
from lib.errors import UserError
from sources import DataSpec, NoTestSplit, image_cache, image_files
from sources import folder as folder_data
from sources.folder import split_names


def save(path: Path, *, size=(20, 24), colour: bool = True, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, 3) if colour else size
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "my photos"
    for i in range(5):
        save(folder / f"{i}.png", seed=i)
    save(folder / "deep" / "er" / "a.JPG")
    (folder / "notes.txt").write_text("no image")
    (folder / "._0.png").write_bytes(b"what macOS puts beside it")
    return folder


@pytest.fixture
def load_data(tmp_path):
    def call(folder: Path, split: str = "train", size: int = 16, **settings):
        spec = DataSpec(tmp_path / "data", size, folder=str(folder), **settings)
        return dataset.load_spec("folder", split, spec, "cpu")

    return call


@pytest.fixture
def load(load_data):
    return lambda *given, **settings: load_data(*given, **settings).images


def words_of(tmp_path: Path) -> Path:
    """The only cache's description."""
    (words,) = (tmp_path / "data" / "cache").glob("*.json")
    return words


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(folder.parent))
    return path


def channels(folder: Path, tmp_path: Path) -> int:
    return folder_data.channels(DataSpec(tmp_path / "data", 16, folder=str(folder)))


@pytest.mark.parametrize(
    "pack", [lambda folder: folder, lambda f: zipped(f, f.with_suffix(".zip"))]
)
def test_images_of_other_kinds_are_counted_aloud(photos, load, capsys, pack):
    for name in ("a.gif", "b.GIF", "c.heic", ".hidden.gif"):
        (photos / name).write_bytes(b"an image all the same")
    assert len(load(pack(photos))) == 6
    assert "passed over 2 .gif, 1 .heic (read are .bmp, .jpeg" in capsys.readouterr().err
    for file in photos.rglob("*.*"):
        if file.suffix.lower() in (".png", ".jpg"):
            file.unlink()
    with pytest.raises(UserError, match=r"no images \(and 2 .gif, 1 .heic, not read\).*\.bmp"):
        load(pack(photos))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_links_to_nothing_and_names_that_come_again_are_counted(photos, load, capsys, tmp_path):
    with zipfile.ZipFile(zipped(photos, tmp_path / "photos.zip"), "a") as archive:
        archive.write(photos / "1.png", "my photos/0.png")
        archive.write(photos / "notes.txt", "my photos/notes.txt")
    images = load(tmp_path / "photos.zip")
    assert torch.equal(images[0], images[1])  # the last one counts, as zip programs have it
    assert "passed over 1 whose name comes again (" in capsys.readouterr().err
    for name in ("lost.png", "cats", ".#notes.txt"):
        (photos / name).symlink_to("nowhere")
    assert len(load(photos)) == 6
    assert "passed over 2 broken link (" in capsys.readouterr().err


def test_a_class_whose_name_is_no_text_is_called_by_its_escaped_bytes(tmp_path, load_data):
    for i, name in enumerate((b"caf\xe9", b"tea")):
        save(tmp_path / "d" / os.fsdecode(name) / "0.png", seed=i)
    assert load_data(tmp_path / "d").labels.tolist() == [0, 1]
    spec = DataSpec(tmp_path / "data", 16, folder=str(tmp_path / "d"))
    assert folder_data.class_names(spec) == ("caf\\udce9", "tea")


def test_images_at_any_depth_in_the_order_of_their_names(photos, load, capsys):
    images = load(photos)
    assert images.shape == (6, 3, 16, 16)
    assert images.dtype == torch.uint8
    with Image.open(photos / "0.png") as image:
        wanted = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR, box=(2, 0, 22, 20)))
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), wanted)
    told = capsys.readouterr().err
    assert "my photos, train: 6 images, colour, 24x20 (6)" in told


def test_a_zip_gives_the_same_and_nothing_is_extracted(photos, load, tmp_path):
    archive = zipped(photos, tmp_path / "photos.zip")
    assert torch.equal(load(archive), load(photos))
    data = tmp_path / "data"
    assert {p.relative_to(data).parts[0] for p in data.rglob("*")} == {"cache"}
    assert {p.suffix for p in (data / "cache").iterdir()} == {".u8", ".json"}
    assert {p.name for p in tmp_path.iterdir()} == {"data", "my photos", "photos.zip"}


def test_the_cache_serves_until_a_file_or_a_setting_changes(photos, load, monkeypatch):
    first = load(photos)
    monkeypatch.setattr("sources.decoding.decode", lambda *_, **__: 1 / 0)
    assert torch.equal(load(photos), first)
    monkeypatch.undo()
    assert load(photos, size=8).shape[-1] == 8
    save(photos / "0.png", seed=99)
    assert not torch.equal(load(photos), first)


DAMAGES = {
    "torn bytes": lambda whole: whole[:-9],
    "negative": lambda whole: whole.replace(b"6", b"-6"),
    "other words": lambda whole: whole.replace(b'"unreadable": {}', b'"unreadable": 7'),
    "no object": lambda _: b"[6]",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_torn_cache_is_made_anew(damage, photos, load, tmp_path):
    first = load(photos)
    file = words_of(tmp_path).with_suffix(".u8" if damage == "torn bytes" else ".json")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert torch.equal(load(photos), first)


def test_large_caches_are_mapped_and_train_alike(photos, load, tmp_path, monkeypatch):
    read = load(photos)
    monkeypatch.setattr(image_cache, "physical_memory", lambda: 2 * read.numel() - 1)
    arrays = folder_data.load(DataSpec(tmp_path / "data", 16, folder=str(photos)), "train")
    assert isinstance(arrays[0], np.memmap)
    assert arrays[0].mode == "r"  # a mapping that may be written to is refused beyond the RAM
    assert torch.equal(load(photos), read)
    data = dataset.ImageData(load(photos), torch.zeros(6, dtype=torch.int64))
    assert torch.equal(data.batch(torch.tensor([4, 1])).x, dataset.to_signed(read[[4, 1]]))


def test_parts_that_a_kill_left_go_after_a_day(photos, load, tmp_path):
    cache = tmp_path / "data" / "cache"
    cache.mkdir(parents=True)
    old, new = cache / "a.1.part", cache / "b.2.part"
    for part in (old, new):
        part.touch()
    os.utime(old, (1, 1))
    load(photos)
    assert not old.exists()
    assert new.exists()  # another command may be at work on it


def test_links_to_folders_are_followed_and_hidden_folders_are_not(photos, load, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "photos").symlink_to(photos)
    (photos / "deep" / "up").symlink_to(photos)  # in a circle
    save(photos / ".ipynb_checkpoints" / "c.png")
    assert len(load(tmp_path / "linked")) == 6
    names = folder_data.open_files(tmp_path / "linked").names
    assert names[-1] == "photos/deep/er/a.JPG"


def test_a_zip_with_backslashes_has_its_splits(tmp_path, load):
    archive = tmp_path / "windows.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for i in range(6):
            save(tmp_path / "one.png", seed=i)
            info = zipfile.ZipInfo("x")
            info.filename = ("train" if i < 4 else "test") + f"\\{i}.png"
            file.writestr(info, (tmp_path / "one.png").read_bytes())
    assert [len(load(archive, split)) for split in ("train", "test")] == [4, 2]


def test_one_channel_if_all_are_grey_else_three(tmp_path, load, capsys):
    grey = tmp_path / "grey"
    for i in range(3):
        save(grey / f"{i}.png", colour=False, seed=i)
    Image.open(grey / "0.png").convert("RGB").save(grey / "rgb.png")  # grey, saved as colour
    (grey / "broken.png").write_bytes(b"no")
    assert channels(grey, tmp_path) == 1
    assert load(grey).shape == (4, 1, 16, 16)
    assert channels(grey, tmp_path) == 1  # from the cache
    save(grey / "z.png")
    assert channels(grey, tmp_path) == 3
    images = load(grey)
    assert images.shape == (5, 3, 16, 16)
    assert torch.equal(images[0, 0], images[0, 2])
    assert "the 4 grey ones among them become RGB" in capsys.readouterr().err


def test_broken_files_are_named_and_counted(photos, load, capsys):
    (photos / "b1.png").write_bytes(b"nothing")
    whole = (photos / "0.png").read_bytes()
    (photos / "b2.png").write_bytes(whole[: len(whole) // 2])
    assert len(load(photos)) == 6
    told = capsys.readouterr().err
    assert "skipped 2 unreadable: b1.png (" in told
    assert "b2.png (" in told


def test_small_images_are_refused_skipped_or_enlarged(photos, load, tmp_path):
    save(photos / "tiny.png", size=(10, 12))
    with pytest.raises(UserError, match=r"tiny.png is 12x10, smaller than --image_size 16: .*skip"):
        load(photos)
    assert not list((tmp_path / "data" / "cache").iterdir())  # no half of a cache is left
    assert len(load(photos, small_images="skip")) == 6
    assert len(load(photos, small_images="upscale")) == 7
    with pytest.raises(UserError, match=r"0 of 7 files.*left out 7 too small; a dataset needs at"):
        load(photos, size=64, small_images="skip")


def test_folders_that_hold_too_little_or_cannot_be_written(photos, tmp_path, load):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="can't be written"):
        load(photos)
    (tmp_path / "data").unlink()
    with pytest.raises(UserError, match="no folder and no zip"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        load(tmp_path / "empty")
    save(tmp_path / "one" / "a.png")
    with pytest.raises(UserError, match=r"one image, a.png, and a dataset needs at least two"):
        load(tmp_path / "one")
    (tmp_path / "one" / "b.png").write_bytes(b"broken")
    why = r"1 of 2 files are left as images; skipped 1 unreadable: b.png \(no image that Pillow"
    with pytest.raises(UserError, match=why):
        load(tmp_path / "one")


def test_a_zip_that_climbs_out_is_torn_or_a_bomb_is_refused(photos, load, tmp_path, monkeypatch):
    for name in ("../out.png", "a/../../out.png", "/out.png", "C:/out.png", "..\\o.png"):
        archive = zipped(photos, tmp_path / "bad.zip")
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr(name, b"x")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match="leads out of the archive"):
            load(archive)
        assert sorted(tmp_path.rglob("*")) == before
    good = zipped(photos, archive).read_bytes()
    entry = good.index(b"PK\1\2")  # the first of the directory
    newer = good[: entry + 6] + b"\x63" + good[entry + 7 :]  # "needs version 9.9"
    named = (
        good[: entry + 9] + b"\x08" + good[entry + 10 : entry + 46] + b"\xff" + good[entry + 47 :]
    )
    for damaged in (b"PK not really", newer, named):  # the last: flagged UTF-8, and is not
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match="can't be read as a zip"):
            load(archive)
    with pytest.raises(UserError, match="no folder and no zip"):
        load("~nosuchuser/photos")
    monkeypatch.setattr(image_files, "LARGEST", 1200)  # bytes; the JPEG has fewer than the PNGs
    with pytest.raises(UserError, match="files are left as images; skipped 5 unreadable"):
        load(zipped(photos, tmp_path / "bomb.zip"))


def test_subfolders_train_and_test_are_the_splits():
    names = ["set/Train/a.png", "set/Train/deep/b.png", "set/test/c.png", "set/other/d.png"]
    assert split_names(names) == {"train": names[:2], "test": names[2:3]}
    assert split_names(["train/a.png", "train/b.png"]) == {"train": ["train/a.png", "train/b.png"]}
    assert split_names(["a.png", "test/b.png"]) == {"train": ["a.png", "test/b.png"]}
    assert split_names(["x/y/a.png", "x/y/b.png"]) == {"train": ["x/y/a.png", "x/y/b.png"]}


def test_without_a_split_there_is_no_test_set(photos, load, tmp_path):
    with pytest.raises(NoTestSplit, match=r"no test images.*train/ and test/"):
        load(photos, "test")
    for i in range(3):
        save(tmp_path / "split" / "train" / f"{i}.png", colour=False, seed=i)
        save(tmp_path / "split" / "test" / f"{i}.png", colour=False, seed=10 + i)
    save(tmp_path / "split" / "cover.png")  # beside the splits: it decides nothing
    train, test = load(tmp_path / "split"), load(tmp_path / "split", "test")
    assert train.shape == test.shape == (3, 1, 16, 16)
    assert not torch.equal(train, test)


def test_what_is_kept_tells_two_folders_apart(photos, tmp_path):
    other = tmp_path / "elsewhere" / "my photos"
    shutil.copytree(photos, other)
    marks = {
        folder_data.identity(DataSpec(tmp_path, 16, folder=str(folder), small_images=small))
        for folder in (photos, other)
        for small in ("refuse", "skip")
    }
    assert len(marks) == 4
    assert all(mark.startswith("my_photos-") for mark in marks)


@pytest.fixture
def classed(tmp_path) -> Path:
    """train/ and test/ with the classes "Zebra" and "ant"."""
    folder = tmp_path / "zoo"
    for split, counts in {"train": (3, 2), "test": (1, 2)}.items():
        for name, n in zip(("ant", "Zebra"), counts, strict=True):
            for i in range(n):
                path = folder / split / name / "deep" / f"{i}.png"
                save(path, seed=i + len(name) + 10 * len(split))
    return folder


def test_class_folders_give_labels_in_sorted_order(classed, load_data, tmp_path):
    train, test = load_data(classed), load_data(classed, "test")
    assert train.class_names == test.class_names == ("Zebra", "ant")
    assert train.labels.tolist() == [0, 0, 1, 1, 1]
    assert test.labels.tolist() == [0, 0, 1]
    assert load_data(zipped(classed, tmp_path / "zoo.zip")).labels.tolist() == [0, 0, 1, 1, 1]
    assert load_data(classed / "train").labels.tolist() == [0, 0, 1, 1, 1]  # without splits


def test_labels_keep_to_their_images_where_some_are_left_out(classed, load_data, tmp_path):
    (classed / "train" / "Zebra" / "a.png").write_bytes(b"broken")
    save(classed / "train" / "ant" / "a.png", size=(9, 9))
    data = load_data(classed, small_images="skip")
    assert len(data) == 5
    assert data.labels.tolist() == [0, 0, 1, 1, 1]
    words = words_of(tmp_path)
    about = json.loads(words.read_text())
    words.write_text(json.dumps(about | {"too_small": 0}))
    assert load_data(classed, small_images="skip").labels.tolist() == [0, 0, 1, 1, 1]
    assert json.loads(words.read_text())["too_small"] == ["train/ant/a.png"]


def test_a_class_that_only_tests_is_refused(classed, load_data):
    save(classed / "test" / "newt" / "a.png")
    assert len(load_data(classed)) == 5
    with pytest.raises(UserError, match="test images in newt, and training images only in Zebra,"):
        load_data(classed, "test")


def test_a_flat_folder_has_no_classes(photos, load_data, classed):
    data = load_data(photos)  # one image lies deeper than the others
    assert data.class_names == ()
    assert data.labels.tolist() == [0] * 6
    save(classed / "train" / "stray.png")
    assert load_data(classed).class_names == ()

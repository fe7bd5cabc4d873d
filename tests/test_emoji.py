"""Emoji: the course's folder or archive, and the set made from npm packages."""

import gzip
import importlib.util
import io
import lzma
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import pack
from PIL import Image

import dataset
import main
from lib.errors import UserError
from sources import DataSpec, archive
from sources import emoji as emoji_data

SCRIPT = Path(__file__).parent.parent / "data" / "emoji.py"
FOLDERS = {"Apple": 5, "Windows": 4, "Test_Apple": 3, "Test_Windows": 2}


@pytest.fixture
def make_emoji():
    """data/emoji.py, which is a script, as a module."""
    spec = importlib.util.spec_from_file_location("make_emoji", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(colour, size: int = 72, kind: str = "PNG") -> bytes:
    """A disc's worth of colour: the left half is clear."""
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    image.paste(colour, (size // 2, 0, size, size))
    file = io.BytesIO()
    image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def archived(course: Path, data_dir: Path, **others: bytes) -> Path:
    """Pack a course's folder as the archive in another data_dir."""
    paths = sorted(course.glob("emoji/*/*.png"))
    files = {path.relative_to(course).as_posix(): path.read_bytes() for path in paths}
    return pack(data_dir / "emoji.tar.gz", files | others)


@pytest.fixture
def course(tmp_path) -> Path:
    """A data_dir with the course's folder: image i is blue 10 * i on its right half."""
    for folder, n in FOLDERS.items():
        (tmp_path / "emoji" / folder).mkdir(parents=True)
        for i in range(n):
            (tmp_path / "emoji" / folder / f"U+1F60{i}.png").write_bytes(picture((0, 0, 10 * i)))
    return tmp_path


def load(data_dir: Path, style: str, split: str = "train", size: int = 32):
    spec = DataSpec(data_dir, size, emoji_style=style)
    return dataset.load_spec("emoji", split, spec, "cpu").images


def test_the_courses_folder_over_white_at_the_asked_size(course):
    images = load(course, "Apple")
    assert images.shape == (5, 3, 32, 32)
    assert (images[:, :, :, :14] == 255).all()
    assert images[3, :, 16, 24].tolist() == [0, 0, 30]
    for style, counts in (("Apple", [5, 3]), ("Windows", [4, 2])):
        assert [len(load(course, style, split)) for split in ("train", "test")] == counts
    assert load(course, "Windows", size=128).shape == (4, 3, 128, 128)


def test_styles_and_sets_have_names_of_their_own(course):
    identity = dataset.DATASETS["emoji"]().identity
    marks = [identity(DataSpec(course, 32, emoji_style=style)) for style in ("Apple", "Windows")]
    assert [mark.split("-")[0] for mark in marks] == ["Apple", "Windows"]
    shutil.copy(course / "emoji/Apple/U+1F600.png", course / "emoji/Apple/U+1F699.png")
    assert identity(DataSpec(course, 32, emoji_style="Apple")) != marks[0]


def test_the_archive_is_unpacked_and_nothing_climbs_out(course, tmp_path_factory):
    wanted = load(course, "Apple")
    data_dir = tmp_path_factory.mktemp("archive")
    names = ("../../Apple/../out.png", "/Apple/x.txt", "emoji/Other/U+1.png")
    archived(course, data_dir, **dict.fromkeys(names, picture((1, 1, 1))))
    assert (load(data_dir, "Apple") == wanted).all()
    assert {p.name for p in data_dir.iterdir()} == {"emoji.tar.gz", "emoji", "cache"}
    assert {p.name for p in (data_dir / "emoji").iterdir()} == set(FOLDERS)


def test_a_dry_run_unpacks_nothing(course, tmp_path_factory, tmp_path, capsys):
    data_dir = tmp_path_factory.mktemp("archive")
    pack(data_dir / "emoji.tar", {"emoji/Apple/U+1F600.png": picture((1, 1, 1))})
    argv = ["--preset", "emoji", "--data_dir", str(data_dir), "--runs_dir", str(tmp_path / "runs")]
    assert main.main([*argv, "--do_train", "--dry_run"]) == 0
    assert "nothing is written" in capsys.readouterr().out
    assert [path.name for path in data_dir.iterdir()] == ["emoji.tar"]


def test_two_commands_may_unpack_at_once(course, tmp_path_factory, monkeypatch):
    """The second is done between the first one's last file and its rename."""
    data_dir = tmp_path_factory.mktemp("archive")
    archived(course, data_dir)
    whole = archive.check_end

    def meanwhile(tar) -> None:
        monkeypatch.setattr(archive, "check_end", whole)
        emoji_data.unpack(data_dir / "emoji.tar.gz", data_dir / "emoji")
        whole(tar)

    monkeypatch.setattr(archive, "check_end", meanwhile)
    assert (load(data_dir, "Apple") == load(course, "Apple")).all()
    assert {p.name for p in data_dir.iterdir()} == {"emoji.tar.gz", "emoji", "cache"}


def test_a_missing_set_says_both_ways_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"python data/emoji.py .*or put the course's emoji.tar"):
        load(tmp_path, "Apple")
    (tmp_path / "emoji.tar").write_bytes(b"garbage")
    with pytest.raises(UserError, match="is damaged"):
        load(tmp_path, "Apple")


@pytest.fixture
def packages(tmp_path) -> list[str]:
    """Tiny npm packages: 30 emoji, of which Fluent lacks the last five and writes no FE0F."""
    points = [f"{0x1F600 + i:x}" for i in range(30)]
    apple = {f"package/img/apple/64/{p}-fe0f.png": picture((255, 0, 0), 64) for p in points}
    apple |= {f"package/img/apple/sheets/{points[0]}.png": b"not one of them"}
    fluent = {f"package/assets/{p}.webp": picture((0, 255, 0), 256, "WEBP") for p in points[:25]}
    a, b = pack(tmp_path / "a.tgz", apple), pack(tmp_path / "f.tgz", fluent)
    return ["--apple", str(a), "--fluent", str(b), "--data_dir", str(tmp_path)]


def test_a_set_made_from_packages(make_emoji, packages, tmp_path, capsys):
    assert make_emoji.main(packages) == 0
    told = capsys.readouterr().out
    assert "25 emoji are there in both styles" in told
    assert "Not for\ncommercial use" in told
    names = {f: {p.name for p in (tmp_path / "emoji" / f).iterdir()} for f in FOLDERS}
    assert len(names["Apple"] | names["Test_Apple"]) == 30
    assert len(names["Test_Apple"]) == 3
    assert names["Windows"] | names["Test_Windows"] < names["Apple"] | names["Test_Apple"]
    assert not names["Test_Windows"] & names["Apple"]  # held out of both
    assert "U+1F600.png" in names["Apple"] | names["Test_Apple"]
    with Image.open(next((tmp_path / "emoji" / "Windows").iterdir())) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (32, 32, 3)
    assert pixels[16, 4].tolist() == [255, 255, 255]
    assert pixels[16, 28].tolist() == [0, 255, 0]
    assert len(load(tmp_path, "Apple")) == 27
    assert not list(tmp_path.glob("emoji-*"))


def test_packages_from_npm_are_asked_for_by_their_hash(make_emoji, packages, tmp_path, monkeypatch):
    asked = {}

    def fetched(spec, folder, *, sha256):
        asked[spec] = sha256
        return Path(packages[1 if "apple" in spec else 3])

    monkeypatch.setattr(make_emoji, "npm_pack", fetched)
    assert make_emoji.main(packages[4:]) == 0
    assert asked == {
        "emoji-datasource-apple@16.0.0": make_emoji.APPLE.sha256,
        "@lobehub/fluent-emoji-3d@1.1.0": make_emoji.FLUENT.sha256,
    }


def test_what_makes_no_new_set_is_refused(make_emoji, packages, tmp_path, refusal):
    refused = partial(refusal, make_emoji.main)
    whole = gzip.decompress(Path(packages[1]).read_bytes())
    packed = lzma.compress(whole)
    for damaged in (whole[: len(whole) // 1024 * 512], packed[:200] + bytes(64) + packed[264:]):
        (tmp_path / "bad.tar").write_bytes(damaged)
        assert "is damaged" in refused(packages[0], str(tmp_path / "bad.tar"), *packages[2:])
    pack(tmp_path / "f.tgz", {"package/readme.md": b"empty"})
    assert "another version?" in refused(*packages)
    one = {"package/assets/1f600.webp": picture((0, 255, 0), 256, "WEBP")}
    pack(tmp_path / "f.tgz", one)
    assert "1 emoji are in both packages, wanted 10" in refused(*packages)
    assert not (tmp_path / "emoji").exists()
    (tmp_path / "emoji").mkdir()
    assert "is there already" in refused(*packages)
    assert "/dev/zero is a pipe or a device" in refused("--apple", "/dev/zero", *packages[2:4])


def test_names_are_code_points_without_the_presentation_selector(make_emoji):
    assert make_emoji.name_of("1f46f-200d-2640-fe0f") == "U+1F46F U+200D U+2640"
    assert make_emoji.name_of("ae-fe0f") == "U+00AE"
    assert make_emoji.name_of("1f3f4-e0067_e007f") == "U+1F3F4 U+E0067 U+E007F"
    for wrong in ("smile", "fe0f", "0x1f600", "1__f600"):
        with pytest.raises(UserError, match="wanted code points"):
            make_emoji.name_of(wrong)


def test_another_seed_holds_others_out(make_emoji):
    names = set(map(str, range(105)))
    assert make_emoji.choose(names, 0) != make_emoji.choose(names, 1)


@pytest.mark.parametrize("damage", ["torn", "header", "bits"])
def test_a_damaged_archive_is_refused_and_leaves_nothing(course, tmp_path_factory, damage):
    data_dir = tmp_path_factory.mktemp("damaged")
    archived(course, data_dir)
    data = gzip.decompress((data_dir / "emoji.tar.gz").read_bytes())
    if damage == "torn":
        data = data[: len(data) // 1024 * 512]
    if damage == "header":  # of the last file
        at = data.rindex(b"ustar")
        data = data[: at - 100] + b"?" * 16 + data[at - 84 :]
    packed = bytearray(gzip.compress(data))
    if damage == "bits":
        packed[-6] ^= 1  # of the sum at its end
    (data_dir / "emoji.tar.gz").write_bytes(packed)
    with pytest.raises(UserError, match="is damaged"):
        load(data_dir, "Apple")
    assert [p.name for p in data_dir.iterdir()] == ["emoji.tar.gz"]

"""Emoji in one of two styles, Apple's or Windows', as the course's archive has them. docs/data.md.

<data_dir>/emoji/ with Apple/, Windows/, Test_Apple/ and Test_Windows/, or the archive
<data_dir>/emoji.tar (.tar.gz, .tgz) of that folder; `python data/emoji.py` makes such a folder.
"""

import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np

from lib.errors import UserError
from sources import EMOJI_STYLES, DataSpec, archive, image_cache
from sources.decoding import Decoding
from sources.image_files import FolderFiles, digest

FOLDERS = {"train": "{}", "test": "Test_{}"}
ARCHIVES = ("emoji.tar", "emoji.tar.gz", "emoji.tgz")
LARGEST = 1 << 20  # bytes of an emoji; the course's have about one thousand


def load(spec: DataSpec, split: str) -> tuple[np.ndarray, np.ndarray]:
    """images (N, 3, S, S) uint8 over white, in the order of their code points; labels all 0.

    Resized from the 72 or 32 pixels they have, whatever S. Raises UserError if there is none.
    """
    images = image_cache.read(decoded(spec, find(spec, split), split))
    return images, np.zeros(len(images), np.int64)


def code_points(spec: DataSpec, split: str) -> list[str]:
    """Name each image of `load`, as "U+1F469 U+200D U+1F33E": the same in both styles.

    Without U+FE0F, which asks for the coloured form and which not all sets write.
    """
    files = find(spec, split)
    unreadable = image_cache.described(decoded(spec, files, split))["unreadable"]
    stems = (Path(name).stem for name in files.names if name not in unreadable)
    return [" ".join(p for p in stem.split() if p != "U+FE0F") for stem in stems]


def decoded(spec: DataSpec, files: FolderFiles, split: str) -> Path:
    """The cache of the split's images, written now if need be."""
    style, size = spec.emoji_style, spec.image_size
    name = f"emoji-{style}-{size}px-{digest(files.fingerprint())}-{split}"
    path = spec.data_dir / "cache" / name
    Decoding(
        files,
        files.names,
        image_size=size,
        channels=3,
        small_images="upscale",
        label=f"emoji, {FOLDERS[split].format(style)}",
    ).write(path)
    return path


def identity(spec: DataSpec) -> str:
    """The style and a fingerprint of its files: the course's set is another than a made one."""
    stamps = [find(spec, split).fingerprint() for split in FOLDERS]
    return f"{spec.emoji_style}-{digest(*stamps)}"


def check_split(spec: DataSpec, split: str) -> None:
    """UserError where the split is not there; an archive is taken to hold it."""
    if not packed(spec):
        find(spec, split)


def packed(spec: DataSpec) -> list[Path]:
    """The course's archives, where only they are there."""
    found = [path for name in ARCHIVES if (path := spec.data_dir / name).is_file()]
    return [] if (spec.data_dir / "emoji").is_dir() else found


def find(spec: DataSpec, split: str) -> FolderFiles:
    """The split's files, unpacked from the course's archive if only that is there."""
    root = spec.data_dir / "emoji"
    if archives := packed(spec):
        unpack(archives[0], root)
    folder = root / FOLDERS[split].format(spec.emoji_style)
    files = FolderFiles(folder) if folder.is_dir() else None
    if not files or len(files.names) < 2:
        found = f"holds {len(files.names)} images" if files else "is not there"
        raise UserError(
            f"{folder} {found}: run `python data/emoji.py --data_dir"
            f" {spec.data_dir}` to make a set from the npm packages, or put the course's emoji.tar"
            f" (or its folder emoji/ with Apple/, Windows/, Test_Apple/, Test_Windows/) into"
            f" {spec.data_dir}."
        )
    return files


def unpack(packed: Path, root: Path) -> None:
    """Unpack the images of the four folders into `root`, made beside and renamed.

    By folder and file name alone, so that no path in the archive leads anywhere else.
    """
    folders = {layout.format(style) for layout in FOLDERS.values() for style in EMOJI_STYLES}
    with tempfile.TemporaryDirectory(dir=root.parent, prefix="emoji-") as scratch:
        part = Path(scratch, "emoji")
        for folder in folders:
            (part / folder).mkdir(parents=True)
        with archive.opened(packed) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                wanted = path.parent.name in folders and path.suffix.lower() == ".png"
                if wanted and member.isfile() and member.size <= LARGEST:
                    content = tar.extractfile(member).read()
                    (part / path.parent.name / path.name).write_bytes(content)
            if empty := [folder for folder in folders if not any((part / folder).iterdir())]:
                raise tarfile.ReadError(f"no images in {empty[0]}/")
        n = len(list(part.glob("*/*")))
        with suppress(OSError):  # another command has been faster
            part.rename(root)
    print(f"{packed}: unpacked {n:,} emoji into {root}", file=sys.stderr)

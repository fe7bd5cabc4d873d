"""A user's own pictures: found by name, read, made into others, written under the same names."""

import glob
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset import to_bytes
from lib.command import FULL, flag
from lib.errors import UserError
from lib.files import beside
from lib.guards import Bar
from sources.decoding import skipped
from sources.image_files import FolderFiles
from sources.image_folder import EXTENSIONS, passed_over
from sources.pictures import reason

KINDS = ", ".join(sorted(EXTENSIONS))

MACHINES = ("auto", "cpu", "cuda", "mps")
DEVICE = flag("--device", choices=MACHINES, default="auto", help="auto: the fastest here")
FLAGS = (
    flag("pictures", help='a folder, a file, or a quoted pattern such as "photos/*.jpg"'),
    flag("--out", required=True, help="folder for the results, which keep their names"),
    flag("--run", help="folder of a trained run, runs/NAME (default: the newest one)"),
    flag("--runs_dir", default="runs", help="folder of runs"),
    flag("--data_dir", default="data", help="folder of datasets"),
    DEVICE,
)


class Pictures(NamedTuple):
    """A folder, the pictures' paths below it, and what else was found, in words ("3 .gif")."""

    root: Path
    names: list[str]
    passed_over: str


def find_pictures(source: str, out: Path) -> Pictures:
    """A folder's pictures at any depth, a file, or what a pattern matches.

    Raises UserError if there is none, or if `out` could harm them.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir() and source:
        files = FolderFiles(path)
        found = Pictures(path, files.names, files.passed_over)
    else:
        root, names = matching(path)
        images = [n for n in names if Path(n).suffix.lower() in EXTENSIONS and (root / n).is_file()]
        found = Pictures(root, images, passed_over(set(names) - set(images), root))
    if not found.names:
        also = f" (passed over: {found.passed_over})" if found.passed_over else ""
        raise UserError(
            f"{source or 'the empty name'}: found no picture{also}; wanted {KINDS} in a folder, a"
            ' file or a quoted pattern such as "photos/*.jpg".'
        )
    check_out(found.root, out, deep=path.is_dir() or "**" in source)
    return found


def matching(path: Path) -> tuple[Path, list[str]]:
    """A folder and the files below it, each once, that a path or pattern names.

    Folders that are there by that very name are no pattern: "ph [2019]/*.png".
    """
    if path.is_file():
        return path.parent, [path.name]
    root = path.parent
    while not root.is_dir() and root != root.parent:
        root = root.parent
    pattern = str(path.relative_to(root))
    found = glob.glob(pattern, root_dir=root, recursive=True)
    found = found or glob.glob(pattern.replace("[", "[[]"), root_dir=root, recursive=True)
    files = [root / name for name in sorted(found, key=len, reverse=True)]
    places = {(os.path.realpath(file.parent), file.name): file for file in files}
    return root, sorted(str(f.relative_to(root)) for f in places.values() if not f.is_dir())


def check_out(root: Path, out: Path, *, deep: bool) -> None:
    """Raises UserError if results could overwrite pictures, or be taken for some the next time.

    deep: pictures are taken from folders below root too.
    """
    here, there = (Path(os.path.realpath(path)) for path in (root, out))
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder.")
    if there == here:
        raise UserError(f"--out {out} is the pictures' own folder: name another, names are kept.")
    if there in here.parents:
        raise UserError(
            f"--out {out} holds the pictures' folder {root}, of which a result may overwrite"
            " something: name another folder."
        )
    if deep and here in there.parents:
        raise UserError(
            f"--out {out} lies in the pictures' folder: name one outside, or the next time the"
            " results are taken for pictures too."
        )


def make_each(
    found: Pictures,
    out: Path,
    read: Callable[[bytes, str], Tensor],
    make: Callable[[Tensor, str], Tensor],
    what: str,
) -> int:
    """Write make(read(file, name), name), an image (C, H, W), for each picture; the exit status.

    A picture that can't be read is named and skipped; so is one that can't be written, which makes
    the status 1. what: the summary, as "translated a2b". Raises UserError if nothing was made.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):  # a folder that can't be written is known at once
        pass
    unreadable, unwritable = {}, {}
    for name in Bar(found.names, unit="picture"):
        try:
            picture = read((found.root / name).read_bytes(), name)
        except Exception as problem:  # Pillow's decoders raise nearly anything
            unreadable[name] = reason(problem)
            continue
        image = make(picture, name)
        try:
            save(image, out / name)
        except Exception as problem:  # and so do its encoders
            if getattr(problem, "errno", None) in FULL:
                raise
            unwritable[name] = getattr(problem, "strerror", None) or reason(problem)
    n = len(found.names) - len(unreadable) - len(unwritable)
    notes = skipped(unreadable, "unreadable") + skipped(unwritable, "that can't be written")
    notes += f"; passed over {found.passed_over}" if found.passed_over else ""
    if not n:
        kind = "written" if unwritable else "read"
        raise UserError(f"{found.root}: no picture could be {kind}{notes}.")
    print(f"{n:,} picture{'s' * (n > 1)} {what}, in {out}/{notes}")
    return int(bool(unwritable))


def save(image: Tensor, path: Path) -> None:
    """Write image (C, H, W) in [-1, 1] or bytes in the format of the name; a JPEG at quality 95.

    Written beside and renamed.
    """
    pixels = (image if image.dtype == torch.uint8 else to_bytes(image)).cpu()
    pixels = np.ascontiguousarray(pixels.permute(1, 2, 0).squeeze(2).numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as part:
        kind = Image.registered_extensions()[path.suffix.lower()]
        Image.fromarray(pixels).save(part, kind, quality=95)

"""Any folder or zip archive of images as a dataset: --dataset folder --folder PATH. docs/data.md.

Decoded once, in threads, to squares of --image_size, and kept under <data_dir>/cache.
"""

import os
from pathlib import Path

import numpy as np

from lib.errors import UserError
from lib.guards import Bar
from sources import DataSpec, NoTestSplit, image_cache
from sources.decoding import Decoding
from sources.image_files import Files, digest, open_files
from sources.image_folder import EXTENSIONS, read_ahead
from sources.pictures import is_grey

LOOK = 64  # images decoded at a time to see whether they have a colour


def load(spec: DataSpec, split: str) -> tuple[np.ndarray, np.ndarray]:
    """images (N, C, S, S) uint8, C = 1 if none has a colour, else 3; labels (N,) int64.

    The labels are positions in `class_names`, all 0 where there are none. UserError: nothing there,
    one image, too small images, an unsafe archive, unreadable files, a class that only tests.
    """
    files = opened(spec)
    names = names_of(files, spec, split)
    path = split_cache(spec, files, split)
    labels = labels_of(files, names, spec)
    Decoding(
        files,
        names,
        image_size=spec.image_size,
        channels=channels(spec),
        small_images=spec.small_images,
        label=f"{Path(spec.folder).name}, {split}{spec.domain}",
    ).write(path)
    about = image_cache.described(path)
    left_out = {*about["unreadable"], *about["too_small"]}
    kept = [label for name, label in zip(names, labels, strict=True) if name not in left_out]
    return image_cache.read(path), np.array(kept, np.int64)


def class_names(spec: DataSpec) -> tuple[str, ...]:
    """The folders of the training images, sorted, if each lies in one and there are two or more.

    Bytes that are no text are escaped: the names go into tables, figures and TensorBoard.
    """
    names = classes_of(opened(spec), spec)
    return tuple(name.encode(errors="backslashreplace").decode() for name in names)


def classes_of(files: Files, spec: DataSpec) -> tuple[str, ...]:
    if spec.domain:  # two domains are not classes, whatever their folders
        return ()
    folders = set(class_folders(files, names_of(files, spec, "train")))
    return tuple(sorted(folders)) if len(folders) > 1 and "" not in folders else ()


def labels_of(files: Files, names: list[str], spec: DataSpec) -> list[int]:
    """The class of each named image; 0 where there are no classes."""
    classes = classes_of(files, spec)
    if not classes:
        return [0] * len(names)
    positions = {name: i for i, name in enumerate(classes)}
    folders = class_folders(files, names)
    if unknown := sorted({folder or "no folder" for folder in folders} - set(classes)):
        raise UserError(
            f"{spec.folder} has test images in {', '.join(unknown[:5])}, and training images only"
            f" in {', '.join(classes[:5])}{', ...' if classes[5:] else ''}: the folders of both"
            " splits must be the same classes."
        )
    return [positions[folder] for folder in folders]


def class_folders(files: Files, names: list[str]) -> list[str]:
    """Give each named image the folder below its split's, as ImageFolder has it; "" if in none."""
    depth = shared_folders(files.names) + (len(split_names(files.names)) > 1)
    paths = [name.split("/") for name in names]
    return [path[depth] if len(path) > depth + 1 else "" for path in paths]


def check_split(spec: DataSpec, split: str) -> None:
    """Raise NoTestSplit if "test" is asked for and not there, UserError if no images are."""
    names_of(opened(spec), spec, split)


def names_of(files: Files, spec: DataSpec, split: str) -> list[str]:
    splits = split_names(files.names, spec.domain)
    if split not in splits:
        raise NoTestSplit(
            f"{spec.folder} has no test images: put them into subfolders train/ and test/, or"
            " choose a --fid_protocol that compares with training images (homework, 50k, all)."
        )
    return splits[split]


def channels(spec: DataSpec) -> int:
    """1 if no image has a colour, else 3: from the cache, else up to the first coloured image."""
    files = opened(spec)
    about = image_cache.described(split_cache(spec, files, "train"))
    if about:
        return about["shape"][1]
    names = [name for part in split_names(files.names, spec.domain).values() for name in part]
    key = digest(files.fingerprint(), spec.image_size, spec.domain)
    if key not in GREY:  # the networks ask, and the decoding asks again
        GREY[key] = all_grey(files, names, spec.image_size)
    return 1 if GREY[key] else 3


def identity(spec: DataSpec) -> str:
    """The folder's name and a fingerprint of its files, for the names of what is kept of them."""
    name = plain_name(spec.folder) + spec.domain
    return f"{name}-{digest(opened(spec).fingerprint(), spec.small_images)}"


def opened(spec: DataSpec) -> Files:
    """The image files; UserError if there are fewer than two."""
    flag = f"--folder_{spec.domain.lower()}" if spec.domain else "--folder"
    if not spec.folder:
        raise UserError(f"--dataset folder needs {flag} PATH: a folder or a zip of images.")
    files = open_files(Path(os.path.expanduser(spec.folder)), flag)
    if len(files.names) < 2:
        found = f"one image, {files.names[0]}," if files.names else "no images"
        others = f" (and {files.passed_over}, not read)" if files.passed_over else ""
        raise UserError(
            f"{flag} {spec.folder} holds {found}{others} and a dataset needs at least two:"
            f" {', '.join(sorted(EXTENSIONS))}."
        )
    return files


GREY: dict[str, bool] = {}  # fingerprint -> no image of the set has a colour


def all_grey(files: Files, names: list[str], size: int) -> bool:
    """Look at the images in threads, up to the first coloured one."""
    bar = Bar(total=len(names), desc="looking for colours", unit="image", delay=2)
    with bar:
        for found in read_ahead(lambda name: looks_grey(files, name, size), names, LOOK):
            if not all(found):
                return False
            bar.update(len(found))
    return True


def looks_grey(files: Files, name: str, size: int) -> bool:
    """True if an image has no colour; or is broken: it will be skipped, and decides nothing."""
    try:
        return is_grey(files.read(name), size)
    except Exception:
        return True


def split_names(names: list[str], domain: str = "") -> dict[str, list[str]]:
    """By subfolders train/ and test/, below whatever folders hold all; else all is "train".

    Where both are there, images beside them belong to neither. With a domain, A or B, trainA/ and
    testA/ (the layout of CycleGAN's own datasets) come before those: that domain's alone.
    """
    tops = top_folders(names)
    if domain and holds_two_domains(names):
        wanted = {split: f"{split}{domain.lower()}" for split in ("train", "test")}
    elif {"train", "test"} <= set(tops):
        wanted = {split: split for split in ("train", "test")}
    else:
        return {"train": names}
    splits = {
        split: [name for name, top in zip(names, tops, strict=True) if top == folder]
        for split, folder in wanted.items()
    }
    return {split: chosen for split, chosen in splits.items() if chosen}


def top_folders(names: list[str]) -> list[str]:
    """The folder of each image below whatever single folders hold all, in lower case."""
    depth = shared_folders(names)
    paths = [name.split("/")[depth:] for name in names]
    return [path[0].lower() if len(path) > 1 else "" for path in paths]


def shared_folders(names: list[str]) -> int:
    """Count the single folders, one in the other, hold all images, with folders of theirs below."""
    paths, depth = [name.split("/") for name in names], 0
    while len({path[depth] for path in paths}) == 1 and all(len(p) > depth + 2 for p in paths):
        depth += 1
    return depth


def holds_two_domains(names: list[str]) -> bool:
    """True if these are images of two domains, in trainA/ and trainB/."""
    return {"traina", "trainb"} <= set(top_folders(names))


def split_cache(spec: DataSpec, files: Files, split: str) -> Path:
    key = digest(files.fingerprint(), spec.image_size, spec.small_images)
    name = f"{plain_name(spec.folder)}-{spec.image_size}px-{key}-{split}{spec.domain}"
    return spec.data_dir / "cache" / name


def plain_name(path: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in Path(os.path.realpath(path)).stem)[:40]

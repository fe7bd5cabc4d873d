"""i-CLEVR: pictures of one to three objects, each a colour and a shape. docs/data.md.

<data_dir>/iclevr/ as the course has it: train.json {image name: [labels]}, objects.json, test.json
and new_test.json [[labels], ...] to generate from, and the images in iclevr/ below it or beside
these. `python data/iclevr.py render` makes such a folder, with a val.json of held-out pictures.
"""

import difflib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.errors import UserError
from sources import DataSpec, NoTestSplit, image_cache
from sources.decoding import Decoding
from sources.image_files import FolderFiles, digest

COLOURS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
SHAPES = ("cube", "sphere", "cylinder")
LABELS = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)  # objects.json's
MOST_OBJECTS = 3
SPLITS = {"train": "train.json", "test": "val.json"}
NAMED = 3  # examples in a message; the rest is counted


def load(spec: DataSpec, split: str) -> tuple[np.ndarray, np.ndarray]:
    """images (N, 3, S, S) uint8 and multi-hot labels (N, 24) int64, in the order of the .json.

    The whole picture is resized, also one of 4:3 as the course's, so that no object is cut off.
    Raises UserError for missing or wrong files, NoTestSplit without a val.json.
    """
    files, rows = find(spec.data_dir), read_split(spec.data_dir, split)
    key = digest(files.fingerprint(), list(rows))
    path = spec.data_dir / "cache" / f"iclevr-{spec.image_size}px-{key}-{split}"
    if image_cache.described(path) is None:
        note_unnamed(spec.data_dir, files)
    Decoding(
        files,
        list(rows),
        image_size=spec.image_size,
        channels=3,
        small_images="upscale",
        label=f"iclevr, {split}",
        whole=True,
    ).write(path)
    unreadable = image_cache.described(path)["unreadable"]
    kept = [labels for name, labels in rows.items() if name not in unreadable]
    return image_cache.read(path), multi_hot(kept).numpy()


def identity(spec: DataSpec) -> str:
    """A fingerprint of the images: the course's set is another than a rendered one."""
    return digest(find(spec.data_dir).fingerprint())


def load_conditions(data_dir: Path | str, name: str) -> Tensor:
    """Multi-hot (32, 24) int64 of "test.json" or "new_test.json", the sets to generate from."""
    path = Path(data_dir) / "iclevr" / name
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} holds no list of lists of labels: {wanted(data_dir)}")
    check_rows(path, {f"row {i + 1}": labels for i, labels in enumerate(rows)})
    return multi_hot(rows)


def multi_hot(rows: Iterable[Sequence[str]]) -> Tensor:
    """Lists of labels -> (N, 24) int64 with a 1 for each. Raises UserError for unknown ones."""
    rows = list(rows)
    y = torch.zeros(len(rows), len(LABELS), dtype=torch.long)
    for row, labels in zip(y, rows, strict=True):
        for label in labels:
            if label not in LABELS:
                raise UserError(no_such_label(label))
            row[LABELS.index(label)] = 1
    return y


def parse_prompt(text: str) -> Tensor:
    """'red cube, blue sphere; gray cylinder' -> multi-hot (2, 24) int64: a row a prompt.

    Raises UserError for an unknown label, naming the nearest, and for none, four or two alike.
    """
    prompts = text.split(";")
    if len(prompts) > 1 and not prompts[-1].strip():
        prompts.pop()  # a semicolon at the end
    return multi_hot(parse_objects(prompt) for prompt in prompts)


def parse_objects(prompt: str) -> list[str]:
    labels = [" ".join(label.lower().split()) for label in prompt.split(",")]
    labels = [label for label in labels if label]
    if not labels:
        raise UserError(
            'a prompt names no object: wanted one to three, as "red cube, blue sphere".'
        )
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f'"{label}" is asked for {labels.count(label)} times in one picture: objects'
                ' differ in colour or shape. Name it once, or write ";" between two pictures.'
            )
    if len(labels) > MOST_OBJECTS:
        raise UserError(
            f"{len(labels)} objects are asked for ({', '.join(labels)}): a picture has at most"
            f' {MOST_OBJECTS}. Write ";" between two pictures.'
        )
    return labels


def no_such_label(label: object) -> str:
    nearest = difflib.get_close_matches(str(label), LABELS, n=1, cutoff=0.0)[0]
    return (
        f'"{label}" is no label of i-CLEVR: did you mean "{nearest}"? Colours are'
        f" {', '.join(COLOURS)}; shapes are {', '.join(SHAPES)}."
    )


def find(data_dir: Path) -> FolderFiles:
    """The images in <data_dir>/iclevr/iclevr/, or beside the .json files where that isn't there."""
    root = Path(data_dir) / "iclevr"
    folder = root / "iclevr" if (root / "iclevr").is_dir() else root
    if not folder.is_dir():
        raise UserError(f"{root} is not there: {wanted(data_dir)}")
    return FolderFiles(folder)


def check_split(spec: DataSpec, split: str) -> None:
    """NoTestSplit or UserError where `load` would raise one, without an image read."""
    find(spec.data_dir)
    read_split(spec.data_dir, split)


def read_split(data_dir: Path, split: str) -> dict[str, list[str]]:
    """{image name: its labels}, checked, all images there."""
    path = Path(data_dir) / "iclevr" / SPLITS[split]
    if split == "test" and not path.is_file():
        raise NoTestSplit(
            f"{path} is not there, and the course's i-CLEVR has no test images: choose a"
            " --fid_protocol that compares with training images (homework, 50k, all)."
        )
    known = path.with_name("objects.json")  # may be missing; another order would mislead evaluators
    if known.is_file() and read_json(known) != {label: i for i, label in enumerate(LABELS)}:
        raise UserError(
            f"{known} is another list of labels than i-CLEVR's 24 ({LABELS[0]} 0, {LABELS[1]} 1,"
            f" ..., {LABELS[-1]} {len(LABELS) - 1}): put the course's file there, or remove it."
        )
    rows = read_json(path)
    if not isinstance(rows, dict) or not rows:
        raise UserError(f"{path} holds no {{image name: [labels]}}: {wanted(data_dir)}")
    check_rows(path, rows)
    files = find(data_dir)
    if missing := sorted(set(rows) - set(files.names)):
        raise UserError(
            f"{len(missing):,} of the {len(rows):,} images in {path} are not in {files.root}:"
            f" {examples(missing)}; {wanted(data_dir)}"
        )
    return rows


def check_rows(path: Path, rows: dict[str, Any]) -> None:
    """Raise UserError with all that is wrong with the lists of labels, in one sentence."""
    wrong = {name: r for name, r in rows.items() if not isinstance(r, list) or not r}
    lists = {name: labels for name, labels in rows.items() if name not in wrong}
    unknown = sorted({str(label) for r in lists.values() for label in r if label not in LABELS})
    problems = {
        "names without a list of labels": list(wrong),
        "unknown labels": [f'"{label}"' for label in unknown],
        "names with a label twice": [n for n, r in lists.items() if len(set(map(str, r))) < len(r)],
        f"names with more than {MOST_OBJECTS} labels": [
            name for name, r in lists.items() if len(set(map(str, r))) > MOST_OBJECTS
        ],
    }
    found = [f"{what}: {len(them):,} ({examples(them)})" for what, them in problems.items() if them]
    if found:
        hint = f"; {no_such_label(unknown[0])}" if unknown else ": mend the file."
        raise UserError(f"{path}: {', '.join(found)}{hint}")


def note_unnamed(data_dir: Path, files: FolderFiles) -> None:
    """A line on stderr about images that no .json names: they are left out."""
    root = Path(data_dir) / "iclevr"
    there = (root / file for file in SPLITS.values() if (root / file).is_file())
    named = {name for path in there for name in read_json(path)}
    if unnamed := sorted(set(files.names) - named):
        print(
            f"iclevr: {len(unnamed):,} images in {files.root} are named in no .json and left out:"
            f" {examples(unnamed)}",
            file=sys.stderr,
        )


def read_json(path: Path) -> Any:
    """Read a JSON file; raises UserError if it isn't there or is no JSON."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} is not there: {wanted(path.parent.parent)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} can't be read as JSON ({error}): put a whole file there."
        ) from None


def examples(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def wanted(data_dir: Path | str) -> str:
    root = Path(data_dir) / "iclevr"
    images, labels = root / "iclevr", root / "train.json"
    said = f"put the course's i-CLEVR there (train.json, test.json, images in {images})"
    foreign = images.is_dir() and any(images.iterdir()) and not (root / "render.json").is_file()
    if foreign:  # which `render` would refuse
        return f"{said}."
    given = f" --labels {labels}" if labels.is_file() else ""
    return f"{said}, or run `python data/iclevr.py render{given} --out {root}`."

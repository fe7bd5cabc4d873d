"""A folder of rendered pictures in the form of the course's i-CLEVR, made by several processes.

As there, pictures come in threes of one scene, which gains an object each time: NAME_0.png,
NAME_1.png, NAME_2.png. A scene is a function of the seed, its name and its labels.
"""

import hashlib
import json
import multiprocessing
import re
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from lib.errors import UserError
from lib.files import beside, write_beside_and_rename
from lib.guards import Bar, sigterm_exits
from lib.seeding import key_seed
from sources.clevr.geometry import join
from sources.clevr.scenes import draw_scene
from sources.clevr.shading import render
from sources.iclevr import LABELS, MOST_OBJECTS, check_rows, examples, read_json

RENDERER = 3  # raised when pictures of the same settings change
CHUNK = 8  # scenes rendered at once
PNG_END = b"IEND\xaeB`\x82"
CONDITION_SIZES = [1] * 6 + [2] * 12 + [3] * 14  # objects of the rows of the course's test.json

Rows = dict[str, list[str]]


class Scene(NamedTuple):
    """Pictures of one scene: how many of its objects each shows."""

    name: str
    labels: list[str]
    pictures: dict[str, int]  # file name -> the first so many objects


class Settings(NamedTuple):
    seed: int
    size: int


def draw_rows(n: int, *, seed: int, split: str) -> Rows:
    """Labels of n pictures: scenes of three distinct objects, all equally likely, in any order.

    So are the course's, as far as one can tell from its 6003 scenes.
    """
    rng = np.random.default_rng(key_seed("labels", seed, split))
    rows = {}
    for i in range(-(-n // MOST_OBJECTS)):
        labels = [LABELS[k] for k in rng.choice(len(LABELS), MOST_OBJECTS, replace=False)]
        for j in range(MOST_OBJECTS):
            rows[f"CLEVR_{split}_{i:06d}_{j}.png"] = labels[: j + 1]
    return dict(list(rows.items())[:n])


def draw_conditions(*, seed: int, name: str) -> list[list[str]]:
    """32 lists of labels, each label three times, as many of one, two and three as the course's."""
    rng = np.random.default_rng(key_seed("conditions", seed, name))
    while True:
        order = np.concatenate([rng.permutation(len(LABELS)) for _ in range(3)])
        cuts = np.split(order, np.cumsum(CONDITION_SIZES)[:-1])
        if all(len(set(cut)) == len(cut) for cut in cuts):  # two permutations may meet in one
            return [[LABELS[k] for k in cut] for cut in cuts]


def read_rows(path: Path) -> Rows:
    """A train.json of the course's form; raises UserError if it is another."""
    if not path.is_file():
        raise UserError(f"--labels {path} is not there: name a file of the form of train.json.")
    rows = read_json(path)
    if not isinstance(rows, dict) or not rows:
        raise UserError(f"--labels {path} holds no {{image name: [labels]}}, as train.json does.")
    check_rows(path, rows)
    if unsafe := [name for name in rows if not re.fullmatch(r"[\w -][\w. -]*\.png", name)]:
        raise UserError(
            f"{path}: {len(unsafe):,} names are no plain file names ending in .png"
            f" ({examples(unsafe)}): mend the file."
        )
    return rows


def scenes_of(rows: Rows) -> list[Scene]:
    """NAME_0.png, NAME_1.png, ... share a scene where each has the labels before it and more."""
    stems: dict[str, list[str]] = defaultdict(list)
    for name in rows:
        stems[re.sub(r"_\d+\.png$", "", name)].append(name)
    scenes = []
    for stem, names in stems.items():
        names.sort(key=lambda name: len(rows[name]))
        full = rows[names[-1]]
        if all(rows[name] == full[: len(rows[name])] for name in names):
            scenes.append(Scene(stem, full, {name: len(rows[name]) for name in names}))
        else:
            scenes += [Scene(name, rows[name], {name: len(rows[name])}) for name in names]
    return scenes


def render_chunk(job: tuple[list[Scene], Settings, Path]) -> int:
    """Write the pictures; how many. Each beside its place and renamed: what is there is whole."""
    scenes, settings, folder = job
    torch.set_num_threads(1)  # the processes share the cores
    drawn = [draw_scene(s.labels, settings.seed, s.name) for s in scenes]
    views = {
        name: everything.first(n)
        for scene, everything in zip(scenes, drawn, strict=True)
        for name, n in scene.pictures.items()
    }
    pictures = render(join(list(views.values())), settings.size)
    for name, pixels in zip(views, pictures.permute(0, 2, 3, 1).numpy(), strict=True):
        with beside(folder / name, f".{name}.part") as part:
            Image.fromarray(pixels).save(part, "png")
    return len(views)


def render_missing(rows: Rows, settings: Settings, folder: Path, *, workers: int) -> None:
    """All pictures that are not in the folder yet, with a bar."""
    there = {p.name for p in folder.iterdir() if p.is_file() and p.read_bytes()[-8:] == PNG_END}
    scenes = [scene for scene in scenes_of(rows) if not set(scene.pictures) <= there]
    jobs = [(scenes[i : i + CHUNK], settings, folder) for i in range(0, len(scenes), CHUNK)]
    missing = sum(len(scene.pictures) for scene in scenes)
    with Bar(total=len(rows), initial=len(rows) - missing, unit="image") as bar:
        for done in in_processes(jobs, workers):
            bar.update(done)


def in_processes(jobs: list, workers: int) -> Iterator[int]:
    if workers == 1 or len(jobs) < 2:
        yield from map(render_chunk, jobs)
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the processes inherit it: Ctrl-C is
    try:  # for this one alone, which ends them
        pool = multiprocessing.get_context("spawn").Pool(min(workers, len(jobs)))
    finally:
        signal.signal(signal.SIGINT, before)
    with sigterm_exits(), pool:
        for result in [pool.apply_async(render_chunk, (job,)) for job in jobs]:
            while not result.ready():  # a signal in get()'s lock would end as a RuntimeError
                time.sleep(0.05)
            yield result.get()


def claim(out: Path, settings: Settings, *, labels: Path | None) -> None:
    """Mark the folder as this command's. Raises UserError if its pictures are of other settings.

    The file of labels may lie in it, but beside no other list that the command would replace.
    """
    images, mark = out / "iclevr", out / "render.json"
    foreign = any(images.iterdir()) if images.is_dir() else False
    if not labels or labels.resolve().parent != out.resolve():
        foreign = foreign or any(out.glob("*.json"))
    else:
        written = {"train.json"} - {labels.name} | {"val.json", "labels.json"}
        foreign = foreign or any((out / name).is_file() for name in written)
    wanted = {"renderer": RENDERER} | settings._asdict()
    if mark.is_file():
        found = read_json(mark)
        if found != wanted:
            raise UserError(
                f"{out} holds pictures of other settings ({format_settings(found)}; wanted"
                f" {format_settings(wanted)}): give another --out, or remove the folder."
            )
    elif foreign:
        raise UserError(f"{out} holds files that this command did not make: give another --out.")
    images.mkdir(parents=True, exist_ok=True)
    write_json(mark, wanted)


def format_settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def check_labels(out: Path, splits: dict[str, Rows]) -> None:
    """UserError where a picture that is there may show other labels than it would now."""
    mark = out / "labels.json"
    known = read_json(mark) if mark.is_file() else {}
    wanted = {
        name: hashlib.sha256(" ".join(labels).encode()).hexdigest()[:12]
        for rows in splits.values()
        for name, labels in rows.items()
    }
    changed = [name for name, key in wanted.items() if known.get(name, key) != key]
    if changed:
        raise UserError(
            f"{out} holds {len(changed):,} pictures of other labels than are asked for now"
            f" ({examples(changed)}): give another --out, or remove the folder."
        )
    write_json(mark, known | wanted)


def write_json(path: Path, value: Any) -> None:
    write_beside_and_rename(path, json.dumps(value).encode())

"""i-CLEVR: the course's folder, the sets to generate from, prompts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dataset
from lib.errors import UserError
from sources import DataSpec, NoTestSplit, iclevr
from sources.iclevr import LABELS, load_conditions, multi_hot, parse_prompt

ROWS = {
    "b_0.png": ["cyan cube"],
    "a_1.png": ["cyan cube", "gray sphere"],
    "a_0.png": ["yellow cylinder"],
}


@pytest.fixture
def course(tmp_path) -> Path:
    """A data_dir as the course has it: 4:3 images, image i of grey level 40 i, its edges red."""
    root = tmp_path / "iclevr"
    (root / "iclevr").mkdir(parents=True)
    for i, name in enumerate(ROWS):
        pixels = np.full((48, 64, 3), 40 * i, np.uint8)
        pixels[:, :6] = pixels[:, -6:] = (255, 0, 0)
        Image.fromarray(pixels).save(root / "iclevr" / name)
    write(root, "train.json", ROWS)
    write(root, "objects.json", {label: i for i, label in enumerate(LABELS)})
    write(root, "test.json", [["red cube"], ["gray cube", "yellow cylinder"]])
    return tmp_path


def write(root: Path, name: str, value: object) -> None:
    (root / name).write_text(json.dumps(value))


def load(data_dir: Path, split: str = "train", size: int = 16) -> dataset.ImageData:
    return dataset.load("iclevr", split, image_size=size, data_dir=data_dir, device="cpu")


def test_whole_pictures_in_the_order_of_the_json(course):
    data = load(course)
    assert data.images.shape == (3, 3, 16, 16)
    assert data.images[:, :, 8, 8].tolist() == [[0] * 3, [40] * 3, [80] * 3]
    assert (data.images[:, 0, :, [0, 15]] > 250).all()  # a middle square would lack the edges
    assert data.labels.dtype == torch.long
    assert (LABELS[0], LABELS[15], LABELS[22]) == ("gray cube", "yellow sphere", "cyan cylinder")
    wanted = [[LABELS.index(label) for label in labels] for labels in ROWS.values()]
    assert [row.nonzero().flatten().tolist() for row in data.labels] == [sorted(w) for w in wanted]
    batch = data.batch(torch.tensor([2, 0]))
    assert batch.y.shape == (2, 24)
    assert -1 <= batch.x.min() < batch.x.max() <= 1


def test_a_second_look_comes_from_the_cache_and_a_new_order_does_not(course, monkeypatch):
    first = load(course)
    monkeypatch.setattr("sources.decoding.decode", None)
    assert torch.equal(load(course).images, first.images)
    monkeypatch.undo()
    write(course / "iclevr", "train.json", dict(reversed(ROWS.items())))
    again = load(course)
    assert torch.equal(again.images, first.images.flip(0))
    assert torch.equal(again.labels, first.labels.flip(0))


def test_an_unreadable_image_takes_its_labels_along(course, capsys):
    (course / "iclevr/iclevr/a_1.png").write_bytes(b"garbage")
    data = load(course)
    assert "skipped 1 unreadable: a_1.png" in capsys.readouterr().err
    assert data.images[:, 0, 8, 8].tolist() == [0, 80]
    assert torch.equal(data.labels, multi_hot([ROWS["b_0.png"], ROWS["a_0.png"]]))


def test_the_test_split_is_val_json(course):
    with pytest.raises(NoTestSplit, match=r"val\.json is not there"):
        load(course, "test")
    write(course / "iclevr", "val.json", {n: ROWS[n] for n in ("a_0.png", "b_0.png")})
    assert load(course, "test").labels.sum(1).tolist() == [1, 1]


def test_missing_and_unnamed_images_are_counted_and_named(course, capsys):
    images = course / "iclevr/iclevr"
    (images / "b_0.png").rename(images / "stray.png")
    with pytest.raises(UserError, match=r"1 of the 3 images in .*train\.json .*: b_0\.png;"):
        load(course)
    (images / "b_0.png").write_bytes((images / "a_0.png").read_bytes())
    load(course)
    assert "1 images in" in (told := capsys.readouterr().err)
    assert "left out: stray.png" in told


def test_all_that_is_amiss_with_labels_is_told_at_once(course):
    rows = ROWS | {"a_0.png": ["grey cube", "red cube", "red cube"], "b_0.png": []}
    write(course / "iclevr", "train.json", rows)
    with pytest.raises(UserError) as told:
        load(course)
    text = str(told.value)
    for part in (
        "names without a list of labels: 1 (b_0.png)",
        'unknown labels: 1 ("grey cube")',
        "names with a label twice: 1 (a_0.png)",
        'did you mean "gray cube"',
    ):
        assert part in text
    write(course / "iclevr", "train.json", ROWS | {"a_0.png": list(LABELS[:4])})
    with pytest.raises(UserError, match="names with more than 3 labels: 1"):
        load(course)


def test_another_list_of_labels_and_no_files_are_refused(course):
    write(course / "iclevr", "objects.json", {label: i for i, label in enumerate(LABELS[::-1])})
    with pytest.raises(UserError, match="another list of labels"):
        load(course)
    (course / "iclevr/objects.json").unlink()
    (course / "iclevr/train.json").write_text("{")
    with pytest.raises(UserError, match="can't be read as JSON"):
        load(course)
    with pytest.raises(UserError, match=r"nowhere.iclevr is not there: .* render"):
        load(course / "nowhere")


def test_labels_without_images_get_the_command_that_renders_them(course):
    folder = course / "iclevr"
    for image in (folder / "iclevr").iterdir():
        image.unlink()
    advice = f"render --labels {folder / 'train.json'} --out {folder}`"
    with pytest.raises(UserError, match=re.escape(advice)):
        load(course)
    (folder / "iclevr" / "a_0.png").write_bytes(b"the course's own: render would refuse")
    with pytest.raises(UserError, match=r"images in .*iclevr\)\.$"):
        load(course)


def test_conditions(course):
    y = load_conditions(course, "test.json")
    assert y.shape == (2, 24)
    assert y.nonzero().tolist() == [[0, 1], [1, 0], [1, 23]]
    with pytest.raises(UserError, match=r"new_test\.json is not there"):
        load_conditions(course, "new_test.json")
    write(course / "iclevr", "new_test.json", [["red cube"], ["rde cube"]])
    with pytest.raises(UserError, match='did you mean "red cube"'):
        load_conditions(course, "new_test.json")


def test_images_beside_the_json_at_any_size_are_another_set(course):
    root, spec = course / "iclevr", DataSpec(course, 16)
    before = iclevr.identity(spec)
    assert iclevr.identity(spec) == before
    for path in (root / "iclevr").iterdir():
        path.rename(root / path.name)
    (root / "iclevr").rmdir()
    assert load(course, size=128).images.shape == (3, 3, 128, 128)
    assert iclevr.identity(spec) != before


def test_prompts():
    y = parse_prompt(" Red  cube,blue sphere ; gray cylinder;")
    assert y.nonzero().tolist() == [[0, 1], [0, 10], [1, 16]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("red cub", 'did you mean "red cube"'),
        ("red cube;;blue cube", "names no object"),
        ("red cube, red cube", "asked for 2 times"),
        ("red cube, blue cube, gray cube, cyan cube", "4 objects are asked for"),
    ],
)
def test_prompts_that_make_no_picture(text, told):
    with pytest.raises(UserError, match=told):
        parse_prompt(text)

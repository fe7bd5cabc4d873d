"""The renderer of i-CLEVR: closed forms of its geometry, its scenes, its command."""

import importlib.util
import json
import math
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dataset
from sources.clevr import folder, geometry, scenes, shading
from sources.clevr.geometry import Objects, camera_rays, cast, intersect, join, visible_pixels
from sources.clevr.scenes import draw_scene
from sources.clevr.shading import render
from sources.iclevr import COLOURS, LABELS, load_conditions

SCRIPT = Path(__file__).parent.parent / "data" / "iclevr.py"
CUBE, SPHERE, CYLINDER = 0, 1, 2


@pytest.fixture
def command():
    """main of data/iclevr.py, which is a script."""
    spec = importlib.util.spec_from_file_location("make_iclevr", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def thing(shape: int, *, angle: float = 0.0, width: float = 0.5) -> Objects:
    """One object with its centre at (0, 0, 0.5)."""
    numbers = torch.tensor([[width], [math.cos(angle)], [math.sin(angle)]])
    return Objects(torch.tensor([[0.0], [0.0], [0.5]]), *numbers, torch.tensor([shape]))


def ray(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


@pytest.mark.parametrize(
    ("shape", "angle", "reached"),
    [
        (CUBE, 0.0, 0.5),
        (CUBE, math.pi / 4, math.sqrt(0.5)),
        (SPHERE, 1.0, 0.5),
        (CYLINDER, 1.0, 0.5),
    ],
)
def test_rays_meet_objects_where_they_are(shape, angle, reached):
    """From the side at half height, from above, and past it."""
    it = thing(shape, angle=angle)
    along_x = intersect(it, ray(-5, 0, 0.5), ray(1, 0, 0))
    assert along_x.item() == pytest.approx(5 - reached, abs=1e-5)
    top = 0.5 + math.sqrt(0.25 - 0.02) if shape == SPHERE else 1.0
    from_above = intersect(it, ray(0.1, 0.1, 4), ray(0, 0, -1))
    assert from_above.item() == pytest.approx(4 - top, abs=1e-4)
    assert intersect(it, ray(-5, 0.8, 0.5), ray(1, 0, 0)).item() == math.inf


def test_a_way_is_barred_between_its_ends_only():
    it = thing(CUBE)
    ends = torch.tensor([[5.0, -1.0, 5.0, 5.0], [0.0, 0.0, 9.0, 0.2], [0.5, 0.5, 0.5, 0.5]])
    share = geometry.hidden_share(it, ray(-5, 0, 0.5), ends[:, :, None])
    assert share.tolist() == [0.5]  # through it; before it; past it; through it


@pytest.mark.parametrize("shape", [CUBE, SPHERE, CYLINDER])
def test_normals_point_out_and_have_length_one(shape):
    it = thing(shape, angle=0.3)
    origin, way = ray(-5, 0.05, 0.6), ray(1, 0, 0)
    n = geometry.normals(it, origin + intersect(it, origin, way) * way)
    assert n.norm().item() == pytest.approx(1, abs=1e-5)
    assert (n * way).sum() < -0.9


def test_a_scene_is_a_function_of_its_key_and_its_picture_of_the_scene():
    labels = ["red cube", "cyan cylinder"]
    a, b, other = (draw_scene(labels, *key) for key in ((0, "a"), (0, "a"), (0, "b")))
    assert all(torch.equal(u, v) for u, v in zip(a, b, strict=True))
    assert not torch.equal(a.centres, other.centres)
    together = render(join([other, a]), 32)
    assert together.dtype == torch.uint8
    assert torch.equal(together[1], render(a, 32)[0])


def test_objects_have_the_colour_of_their_label():
    """Nearest of the eight palettes' directions to the mean of the object's pixels, for all 24."""
    drawn = join([draw_scene([label], 1, label) for label in LABELS])
    shown = (cast(drawn, camera_rays(drawn, 32)).slot == 0).view(-1, 1, 32, 32)
    linear = (render(drawn, 32) / 255) ** 2.2 * shown
    means = torch.nn.functional.normalize(linear.sum((2, 3)), dim=1)
    palette = torch.nn.functional.normalize(shading.ALBEDO, dim=1)
    found = (means @ palette.T).argmax(1)
    assert [COLOURS[i] for i in found] == [label.split()[0] for label in LABELS]


def test_the_ground_is_grey_and_shadows_darken_it():
    labels = ["red sphere", "blue cube", "gray cylinder"]
    scene = draw_scene(labels, 2)
    rays = camera_rays(scene, 64)
    ground = cast(scene, rays).slot.view(64, 64) == -1
    full, bare = render(scene)[0].float(), render(scene.first(0))[0].float()
    assert (bare.mean((1, 2)) - bare.mean()).abs().max() < 4  # warm and cold lamps even out
    assert 110 < bare.mean() < 135
    darker = (bare - full).mean(0)[ground]
    assert darker.max() > 15
    inner = ground.clone()  # pixels at an object's rim are in part the object's
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= ground.roll(step, axis)
    assert (bare - full).mean(0)[inner].min() > -1.1


def test_objects_are_seen_apart_and_the_first_in_the_middle():
    drawn = join([draw_scene(LABELS[i : i + 20 : 8], 3, i) for i in range(8)])
    assert (visible_pixels(drawn) >= scenes.LEAST_VISIBLE).all()
    assert (drawn.centres[:, 0, :2] == 0).all()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        gap = (drawn.centres[:, a, :2] - drawn.centres[:, b, :2]).norm(dim=1)
        assert (gap > scenes.APART).all()
    assert torch.equal(drawn.centres[..., 2], drawn.widths)  # resting on the ground


def test_pictures_are_squeezed_as_the_courses():
    """320x240 brought to a square: a sphere is three quarters as wide as high."""
    drawn = draw_scene(["red sphere"], 3)
    shown = (cast(drawn, camera_rays(drawn, 256)).slot == 0).view(256, 256)
    wide, high = shown.any(0).sum().item(), shown.any(1).sum().item()
    assert wide / high == pytest.approx(0.75, abs=0.05)
    assert shown.float().mean() == pytest.approx(0.014, abs=0.003)


def test_hidden_objects_are_drawn_again(monkeypatch):
    usual = draw_scene(LABELS[:3], 4)
    most = int(visible_pixels(usual).min())
    monkeypatch.setattr(scenes, "LEAST_VISIBLE", most + 1)
    assert visible_pixels(draw_scene(LABELS[:3], 4)).min() > most


def test_a_scene_grows_in_place():
    scene = draw_scene(["gray cube", "red sphere", "blue cylinder"], 5)
    one, three = (cast(s, camera_rays(s, 32)).slot for s in (scene.first(1), scene))
    assert set(one.unique().tolist()) == {-1, 0}
    assert set(three.unique().tolist()) == {-1, 0, 1, 2}
    assert (one[three == 0] == 0).all()


def test_drawn_labels_are_as_the_courses():
    rows = folder.draw_rows(3000, seed=0, split="train")
    assert list(rows)[:2] == ["CLEVR_train_000000_0.png", "CLEVR_train_000000_1.png"]
    numbers = [len(labels) for labels in rows.values()]
    assert [numbers.count(k) for k in (1, 2, 3)] == [1000, 1000, 1000]
    assert all(len(set(labels)) == len(labels) for labels in rows.values())
    counts = np.bincount([LABELS.index(label) for r in rows.values() for label in r], minlength=24)
    assert 180 < counts.min() <= counts.max() < 320  # 6000 / 24 = 250 expected
    assert list(folder.draw_rows(4, seed=0, split="train").items()) == list(rows.items())[:4]


def test_conditions_ask_for_each_label_three_times():
    rows = folder.draw_conditions(seed=0, name="test.json")
    assert [len(r) for r in rows] == folder.CONDITION_SIZES
    asked = [label for r in rows for label in r]
    assert all(asked.count(label) == 3 for label in LABELS)
    assert all(len(set(r)) == len(r) for r in rows)
    assert rows != folder.draw_conditions(seed=0, name="new_test.json")


def test_pictures_share_a_scene_where_their_labels_grow():
    grown = {"a_1.png": ["red cube", "blue cube"], "a_0.png": ["red cube"], "b.png": ["gray cube"]}
    found = {s.name: s.pictures for s in folder.scenes_of(grown)}
    assert found == {"a": {"a_0.png": 1, "a_1.png": 2}, "b.png": {"b.png": 1}}
    apart = folder.scenes_of({"a_0.png": ["red cube"], "a_1.png": ["blue cube", "red cube"]})
    assert [s.name for s in apart] == ["a_0.png", "a_1.png"]


def rendering(out: Path, *flags: str) -> list[str]:
    return ["render", "--out", str(out), "--size", "16", "--workers", "1", *flags]


def test_the_command_makes_a_set_and_goes_on_where_it_stopped(command, tmp_path, capsys, refusal):
    out = tmp_path / "iclevr"
    assert command(rendering(out, "--n", "6", "--n_val", "3")) == 0
    assert "6 pictures to train on, 3 held out" in capsys.readouterr().out
    load = partial(dataset.load, "iclevr", image_size=16, data_dir=tmp_path, device="cpu")
    data, held_out = load(split="train"), load(split="test")
    assert data.labels.sum(1).tolist() == [1, 2, 3] * 2
    assert len(held_out) == 3
    assert load_conditions(tmp_path, "test.json").shape == (32, 24)
    names = [p.name for p in (out / "iclevr").iterdir()]
    assert len(names) == 9
    pictures = {name: (out / "iclevr" / name).read_bytes() for name in names}
    kept, lost = out / "iclevr/CLEVR_train_000000_0.png", out / "iclevr/CLEVR_train_000001_1.png"
    stamp = kept.stat().st_mtime_ns
    lost.write_bytes(lost.read_bytes()[:99])
    assert command(rendering(out, "--n", "6", "--n_val", "3")) == 0
    assert kept.stat().st_mtime_ns == stamp
    assert {name: (out / "iclevr" / name).read_bytes() for name in names} == pictures
    assert "holds pictures of other settings" in refusal(
        command, *rendering(out, "--n", "6", "--seed", "1")
    )


def test_several_processes_make_the_same_pictures(command, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "CHUNK", 1)
    for workers in ("1", "2"):
        flags = ["--out", str(tmp_path / workers), "--workers", workers, "--n", "4", "--n_val", "0"]
        assert command(["render", "--size", "16", *flags]) == 0
    one, two = (sorted((tmp_path / w / "iclevr").iterdir()) for w in ("1", "2"))
    assert len(one) == 4
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_a_signal_is_for_the_command_alone(command, tmp_path, monkeypatch, capsys):
    """A terminal sends it to all of them, and each would print a traceback."""
    usual = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(folder, "render_chunk", signal.getsignal)
    assert list(folder.in_processes([signal.SIGINT] * 2, 2)) == [signal.SIG_IGN] * 2
    assert signal.getsignal(signal.SIGINT) is usual
    monkeypatch.setattr(folder, "render_chunk", partial(os.kill, os.getpid()))
    with pytest.raises(SystemExit, match="143"):
        list(folder.in_processes([signal.SIGTERM] * 2, 2))

    def interrupted(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "render_chunk", interrupted)
    assert command(rendering(tmp_path / "iclevr", "--n", "3")) == 130
    told = capsys.readouterr().err
    assert told.splitlines()[-1] == "interrupted: the same command goes on from there"


def test_given_labels_are_rendered_exactly(command, tmp_path):
    rows = {"x_0.png": ["red cube"], "x_1.png": ["red cube", "gray sphere"], "y.png": ["cyan cube"]}
    out = tmp_path / "iclevr"
    out.mkdir()  # the course's .json files lie where the pictures are to go
    (out / "train.json").write_text(json.dumps(rows))
    (out / "test.json").write_text('[["red cube"]]')
    assert command(rendering(out, "--labels", str(out / "train.json"), "--n_val", "0")) == 0
    assert json.loads((out / "train.json").read_text()) == rows
    assert json.loads((out / "test.json").read_text()) == [["red cube"]]
    assert len(json.loads((out / "new_test.json").read_text())) == 32
    assert {p.name for p in (out / "iclevr").iterdir()} == set(rows)
    assert not (out / "val.json").exists()
    rows["y.png"] = ["blue cube"]
    (out / "train.json").write_text(json.dumps(rows))
    assert command(rendering(out, "--labels", str(out / "train.json"), "--n_val", "0")) == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--n", "1"], "--n 1: wanted at least 2"),
        (["--size", "4"], "--size 4: wanted at least 16"),
        (["--labels", "nowhere/train.json"], "train.json is not there: name a file of the form"),
    ],
)
def test_bad_flags_are_told_in_a_sentence(command, flags, told, tmp_path, refusal):
    assert told in refusal(command, *rendering(tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


def test_bad_labels_and_foreign_pictures_are_refused(command, tmp_path, refusal):
    path = tmp_path / "train.json"
    for rows, told in (
        ({"../x.png": ["red cube"]}, "1 names are no plain file names"),
        ({"x.png": ["rod cube"]}, 'did you mean "red cube"'),
        ({"x.png": list(LABELS[:4])}, "more than 3 labels"),
        ([], "holds no {image name: [labels]}"),
    ):
        path.write_text(json.dumps(rows))
        assert told in refusal(command, *rendering(tmp_path / "out", "--labels", str(path)))
    (tmp_path / "set/iclevr").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "set/iclevr/CLEVR_train_000000_0.png")
    assert "files that this command did not make" in refusal(
        command, *rendering(tmp_path / "set", "--n", "3")
    )
    few = tmp_path / "few.json"  # beside a train.json, which it may not replace
    few.write_text('{"x.png": ["red cube"]}')
    assert "did not make" in refusal(command, *rendering(tmp_path, "--labels", str(few)))
    assert path.read_text() == "[]"

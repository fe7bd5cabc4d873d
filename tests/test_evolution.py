"""From a run's grids to an animation, opened again with Pillow."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from scripts import evolution


def write_grid(path, step: int, *, colour: bool, size: int = 70) -> None:
    """Brighter with the step, on noise; RGB as torchvision writes it, even where it is grey."""
    rng = np.random.default_rng(step)
    shape = (size, size, 3 if colour else 1)
    pixels = np.broadcast_to(rng.integers(0, 100, shape), (size, size, 3)) + step
    Image.fromarray(pixels.astype(np.uint8)).save(path / f"samples-{step:07d}.png")


@pytest.fixture
def run_dir(tmp_path):
    """Grey grids of steps 20, 40, 60, 80, and files that are none."""
    folder = tmp_path / "run" / "samples"
    folder.mkdir(parents=True)
    for step in (80, 20, 60, 40):
        write_grid(folder, step, colour=False)
    (folder / "collapse-digits-0000030.png").write_bytes(b"another tag")
    (folder / "notes.txt").touch()
    return tmp_path / "run"


@pytest.mark.parametrize(("kind", "file_format"), [("gif", "GIF"), ("apng", "PNG")])
def test_each_grid_is_a_frame_in_the_order_of_steps(run_dir, kind, file_format, capsys):
    path = run_dir / f"evolution.{kind}"
    assert evolution.main([str(run_dir), "--out", str(path), "--fps", "5"]) == 0
    assert f"{path}: 4 grids" in capsys.readouterr().out
    with Image.open(path) as found:
        assert (found.format, found.n_frames, found.info["loop"]) == (file_format, 4, 0)
        durations, frames = [], []
        for frame in ImageSequence.Iterator(found):
            durations.append(frame.info["duration"])
            frames.append(np.asarray(frame.convert("L")))
    assert durations == [200, 200, 200, 2000]
    for frame, step in zip(frames, (20, 40, 60, 80), strict=True):
        assert frame.shape == (84, 70)  # a label of 14 pixels above the grid
        with Image.open(run_dir / "samples" / f"samples-{step:07d}.png") as grid:
            assert np.array_equal(frame[14:], np.asarray(grid.convert("L")))
    labels = {frame[:14].tobytes() for frame in frames}
    assert len(labels) == 4
    assert all(frame[:14].max() > 150 for frame in frames)
    assert {path.name for path in run_dir.iterdir()} == {"samples", f"evolution.{kind}"}


@pytest.mark.parametrize(("out", "tolerance"), [("a.gif", 12), ("short.PNG", 0)])
def test_colours_are_kept_and_out_names_the_format(run_dir, tmp_path, out, tolerance):
    write_grid(run_dir / "samples", 100, colour=True)
    assert evolution.main([str(run_dir), "--out", str(tmp_path / out)]) == 0
    grid = np.asarray(Image.open(run_dir / "samples/samples-0000100.png"))
    with Image.open(tmp_path / out) as found:
        assert (found.format, found.n_frames) == ("PNG" if tolerance == 0 else "GIF", 5)
        found.seek(4)
        last = np.asarray(found.convert("RGB")).astype(int)[14:]
        assert np.abs(last - grid).mean() <= tolerance


def test_a_long_run_is_thinned_and_large_grids_shrink(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    for step in range(10):
        write_grid(folder, step, colour=False, size=201)
    assert evolution.main([str(tmp_path), "--frames", "4", "--side", "101"]) == 0
    with Image.open(tmp_path / "evolution.gif") as found:
        assert (found.n_frames, found.size) == (4, (102, 116))  # both even


def test_what_cannot_be_animated_is_refused_in_a_sentence(run_dir, tmp_path, refusal):
    for argv, words in (
        ([tmp_path / "none"], "is no folder"),
        ([tmp_path], "has no samples/: found run"),
        ([run_dir, "--tag", "other"], "0 grids of 'other'"),
        ([run_dir, "--strip", "2", "--fps", "8"], "leave --fps out"),
        ([run_dir, "--fps", "0"], "--fps 0.0: wanted at least"),
        ([run_dir, "--fps", "nan"], "--fps nan: wanted"),
        ([run_dir, "--fps", "1e-9"], "--fps 1e-09: wanted"),
        ([run_dir, "--frames", 1], "--frames 1: wanted at least 2"),
        ([run_dir, "--out", "evolution.avi"], "ends in .gif"),
        ([run_dir, "--out", "a.gif", "--strip", 2], "ends in .png"),
        ([run_dir, "--out", tmp_path / "no" / "a.gif"], "no folder: make it"),
    ):
        assert words in refusal(evolution.main, *argv)
    write_grid(run_dir / "samples", 100, colour=False, size=30)
    assert "0000100.png has another size" in refusal(evolution.main, run_dir)
    torn = run_dir / "samples" / "samples-0000100.png"
    torn.write_bytes((run_dir / "samples" / "samples-0000080.png").read_bytes()[:300])
    assert "0000100.png cannot be read as a picture" in refusal(evolution.main, run_dir)
    assert [path.name for path in run_dir.iterdir()] == ["samples"]


def test_a_strip_of_five_stages(tmp_path):
    (tmp_path / "samples").mkdir()
    for step in range(10, 110, 10):
        picture = Image.new("RGB", (200, 68), (step, 0, 0))
        picture.save(tmp_path / "samples" / f"fixed_input-{step:07d}.png")
    assert evolution.main([str(tmp_path), "--strip", "5", "--tag", "fixed_input"]) == 0
    with Image.open(tmp_path / "strip.png") as strip:
        reds = [strip.getpixel((100, 82 * i + 40))[0] for i in range(5)]
        assert strip.size == (200, 5 * 82)
    assert reds == [10, 30, 50, 80, 100]

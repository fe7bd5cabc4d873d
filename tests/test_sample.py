"""scripts/sample.py: single images of a checkpoint, of what was asked for, the same every time."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib.errors import UserError
from lib.runlog import NoLog
from scripts import sample
from scripts._saved_run import open_run


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def draw(data_dir, tmp_path):
    """draw(run, ..., out="o") -> the images written, in the order of their names."""

    def make(run, *flags, out="o") -> list[np.ndarray]:
        where = ["--out", str(tmp_path / out), "--data_dir", str(data_dir), "--device", "cpu"]
        assert sample.main([str(run), *map(str, flags), *where]) == 0
        return [pixels(path) for path in sorted((tmp_path / out).glob("[0-9]*.png"))]

    return make


@pytest.mark.parametrize("model", ["x", None, ["dcgan"], {}])
def test_a_run_of_no_model_is_refused(model, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model": model}))
    with pytest.raises(UserError, match=r"is of the model .*, wanted one of dcgan, "):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("model", "shape"),
    [("dcgan", (32, 32)), ("vae", (28, 28)), ("biggan", (32, 32)), ("cdcgan", (16, 16, 3))],
)
def test_images_depend_on_the_checkpoint_and_the_seed_alone(model, shape, train, draw, tmp_path):
    run = train(model)
    images = draw(run, "--n", 11, "--grid", 3)
    assert [image.shape for image in images] == [shape] * 11
    names = [path.name for path in sorted((tmp_path / "o").iterdir())]
    assert names[9:] == ["0009.png", "0010.png", "grid.png"]
    side = shape[0] + 2
    assert pixels(tmp_path / "o" / "grid.png").shape[:2] == (3 * side + 2,) * 2  # of 11
    again, other = draw(run, "--n", 11, out="a"), draw(run, "--n", 11, "--seed", 1, out="b")
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))
    assert not np.array_equal(images[0], other[0])


def test_they_are_the_images_that_are_scored(train, draw, data_dir):
    run = train("dcgan", ema=0.9)
    scored = torch.cat(list(open_run(run, data_dir=str(data_dir)).generate(5, 3))).squeeze(1)
    assert np.array_equal(np.stack(draw(run, "--n", 5, "--seed", 3)), scored.cpu().numpy())


def test_classes_are_asked_for_by_number_or_name(train, draw):
    run = train("biggan")
    one, two, three = draw(run, "--n", 3, "--classes", "3, t-shirt/top")
    assert not np.array_equal(one, two)
    trainer = open_run(run)
    z = trainer.draw_z(2, 0)
    for image, i, y in ((one, 0, 3), (two, 0, 0), (three, 1, 3)):  # a z a row
        wanted = trainer.images_of(z[i : i + 1], trainer.embeddings()[[y]]).squeeze()
        assert np.abs(image - (wanted * 127.5 + 127.5).numpy()).max() <= 1


def test_a_prompt_needs_no_data_and_takes_the_best_weights(train, draw, tmp_path, capsys):
    run = train("cdcgan")
    flags = ["--n", 5, "--prompt", "red cube, blue sphere; gray cylinder"]
    images = draw(run, *flags, "--grid", "--data_dir", tmp_path / "none")
    assert pixels(tmp_path / "o" / "grid.png").shape == (3 * 18 + 2, 2 * 18 + 2, 3)
    assert "5 images of step 1" in capsys.readouterr().out
    trainer = open_run(run)
    for weight in trainer.G.parameters():
        weight.data.mul_(1.5)
    trainer.best.offer(trainer.G, 0.5, 1)
    trainer.step = 2
    trainer.save(NoLog())
    best = draw(run, *flags, out="best")
    assert "5 images of step 1" in capsys.readouterr().out
    assert not np.array_equal(images[0], best[0])


def test_what_cannot_be_drawn_is_one_sentence(train, tmp_path, refusal):
    run = str(train("biggan"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "0064.png").touch()
    (tmp_path / "file").touch()
    cases = {
        "there is no class '10'": ["--classes", "10"],
        "did you mean 'Sandal'": ["--classes", "sandals"],
        "names no class": ["--classes", ","],
        "--prompt is of --model cdcgan, and this run is of biggan": ["--prompt", "red cube"],
        "--n 0: wanted at least 1": ["--n", "0"],
        "--n 1000000001: wanted at most 1000000": ["--n", "1000000001"],
        "holds images of another number (0064.png)": ["--out", str(tmp_path / "full")],
        "file is a file or a run": ["--out", str(tmp_path / "file")],
        "or a run: name another": ["--out", run],
    }
    for words, flags in cases.items():
        assert words in refusal(sample.main, run, "--out", tmp_path / "o", *flags)
    assert not (tmp_path / "o").exists()
    told = refusal(sample.main, train("srgan"), "--out", tmp_path / "o")
    assert "python scripts/upscale.py" in told

"""The evaluator of i-CLEVR pictures: what it counts, its file and the course's, its training."""

import json
import shutil

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms.functional import gaussian_blur

from dataset import ImageData, to_signed
from lib.errors import UserError
from scripts import evaluator as script
from sources.clevr.geometry import join
from sources.clevr.scenes import draw_scene
from sources.clevr.shading import render
from sources.iclevr import LABELS, multi_hot
from systems.cdcgan.accuracy import (
    accuracy,
    by_part,
    confusion,
    top_k_hits,
    worst,
)
from systems.cdcgan.evaluator import Evaluator, load_evaluator, predict, save_evaluator


def scores_for(*guesses: list[str]) -> torch.Tensor:
    """Rows whose highest scores are those of the named labels, the first one's the highest."""
    scores = torch.linspace(0.1, 0, 24).repeat(len(guesses), 1)
    for row, labels in zip(scores, guesses, strict=True):
        for i, label in enumerate(labels):
            row[LABELS.index(label)] = 1 - 0.1 * i
    return scores


ASKED = [["red cube"], ["red cube", "blue sphere"], ["cyan cylinder", "gray cube", "red sphere"]]


def test_hits_are_labels_among_as_many_guesses():
    y = multi_hot(ASKED)
    scores = scores_for(
        ["blue cube", "red cube"],  # the second guess does not count: 0 of 1
        ["blue sphere", "gray cube", "red cube"],  # 1 of 2
        ["red sphere", "cyan cylinder", "gray cube"],  # 3 of 3
    )
    hits = top_k_hits(scores, y)
    assert hits.sum(1).tolist() == [0, 1, 3]
    assert accuracy(scores, y) == pytest.approx(4 / 6)
    colours = {"gray": 1.0, "red": 1 / 3, "blue": 1.0, "cyan": 1.0}  # no others are asked for
    shapes = {"cube": 1 / 3, "sphere": 1.0, "cylinder": 1.0}
    numbers = {"1 object": 0.0, "2 objects": 0.5, "3 objects": 1.0}
    assert by_part(scores, y) == pytest.approx(colours | shapes | numbers)


def test_the_accuracy_is_the_courses():
    """Its compute_acc, written out: topk of the scores against topk of the labels."""
    torch.manual_seed(0)
    y = torch.zeros(50, 24, dtype=torch.long)
    for i, row in enumerate(y):
        row[torch.randperm(24)[: i % 3 + 1]] = 1
    scores = torch.rand(50, 24)
    found = 0
    for row, truth in zip(scores, y, strict=True):
        k = int(truth.sum())
        found += len(set(row.topk(k).indices.tolist()) & set(truth.topk(k).indices.tolist()))
    assert accuracy(scores, y) == pytest.approx(found / int(y.sum()))
    assert accuracy(y + 0.1 * scores, y) == 1


def test_confusion_says_what_was_found_instead():
    y = multi_hot(ASKED)
    scores = scores_for(
        ["blue cube"], ["red cube", "blue sphere"], ["gray cube", "gray sphere", "red cube"]
    )
    confused = confusion(scores, y)
    assert confused.sum() == pytest.approx(3)  # as many as are missed
    named = {(missed, instead): count for missed, instead, count in worst(confused, 9)}
    assert named == pytest.approx(
        {("red cube", "blue cube"): 1.0}
        | {
            (missed, instead): 0.5
            for missed in ("cyan cylinder", "red sphere")
            for instead in ("gray sphere", "red cube")
        }
    )


def test_the_courses_checkpoint_opens(tmp_path):
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Sequential(nn.Linear(512, 24), nn.Sigmoid())
    torch.save({"model": network.state_dict()}, tmp_path / "checkpoint.pth")
    loaded = load_evaluator(tmp_path / "checkpoint.pth")
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        wanted = network.eval()(x)
        assert torch.allclose(loaded(x), wanted, atol=1e-5)
        assert torch.allclose(loaded.logits(x).sigmoid(), wanted, atol=1e-5)
    assert loaded.measured == {}
    assert len(loaded.digest) == 64
    assert not loaded.training


def test_our_file_is_the_courses_with_more(tmp_path):
    ours = Evaluator()
    ours.measured = {"accuracy": 0.5}
    save_evaluator(ours, tmp_path / "new/evaluator.pth")
    saved = torch.load(tmp_path / "new/evaluator.pth", weights_only=True)
    assert saved["model"]["fc.0.weight"].shape == (24, 512)
    again = load_evaluator(tmp_path / "new/evaluator.pth")
    assert again.measured == {"accuracy": 0.5}


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "evaluator.pth"
    with pytest.raises(UserError, match="is not there"):
        load_evaluator(path)
    path.write_bytes(b"garbage")
    with pytest.raises(UserError, match="is torn, or no file of tensors"):
        load_evaluator(path)
    plain, ours = torchvision.models.resnet18(weights=None), Evaluator().network.state_dict()
    for saved, told in (
        ({"state": 1}, 'holds no "model"'),
        ({"model": plain.state_dict()}, "not a ResNet18 with 24 labels"),
        ({"model": ours, "labels": 5}, "knows other labels"),
    ):
        torch.save(saved, path)
        with pytest.raises(UserError, match=told):
            load_evaluator(path)


def test_images_are_resized_and_judged_in_eval_mode_only():
    judge = Evaluator()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with pytest.raises(ValueError, match="eval mode"):
        predict(judge, images)
    judge.eval()
    assert predict(judge, images).shape == (3, 24)
    assert torch.allclose(predict(judge, images, batch_size=1), predict(judge, images), atol=1e-4)


def test_augmentation_is_a_function_of_its_stream_and_keeps_what_counts():
    x = torch.full((32, 3, 64, 64), 0.2)
    x[:, :, 24:40, 24:40] = torch.tensor([0.8, -0.6, -0.6])[:, None, None]
    a, b = (script.augment(x, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
    assert -1 <= a.min() < a.max() <= 1
    assert len(a.flatten(1).unique(dim=0)) == 32
    middle = a[:, :, 29:35, 29:35].mean((2, 3))  # within the square, wherever it was shifted
    assert (middle[:, 0] > middle[:, 1] + 0.5).all()
    assert (middle[:, 0] > middle[:, 2] + 0.5).all()


def test_shifts_move_by_whole_pixels():
    x = torch.zeros(40, 3, 16, 16)
    x[:, :, 8, 8] = 1
    moved = script.shift(x, torch.Generator().manual_seed(0), up_to=2)
    places = moved[:, 0].nonzero()[:, 1:] - 8
    assert moved.sum((1, 2, 3)).tolist() == [3.0] * 40
    assert places.min() == -2
    assert places.max() == 2


def blocks(n: int, side: int) -> ImageData:
    """Pictures of one red or blue square, told apart by colour alone."""
    images = torch.full((n, 3, side, side), 150, dtype=torch.uint8)
    colours = torch.tensor([[173, 35, 35], [42, 75, 215]], dtype=torch.uint8)
    inner = slice(side // 4, 3 * side // 4)
    for i in range(n):
        images[i, :, inner, inner] = colours[i % 2, :, None, None]
    return ImageData(images, multi_hot([[("red cube", "blue cube")[i % 2]] for i in range(n)]))


@torch.no_grad()
def accuracy_on(judge: Evaluator, data: ImageData) -> float:
    return accuracy(judge.logits(to_signed(data.images)), data.labels)


def test_a_training_learns(monkeypatch):
    """Small pictures: a step costs a quarter, and the network takes any size."""
    monkeypatch.setattr(script, "BATCH_SIZE", 8)
    data = blocks(24, 32)
    assert accuracy_on(Evaluator().eval(), data) <= 0.5  # one guess for all
    assert accuracy_on(script.train(data, seed=0, steps=50)[0], data) > 0.9


class SmallEvaluator(Evaluator):
    """The first two of its ResNet's four stages."""

    def __init__(self) -> None:
        super().__init__()
        self.network.layer3 = self.network.layer4 = nn.Identity()
        self.network.fc = nn.Sequential(nn.Linear(128, len(LABELS)))


def renders(n: int, key: str) -> ImageData:
    """n pictures of 32x32, of one object each: two colours and two shapes."""
    rows = [[("red cube", "blue cube", "red sphere", "blue sphere")[i % 4]] for i in range(n)]
    scenes = [draw_scene(row, key, i) for i, row in enumerate(rows)]
    return ImageData(render(join(scenes), 32), multi_hot(rows))


def test_patches_of_the_right_colours_are_no_objects(monkeypatch):
    """Low scores for smears of renders, and chance for the shape; renders themselves are known."""
    monkeypatch.setattr(script, "Evaluator", SmallEvaluator)
    monkeypatch.setattr(script, "BATCH_SIZE", 16)
    monkeypatch.setattr(script, "LEARNING_RATE", 3e-3)
    monkeypatch.setattr(script, "augment", lambda x, stream: script.shift(x, stream, up_to=1))
    judge = script.train(renders(120, "train"), seed=0, steps=130)[0]
    fresh = renders(100, "fresh")
    smears = ImageData(gaussian_blur(fresh.images, 15, 2.0), fresh.labels)
    known, fooled = (judge.logits(to_signed(data.images)) for data in (fresh, smears))
    assert accuracy(known, fresh.labels) > 0.95
    assert accuracy(fooled, fresh.labels) < 1 / 2 + 0.15
    assert known.sigmoid().amax(1).mean() > 0.7
    assert fooled.sigmoid().amax(1).mean() < 0.3


def test_a_training_is_a_function_of_the_seed_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "BATCH_SIZE", 4)
    monkeypatch.setattr(script, "SAVING_STEPS", 3)
    data, kept = blocks(8, 32), tmp_path / "kept"
    a, b, other = (script.train(data, seed=seed, steps=8)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["network.fc.0.weight"], other["network.fc.0.weight"])
    for _ in range(2):  # from the start, and from step 6
        c = script.train(data, seed=0, steps=8, unfinished=kept)[0].state_dict()
        assert all(torch.equal(a[name], c[name]) for name in a)
    assert "goes on from step 6" in capsys.readouterr().out
    with pytest.raises(UserError, match="its settings are"):
        script.train(data, seed=1, steps=8, unfinished=kept)


def test_the_command_trains_measures_and_scores(tmp_path, capsys, refusal, monkeypatch):
    monkeypatch.setattr(script, "BATCH_SIZE", 4)
    root = tmp_path / "iclevr"
    (root / "iclevr").mkdir(parents=True)
    data, rows = blocks(30, 32), {}
    for i, pixels in enumerate(data.images):
        rows[f"x{i:02d}.png"] = [LABELS[int(data.labels[i].argmax())]]
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(root / "iclevr" / f"x{i:02d}.png")
    (root / "train.json").write_text(json.dumps(rows))
    argv = ["--data_dir", str(tmp_path)]
    assert script.main(["train", *argv, "--steps", "8"]) == 0
    told = capsys.readouterr().out
    assert "the last 3 pictures of train.json are held out" in told
    assert "among the top k of 3;" in told
    measured = load_evaluator(root / "evaluator.pth").measured
    assert measured["n"] == 3
    assert measured["steps"] == 8
    assert script.main(["score", *argv]) == 0
    assert "1 object " in capsys.readouterr().out
    (tmp_path / "asked.json").write_text(json.dumps([rows["x00.png"], rows["x01.png"]]))
    for i in range(2):
        shutil.copy(root / "iclevr" / f"x0{i}.png", tmp_path / f"{i}.png")
    argv += ["--pictures", str(tmp_path)]
    assert script.main(["score", *argv, "--labels", str(tmp_path / "asked.json")]) == 0
    assert "among the top k of 2;" in capsys.readouterr().out
    (tmp_path / "1.png").write_text("no image")
    told = refusal(script.main, "score", *argv, "--labels", tmp_path / "asked.json")
    assert f"{tmp_path}/1.png can't be read as an image: no image that Pillow reads." in told
    assert "give both there" in refusal(script.main, "score", *argv)
    (tmp_path / "2.png").touch()
    told = refusal(script.main, "score", *argv, "--labels", tmp_path / "asked.json")
    assert f"3 pictures in {tmp_path} for 2 rows" in told
    assert "are of `train`" in refusal(script.main, "score", *argv[:2], "--steps", 9)
    assert "--steps 2: wanted at least 8" in refusal(script.main, "train", *argv, "--steps", 2)
    assert "is not there" in refusal(script.main, "score", "--weights", tmp_path / "none.pth")


@pytest.fixture
def held_out(tmp_path, monkeypatch) -> ImageData:
    """The script's held-out pictures, 24 of them, whose training set is not to be asked for."""
    data = blocks(24, 32)
    monkeypatch.setattr(script, "load", lambda data_dir: (None, data))
    return data


def test_a_training_never_overwrites_anothers_checkpoint(held_out, tmp_path, monkeypatch, refusal):
    monkeypatch.setattr(script, "train", lambda *_, **__: pytest.fail("it began"))
    course, torn, ours = (tmp_path / f"{name}.pth" for name in ("course", "torn", "ours"))
    torch.save({"model": Evaluator().network.state_dict()}, course)
    torn.write_bytes(b"garbage")
    for path in (course, torn):
        before = path.read_bytes()
        assert "give another --weights" in refusal(script.main, "train", "--weights", path)
        assert path.read_bytes() == before
    save_evaluator(Evaluator(), ours)
    script.refuse_anothers(ours)
    script.refuse_anothers(tmp_path / "none.pth")


def test_other_devices_are_refused(monkeypatch, capsys, refusal):
    with pytest.raises(SystemExit) as stopped:
        script.main(["train", "--device", "foo"])
    assert stopped.value.code == 2
    assert "invalid choice: 'foo'" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = refusal(script.main, "score", "--device", "cuda")
    assert "--device cuda: this machine has none" in told

"""scripts/embeddings.py and its parts, on a stand-in for a trained class-conditional GAN."""

import json
import math
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from conftest import PixelMeans, paint
from torch import Tensor, nn

from dataset import ImageData
from lib.errors import UserError
from metrics.features import features
from scripts import embeddings as script
from scripts._embeddings import paths, space
from scripts._embeddings.public_biggan import load_public, names_of
from scripts._embeddings.truncation import generated, parse_truncations, sweep, sweep_table

NAMES = ["cat", "dog", "T-shirt/top", "great white shark", "tiger shark", "pug"]


class StandIn:
    """Images 8x8 whose left half shows r, whose right half shows z; truncation scales z."""

    config = SimpleNamespace(model="stand-in", dataset="mnist", seed=0)
    step = 7
    class_names = NAMES

    def embeddings(self) -> Tensor:
        return torch.tensor([[0, 1], [0, 0.9], [0.5, 0], [-0.5, 0], [-1, -1], [0.4, 0.7]])

    def draw_z(self, n: int, seed: int, *, truncation: float = 0.0) -> Tensor:
        z = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
        return z * (truncation or 1.0)

    def images_of(self, z: Tensor, r: Tensor, *, truncated: float | None = None) -> Tensor:
        assert truncated is not None
        x = torch.tanh(torch.cat([r, z], 1)).view(-1, 1, 1, 4)
        return x.repeat_interleave(8, 2).repeat_interleave(2, 3)

    def load_data(self, split: str) -> ImageData:
        images = torch.cat(list(generated(self, 60, 0.0, 1)))
        return ImageData(images, torch.arange(60) % 6)


# Names


def test_a_class_that_does_not_exist_is_answered_with_the_nearest():
    assert paths.class_index("dog", NAMES) == 1
    assert paths.class_index("DOG", NAMES) == 1
    with pytest.raises(UserError, match="no class 'cet': did you mean 'cat'"):
        paths.class_index("cet", NAMES)
    with pytest.raises(UserError, match="did you mean 'tiger shark' or 'great white shark'"):
        paths.class_index("shark", NAMES)
    with pytest.raises(UserError, match="among the 6: cat, dog"):
        paths.class_index("0000", NAMES)


def test_pairs_and_truncations_are_parsed():
    assert paths.parse_pairs("cat,dog; T-shirt/top , pug;", NAMES) == [(0, 1), (2, 5)]
    for text, words in (("cat", "two"), ("cat,dog,pug", "two"), ("cat,cat", "two"), (";", "empty")):
        with pytest.raises(UserError, match=words):
            paths.parse_pairs(text, NAMES)
    assert parse_truncations("0.5, 1,0,1") == [0.5, 1, 0]
    for text in ("a,1", "-1", ",", "nan", "inf"):
        with pytest.raises(UserError, match="wanted numbers of at least 0"):
            parse_truncations(text)


# The space


def test_pairs_in_order_of_their_distance_of_which_two_near_and_two_far_are_suggested():
    r = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    first, second, third = space.pairs_of(r)
    assert (first.a, first.b, first.cosine) == (0, 2, 0)
    assert first.euclidean == pytest.approx(math.sqrt(2), abs=1e-9)
    assert (second.a, second.b) == (0, 1)
    assert (second.cosine, second.euclidean) == (1, 2)  # one direction, and yet apart
    assert third.euclidean == pytest.approx(math.sqrt(10), abs=1e-9)
    pairs = space.pairs_of(torch.tensor([[0.0], [1.0], [3.0], [7.0]]))
    assert paths.suggested_pairs(pairs) == [(0, 1), (1, 2), (0, 3), (1, 3)]
    assert paths.suggested_pairs(pairs[:1]) == [(0, 1)]


def test_pca_of_points_on_two_axes_and_no_tsne_of_so_few():
    r = torch.tensor([[4.0, 0, 9], [-4.0, 0, 9], [0, 1.0, 9], [0, -1.0, 9]])
    points, shares = space.pca(r)
    assert torch.allclose(points.abs(), r[:, :2].abs().double(), atol=1e-6)
    assert points[0, 0] == pytest.approx(4, abs=1e-6) or points[1, 0] == pytest.approx(4, abs=1e-6)
    assert shares == pytest.approx([32 / 34, 2 / 34], abs=1e-6)
    assert space.pca(torch.randn(2, 5))[0].shape == (2, 2)
    with pytest.raises(UserError, match="of 3 classes: it wants 4 or more"):
        space.tsne(torch.randn(3, 3))


def test_tsne_keeps_two_groups_apart():
    pytest.importorskip("sklearn", reason="scikit-learn is optional")
    g = torch.Generator().manual_seed(0)
    groups = torch.randn(20, 4, generator=g) + 50 * (torch.arange(20) < 10).float()[:, None]
    points, divergence = space.tsne(groups, seed=0)
    distances = torch.cdist(points, points)
    assert distances[:10, :10].max() < distances[:10, 10:].min()
    assert math.isfinite(divergence)
    assert torch.equal(points, space.tsne(groups, seed=0)[0])
    assert [space.perplexity_of(k) for k in (2, 10, 1000)] == [pytest.approx(1 / 3), 3, 30]


def test_tables_say_the_pairs_and_the_neighbours():
    r = StandIn().embeddings()
    pairs = space.pairs_of(r)
    table = space.extremes_table(pairs, NAMES)
    assert "| Euclidean, nearest | cat - dog | 1.000 | 0.100 |" in table
    assert table.count("cosine, farthest") == 5
    rows = space.neighbours_table(r, NAMES, [0, 5]).splitlines()
    assert rows[2].startswith("| cat | dog (1.000), pug (0.868), ")
    assert "| dog (0.100), pug (0.500), " in rows[2]
    assert len(rows) == 4
    lines = space.pairs_csv(pairs, NAMES).splitlines()
    assert lines[:2] == ["a,b,cosine,euclidean", "cat,dog,1.000000,0.100000"]
    assert len(lines) == 1 + 15


# The paths


def test_a_is_one_at_the_first_class_and_zero_at_the_second():
    model = StandIn()
    positions = paths.blends(-0.5, 1.5, 5)
    assert positions == [-0.5, 0, 0.5, 1, 1.5]
    x = paths.between_classes(model, (0, 4), positions, rows=3, seed=5)
    assert x.shape == (3, 5, 1, 8, 8)
    z, r = model.draw_z(3, 5), model.embeddings()
    for column, index in ((3, 0), (1, 4)):
        own = model.images_of(z, r[index].expand(3, -1), truncated=0.0)
        assert torch.equal(x[:, column], own)
    half = model.images_of(z, ((r[0] + r[4]) / 2).expand(3, -1), truncated=0.0)
    assert torch.allclose(x[:, 2], half, atol=1e-6)
    beyond = model.images_of(z, (1.5 * r[0] - 0.5 * r[4]).expand(3, -1), truncated=0.0)
    assert torch.allclose(x[:, 4], beyond, atol=1e-6)


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_within_a_class_only_z_moves(path):
    model = StandIn()
    x = paths.within_class(model, 2, [0.0, 0.5, 1.0], path=path, rows=2, seed=3)
    ends = model.draw_z(4, 3).view(2, 2, 2)
    r = model.embeddings()[2].expand(2, -1)
    for column, which in ((0, 0), (2, 1)):
        own = model.images_of(ends[:, which], r, truncated=0.0)
        assert torch.allclose(x[:, column], own, atol=1e-5)
    assert torch.equal(x[..., :4], x[:1, :1, ..., :4].expand_as(x[..., :4]))
    assert not torch.allclose(x[:, 0], x[:, 1], atol=1e-3)


# Truncation


def test_a_sweep_sees_the_loss_of_variety():
    model = StandIn()
    extractor = PixelMeans()
    real = extractor(model.load_data("train").images)
    none, strong = rows = sweep(model, [0.0, 0.05], real, extractor, seed=1)
    assert (none["fid"]["value"], none["recall"]["value"]) == (pytest.approx(0, abs=1e-6), 1)
    assert strong["fid"]["value"] > 0.01
    assert strong["recall"]["value"] < 0.5
    lines = sweep_table(rows).splitlines()
    assert lines[0] == "| truncation | FID | precision | recall | density | coverage |"
    assert lines[2].startswith("| none | 0.00 ± ")
    assert lines[3].startswith("| 0.05 | ")


class FarClasses(StandIn):
    """Ten classes that lie far apart beside what z changes."""

    def embeddings(self) -> Tensor:
        return torch.tensor([[k / 5 - 1, (k % 3) - 1] for k in range(10)]).float()


def test_all_classes_are_in_a_sweep_and_its_error_is_the_spread_of_repeated_draws():
    """Ten classes and ten groups: none may be a class of its own."""
    model, extractor = FarClasses(), PixelMeans()
    for n, times in ((1000, 100), (14, 1)):
        shown = torch.cat(list(generated(model, n, 0.0, 0)))[:, 0, 0, 0]
        _, counts = shown.unique(return_counts=True)
        assert (len(counts), int(counts.min())) == (10, times)
    real = features(generated(model, 1000, 0.0, 1000), extractor, 1000, "real")
    rows = [sweep(model, [0.5], real, extractor, seed=seed)[0]["fid"] for seed in range(12)]
    values, errors = (torch.tensor([row[key] for row in rows]) for key in ("value", "error"))
    assert errors.mean() == pytest.approx(values.std(), rel=0.5)


# The command


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(flags) -> exit status, with the stand-in as the trained run."""
    monkeypatch.setattr(script, "open_run", lambda *_, **__: StandIn())
    monkeypatch.setattr(script, "load_inception", lambda *_: PixelMeans())
    return lambda flags: script.main([str(tmp_path / "run"), *flags])


def test_the_command_writes_its_pictures_and_tables(run, tmp_path, capsys):
    flags = ("--from", "-0.5", "--to", "1.5", "--columns", "3", "--rows", "1")
    assert run([*flags, "--truncations", "1,0.1,0", "--n", "40"]) == 0
    out = tmp_path / "run" / "embeddings"
    names = {path.name for path in out.iterdir()}
    assert {"space.png", "pairs.csv", "embeddings.md", "truncation.png", "truncation.json"} <= names
    assert {"between-cat-dog.png", "within-cat.png"} <= names
    assert sum(name.startswith("between-") for name in names) == 4
    page = (out / "embeddings.md").read_text()
    assert "# Class embeddings of run, step 7" in page
    assert all(f"({name})" in page for name in names if name.endswith(".png"))
    rows = json.loads((out / "truncation.json").read_text())["rows"]
    assert [row["truncation"] for row in rows] == [1, 0.1, 0]
    told = capsys.readouterr().out
    assert "| Euclidean, nearest | cat - dog |" in told
    assert f"wrote {out / 'space.png'}" in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--pairs", "cat,doog"], "did you mean 'dog'"),
        (["--from", "1", "--to", "1"], "two different ends"),
        (["--truncations", "x"], "wanted numbers"),
        (["--within", ","], "--within ',' names no class"),
        (["--n", "100"], "belong to --truncations"),
        (["--weights", "file.bin"], "wanted one of a run's folder"),
        (["--truncations", "1", "--real", "few"], "holds 5 images: wanted 6 or more"),
        (["--truncations", "1", "--real", "real", "--out", "real"], "the pictures' own folder"),
    ],
)
def test_bad_input_is_one_sentence(flags, words, run, tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    paint(Path("few"), 5)
    paint(Path("real"), 6)
    assert words in refusal(run, *flags)
    assert not (tmp_path / "run").exists()
    plain = SimpleNamespace(config=SimpleNamespace(model="dcgan"))
    monkeypatch.setattr(script, "open_run", lambda *_, **__: plain)
    assert "dcgan has no class embeddings" in refusal(script.main, "run")


@pytest.mark.filterwarnings("ignore:10 images for 16 features")
def test_what_is_chosen_is_drawn_and_compared_at_the_models_size(run, tmp_path, monkeypatch):
    sides = set()

    class Watching(PixelMeans):
        def forward(self, images: Tensor) -> Tensor:
            sides.add(images.shape[-2:])
            return super().forward(images)

    monkeypatch.setattr(script, "load_inception", lambda *_: Watching())
    flags = ["--columns", "2", "--rows", "1", "--truncations", "1", "--n", "10"]
    flags += ["--pairs", "pug,cat", "--within", "dog", "--out", str(tmp_path / "o")]
    assert run([*flags, "--real", str(paint(tmp_path / "real", 12))]) == 0
    assert sides == {(8, 8)}
    names = {path.name for path in (tmp_path / "o").iterdir() if path.suffix == ".png"}
    assert names == {"space.png", "between-pug-cat.png", "within-dog.png", "truncation.png"}


def test_the_page_is_there_when_the_sweep_breaks_down(run, tmp_path, monkeypatch):
    fails = lambda *_, **__: script.need("no_package", "a sweep")  # noqa: E731
    monkeypatch.setattr(script.truncation, "sweep", fails)
    assert run(["--columns", "2", "--rows", "1", "--truncations", "1", "--n", "10"]) == 1
    page = (tmp_path / "run" / "embeddings" / "embeddings.md").read_text()
    assert "## Within a class" in page
    assert "## Truncation" not in page


# The public weights


class TinyBigGAN(nn.Module):
    """Stands in for its BigGAN: the class's vector beside z, and a truncation."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Linear(config.num_classes, config.z_dim, bias=False)
        self.generator = TinyGenerator(config.z_dim)


class TinyGenerator(nn.Module):
    def __init__(self, z_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * z_dim, 3 * 4 * 4)
        self.truncations: list[float] = []

    def forward(self, vector: Tensor, truncation: float) -> Tensor:
        self.truncations.append(truncation)
        return torch.tanh(self.project(vector)).view(-1, 3, 4, 4)


@pytest.fixture
def package(monkeypatch):
    module = ModuleType("pytorch_pretrained_biggan")
    made = SimpleNamespace(from_dict=lambda settings: SimpleNamespace(**settings))
    module.BigGAN, module.BigGANConfig = TinyBigGAN, made
    monkeypatch.setitem(sys.modules, "pytorch_pretrained_biggan", module)


@pytest.fixture
def weights(tmp_path):
    """A file of the published form with its config, of a random network with 5 classes."""
    torch.manual_seed(0)
    settings = {"num_classes": 5, "z_dim": 4}
    path = tmp_path / "tiny-pytorch_model.bin"
    torch.save(TinyBigGAN(SimpleNamespace(**settings)).state_dict(), path)
    (tmp_path / "tiny-config.json").write_text(json.dumps(settings))
    return path


def test_public_weights_become_a_model_of_classes(package, weights):
    model = load_public(weights)
    assert model.class_names == ["0", "1", "2", "3", "4"]
    assert names_of(1000)[254] == "pug"  # ImageNet's, without a download
    r = model.embeddings()
    assert torch.equal(r, model.network.embeddings.weight.T)
    z = model.draw_z(300, 0, truncation=0.4)
    assert 0.7 < z.abs().max() <= 0.8  # the package's: cut at 2, then times 0.4
    assert torch.equal(model.draw_z(300, 0), model.draw_z(300, 0, truncation=1.0))
    x = model.images_of(z[:20], r[:1].expand(20, -1), truncated=0.4)
    assert (x.shape, x.requires_grad) == ((20, 3, 4, 4), False)
    model.images_of(z[:1], r[:1], truncated=0.0)
    assert model.network.generator.truncations == [0.4, 0.4, 0.4, 1.0]
    with pytest.raises(UserError, match=r"truncation 2: these weights take one in \(0, 1\]"):
        model.draw_z(1, 0, truncation=2.0)


def test_public_weights_of_another_kind_are_refused(package, weights, tmp_path, capsys):
    config, state = tmp_path / "tiny-config.json", torch.load(weights)
    torch.save(state | {"more": torch.zeros(1)}, weights)
    load_public(weights)
    assert "1 unknown tensors passed over: more" in capsys.readouterr().err
    sizes = json.dumps({"num_classes": 5, "z_dim": 6})
    cases = {
        "size mismatch for embeddings.weight": (sizes, state),
        "KeyError: 'embeddings.weight'": (config.read_text(), {"other": torch.zeros(2)}),
        "TypeError": (config.read_text(), [1, 2]),
        "make no BigGAN": (json.dumps({"num_classes": "many", "z_dim": 6}), state),
    }
    for why, (settings, tensors) in cases.items():
        config.write_text(settings)
        torch.save(tensors, weights)
        with pytest.raises(UserError, match=why):
            load_public(weights)
    weights.write_bytes(b"garbage")
    with pytest.raises(UserError, match="make no BigGAN"):
        load_public(weights)
    config.unlink()
    with pytest.raises(UserError, match=r"tiny-config.json is not there"):
        load_public(weights)
    with pytest.raises(UserError, match=r"nothing.bin is not there"):
        load_public(tmp_path / "nothing.bin")


@pytest.mark.filterwarnings("ignore:10 images for 16 features")
def test_the_command_on_public_weights(package, weights, tmp_path, monkeypatch, refusal):
    flags = ["--pairs", "1,2", "--within", "1", "--columns", "2", "--rows", "1"]
    command = ["--weights", str(weights)]
    assert script.main([*command, *flags]) == 0
    out = tmp_path / "tiny-pytorch_model-embeddings"
    assert (out / "space.png").is_file()
    refused = partial(refusal, script.main, *command)
    assert "--real FOLDER" in refused("--truncations", 1)
    assert "take one in (0, 1]" in refused("--truncations", 2)
    assert "--data_dir belongs to a run" in refused("--data_dir", "data")
    monkeypatch.setattr(script, "load_inception", lambda *_: PixelMeans())
    more = ["--truncations", "1,0.5", "--real", str(paint(tmp_path / "real", 12)), "--n", "10"]
    assert script.main([*command, *flags, *more]) == 0
    assert json.loads((out / "truncation.json").read_text())["n"] == 10

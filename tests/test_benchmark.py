"""The benchmark on made times and tiny work: ratios, counted operations, peers, each run."""

import json
import shlex
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import PixelMeans
from systems.cdcgan.system import CDCGAN, CDCGANConfig
from test_cli import ROOT, random_weights  # noqa: F401

import fid
from dataset import Batch
from GAN import count_parameters
from inception import load_inception
from inception.network import trained_shapes
from lib.errors import UserError
from lib.flags import parse
from main import build_dcgan
from scripts import benchmark
from scripts._benchmark import conditional as bench_conditional
from scripts._benchmark import end2end as bench_end2end
from scripts._benchmark import limits as bench_limits
from scripts._benchmark import peers as bench_peers
from scripts._benchmark import timing as bench_timing
from scripts._benchmark.timing import Contest, Rival
from systems.dcgan import DCGANConfig
from training import layers

CPU = torch.device("cpu")
PIXELS = {  # of the output maps of Inception's convolutions, by the start of their names
    "Conv2d_1a": 149**2,
    "Conv2d_2": 147**2,
    "Conv2d_3b": 73**2,
    "Conv2d_4a": 71**2,
    "Mixed_5": 35**2,
    "Mixed_6a.branch3x3.": 17**2,
    "Mixed_6a.branch3x3dbl_3": 17**2,
    "Mixed_6a": 35**2,
    "Mixed_6": 17**2,
    "Mixed_7a.branch3x3_1": 17**2,
    "Mixed_7a.branch3x3_2": 8**2,
    "Mixed_7a.branch7x7x3_4": 8**2,
    "Mixed_7a": 17**2,
    "Mixed_7": 8**2,
}


def idle(name: str, **settings) -> Rival:
    return Rival(name, lambda: None, **settings)


def test_rivals_take_turns_after_a_warm_up_and_the_device_is_waited_for_around_each():
    calls = []
    rivals = [Rival(name, lambda name=name: calls.append(name)) for name in "AB"]
    contest = Contest("step", rivals, [])
    seconds = bench_timing.interleave(contest, 2, lambda: calls.append("."))
    assert "".join(calls) == "AB" + ".A..B." * 2
    assert {name: len(timings) for name, timings in seconds.items()} == {"A": 2, "B": 2}


def test_ratios_are_of_the_same_round_and_for_each_item():
    contest = Contest("step", [idle("ours", items=10), idle("peer", items=5)], [("ours", "peer")])
    seconds = {"ours": [1.0, 2.0, 4.0], "peer": [1.0, 3.0, 4.0]}  # 2x, 3x and 2x for each item
    (row,) = bench_timing.ratios(contest, seconds)
    assert row == {
        "ours": "ours",
        "peer": "peer",
        "median": 2.0,
        "min": 2.0,
        "max": pytest.approx(3),
    }


def test_shares_are_of_the_limit_in_the_same_round():
    rivals = [
        idle("ours", items=4, flops=100.0, limit="peak"),
        idle("peak", items=0, flops=400.0),
        idle("copy", items=0, moved=50.0),
        idle("uncounted"),
    ]
    seconds = {"ours": [1.0, 1.0, 2.0], "peak": [2.0, 1.0, 4.0], "copy": [1.0, 2.0, 5.0]}
    seconds["uncounted"] = [1.0, 1.0, 1.0]
    contest = Contest("step", rivals, [])
    ours, peak, copy, uncounted = rows = bench_timing.summarize(contest, seconds)
    assert ours["seconds_an_item"] == {"median": 0.25, "min": 0.25, "max": 0.5}
    assert ours["flops_an_item"] == 25
    assert ours["share_of_limit"] == {"median": 0.5, "min": 0.25, "max": 0.5}
    assert peak["flops_a_second"]["median"] == 200
    assert copy["bytes_a_second"] == {"median": 25, "min": 10, "max": 50}
    assert "share_of_limit" not in peak
    assert "flops_a_second" not in uncounted
    text = bench_timing.table(contest, rows, [])
    assert "50% (25% to 50%)" in text
    assert text.splitlines()[2].split()[:3] == ["|", "ours", "|"]


def dcgan_step(z: int, h: int) -> float:
    """Two a multiply-add of 4x4 kernels, an image; a layer costs the same forward, for its weights'
    gradient and for its input's. Of D's first layer and G's first no input is asked."""
    first, middle, logit = 16**2 * h * 16, 8**2 * 2 * h * h * 16, 4 * h * 16
    assert middle == 4**2 * 4 * h * 2 * h * 16
    D, G = first + 2 * middle + logit, z * 4 * h * 16 + 2 * middle + first
    on_a_batch = 3 * D - first  # forward, weights, inputs
    for_G = 2 * D + (3 * G - z * 4 * h * 16)  # D forward and inputs; G forward, weights, inputs
    return 2 * (2 * on_a_batch + for_G)


@pytest.mark.parametrize(("z", "h", "giga"), [(16, 16, 1.557), (100, 100, 58.31), (16, 100, 58.18)])
def test_operations_of_a_step_in_closed_form(z, h, giga):
    counted = bench_limits.step_flops(z, h)
    assert counted == 64 * dcgan_step(z, h)
    assert counted / 1e9 == pytest.approx(giga, abs=0.01)


def test_the_trainers_own_step_does_just_what_is_needed():
    trainer = build_dcgan(DCGANConfig(), CPU)
    assert [count_parameters(net) for net in trainer.networks.values()] == [57_824, 42_432]
    plain = bench_peers.plain_networks(16, 16)
    assert [count_parameters(net) for net in plain] == [57_824, 42_432]
    batch = Batch(torch.rand(64, 1, 32, 32), torch.zeros(64))
    counted = bench_limits.count_flops(lambda: trainer.train_step(batch))
    assert counted == bench_limits.step_flops(16, 16)


@pytest.mark.parametrize("avx512", [True, False])
@pytest.mark.parametrize(("z", "h", "n", "side"), [(16, 16, 64, 32), (7, 5, 2, 32), (10, 8, 3, 64)])
def test_a_pass_through_both_networks_is_the_plain_ones(monkeypatch, avx512, z, h, n, side):
    monkeypatch.setattr(layers, "AVX512", avx512)
    sizes = {"latent_dim": z, "generator_hidden_dim": h, "discriminator_hidden_dim": h}
    ours = build_dcgan(DCGANConfig(image_size=side, **sizes), CPU)
    G, D = bench_peers.plain_networks(z, h, side)
    parts = [ours.G.project, ours.G.ups, ours.G.to_image]
    parts += [ours.D.from_image, ours.D.downs, ours.D.to_logit]
    own = [p for part in parts for p in part.parameters()]
    theirs = [*G.parameters(), *D.parameters()]
    for a, b in zip(own, theirs, strict=True):
        b.data.copy_(a.data)
    for network in (G, D, ours.G, ours.D):
        network.double()
    noise = torch.randn(n, z, 1, 1, dtype=torch.float64)
    found = torch.autograd.grad(F.softplus(-ours.D.logits(ours.G(noise))).mean(), own)
    wanted = torch.autograd.grad(-D(G(noise)).log().mean(), theirs)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= 1e-12 * b.norm().clamp(min=1e-30)


def test_the_plain_networks_grow_with_the_image():
    """Those of --preset mnist64, and at width 4 the operations of a step."""
    plain = bench_peers.plain_networks(100, 64, 64)
    assert [count_parameters(net) for net in plain] == [3_574_656, 2_763_520]
    sizes = {"image_size": 64, "generator_hidden_dim": 4, "discriminator_hidden_dim": 4}
    trainer = build_dcgan(DCGANConfig(latent_dim=10, **sizes), CPU)
    batch = Batch(torch.rand(64, 1, 64, 64), torch.zeros(64))
    counted = bench_limits.count_flops(lambda: trainer.train_step(batch))
    assert counted == bench_limits.step_flops(10, 4, 64)


def test_operations_of_inception_in_closed_form():
    def pixels(name: str) -> int:
        return next(count for start, count in PIXELS.items() if name.startswith(start))

    kernels = {n: s for n, s in trained_shapes().items() if n.endswith("conv.weight")}
    wanted = sum(2 * torch.Size(shape).numel() * pixels(name) for name, shape in kernels.items())
    assert len(kernels) == 94
    assert bench_limits.inception_flops() == wanted
    assert wanted / 1e9 == pytest.approx(11.42, abs=0.01)


def test_operations_of_the_distance():
    assert bench_limits.frechet_flops(30) == pytest.approx((1 / 3 + 1 + 4 / 3) * 30**3)


def test_a_matrix_product_counts_what_it_does(monkeypatch):
    monkeypatch.setattr(bench_limits, "seconds_of", lambda work, device: 0.1)
    peak = bench_limits.matrix_product("fp32", CPU, n=8)
    assert (peak.name, peak.items, peak.flops) == ("matrix product, fp32", 0, 5 * 2 * 8**3)
    peak.work()


@pytest.mark.parametrize(("bf16", "native"), [(0.5, True), (3.0, False)])
def test_bf16_is_emulated_where_its_product_is_slower(monkeypatch, bf16, native):
    times = iter([1.0] * 3 + [bf16] * 3)
    monkeypatch.setattr(bench_limits, "seconds_of", lambda work, device: next(times))
    assert bench_limits.bf16_is_native(CPU, n=4) is native


def test_peers_that_are_missing_or_broken_are_named(monkeypatch, tmp_path):
    def broken(weights, device):
        raise AttributeError("no such thing")

    for module in ("pytorch_fid", "torch_fidelity", "torchmetrics", "torchmetrics.image.fid"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(bench_peers.INCEPTION_PEERS, "clean-fid, legacy_pytorch", broken)
    peers, left_out = bench_peers.inception_peers(tmp_path / "weights.pth", CPU)
    assert peers == {}
    for name in ("pytorch-fid", "torch-fidelity", "torchmetrics"):
        assert "pip install -r requirements-bench.txt" in left_out[name]
    assert "AttributeError: no such thing" in left_out["clean-fid, legacy_pytorch"]
    assert "takes no weights file" in left_out["clean-fid, clean"]


@pytest.mark.parametrize("name", bench_peers.INCEPTION_PEERS)
def test_a_peer_takes_the_same_weights_and_images(name, random_weights, tmp_path):  # noqa: F811
    weights = bench_peers.write_weights(tmp_path, random_weights)
    peers, left_out = bench_peers.inception_peers(weights, CPU)
    if name not in peers:
        pytest.skip(left_out[name])
    ours = load_inception(weights=random_weights)
    networks = {"ours": ours, name: peers[name]}
    images = torch.full((1, 1, 32, 32), 100, dtype=torch.uint8)
    (_, alike) = benchmark.agreement(networks, images).values()
    largest = benchmark.features(ours, images).abs().max().item()
    assert alike < 1e-4 * largest


def test_the_pins_name_every_peer():
    pins = (ROOT / "requirements-bench.txt").read_text()
    for peer in ("pytorch-fid", "torch-fidelity", "clean-fid", "torchmetrics"):
        assert f"{peer}==" in pins


@pytest.fixture
def bench(monkeypatch, tmp_path, capsys):
    """bench("train", ...) -> the report as written; tiny products, as many threads after."""
    monkeypatch.setitem(bench_limits.PEAK_SIZES, "cpu", 32)
    monkeypatch.setattr(bench_limits, "seconds_of", lambda work, device: 0.5)
    threads = torch.get_num_threads()

    def run(*argv: str) -> dict:
        argv = [*map(str, argv), "--rounds", "2", "--device", "cpu", "--results", str(tmp_path)]
        assert benchmark.main(argv) == 0
        assert torch.get_num_threads() == threads
        (path,) = tmp_path.glob("*.json")
        report = json.loads(path.read_text())
        assert report["command"].endswith(f"python scripts/benchmark.py {shlex.join(argv)}")
        assert all(report[key] for key in ("device", "cpu", "threads", "torch", "date", "rounds"))
        printed = capsys.readouterr().out
        for row in report["rows"]:
            assert f"| {row['name']} " in printed
            assert len(row["timings"]) == 2
        for peer, why in report["left_out"].items():
            assert f"left out: {peer}: {why}" in printed
        return report | {"file": path.name}

    return run


def names(report: dict) -> list[str]:
    return [row["name"] for row in report["rows"]]


def row_of(report: dict, name: str) -> dict:
    return next(row for row in report["rows"] if row["name"] == name)


LIMITS = ("matrix product, fp32", "convolution, fp32")


def test_a_convolution_counts_what_it_does(monkeypatch):
    monkeypatch.setattr(bench_limits, "seconds_of", lambda work, device: 0.1)
    rival = bench_limits.convolution("fp32", CPU, channels=3)
    assert (rival.name, rival.flops) == (LIMITS[1], 5 * 2 * 64 * 3 * 3 * 8**2 * 4**2)
    rival.work()


def test_train(bench, data_dir):
    tiny = ("--dataset", "fashion", "--data_dir", data_dir, "--hidden_dim", 4)
    report = bench("train", *tiny, "--steps", 1, "--ours=", "--ours=--ema 0.9")
    ours, averaged = "ours", "ours --ema 0.9"
    assert report["file"] == "train-4.json"
    assert names(report) == [ours, averaged, "plain loop", *LIMITS]
    assert [(r["ours"], r["peer"]) for r in report["ratios"]] == [
        (ours, "plain loop"),
        (averaged, "plain loop"),
    ]
    assert report["rows"][0]["flops_an_item"] == bench_limits.step_flops(4, 4)
    assert report["rows"][2]["share_of_limit"]["median"] > 0


def test_train_at_other_sizes(bench, data_dir):
    sizes = ("--hidden_dim", 4, "--latent_dim", 6, "--image_size", 64)
    report = bench("train", "--dataset", "fashion", "--data_dir", data_dir, *sizes, "--steps", 1)
    assert report["file"] == "train-4-64px.json"
    assert report["rows"][0]["flops_an_item"] == bench_limits.step_flops(6, 4, 64)


def test_other_work_is_not_timed_as_the_same(data_dir, tmp_path, capsys):
    argv = ["train", "--ours=--batch_size 8", "--dataset", "fashion", "--data_dir", str(data_dir)]
    assert benchmark.main([*argv, "--device", "cpu", "--results", str(tmp_path)]) == 1
    assert "changes the work, by batch_size" in capsys.readouterr().err


def test_train_with_a_wrong_flag_of_main(data_dir, tmp_path, capsys):
    argv = ["train", "--ours=--penalty gp", "--dataset", "fashion", "--data_dir", str(data_dir)]
    assert benchmark.main([*argv, "--device", "cpu", "--results", str(tmp_path)]) == 1
    assert "--penalty gp" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_scaling(bench, data_dir):
    tiny = ("--dataset", "fashion", "--data_dir", data_dir, "--hidden_dim", 4, "--steps", 1)
    report = bench("scaling", *tiny, "--max_threads", 2)
    peaks = [f"matrix product, fp32, {threads}" for threads in ("1 thread", "2 threads")]
    assert names(report) == ["1 thread", peaks[0], "2 threads", peaks[1]]
    assert [row.get("limit") for row in report["rows"]] == [peaks[0], None, peaks[1], None]
    assert [(r["ours"], r["peer"]) for r in report["ratios"]] == [("2 threads", "1 thread")]


def test_ranks(bench, data_dir):
    tiny = ("--dataset", "fashion", "--data_dir", data_dir, "--hidden_dim", 4)
    report = bench("ranks", *tiny, "--steps", 2)
    assert names(report) == ["1 process", "2 processes"]
    assert [(pair["ours"], pair["peer"]) for pair in report["ratios"]] == [
        ("2 processes", "1 process")
    ]
    assert report["file"] == "ranks-4.json"


def absent(weights, device):
    raise ModuleNotFoundError("No module named 'peer'")


@pytest.mark.parametrize("native", [True, False])
def test_inception(bench, monkeypatch, native):
    pixel_means = PixelMeans()
    monkeypatch.setattr(benchmark, "bf16_is_native", lambda device: native)
    monkeypatch.setattr(benchmark, "write_weights", lambda folder, source: folder)
    monkeypatch.setattr(benchmark, "load_inception", lambda *_: pixel_means)
    peers = {"peer": lambda weights, device: lambda x: pixel_means(x) + 0.5, "absent": absent}
    monkeypatch.setattr(bench_peers, "INCEPTION_PEERS", peers)
    report = bench("inception", "--images", 3)
    ours = ["ours, fp32", "ours, bf16"] if native else ["ours, fp32"]
    assert names(report)[: len(ours) + 1] == [*ours, "peer"]
    assert [r["ours"] for r in report["ratios"]] == ours
    assert "not installed" in report["left_out"]["absent"]
    assert ("emulated" in report["left_out"].get("ours, bf16", "")) is not native
    assert report["values"]["largest difference, as used: peer"] == pytest.approx(0.5)
    limits = {row["name"]: row.get("limit") for row in report["rows"]}
    assert limits["peer"] == "matrix product, fp32"
    assert limits.get("ours, bf16") == ("matrix product, bf16" if native else None)


@pytest.mark.parametrize("installed", [True, False])
def test_frechet(bench, monkeypatch, installed):
    def eigvals(mu1, cov1, mu2, cov2):
        root = torch.linalg.eigvals(cov1 @ cov2).sqrt().real.sum()
        return (mu1 - mu2).square().sum() + cov1.trace() + cov2.trace() - 2 * root

    found = (lambda: eigvals) if installed else (lambda: None)
    monkeypatch.setattr(benchmark, "torchmetrics_distance", found)
    report = bench("frechet", "--dims", 20)
    peers = ["scipy.linalg.sqrtm", *(["torchmetrics, eigvals"] if installed else [])]
    assert [r["peer"] for r in report["ratios"]] == peers
    assert ("torchmetrics, eigvals" in report["left_out"]) is not installed
    for peer in peers:
        assert report["values"][f"relative difference of {peer}"] < 1e-9


def test_without_torchmetrics_there_is_no_formula_of_it(monkeypatch):
    monkeypatch.setattr(bench_peers, "find_spec", lambda name: None)
    assert bench_peers.torchmetrics_distance() is None


def stand_in(a: Path, b: Path, weights: Path, device: str) -> list[str]:
    """A tool that looks whether its two sets are there, and prints as FID tools do."""
    code = "import os, sys; [os.stat(p) for p in sys.argv[1:2]]; print('FID:  12.5')"
    return [sys.executable, "-c", code, str(a), str(b)]


@pytest.mark.parametrize(("installed", "native"), [(True, True), (True, False), (False, False)])
def test_end2end(bench, monkeypatch, installed, native):
    tools = dict.fromkeys(("ours", "ours, bf16", "pytorch-fid"), stand_in)
    monkeypatch.setattr(bench_end2end, "TOOLS", tools)
    monkeypatch.setattr(bench_end2end, "bf16_is_native", lambda device: native)
    monkeypatch.setattr(bench_end2end, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(bench_end2end, "write_weights", lambda folder, source: folder)
    monkeypatch.setattr(bench_end2end, "run", with_moments(bench_end2end.run))
    report = bench("end2end", "--images", 2)
    assert ("pytorch-fid" in report["left_out"]) is not installed
    assert ("ours, bf16" in report["left_out"]) is not native
    assert len(report["ratios"]) == 4 * installed * (1 + native)
    assert names(report)[0] == "ours"
    assert report["values"]["FID, ours, A and B cached"] == 12.5
    both, one = (row_of(report, name) for name in ("ours", "ours, A cached"))
    assert both["flops_an_item"] == 2 * one["flops_an_item"]
    assert both["flops_an_item"] == 4 * bench_limits.inception_flops()


def with_moments(run):
    """run, but that --save-stats leaves a file as the true tool does."""

    def also(command: list[str], folder: Path) -> str:
        if command[-1] == "--save-stats":
            Path(command[-2]).touch()
        return run(command, folder)

    return also


def test_our_command_is_one_that_fid_takes():
    command = bench_end2end.our_command(Path("A"), Path("B.npz"), Path("weights.pth"), "cpu")
    assert Path(command[1]) == ROOT / "fid.py"
    args = fid.parse_args(command[2:])
    assert args.path == [Path("A"), Path("B.npz")]
    assert (args.inception_weights, args.device) == (Path("weights.pth"), "cpu")
    command = bench_end2end.our_bf16_command(Path("A"), Path("B.npz"), Path("weights.pth"), "cpu")
    assert fid.parse_args(command[2:]).fid_precision == "bf16"


def test_a_tool_that_fails_is_named_with_its_last_words(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no such weights')"]
    with pytest.raises(UserError, match=r"status 1: no such weights"):
        bench_end2end.run(command, tmp_path)


def test_made_images_are_what_both_tools_read(tmp_path):
    folder = bench_end2end.make_images(tmp_path / "A", 3, seed=0)
    (batch,) = fid.image_batches(fid.image_paths(folder), 50)
    assert (batch.shape, batch.dtype) == ((3, 3, 32, 32), torch.uint8)
    assert batch.float().std() > 1


@pytest.mark.parametrize(
    ("what", "model", "width", "size", "file"),
    [
        ("train", "dcgan", 16, 32, "train.json"),
        ("train", "dcgan", 100, 32, "train-100.json"),
        ("train", "dcgan", 64, 64, "train-64-64px.json"),
        ("train", "cdcgan", 64, 32, "train-cdcgan-64.json"),
        ("train", "cyclegan", 16, 32, "train-cyclegan.json"),
        ("train", "srgan", 16, 32, "train-srgan.json"),
        ("frechet", "cdcgan", 100, 64, "frechet.json"),
    ],
)
def test_models_and_sizes_have_files_of_their_own(what, model, width, size, file):
    args = Namespace(what=what, model=model, hidden_dim=width, image_size=size)
    assert benchmark.file_name(args) == file


def test_the_conditional_loop_is_row_7s_and_its_step_runs(data_dir):
    nets = bench_conditional.PlainG(64), bench_conditional.PlainD(64)
    assert [count_parameters(net) for net in nets] == [6_042_767, 2_870_081]
    next(bench_conditional.plain_conditional_loop(str(data_dir), hidden_dim=1, device=CPU))


def test_operations_of_the_conditional_step_are_those_of_the_trainers_own():
    argv = ["--model", "cdcgan", *bench_conditional.conditional_flags(2)[2:]]
    trainer = CDCGAN(parse(argv, {"dcgan": DCGANConfig, "cdcgan": CDCGANConfig}, ""), CPU)
    batch = Batch(torch.rand(4, 3, 64, 64), torch.zeros(4, 24))
    counted = bench_limits.count_flops(lambda: trainer.train_step(batch))
    needed = bench_conditional.conditional_step_flops(2, batch_size=4)
    paint = 2 * 4 * 24 * 64**2  # y on one more channel, of 4 images
    assert needed - counted == 5 * paint  # ours: 2 times and 1 gradient; there 6 and 2

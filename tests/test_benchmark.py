"""The benchmark on made times and tiny work: ratios, counted operations, each contest."""

import json
import shlex
import subprocess
import sys
from argparse import Namespace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_cli import ROOT, random_weights  # noqa: F401

import fid
from dataset import Batch
from main import build_dcgan
from scripts import benchmark
from scripts._benchmark import contests, plain, timing
from scripts._benchmark.timing import Contest, Rival
from sources.image_folder import image_batches, image_paths
from systems.dcgan import DCGANConfig
from trainer import GANTrainer

CPU = torch.device("cpu")


def idle(name: str, **settings) -> Rival:
    return Rival(name, lambda: None, **settings)


def test_rivals_take_turns_after_a_warm_up_and_the_device_is_waited_for_around_each():
    calls = []
    rivals = [Rival(name, lambda name=name: calls.append(name)) for name in "AB"]
    seconds = timing.interleave(Contest("c", "step", rivals), 2, lambda: calls.append("."))
    assert "".join(calls) == "AB" + ".A..B." * 2
    assert {name: len(timings) for name, timings in seconds.items()} == {"A": 2, "B": 2}


def test_ratios_and_shares_are_of_the_same_round_and_for_each_item():
    peak = "matrix product, fp32"
    rivals = [
        idle("ours", items=10, flops=100.0, precision="fp32"),
        idle("peer", items=5),
        idle(peak, items=0, flops=400.0),
    ]
    seconds = {"ours": [1.0, 2.0, 4.0], "peer": [1.0, 3.0, 4.0], peak: [2.0, 4.0, 32.0]}
    contest = Contest("c", "step", rivals)
    report = timing.report(contest, seconds)
    spread = {"median": 2.0, "min": 2.0, "max": pytest.approx(3)}  # 2x, 3x and 2x an item
    assert report["ratios"] == [{"ours": "ours", "peer": "peer"} | spread]
    ours, peer, product = report["rows"]
    assert ours["seconds_an_item"] == {"median": 0.2, "min": 0.1, "max": 0.4}
    assert ours["flops_an_item"] == 10
    assert ours["share_of_limit"] == {"median": 0.5, "min": 0.5, "max": 2.0}
    assert product["flops_a_second"]["median"] == 100
    assert "share_of_limit" not in product
    assert "flops_a_second" not in peer
    line = timing.table([report]).splitlines()[2]
    assert line.split()[:4] == ["|", "c", "|", "ours"]
    assert "200.00 (100.00 to 400.00)" in line
    assert "50% (50% to 200%)" in line
    contest.pairs = [("peer", "ours")]
    assert timing.ratios(contest, seconds)[0]["median"] == 0.5


def dcgan_step(z: int, h: int) -> float:
    """Two a multiply-add of 4x4 kernels, an image; a layer costs the same forward, for its weights'
    gradient and for its input's. Of D's first layer and G's first no input is asked."""
    first, middle, logit = 16**2 * h * 16, 8**2 * 2 * h * h * 16, 4 * h * 16
    assert middle == 4**2 * 4 * h * 2 * h * 16
    D, G = first + 2 * middle + logit, z * 4 * h * 16 + 2 * middle + first
    on_a_batch = 3 * D - first  # forward, weights, inputs
    for_G = 2 * D + (3 * G - z * 4 * h * 16)  # D forward and inputs; G forward, weights, inputs
    return 2 * (2 * on_a_batch + for_G)


def dcgan(z: int, h: int, side: int = 32) -> GANTrainer:
    widths = {"generator_hidden_dim": h, "discriminator_hidden_dim": h}
    return build_dcgan(DCGANConfig(latent_dim=z, image_size=side, **widths), CPU)


@pytest.mark.parametrize(("z", "h"), [(16, 16), (16, 100)])
def test_our_own_step_does_just_what_is_needed_in_closed_form(z, h):
    batch = Batch(torch.rand(8, 1, 32, 32), torch.zeros(8))
    trainer = dcgan(z, h)
    object.__setattr__(trainer.config, "batch_size", 8)
    assert timing.count_flops(lambda: trainer.train_step(batch)) == 8 * dcgan_step(z, h)


@pytest.mark.parametrize(("z", "h", "n", "side"), [(16, 16, 64, 32), (7, 5, 2, 32), (10, 8, 3, 64)])
def test_a_pass_through_both_networks_is_the_plain_ones(z, h, n, side):
    ours = dcgan(z, h, side)
    G, D = plain.dcgan_networks(ours.config)
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


def test_operations_of_inception_and_of_a_matrix_product(monkeypatch):
    assert timing.inception_flops() / 1e9 == pytest.approx(11.42, abs=0.01)
    monkeypatch.setattr(timing, "seconds_of", lambda work, device: 0.1)
    monkeypatch.setitem(timing.PEAK_SIZES, "cpu", 8)
    (peak,) = timing.products([idle("a", precision="fp32"), idle("b", precision="fp32")], CPU)
    assert (peak.name, peak.items) == ("matrix product, fp32", 0)
    assert timing.count_flops(peak.work) == peak.flops == 5 * 2 * 8**3


# The contests

TINY = "--dataset fashion --latent_dim 4 --generator_hidden_dim 4 --discriminator_hidden_dim 4"


@pytest.fixture
def bench(monkeypatch, tmp_path, data_dir, capsys):
    """bench("busy", ...) -> the report as written; tiny products, as many threads after."""
    monkeypatch.setitem(timing.PEAK_SIZES, "cpu", 32)
    threads = torch.get_num_threads()
    tools = {"ours": """-c "print('FID:  12.5')" """, "pytorch-fid": "-c 'no python'"}
    monkeypatch.setattr(contests, "TOOLS", tools)
    tiny = partial(contests.training, name="train", flags=TINY)
    monkeypatch.setitem(contests.CONTESTS, "train", tiny)

    def run(what: str, *argv: object, status: int = 0) -> dict | str:
        argv = ["--only", what, "--rounds", "2", "--device", "cpu", *map(str, argv)]
        argv += ["--results", str(tmp_path / "results"), "--data_dir", str(data_dir)]
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *argv])
        assert benchmark.main() == status
        assert torch.get_num_threads() == threads
        printed = capsys.readouterr()
        if status:
            return printed.err
        report = json.loads((tmp_path / "results" / f"{what}.json").read_text())
        assert report["command"].endswith(f"python scripts/benchmark.py {shlex.join(argv)}")
        assert all(report[key] for key in ("device", "cpu", "threads", "torch", "date", "rounds"))
        for row in report["rows"]:
            assert f"| {row['name']} " in printed.out
            assert len(row["timings"]) == 2
        for peer, why in report["left_out"].items():
            assert f"left out: {peer}: {why}" in printed.out
        return report

    return run


def names(report: dict) -> list[str]:
    return [row["name"] for row in report["rows"]]


def test_train(bench):
    report = bench("train", "--steps", 1, "--ours=", "--ours=--ema 0.9")
    assert names(report) == ["ours", "ours --ema 0.9", "plain loop", "matrix product, fp32"]
    pairs = [("ours", "plain loop"), ("ours --ema 0.9", "plain loop")]
    assert [(r["ours"], r["peer"]) for r in report["ratios"]] == pairs
    assert report["rows"][0]["flops_an_item"] == 64 * dcgan_step(4, 4)
    assert report["rows"][2]["share_of_limit"]["median"] > 0


def test_a_busy_machine(data_dir, tmp_path):
    args = Namespace(device="cpu", data_dir=str(data_dir), steps=1)
    contest = contests.busy(args, tmp_path, TINY)
    contest.warm_up = False
    found = timing.ratios(contest, timing.interleave(contest, 1))
    torch.set_num_threads(1)
    beside = ("alone", "beside one busy process", "beside two")
    pairs = [(f"2 threads, {words}", f"1 thread, {words}") for words in beside]
    assert [(r["ours"], r["peer"]) for r in found] == pairs
    with contests.busy_processes(2):
        assert len(children()) == 2
    assert children() == []


def children() -> list[str]:
    listing = ["ps", "-o", "pid=,args=", "--ppid", str(subprocess.os.getpid())]
    lines = subprocess.run(listing, capture_output=True, text=True, check=False).stdout
    return [line for line in lines.splitlines() if "while True" in line]


def test_inception(bench, random_weights):  # noqa: F811
    report = bench("inception", "--images", 2, "--inception_weights", random_weights)
    assert names(report)[0] == "ours"
    assert report["rows"][0]["flops_an_item"] == timing.inception_flops()
    if "pytorch-fid" in report["left_out"]:
        assert "pip install -r requirements-bench.txt" in report["left_out"]["pytorch-fid"]
    else:
        assert report["values"]["largest difference of a feature, pytorch-fid"] < 1e-3


def test_frechet(bench):
    report = bench("frechet", "--dims", 20)
    assert report["rows"][0]["flops_an_item"] == pytest.approx((1 / 3 + 1 + 4 / 3) * 20**3)
    ours, *others = report["values"].values()
    assert others == pytest.approx([ours] * len(others), rel=1e-9)
    assert ("torchmetrics" in report["left_out"]) is (len(others) == 1)


def test_the_command(bench, random_weights, monkeypatch):  # noqa: F811
    argv = ["--files", 4, "--inception_weights", random_weights]
    monkeypatch.setattr(contests, "find_spec", lambda name: None)
    report = bench("fid", *argv)
    assert names(report)[0] == "ours"
    assert report["values"] == {"FID, ours": 12.5}
    assert report["rows"][0]["flops_an_item"] == 4 * timing.inception_flops()
    assert "not installed" in report["left_out"]["pytorch-fid"]
    monkeypatch.setattr(contests, "find_spec", lambda name: "there")
    assert "failed with status 1: SyntaxError" in bench("fid", *argv, status=1)


def test_our_command_is_one_that_fid_takes(monkeypatch):
    seen = []
    monkeypatch.setattr(fid, "score", seen.append)
    for name in ("ours", "ours, bf16"):
        script, *argv = contests.TOOLS[name].format(weights="w.pth").split()
        assert (ROOT / script).is_file()
        assert fid.main([*argv, "A", "B", "--device", "cpu"]) == 0
        assert seen[-1].fid_precision == ("bf16" if "bf16" in name else "fp32")
        assert str(seen[-1].inception_weights) == "w.pth"


def test_made_images_are_what_both_tools_read(tmp_path):
    (batch,) = image_batches(image_paths(contests.make_images(tmp_path / "A", 3)), 50)
    assert (batch.shape, batch.dtype) == ((3, 3, 32, 32), torch.uint8)
    assert batch.float().std() > 1


def test_other_work_and_bad_flags_are_refused(bench, capsys):
    assert "changes the work, by batch_size" in bench("train", "--ours=--batch_size 8", status=1)
    assert "--penalty gp" in bench("train", "--ours=--penalty gp", status=1)
    assert "--files 3: wanted at least 4" in bench("fid", "--files", 3, status=1)
    with pytest.raises(SystemExit):
        bench("rank")
    assert "rank" in capsys.readouterr().err

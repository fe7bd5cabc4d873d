"""The benchmark on made times and tiny work: ratios, counted operations, each contest."""

import re
import subprocess
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


def test_rivals_take_turns_after_a_warm_up_and_the_device_is_waited_for_around_each(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("."))
    rivals = [Rival(name, lambda name=name: calls.append(name)) for name in "AB"]
    seconds = timing.interleave(Contest("c", rivals), 2, device=torch.device("cuda"))
    assert "".join(calls) == "AB" + ".A..B." * 2
    assert {name: len(timings) for name, timings in seconds.items()} == {"A": 2, "B": 2}


@pytest.mark.parametrize(("budget", "rounds"), [(0, 5), (49, 5), (59, 5), (79, 7), (1e9, 50)])
def test_rounds_go_on_while_another_fits_the_budget(monkeypatch, budget, rounds):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    work = lambda: now.__setitem__(0, now[0] + 5)  # noqa: E731
    contest = Contest("c", [Rival("A", work), Rival("B", work)])
    assert timing.interleave(contest, 5, budget) == dict.fromkeys("AB", [5.0] * rounds)


def test_ratios_and_shares_are_of_the_same_round_and_for_each_item():
    peak = "matrix product, fp32"
    rivals = [
        Rival("ours", bool, items=10, flops=1e11, precision="fp32"),
        Rival("peer", bool, items=5),
        Rival(peak, bool, items=0, flops=4e11),
    ]
    seconds = {"ours": [1.0, 2.0, 4.0], "peer": [1.0, 3.0, 4.0], peak: [2.0, 4.0, 32.0]}
    contest = Contest("c", rivals)
    ours, peer, product = timing.lines(contest, seconds)
    rate, share = "50.0 (25.0 to 100.0)", "50% (50% to 200%)"
    assert ours == ["c", "ours", "3", "200.00 (100.00 to 400.00)", rate, share, ""]
    assert peer[4:] == ["", "", "ours 2.00x (2.00x to 3.00x)"]
    assert product[3:] == ["", "100.0 (12.5 to 200.0)", "", ""]
    contest.pairs = [("peer", "ours")]
    assert timing.lines(contest, seconds)[0][-1] == "peer 0.50x (0.33x to 0.50x)"


def dcgan_step(z: int, h: int) -> float:
    """Two operations a multiply-add of 4x4 kernels, an image; a layer costs three times the same.

    Forward, and for the gradients of its weights and input; D's and G's first need no input's.
    """
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
    (peak,) = timing.products([Rival(name, bool, precision="fp32") for name in "ab"], CPU)
    assert (peak.name, peak.items) == ("matrix product, fp32", 0)
    assert timing.count_flops(peak.work) == peak.flops == 5 * 2 * 8**3


# The contests

TINY = "--dataset fashion --latent_dim 4 --generator_hidden_dim 4 --discriminator_hidden_dim 4"


@pytest.fixture
def bench(monkeypatch, data_dir, capsys):
    """bench("busy", ...) -> what is printed; tiny work, as many threads after."""
    monkeypatch.setitem(timing.PEAK_SIZES, "cpu", 32)
    monkeypatch.setattr(contests, "pace", lambda *_: 1)
    monkeypatch.setattr(contests, "IMAGES", 2)
    tools = {"ours": """-c "print('FID:  12.5')" """, "pytorch-fid": "-c 'no python'"}
    monkeypatch.setattr(contests, "TOOLS", tools)
    for name, contest in (("train", contests.training), ("busy", contests.busy)):
        tiny = {"flags": TINY} | ({"name": name} if name == "train" else {})
        monkeypatch.setitem(contests.CONTESTS, name, partial(contest, **tiny))
    threads = torch.get_num_threads()

    def run(what: str, *argv: object, status: int = 0) -> str:
        argv = ["--only", what, "--rounds", "2", "--seconds", "0", *map(str, argv)]
        assert benchmark.main([*argv, "--device", "cpu", "--data_dir", str(data_dir)]) == status
        assert torch.get_num_threads() == threads
        printed = capsys.readouterr()
        return printed.err if status else printed.out

    return run


def names(printed: str) -> list[str]:
    """Who is in the table at the end."""
    rows = [row.split(" | ") for row in printed.split("\n\n")[-1].splitlines()[2:]]
    assert all(row[2].strip() == "2" for row in rows)
    return [row[1].strip() for row in rows]


def test_train(bench):
    printed = bench("train", "--bf16")
    products = ["matrix product, bf16", "matrix product, fp32"]
    assert names(printed) == ["ours", "plain loop", "ours, bf16", *products]
    line = next(line for line in printed.splitlines() if "plain loop" in line)
    assert re.search(r"\| ours [\d.]+x \(.*\); ours, bf16 [\d.]+x", line)
    assert re.search("%.*%.*%", line)
    assert f"torch {torch.__version__}" in printed


def test_a_busy_machine(bench):
    printed = bench("busy")
    beside = ("alone", "beside one busy process", "beside two")
    pairs = [(f"1 thread, {words}", f"2 threads, {words}") for words in beside]
    assert names(printed) == [name for pair in pairs for name in pair]
    for one, two in pairs:
        assert re.search(rf"\| {one} .*\| {two} [\d.]+x", printed)
    with contests.busy_processes(2):
        assert len(children()) == 2
    assert children() == []


def children() -> list[str]:
    listing = ["ps", "-o", "pid=,args=", "--ppid", str(subprocess.os.getpid())]
    lines = subprocess.run(listing, capture_output=True, text=True, check=False).stdout
    return [line for line in lines.splitlines() if "while True" in line]


def test_inception(bench, random_weights):  # noqa: F811
    printed = bench("inception", "--inception_weights", random_weights)
    assert names(printed)[0] == "ours"
    left_out = "pytorch-fid, not installed: pip install -r requirements-bench.txt" in printed
    assert ("pytorch-fid" in names(printed)) is not left_out


def test_frechet(bench, data_dir, tmp_path):
    assert names(bench("frechet", "--dims", 20))[:2] == ["ours", "scipy.linalg.sqrtm"]
    contest = contests.frechet(Namespace(dims=20), tmp_path)
    assert contest.rivals[0].flops == pytest.approx((1 / 3 + 1 + 4 / 3) * 20**3)
    ours, *others = [float(rival.work()) for rival in contest.rivals]
    assert others == pytest.approx([ours] * len(others), rel=1e-9)


def test_the_command(bench, random_weights, monkeypatch):  # noqa: F811
    argv = ["--files", 4, "--inception_weights", random_weights]
    monkeypatch.setattr(contests, "find_spec", lambda name: None)
    printed = bench("fid", *argv)
    assert names(printed) == ["ours", "matrix product, fp32"]
    assert "left out: pytorch-fid, not installed" in printed
    monkeypatch.setattr(contests, "find_spec", lambda name: "there")
    assert "failed with status 1: SyntaxError" in bench("fid", *argv, status=1)
    assert "--files 3: wanted at least 4" in bench("fid", "--files", 3, status=1)


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

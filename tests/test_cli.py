"""The commands as a user types them: the README's own, kills, signals, and every bad input."""

import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, TINY_OF, paint
from test_trainer import assert_same, curves

import main
from inception.network import trained_shapes
from lib import checkpoint
from lib.results import read_results
from sources import mnist

ROOT = Path(__file__).parent.parent
OFFLINE = {  # nothing answers: proxies that refuse, clients without an index
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "",
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "",
    "npm_config_registry": "http://127.0.0.1:9",
    "npm_config_fetch_retries": "0",
    "OMP_NUM_THREADS": "1",  # tiny work, and a busy machine makes threads wait for each other
}


def flags(**settings) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.fixture
def tiny(data_dir, tmp_path) -> list[str]:
    """Flags that make any main.py command quick and keep it in the test's folders."""
    return flags(**TINY, data_dir=data_dir, runs_dir=tmp_path / "runs")


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory) -> Path:
    """A file of Inception weights by He initialisation: the right shapes, no training."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.manual_seed(0)
    state = {}
    for name, shape in trained_shapes().items():
        fan_in = torch.Size(shape[1:]).numel()
        if name.endswith("conv.weight"):
            state[name] = torch.randn(shape) * (2 / fan_in) ** 0.5
        else:
            state[name] = (torch.ones if name.endswith(("weight", "var")) else torch.zeros)(shape)
    torch.save(state, path)
    return path


def python(*argv, limit: int = 300, before=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        env=os.environ | OFFLINE,
        capture_output=True,
        text=True,
        timeout=limit,
        preexec_fn=before,
        check=False,
    )


def one_sentence(done: subprocess.CompletedProcess) -> str:
    """The error of a command that failed politely."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def run_dir(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    commands = {line.split(" && ")[-1] for line in lines}
    assert {"python main.py --do_train", "python main.py"} <= commands
    return sorted(c for c in commands if c.startswith("python main.py"))


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of 70 pictures of one colour each."""
    return paint(tmp_path / "photos", 70, size=(70, 64))


@pytest.mark.parametrize("command", readme_commands())
def test_the_readmes_commands_run(command, tiny, pixel_means, photos, capsys):
    argv = [*shlex.split(command.replace("PHOTOS", str(photos)))[2:], *tiny]
    if "--folder" in argv:
        argv += ["--dataset", "folder"]  # over tiny's
    if "--model" in argv:
        model = argv[argv.index("--model") + 1]
        argv = [word for word in argv if word not in ("--dataset", TINY["dataset"])]
        argv += flags(**TINY_OF[model])
    if "--help" in argv:
        with pytest.raises(SystemExit) as stop:
            main.main(argv)
        assert stop.value.code == 0
    else:
        assert main.main([*argv, "--fid_protocol", "smoke"]) == 0


def test_train_then_score_end_to_end_with_the_real_network(tiny, random_weights, tmp_path):
    argv = ["main.py", *tiny, *flags(fid_protocol="smoke", inception_weights=random_weights)]
    trained = python(*argv, "--do_train")
    assert trained.returncode == 0, trained.stderr
    assert "6/6" in trained.stderr
    assert "tensorboard --logdir" in trained.stdout
    (result,) = read_results(run_dir(tmp_path))
    assert result["value"] > 0
    assert f"FID {result['value']:.2f} ± {result['error']:.2f}" in trained.stdout
    made = {p.name.split(".")[0] for p in run_dir(tmp_path).iterdir()}
    assert made == {"config", "checkpoints", "events", "results", "samples"}
    tags = {tag for tag, _, _ in curves(run_dir(tmp_path))}
    assert tags >= {"discriminator_loss", "generator_loss", "D(x)", "D(G(z1))", "D(G(z2))"}


STRUCK_AT_13 = """
import os, signal, sys, trainer, main
step = trainer.GANTrainer.train_step
def train_step(self, batch):
    if self.step == 13:
        os.kill(os.getpid(), int(sys.argv[1]))
    return step(self, batch)
trainer.GANTrainer.train_step = train_step
sys.exit(main.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_struck_and_run_again_it_ends_bit_identical(tiny, tmp_path, number, status):
    """13 is neither a save (8, 16) nor an epoch boundary (150 images / 4 = step 37.5)."""
    argv = [*tiny, "--do_train", "--no_score", *flags(num_training_steps=20, saving_steps=8)]
    struck = python("-c", STRUCK_AT_13, int(number), *argv, "--run", "struck")
    assert struck.returncode == status
    assert ("SIGTERM: saved step 14;" in struck.stdout) == (status > 0)
    for run in ("struck", "whole"):
        assert python("main.py", *argv, "--run", run).returncode == 0
    folders = [tmp_path / "runs" / run for run in ("struck", "whole")]
    a, b = (checkpoint.load_newest(f / "checkpoints", model="dcgan") for f in folders)
    assert a["step"] == 20
    assert_same(a["networks"], b["networks"])
    assert_same(a["optimizers"], b["optimizers"])
    found = [curves(folder) for folder in folders]
    assert found[0] == found[1]
    assert set(found[0].values()) == {1}


def test_a_run_by_name_keeps_its_settings(tiny, tmp_path, pixel_means, capsys, refusal):
    mine = [*tiny, "--fid_protocol", "smoke", "--run", "mine"]
    assert "no checkpoint in" in refusal(main.main, *mine)
    assert main.main([*mine, "--generator_hidden_dim", "8", "--do_train"]) == 0
    again = ["--runs_dir", str(tmp_path / "runs"), "--run", "mine", "--dry_run"]
    assert main.main(again) == 0
    assert "generator_hidden_dim=8" in capsys.readouterr().out.split("running on")[-2]
    told = refusal(main.main, *again, "--generator_hidden_dim", 4)
    assert "generator_hidden_dim is 8 there, 4 here" in told


def test_the_trained_runs_are_named_newest_first(tiny, data_dir, tmp_path, pixel_means, capsys):
    for name, time in (("a", 1), ("b", 3), ("c", 2)):
        assert main.main([*tiny, "--do_train", "--no_score", "--run", name, "--ema", "0.5"]) == 0
        (newest := tmp_path / "runs" / name / "checkpoints" / "0000006.pt").touch()
        os.utime(newest, (time, time))
    (tmp_path / "runs" / "d").mkdir()
    capsys.readouterr()
    assert main.main([*tiny, "--fid_protocol", "smoke"]) == 0
    told = capsys.readouterr().out.splitlines()
    at = told.index("to score a trained run, newest first:")
    commands = [shlex.split(line) for line in told[at + 1 : at + 4]]
    assert [argv[3] for argv in commands] == ["b", "c", "a"]
    assert main.main([*commands[0][2:], "--fid_protocol", "smoke"]) == 0
    assert "at step 6" in capsys.readouterr().out


def test_a_training_that_cannot_go_on_is_one_sentence(tiny, tmp_path, refusal):
    mine = [*tiny, "--do_train", "--no_score", "--run", "mine"]
    told = refusal(main.main, *mine, "--learning_rate", 1e30, before=r"\d/6 step")
    assert re.search(r"error: training broke down: .* is nan.* at step \d", told)
    shutil.rmtree(tmp_path / "runs")
    assert main.main(mine) == 0
    told = refusal(main.main, *mine, "--generator_hidden_dim", 8)
    assert "generator_hidden_dim is 4 there, 8 here" in told
    for path in (tmp_path / "runs" / "mine" / "checkpoints").iterdir():
        torch.save(torch.zeros(3), path)
    told = refusal(main.main, *mine)
    assert re.search("none of the . files .* is a whole checkpoint", told)


def test_no_network_and_no_weights(tiny, tmp_path):
    """In a copy of the code, since the repository's own inception/ may hold them."""
    copy = tmp_path / "copy"
    names = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "*.py"], capture_output=True, text=True, check=True
    ).stdout.split()
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    argv = [copy / "main.py", *tiny, "--fid_protocol", "smoke", "--do_train"]
    assert python(*argv, "--dry_run").stderr == ""  # nothing is asked for
    error = one_sentence(python(*argv))
    assert "Inception weights" in error
    assert "pt_inception-2015-12-05-6726825d.pth" in error  # the file to put there
    assert "--no_score" in error
    assert not (tmp_path / "runs").exists()  # no step is taken
    assert python(*argv, "--no_score").returncode == 0


def test_files_that_cannot_be_used_are_named(tiny, random_weights, tmp_path, refusal):
    (torn := tmp_path / "torn.pth").write_bytes(random_weights.read_bytes()[: 10**6])
    argv = [*tiny, *flags(fid_protocol="smoke", inception_weights=torn)]
    assert "torn.pth" in refusal(main.main, *argv)
    for name in ("data_dir", "runs_dir"):
        told = refusal(main.main, *tiny, *flags(**{name: torn}), "--dry_run")
        assert f"--{name} {torn} is a file: wanted a folder." in told


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dataset": "folder", "folder": "photos", "fid_protocol": "10k"}, "no test images"),
        ({"dataset": "emoji", "emoji_style": "Apple"}, "Test_Apple is not there"),
        (
            {"fid_protocol": "10k"},
            r"error: found no whole t10k-images.* the published files into \S*/data\b.*--no_score",
        ),
    ],
)
def test_images_that_the_score_would_lack_are_missed_before_the_training(
    tiny, settings, words, data_dir, tmp_path, monkeypatch, pixel_means, refusal
):
    paint(tmp_path / "photos", 3)
    paint(tmp_path / "data" / "emoji" / "Apple", 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mnist, "remote", lambda *_: {"a mirror": mnist.refuse})
    without_test = shutil.ignore_patterns("t10k-*")
    shutil.copytree(data_dir / "FashionMNIST", "data/FashionMNIST", ignore=without_test)
    argv = [*tiny, *flags(**settings, data_dir=tmp_path / "data"), "--do_train"]
    assert re.search(words, refusal(main.main, *argv, before="no whole t10k-images"))
    assert not (tmp_path / "runs").exists()
    assert main.main([*argv, "--no_score"]) == 0


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (2_000, "has no room for what this run writes"),  # for the curves either
        (20_000, r"checkpoints/\d{7}\.pt .* can't be written|has no room for what this run writes"),
    ],
)
def test_a_disk_that_fills_while_saving(tiny, tmp_path, room, words):
    """A file-size limit stands for the disk."""

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    error = one_sentence(python("main.py", *tiny, "--do_train", "--no_score", before=fill))
    assert re.search(words, error)
    assert not list((tmp_path / "runs").rglob("*.part"))


SLOW_TO_IMPORT = """
import sys
import main
status = main.main(sys.argv[1:])
slow = {"matplotlib", "torch._dynamo", "torchvision", "sklearn", "lpips"}
slow |= {"scipy", "tensorboard"}
print("imported:", sorted(slow & set(sys.modules)))
"""


@pytest.mark.parametrize("model", ["dcgan", "vae", "cyclegan"])
def test_a_dry_run_writes_nothing_and_imports_nothing_slow(model, tiny, data_dir, tmp_path):
    folders = flags(data_dir=data_dir, runs_dir=tmp_path / "runs", num_training_steps=6)
    argv = [*(tiny if model == "dcgan" else folders), "--model", model, "--do_train", "--dry_run"]
    done = python("-c", SLOW_TO_IMPORT, *argv)
    assert "would score by FID" in done.stdout, done.stderr
    for part in (r"parameters  .* [\d,]+\n", "would train steps 0 to 6", "checkpoints/"):
        assert re.search(part, done.stdout), part
    assert not (tmp_path / "runs").exists()
    assert "imported: []" in done.stdout


def test_too_little_memory_is_one_sentence(tiny, refusal):
    widest = flags(latent_dim=10**6, generator_hidden_dim=10**6)
    told = refusal(main.main, *tiny, *widest, "--dry_run")
    assert re.search("error: the memory .* too small for these settings", told)

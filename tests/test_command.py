"""Every command: flags in bounds, errors as one sentence, and a status that says which kind."""

import argparse
import errno
import importlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lib.command import OUT_OF_MEMORY, command, flag
from lib.errors import UserError, need
from lib.files import save_tensors

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("scripts/[a-z]*.py"))


def raising(error: BaseException):
    @command()
    def main(args: argparse.Namespace) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (UserError("no such run."), 1, "error: no such run.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(errno.EACCES, "Permission denied", "a.png"), 1,
         "error: a.png can't be used: Permission denied.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 1,
         "error: a.png has no room for what this run writes"),
        (OSError("broken data stream"), 1, "error: a file can't be used: broken data stream.\n"),
        (MemoryError(), 1, f"error: {OUT_OF_MEMORY}\n"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, f"error: {OUT_OF_MEMORY}\n"),
    ],
)  # fmt: skip
def test_what_the_user_can_mend_is_one_sentence(error, status, told, capsys):
    assert raising(error)([]) == status
    error = capsys.readouterr().err
    assert error.startswith(told)
    assert error.count("\n") == 1


@pytest.mark.parametrize("bug", [RuntimeError("shapes differ"), TypeError("a bug"), KeyError(1)])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(type(bug)):
        raising(bug)([])


@command(
    flag("run_dir", help="a folder"),
    flag("--n", type=int, default=5, bounds=(2, 100), help="images"),
    flag("--share", type=float, bounds=(0, 1), help="of them"),
    flag("--fast", action="store_true", help="be quick"),
    flag("--out", default="x", help="a folder"),
)
def example(args: argparse.Namespace) -> None:
    """Not the module's own docstring, which --help shows."""
    print(args)


def test_numbers_have_bounds_that_are_told_and_help_has_defaults(capsys):
    assert example(["r"]) == example(["r", "--n", "100", "--share", "1"]) == 0
    assert "n=100, share=1.0" in capsys.readouterr().out
    assert example(["r", "--out", ""]) == example(["r", "--out="]) == 1
    assert capsys.readouterr().err.count("--out is empty") == 2
    with pytest.raises(SystemExit):
        example(["--help"])
    told = capsys.readouterr().out
    assert "Every command: flags in bounds" in told  # the docstring
    assert "images (default: 5)" in told
    assert "be quick\n" in told
    cases = {
        "--n 1: wanted at least 2.": ["--n", "1"],
        "--n 1000000000: wanted at most 100.": ["--n", "1000000000"],
        "9: wanted at most 100.": ["--n", "9" * 401],
        "--share nan: wanted at least 0.": ["--share", "nan"],
        "--share inf: wanted at most 1.": ["--share", "inf"],
    }
    for told, flags in cases.items():
        assert example(["r", *flags]) == 1
        assert told in capsys.readouterr().err
    for told, flags in {"did you mean --fast?": ["--fasd"], "invalid int value": ["--n=x"]}.items():
        with pytest.raises(SystemExit) as stopped:
            example(["r", *flags])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"scripts.{name}").main(["--help"])
    assert stopped.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_a_terminal_that_lacks_a_character_gets_it_escaped(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", terminal)

    @command()
    def main(args: argparse.Namespace) -> None:
        print("3 \xb1 1, caf\udce9", flush=True)

    assert main([]) == 0
    assert terminal.buffer.getvalue() == b"3 \\xb1 1, caf\\udce9\n"


def test_a_reader_that_leaves_ends_a_command_in_silence(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom lib.command import command\n"
        "@command()\ndef main(args):\n    for i in range(100_000): print(i)\n"
        "sys.exit(main())\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        f"{sys.executable} {program} | head -n 1",
        shell=True,
        capture_output=True,
        env=env,
    )
    assert (done.stdout, done.stderr) == (b"0\n", b"")
    no_streams = f"{sys.executable} {program} >&- 2>&-"  # a service's
    assert subprocess.run(no_streams, shell=True, env=env).returncode == 0


def test_an_optional_package_is_named_with_its_pip_command(monkeypatch):
    assert need("torch", "this test") is torch
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"^t-SNE needs the package scikit-learn, which is not"):
        need("scikit-learn", "t-SNE")
    monkeypatch.setattr(importlib, "import_module", lambda name: int("nonsense"))
    with pytest.raises(UserError, match=r"needs matplotlib, which can't be imported: .*base"):
        need("matplotlib", "a plot")


def start(script: Path, stubs: Path, **modules: str) -> subprocess.CompletedProcess:
    """Run a script where some modules have another content."""
    for name, text in modules.items():
        (stubs / f"{name}.py").write_text(text)
    env = os.environ | {"PYTHONPATH": str(stubs)}
    return subprocess.run([sys.executable, script, "x"], env=env, capture_output=True, text=True)


def test_an_optional_package_that_is_missing_is_named_with_the_command(tmp_path):
    missing = "raise ModuleNotFoundError(name='matplotlib')"
    done = start(ROOT / "scripts/report.py", tmp_path, matplotlib=missing)
    assert done.returncode == 1
    assert "pip install matplotlib" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "script", ["main.py", "fid.py", *(f"scripts/{name}.py" for name in SCRIPTS)]
)
def test_ctrl_c_while_torch_is_imported_is_one_word(script, tmp_path):
    done = start(ROOT / script, tmp_path, torch="raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "interrupted\n")


def test_a_file_is_whole_and_named_in_an_error(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / ".a.pt.part")
    save_tensors([1], tmp_path / "a.pt")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match=r"full: .*a\.pt"):
        save_tensors([2], tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt") == [1]

"""The house: imports run one way, and a start pays for nothing that it does not use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("inception", "lib", "metrics", "scripts", "sources", "systems", "training")
FIVE = ("main", "GAN", "trainer", "dataset", "fid")


def test_imports_run_one_way(tmp_path):
    """import-linter takes packages alone, so a copy of the tree makes packages of the five."""
    pytest.importorskip("importlinter")
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("*.npz"))
    for folder in (tmp_path / room for room in ROOMS):
        for path in (folder, *filter(Path.is_dir, folder.rglob("*"))):
            (path / "__init__.py").touch()
    for name in FIVE:
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / f"{name}.py", tmp_path / name / "__init__.py")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", ROOT / "pyproject.toml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_main_job_reads_few_of_our_files():
    code = "import sys, main; main.parse(['--do_train'], main.SYSTEMS, ''); print(*sys.modules)"
    started = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    own = [name for name in started if name.split(".")[0] in (*ROOMS, *FIVE)]
    assert len(own) <= 45, sorted(own)


def test_few_files_know_of_several_processes():
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    files += [ROOT / f"{name}.py" for name in FIVE]
    found = [p.name for p in files if "distributed import" in p.read_text(encoding="utf-8")]
    found += [p.name for p in files if "import distributed" in p.read_text(encoding="utf-8")]
    assert len(set(found)) <= 8, sorted(set(found))

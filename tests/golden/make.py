"""Train the runs of tests/golden again, by the code as it is: only if it is meant to end elsewhere.

From the root: PYTHONPATH=.:tests python tests/golden/make.py [--keep] [NAME ...]
--keep leaves the old checkpoints: what more steps make of them is written again, as after a change
of the convolutions' rounding.
"""

import io
import lzma
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from conftest import make_data
from test_golden import GOLDEN, MORE, SAVED, checkpoint, generate, machine, outcome, train, unpack

FASHION = "--dataset fashion --batch_size 8"  # at 32 pixels they are padded, not resized
NARROW = "--generator_hidden_dim 2 --discriminator_hidden_dim 2"
DCGAN = f"{FASHION} --latent_dim 5 --init scaled --learning_rate 1e-3 {NARROW}"
RUNS = {
    "dcgan": DCGAN,
    "dcgan-ema": f"{DCGAN} --ema 0.9",
    "dcgan-r1": f"{DCGAN} --penalty r1 --d_norm none",
    "dcgan-diffaug": f"{DCGAN} --augment diffaug",
    "cdcgan": "--model cdcgan --image_size 16 --condition projection --batch_size 8"
    " --latent_dim 4 --embedding_dim 3 --generator_hidden_dim 4 --discriminator_hidden_dim 4"
    " --ema 0.9",
    "cyclegan": f"--model cyclegan --batch_size 4 --learning_rate 5e-5 --pool_size 1 {NARROW}",
    "biggan": f"--model biggan {FASHION} --latent_dim 4 --embedding_dim 3 --ema 0.9"
    " --generator_hidden_dim 1 --discriminator_hidden_dim 1",
    "vae": f"--model vae {FASHION} --arch conv --latent_dim 2 --hidden_dim 4 --width 2 --ema 0.9",
    "srgan": f"--model srgan {FASHION} --image_size 32 --arch residual --residual_blocks 2"
    " --generator_hidden_dim 2 --discriminator_hidden_dim 1 --ema 0.9",
}


def write_xz(path: Path, data: bytes) -> None:
    path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(data, preset=9))


def make(name: str, folders: list[str], runs_dir: Path) -> None:
    """Write the run's config.json and its checkpoint."""
    assert train(name, folders, SAVED, *RUNS[name].split()) == 0
    saved = checkpoint(runs_dir, name, SAVED)
    shutil.rmtree(GOLDEN / name, ignore_errors=True)
    (GOLDEN / name).mkdir()
    shutil.copy(runs_dir / name / "config.json", GOLDEN / name)
    write_xz(GOLDEN / name / saved.name, saved.read_bytes())


def expect(name: str, folders: list[str], runs_dir: Path) -> None:
    """Write what more steps make of the checkpoint."""
    images = generate(name, folders)
    assert train(name, folders, SAVED + MORE) == 0
    last, file = checkpoint(runs_dir, name, SAVED + MORE), io.BytesIO()
    torch.save(outcome(last) | {"images": images, "machine": machine()}, file)
    write_xz(GOLDEN / name / "expected.pt", file.getvalue())


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.chdir(tempfile.mkdtemp())  # so that no file names a folder of this machine
    make_data(Path("data"))
    keep = "--keep" in sys.argv
    for name in [word for word in sys.argv[1:] if word != "--keep"] or RUNS:
        how = (name, ["--runs_dir", "runs", "--data_dir", "data"], Path("runs"))
        unpack(name, Path("runs")) if keep else make(*how)
        expect(*how)

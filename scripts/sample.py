"""Write images that a trained run generates, one PNG each.

    python scripts/sample.py runs/NAME --n 64 --out DIR --grid       or --grid 6: 6 x 6 of them
    python scripts/sample.py runs/NAME --out DIR --classes 3,7                    of biggan
    python scripts/sample.py runs/NAME --out DIR --prompt "red cube; blue sphere" of cdcgan

DIR/0000.png and so on, and DIR/grid.png. With several classes or prompts image i is of the i-th in
turn: a column of the grid each, and the images of a row share their noise.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import _root  # noqa: F401
import torch
from torch import Tensor
from torchvision.utils import make_grid

from dataset import to_bytes
from lib.command import command, flag
from lib.errors import UserError
from lib.guards import Bar
from lib.seeding import generator
from scripts._embeddings.paths import class_index
from scripts._pictures import DEVICE, save
from scripts._saved_run import open_run
from sources.iclevr import parse_prompt
from trainer import Trainer
from training.ema import Inputs

AT_ONCE = 100  # images in a forward pass
OTHERS = {"cyclegan": "translate.py", "srgan": "upscale.py"}  # they make images of images


@command(
    flag("run_dir", help="folder of a run, such as runs/NAME"),
    flag("--n", type=int, default=64, bounds=(1, 1_000_000), help="images"),
    flag("--out", required=True, help="folder for them"),
    flag("--grid", type=int, nargs="?", const=8, bounds=(1, 64), help="DIR/grid.png too, 8 x 8"),
    flag("--classes", default="", help='of biggan, by number or name: "3,7" (default: all)'),
    flag("--prompt", default="", help='of cdcgan: "red cube, blue sphere"; a semicolon separates'),
    flag("--seed", type=int, default=0, bounds=(0, 2**63 - 1), help="of the noise"),
    flag("--data_dir", default="data", help="folder of datasets"),
    DEVICE,
)
def main(args: argparse.Namespace) -> None:
    out, width = Path(os.path.expanduser(args.out)), max(4, len(str(args.n - 1)))
    names = [f"{i:0{width}d}.png" for i in range(args.n)]
    check_folder(out, set(names))
    trainer = open_run(args.run_dir, device=args.device, data_dir=args.data_dir)
    y = requested(trainer, args)
    inputs = trainer.sampling_inputs(args.n, args.seed) if y is None else paired(trainer, args, y)
    draw, step = sampler(trainer)
    made = (image for batch in inputs for image in to_bytes(draw(*batch)).cpu())
    shown = []
    out.mkdir(parents=True, exist_ok=True)
    for name, image in zip(Bar(names, unit="image"), made, strict=True):
        save(image, out / name)
        if len(shown) < (args.grid or 0) ** 2:
            shown.append(image)
    print(f"{args.n:,} images of step {step}, in {out}/")
    if args.grid:
        columns = args.grid if y is None or len(y) == 1 else len(y)
        save(make_grid(torch.stack(shown), nrow=columns, padding=2), out / "grid.png")
        print(out / "grid.png")


def check_folder(out: Path, names: set[str]) -> None:
    """Raises UserError if the folder holds more numbered images, which would mix with these."""
    if (out.exists() and not out.is_dir()) or (out / "config.json").exists():
        raise UserError(f"--out {out} is a file or a run: name another folder.")
    others = sorted(p.name for p in out.glob("*.png") if p.stem.isdigit() and p.name not in names)
    if others:
        raise UserError(
            f"--out {out} holds images of another number ({others[0]}): name another folder."
        )


def requested(trainer: Trainer, args: argparse.Namespace) -> Tensor | None:
    """A row for each class or prompt asked for, as G takes it; None if none is."""
    model = trainer.config.model
    for name, owner in (("classes", "biggan"), ("prompt", "cdcgan")):
        if getattr(args, name) and model != owner:
            raise UserError(f"--{name} is of --model {owner}, and this run is of {model}.")
    if model in OTHERS:
        raise UserError(f"{model} makes images of images: python scripts/{OTHERS[model]}")
    if args.prompt:
        return parse_prompt(args.prompt).float()
    if args.classes:
        words = [word.strip() for word in args.classes.split(",") if word.strip()]
        if not words:
            raise UserError('--classes names no class: wanted numbers or names, as in "3,7".')
        return torch.tensor([class_of(word, trainer.class_names) for word in words])
    return None


def class_of(word: str, names: list[str]) -> int:
    """The class of that name, or else of that number."""
    if word not in names and word.isascii() and word.isdigit() and int(word) < len(names):
        return int(word)
    return class_index(word, names)


def paired(trainer: Trainer, args: argparse.Namespace, y: Tensor) -> Iterator[Inputs]:
    """Batches of n (z, y): the rows of y in turn, all of them with one z before the next."""
    rows, config = -(-args.n // len(y)), trainer.config
    if hasattr(trainer, "draw_z"):
        z = trainer.draw_z(rows, args.seed, truncation=config.truncation)
    else:
        stream = generator("cpu", "sample", args.seed)
        z = torch.randn(rows, config.latent_dim, 1, 1, generator=stream)
    for i in torch.arange(args.n).split(AT_ONCE):
        yield z[i // len(y)], y[i % len(y)]


def sampler(trainer: Trainer) -> tuple[Callable[..., Tensor], int]:
    """`trainer.sample` and its step; of cdcgan by the weights that validated best, if any did."""
    best = trainer.networks.get("best")
    if best is None or not best.exists:
        return trainer.sample, trainer.step
    return partial(trainer.sample, G=best.network), int(best.step)


if __name__ == "__main__":
    sys.exit(main())

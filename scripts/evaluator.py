"""Train the classifier that judges i-CLEVR pictures, and measure it. docs/evaluator.md.

    python scripts/evaluator.py train      data/iclevr/evaluator.pth; after a stop, it goes on
    python scripts/evaluator.py score      measure a file, also the course's, on held-out pictures
    python scripts/evaluator.py score --pictures FOLDER --labels test.json     on 0.png, 1.png, ...

Generators never train against it, and held-out pictures choose nothing of it.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import _root  # noqa: F401
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

import dataset
from dataset import Batches, ImageData, to_signed
from lib.command import command, flag, pick_device
from lib.config import Config
from lib.errors import UserError
from lib.files import save_tensors
from lib.guards import Bar
from lib.seeding import generator
from sources import NoTestSplit
from sources.iclevr import load_conditions
from sources.pictures import decode_named
from systems.cdcgan.accuracy import accuracy, by_part, confusion, worst
from systems.cdcgan.evaluator import (
    SIZE,
    Evaluator,
    load_evaluator,
    predict,
    read,
    save_evaluator,
    weights_path,
)
from training.augment import mirror

BATCH_SIZE = 32
STEPS = 5200
LEARNING_RATE = 1.5e-3  # the peak of the cycle
SAVING_STEPS = 200
SMEARED = 0.1  # of the pictures of a batch
SCENE = 3  # pictures of one scene follow each other


def train_command(args: argparse.Namespace, path: Path) -> int:
    refuse_anothers(path)
    data, held_out = load(args.data_dir)
    options = {"seed": args.seed, "steps": args.steps, "precision": args.precision}
    unfinished = path.with_suffix(".unfinished")
    evaluator, cpu = train(data, **options, device=args.device, unfinished=unfinished)
    save_evaluator(evaluator, path)  # first: what is measured is what was stored
    unfinished.unlink()
    evaluator = load_evaluator(path)
    settings = options | {"n_train": len(data), "batch_size": BATCH_SIZE}
    settings |= {"torch": str(torch.__version__), "cpu_seconds": round(cpu)}
    evaluator.measured = measure(predict(evaluator, held_out.images), held_out.labels) | settings
    save_evaluator(evaluator, path)
    print(format_measured(evaluator.measured))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, after {cpu:.0f} s of processor time")
    return 0


def refuse_anothers(path: Path) -> None:
    """UserError where a training would overwrite a file that it did not make, as the course's."""
    if not path.exists():
        return
    try:
        ours = "measured" in read(path)
    except UserError:
        ours = False
    if not ours:
        raise UserError(
            f"{path} was not made by this command, and a training would overwrite it: give another"
            " --weights, or move it away."
        )


def score_command(args: argparse.Namespace, path: Path) -> int:
    evaluator = load_evaluator(path, args.device)
    data = read_pictures(args) if args.pictures else load(args.data_dir)[1]
    logits, y = predict(evaluator, data.images), data.labels
    print(format_measured(measure(logits, y)))
    print("of these:", ", ".join(f"{k} {v:.2%}" for k, v in by_part(logits, y).items()))
    for missed, instead, count in worst(confusion(logits, y)):
        print(f"missed {missed}, found {instead} instead: {count:.1f}")
    return 0


COMMANDS = {"train": train_command, "score": score_command}


def read_pictures(args: argparse.Namespace) -> ImageData:
    """0.png, 1.png, ... of a folder, as many as the file of labels has rows."""
    y = load_conditions(args.data_dir, str(args.labels.resolve()))
    files = [args.pictures / f"{i}.png" for i in range(len(y))]
    if set(files) != (there := set(args.pictures.glob("*.png"))):
        found = f"{len(there)} pictures in {args.pictures} for {len(y)} rows of labels"
        raise UserError(f"{found}: wanted 0.png to {len(y) - 1}.png.")
    pixels = [decode_named(f.read_bytes(), str(f), SIZE, upscale=True, whole=True) for f in files]
    return ImageData(torch.from_numpy(np.stack(pixels)), y)


@command(
    flag("command", choices=list(COMMANDS)),
    flag("--data_dir", default="data", help="folder of datasets"),
    flag("--weights", type=Path, help="(default: <data_dir>/iclevr/evaluator.pth)"),
    flag("--pictures", type=Path, help="score these: a folder of 0.png, 1.png, ..."),
    flag("--labels", type=Path, help="of --pictures: a file like test.json"),
    flag("--steps", type=int, default=STEPS, bounds=(8, 10**9), help=f"batches of {BATCH_SIZE}"),
    flag("--seed", type=int, default=0, bounds=(0, 2**63 - 1), help="of order and augmentation"),
    flag("--device", choices=("cpu", "cuda"), default="cpu", help="cpu or cuda"),
    flag(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the training; bf16 halves the time on a CPU with bf16 units",
    ),
)
def main(args: argparse.Namespace) -> int:
    args.device = pick_device(Config(device=args.device))
    if bool(args.pictures) != bool(args.labels) or (args.pictures and args.command == "train"):
        raise UserError("--pictures and --labels go together, with `score`: give both there.")
    if args.command == "score" and (args.steps, args.seed, args.precision) != (STEPS, 0, "fp32"):
        raise UserError("--steps, --seed and --precision are of `train`: leave them out.")
    return COMMANDS[args.command](args, args.weights or weights_path(args.data_dir))


def load(data_dir: str) -> tuple[ImageData, ImageData]:
    """Pictures to train on, and held-out ones: val.json's, else the last tenth of train.json."""
    splits = {"image_size": SIZE, "data_dir": data_dir, "device": "cpu"}
    data = dataset.load("iclevr", "train", **splits)
    try:
        return data, dataset.load("iclevr", "test", **splits)
    except NoTestSplit:
        n = len(data) * 9 // 10 // SCENE * SCENE
        print(f"no val.json: the last {len(data) - n:,} pictures of train.json are held out")
        parts = [ImageData(data.images[a:b], data.labels[a:b]) for a, b in ((0, n), (n, None))]
        return parts[0], parts[1]


def train(
    data: ImageData,
    *,
    seed: int,
    steps: int,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    unfinished: Path | None = None,
) -> tuple[Evaluator, float]:
    """AdamW on 24 cross entropies, a one-cycle learning rate (Smith & Topin 2017).

    Returns the processor's seconds, too. Goes on from what it keeps in `unfinished`.
    """
    evaluator = Evaluator().to(device, memory_format=torch.channels_last)
    batches = Batches(data, batch_size=min(BATCH_SIZE, len(data)), seed=seed)
    optimizer = AdamW(evaluator.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    schedule = OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps, pct_start=0.2)
    parts = {"model": evaluator, "optimizer": optimizer, "schedule": schedule}
    about = {"seed": seed, "steps": steps, "precision": precision, "data": batches.fingerprint()}
    start, cpu = resume(unfinished, parts, about)
    began = time.process_time() - cpu
    evaluator.train()
    for step in (bar := Bar(range(start, steps), initial=start, total=steps, unit="step")):
        if unfinished and step % SAVING_STEPS == 0:
            saved = {name: part.state_dict() for name, part in parts.items()} | {"about": about}
            saved |= {"step": step, "cpu": time.process_time() - began}
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(saved, unfinished)
        indices = batches.indices(step)
        x, y = to_signed(data.images[indices]), data.labels[indices].float()
        stream = generator("cpu", "augment", seed, step)
        x = augment(x, stream)
        blank = torch.rand(len(x), 1, generator=stream) < SMEARED
        x, y = torch.where(blank[..., None, None], smear(x), x).to(device), y * ~blank
        with torch.autocast(torch.device(device).type, torch.bfloat16, precision == "bf16"):
            logits = evaluator.logits(x.contiguous(memory_format=torch.channels_last))
        loss = F.binary_cross_entropy_with_logits(logits.float(), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    return evaluator.eval().cpu(), time.process_time() - began


def resume(path: Path | None, parts: dict[str, Any], about: dict[str, Any]) -> tuple[int, float]:
    """Load a stopped training into its parts; its step and seconds. UserError if it is another."""
    if not path or not path.is_file():
        return 0, 0.0
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["about"] != about:
            raise ValueError(f"its settings are {saved['about']}, not {about}")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        print(f"{path}: goes on from step {saved['step']}")
        return int(saved["step"]), float(saved["cpu"])
    except Exception as error:  # an unpickler that is fed a foreign file raises anything
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} can't be gone on with ({reason}): delete it.") from None


def augment(x: Tensor, stream: torch.Generator) -> Tensor:
    """Pictures (N, 3, S, S) in [-1, 1]: shifted, mirrored, relit, tinted, blurred, noisy.

    A generator's pictures are none of the renderer's: what is to count is colour and shape.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(x), *shape, generator=stream)

    x = mirror(shift(x, stream, up_to=4), stream)
    gain = uniform(0.9, 1.1, 1, 1, 1) * uniform(0.97, 1.03, 3, 1, 1)
    x = (x + 1) * gain - 1 + uniform(-0.06, 0.06, 1, 1, 1)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * uniform(0.85, 1.1, 1, 1, 1)  # saturation
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = x + (soft - x) * uniform(-0.3, 0.5, 1, 1, 1)  # below 0: sharper
    noise = torch.randn(x.shape, generator=stream)
    return (x + noise * uniform(0, 0.02, 1, 1, 1)).clamp_(-1, 1)


def smear(x: Tensor) -> Tensor:
    """Patches of the same colours in the same places, without a shape: they show no label."""
    return F.interpolate(F.adaptive_avg_pool2d(x, 8), x.shape[-1], mode="bilinear")


def shift(x: Tensor, stream: torch.Generator, *, up_to: int) -> Tensor:
    """Each picture moved by whole pixels, its edge repeated."""
    n, side = len(x), x.shape[-1]
    move = torch.randint(-up_to, up_to + 1, (2, n, 1), generator=stream)
    rows, columns = (torch.arange(side) + move).clamp_(0, side - 1)  # (N, S) each
    return x[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None]].movedim(3, 1)


def measure(logits: Tensor, y: Tensor) -> dict[str, Any]:
    """On held-out pictures; "shuffled": against another picture's labels, as if y were ignored."""
    return {
        "n": len(y),
        "accuracy": accuracy(logits, y),
        "all_right": float((((logits > 0) == (y > 0)).all(1)).double().mean()),
        "shuffled": accuracy(logits, y.roll(SCENE * (len(y) // (2 * SCENE)), 0)),
    }


def format_measured(measured: dict[str, Any]) -> str:
    return (
        f"pictures: {measured['accuracy']:.2%} of the labels among the top k of"
        f" {measured['n']:,}; all 24 answers right for {measured['all_right']:.2%};"
        f" {measured['shuffled']:.2%} against another picture's labels"
    )


if __name__ == "__main__":
    sys.exit(main())

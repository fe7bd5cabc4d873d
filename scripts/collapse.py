"""Show which digits a trained generator makes, how often, and whether it has collapsed.

    python scripts/collapse.py runs/NAME                 1000 images of the newest checkpoint
    python scripts/collapse.py --images FOLDER           image files, from whatever generator

Writes RUN/collapse/: collapse.json, counts.png, neighbours.png. Under a minute on a CPU.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import _root  # noqa: F401
import torch
from torch import Tensor

import dataset
from lib.command import command, flag
from lib.errors import UserError, need
from lib.files import write_beside_and_rename
from metrics import collapse
from metrics.digits import SIZE, as_input, load_digits, predict
from metrics.score import provenance
from scripts._figures import write_figure
from scripts._pictures import check_out
from scripts._saved_run import open_run
from sources.image_folder import image_paths, read_rgb
from trainer import Trainer

COMPARED = 2000  # at most so many images are compared pixel by pixel: the time grows with them
GENERATED = 1000  # images, unless --n says otherwise
LEAST = 20  # images; of 10 fair ones every seventh sample looks like less than 6 digits
ROWS, COLUMNS = 8, 5  # of neighbours.png
SHARES = {
    "low_confidence": "probability below 0.9",
    "off_digits": "unlike any digit",
    "duplicates": "near-duplicates",
    "copies": "nearer to a training image than 99 % of test images",
}


@command(
    flag("run_dir", type=Path, nargs="?", help="a run's folder, runs/NAME"),
    flag("--images", type=Path, help="a folder of image files in place of a run"),
    flag("--n", type=int, bounds=(LEAST, 100_000), help="images (default: 1000; of --images all)"),
    flag("--seed", type=int, bounds=(0, 2**63 - 1), help="of noise (default: the run's own, or 0)"),
    flag("--data_dir", default="data", help="folder of datasets"),
    flag("--out", type=Path, help="folder to write to (default: RUN_DIR/collapse, or collapse/)"),
)
def main(args: argparse.Namespace) -> None:
    if (args.run_dir is None) == (args.images is None):
        raise UserError("wanted either a run's folder or --images FOLDER: see --help.")
    out = args.out or (args.run_dir or Path()) / "collapse"
    if args.images:
        check_out(args.images, out, deep=False)
    need("matplotlib", "collapse.py")  # before a minute of work
    if args.images:
        result = examine_folder(args.images, args.data_dir, args.seed or 0, out, args.n)
    else:
        trainer = open_run(args.run_dir, data_dir=args.data_dir)
        seed = trainer.config.seed if args.seed is None else args.seed
        result = examine(trainer, args.n or GENERATED, seed, out)
    print(format_report(result))
    print(f"wrote {', '.join(result['files'])}")


def examine(trainer: Trainer, n: int, seed: int, out: str | Path) -> dict[str, Any]:
    """The report on n images of the trainer's generator, written to the folder `out` too.

    Raises UserError for a run on other data than MNIST.
    """
    config = trainer.config
    if config.dataset != "mnist":
        raise UserError(
            f"{config.run_name} learned {config.dataset}: the classifier knows only the digits of"
            " MNIST."
        )
    images = torch.cat([batch.cpu() for batch in trainer.generate(n, seed)])
    title = f"{config.run_name}, step {trainer.step}"
    about = {"run": config.run_name, "sample_seed": seed} | provenance(trainer)
    return examine_images(images, config.data_dir, seed, Path(out), title=title, about=about)


def examine_folder(
    folder: Path, data_dir: str, seed: int, out: Path, n: int | None = None
) -> dict[str, Any]:
    """The same of the image files in a folder by name; if n is given, of n drawn by the seed."""
    if not folder.is_dir():
        raise UserError(f"--images {folder} is no folder.")
    paths = image_paths(folder)
    if len(paths) < max(LEAST, n or 0):
        raise UserError(
            f"--images {folder} holds {len(paths)} images: wanted at least {max(LEAST, n or 0)}."
        )
    chosen = sorted(dataset.order(len(paths), seed, 0)[:n].tolist())
    images = torch.cat([as_input(read_rgb(paths[i])[None]) for i in chosen])
    about = {"images": str(folder)}
    return examine_images(images, data_dir, seed, out, title=str(folder), about=about)


def examine_images(
    images: Tensor, data_dir: str, seed: int, out: Path, *, title: str, about: dict[str, Any]
) -> dict[str, Any]:
    """The report on images uint8 (N, C, S, S). `seed` chooses the real images compared with."""
    from metrics.digits import figures  # here: it imports matplotlib

    classifier = load_digits()
    train = dataset.load("mnist", "train", image_size=SIZE, data_dir=data_dir, device="cpu")
    images = as_input(images)
    found = predict(classifier, images)
    measured = classifier.measured
    off = found.off_digits(measured)
    result = collapse.label_statistics(found.labels, found.confidence, off, measured=measured)

    some, labels = images[:COMPARED], found.labels[:COMPARED]
    chosen = dataset.order(len(train), seed, 0)[: len(some)]
    real, known = train.images[chosen], train.labels[chosen]
    result |= collapse.diversity_statistics(some, labels, real, known)
    distances, indices = collapse.nearest(some, train.images, COLUMNS)
    typical = measured["neighbour_distances"]
    result |= collapse.memory_statistics(distances[:, 0], typical)

    result["verdict"], result["evidence"] = collapse.judge(result)
    names = rows_shown(distances[:, 0], labels)
    rows = torch.tensor(list(names))
    shown = some[rows], train.images[indices[rows]], distances[rows]
    neighbours = figures.neighbours_figure(*shown, names=list(names.values()), typical=typical)
    counts = figures.counts_figure(result, images, found.labels, title)
    out.mkdir(parents=True, exist_ok=True)
    pictures = {"counts": counts, "neighbours": neighbours}
    result["files"] = [write_figure(f, out / f"{n}.png", dpi=120) for n, f in pictures.items()]
    result["of"] = about
    result["classifier"] = {key: measured[key] for key in ("errors", "n")}
    write_beside_and_rename(out / "collapse.json", f"{json.dumps(result, indent=2)}\n".encode())
    return result


def rows_shown(nearest: Tensor, labels: Tensor) -> dict[int, str]:
    """Name half the rows as they come, and half the nearest to training, where copies would be."""
    names = {row: f"sample {row}" for row in range(min(ROWS // 2, len(nearest)))}
    seen: set[int] = set()  # of each digit one, since two thin ones are always near
    for row in nearest.argsort().tolist():
        digit = int(labels[row])
        if len(seen) < ROWS // 2 and digit not in seen and row not in names:
            seen.add(digit)
            names[row] = f"nearest, a {digit}"
    return names


def format_report(result: dict[str, Any]) -> str:
    """The table and the verdict, as printed."""
    lines = ["digit  count   share    95 % interval   training set"]
    columns = ("counts", "low", "high", "expected_shares")
    rows = zip(*(result[name] for name in columns), strict=True)
    for digit, (count, low, high, share) in enumerate(rows):
        own = f"{digit:>5}{count:>7}{count / result['n']:>8.1%}"
        lines.append(f"{own}   {low:>5.1%} to {high:>5.1%}   {share:>12.1%}")
    near, real = result["neighbour_distances"][1], result["neighbour_distances_real"][1]
    spread = "unknown" if result["spread"] is None else f"{result['spread']:.2f}"
    lines += [
        f"chi-square {result['chi2']:.1f}, p {collapse.format_p(result['p_value'])};"
        f" entropy {result['entropy_bits']:.3f} bits of 3.322",
        *(
            f"{words}: {result[key]:.1%} of images (real {result[f'{key}_real']:.1%})"
            for key, words in SHARES.items()
        ),
        f"spread within a digit: {spread} of real",
        f"nearest training image: {near:.2f} away (median; real test images {real:.2f})",
        f"verdict: {result['verdict']}. {result['evidence']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

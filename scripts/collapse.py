"""Which digits a trained generator makes, how often, and whether it has collapsed.

    python scripts/collapse.py runs/NAME                 1000 images of the newest checkpoint
    python scripts/collapse.py --images FOLDER           image files, from whatever generator

Writes RUN/collapse/: collapse.json, counts.png, neighbours.png. Under a minute on a CPU.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))  # before this folder and its collapse.py

import dataset
from dataset import ImageData
from lib.command import command, flag
from lib.errors import UserError, need
from metrics.collapse import (
    diversity_statistics,
    format_p,
    judge,
    label_statistics,
    memory_statistics,
    nearest,
)
from metrics.digits import SIZE, as_input, load_digits, predict
from metrics.score import provenance
from scripts._saved_run import open_run
from sources.image_folder import image_paths, read_rgb
from trainer import Trainer

if TYPE_CHECKING:  # matplotlib is optional
    from matplotlib.figure import Figure

COMPARED = 2000  # at most so many images are compared pixel by pixel: the time grows with them
GENERATED = 1000  # images, unless --n says otherwise
LEAST = 20  # images; of 10 fair ones every seventh sample looks like less than 6 digits
ROWS, COLUMNS = 8, 5  # of neighbours.png


@command(
    flag("run_dir", type=Path, nargs="?", help="a run's folder, runs/NAME"),
    flag("--images", type=Path, help="a folder of image files in place of a run"),
    flag(
        "--n",
        type=int,
        bounds=(LEAST, 100_000),
        help=f"images to generate (default: {GENERATED}), or to draw from --images (default: all)",
    ),
    flag(
        "--seed",
        type=int,
        help="of the noise and of what is drawn (default: the run's own; 0 for --images)",
    ),
    flag("--data_dir", default="data", help="folder of datasets"),
    flag("--out", type=Path, help="folder to write to (default: RUN_DIR/collapse)"),
)
def main(args: argparse.Namespace) -> None:
    if (args.run_dir is None) == (args.images is None):
        raise UserError("wanted either a run's folder or --images FOLDER: see --help.")
    out = args.out or (args.run_dir or args.images) / "collapse"
    need("matplotlib", "collapse.py")  # before a minute of work
    if args.images:
        result = examine_folder(args.images, args.data_dir, args.seed or 0, out, args.n)
    else:
        trainer = open_run(args.run_dir, data_dir=args.data_dir)
        seed = trainer.config.seed if args.seed is None else args.seed
        result = examine(trainer, args.n or GENERATED, seed, out)
    print(in_words(result))
    print(f"wrote {', '.join(result['files'])}")


def examine(trainer: Trainer, n: int, seed: int, out: str | Path) -> dict[str, Any]:
    """The report on n images of the trainer's generator, written to the folder `out` too.

    Keys: collapse.label_statistics, diversity_statistics and memory_statistics; verdict, evidence;
    files (the PNGs); of (the run). Raises UserError for a run on other data than MNIST.
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
    """The same of the image files in a folder, in the order of their names.

    Of n of them, drawn by the seed, where n is given.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder} is no folder.")
    paths = image_paths(folder)
    if len(paths) < LEAST:
        raise UserError(
            f"--images {folder} holds {len(paths)} images: wanted at least {LEAST}, better 1000."
        )
    if n is not None and n > len(paths):
        raise UserError(f"--n {n}: --images {folder} holds {len(paths)} images.")
    if n is not None:
        paths = [paths[i] for i in sorted(dataset.order(len(paths), seed, 0)[:n].tolist())]
    images = torch.cat([as_input(read_rgb(path)[None]) for path in paths])
    return examine_images(
        images, data_dir, seed, out, title=str(folder), about={"images": str(folder)}
    )


def examine_images(
    images: Tensor, data_dir: str, seed: int, out: Path, *, title: str, about: dict[str, Any]
) -> dict[str, Any]:
    """The report on images uint8 (N, C, S, S). `seed` chooses the real images compared with."""
    from metrics.digits.figures import counts_figure, save  # here: they import matplotlib

    classifier = load_digits()
    train = dataset.load("mnist", "train", image_size=SIZE, data_dir=data_dir, device="cpu")
    images = as_input(images)
    found = predict(classifier, images)
    measured = classifier.measured
    off = found.off_digits(measured)
    result = label_statistics(found.labels, found.confidence, off, measured=measured)

    some, labels = images[:COMPARED], found.labels[:COMPARED]
    chosen = dataset.order(len(train), seed, 0)[: len(some)]
    result |= diversity_statistics(some, labels, train.images[chosen], train.labels[chosen])
    distances, indices = nearest(some, train.images, COLUMNS)
    result |= memory_statistics(distances[:, 0], measured["neighbour_distances"])

    result["verdict"], result["evidence"] = judge(result)
    counts = save(counts_figure(result, images, found.labels, title), out / "counts.png")
    rows = draw_neighbours(some, labels, train, distances, indices, measured["neighbour_distances"])
    result["files"] = [str(counts), str(save(rows, out / "neighbours.png"))]
    result["of"] = about
    result["classifier"] = {key: measured[key] for key in ("errors", "n")}
    (out / "collapse.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def draw_neighbours(
    images: Tensor,
    labels: Tensor,
    train: ImageData,
    distances: Tensor,
    indices: Tensor,
    typical: list[float],
) -> "Figure":
    """Show half the rows as they come, and half the nearest to training, where copies would be.

    Of each digit one at most, since two thin ones are always near.
    """
    from metrics.digits.figures import neighbours_figure

    names = {row: f"sample {row}" for row in range(min(ROWS // 2, len(images)))}
    seen: set[int] = set()
    for row in distances[:, 0].argsort().tolist():
        digit = int(labels[row])
        if len(seen) < ROWS // 2 and digit not in seen and row not in names:
            seen.add(digit)
            names[row] = f"nearest {digit}"
    rows = torch.tensor(list(names))
    return neighbours_figure(
        images[rows],
        train.images[indices[rows]],
        distances[rows],
        names=list(names.values()),
        typical=typical,
    )


def in_words(result: dict[str, Any]) -> str:
    """The table and the verdict, as printed."""
    lines = ["digit  count   share    95 % interval   training set"]
    columns = ("counts", "low", "high", "expected_shares")
    for digit, row in enumerate(zip(*(result[name] for name in columns), strict=True)):
        count, low, high, share = row
        own = count / result["n"]
        lines.append(
            f"{digit:>5}{count:>7}{own:>8.1%}   {low:>5.1%} to {high:>5.1%}   {share:>12.1%}"
        )
    near, real = result["neighbour_distances"][1], result["neighbour_distances_real"][1]
    spread = "unknown" if result["spread"] is None else f"{result['spread']:.2f}"
    return "\n".join(
        [
            *lines,
            f"chi-square {result['chi2']:.1f}, p {format_p(result['p_value'])};"
            f" entropy {result['entropy_bits']:.3f} bits of 3.322",
            f"probability below 0.9: {result['low_confidence']:.1%} of images"
            f" (real {result['low_confidence_real']:.1%});"
            f" unlike any digit: {result['off_digits']:.1%}"
            f" (real {result['off_digits_real']:.1%})",
            f"near-duplicates: {result['duplicates']:.1%} (real {result['duplicates_real']:.1%});"
            f" spread within a digit {spread} of real",
            f"nearest training image: {near:.2f} away (median; real test images {real:.2f});"
            f" nearer than 99 % of those: {result['copies']:.1%}",
            f"verdict: {result['verdict']}. {result['evidence']}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

"""The class embeddings of a trained class-conditional GAN: where they lie, and what lies between.

    python scripts/embeddings.py runs/NAME                         the space, and suggested pairs
    python scripts/embeddings.py runs/NAME --pairs "3,8; 4,9" --from -0.5 --to 1.5 --columns 13
    python scripts/embeddings.py runs/NAME --truncations 0.2,0.5,1,2,0       FID, precision, recall
    python scripts/embeddings.py --weights biggan-deep-128-pytorch_model.bin --pairs "goldfish,pug"

Writes pictures, tables and embeddings.md into RUN/embeddings/. docs/embeddings.md.
"""

import argparse
import io
import json
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from dataset import order
from inception import load_inception
from lib.checkpoint import write_beside_and_rename
from lib.errors import UserError
from lib.flags import Parser, print_error
from metrics.prdc import MOST, K, features, real_features
from scripts._embeddings.paths import (
    ClassModel,
    between_classes,
    blends,
    parse_classes,
    parse_pairs,
    suggested_pairs,
    within_class,
)
from scripts._embeddings.public_biggan import load_public, share
from scripts._embeddings.space import (
    MANY,
    extremes_table,
    neighbours_table,
    pairs_csv,
    pairs_of,
    pca,
    perplexity_of,
    space_figure,
    tsne,
)
from scripts._embeddings.truncation import parse_truncations, sweep, sweep_figure, sweep_table
from scripts._saved_run import open_run
from scripts.interpolate import PATHS, grid_figure, pixel_change
from sources.image_folder import image_batches, image_paths
from user_files import check_out

CELL = 0.6  # inches of an image in a grid
MOST_SEED = 2**32 - 1  # scikit-learn's


@dataclass
class Page:
    """embeddings.md as it grows, and the files that it names."""

    out: Path
    parts: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def text(self, *lines: str) -> None:
        self.parts.append("\n".join(lines))

    def picture(self, figure: plt.Figure, name: str, words: str, *, side: int = 0) -> None:
        """side: of the images in it, in pixels, which it then shows in full."""
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=max(160, side / CELL))
        plt.close(figure)
        self.keep(name, drawn.getvalue())
        self.text(f"![{words}]({name})")

    def file(self, name: str, content: str) -> None:
        self.keep(name, content.encode())

    def keep(self, name: str, content: bytes) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        write_beside_and_rename(self.out / name, content)
        if self.out / name not in self.files:
            self.files.append(self.out / name)

    def save(self) -> None:
        """What there is so far, over what was saved before."""
        self.file("embeddings.md", "\n\n".join(self.parts) + "\n")


def show_space(page: Page, model: ClassModel, marked: list[tuple[int, int]], seed: int) -> None:
    """The two projections, the nearest and farthest pairs, each class's neighbours."""
    r, names = model.embeddings(), model.class_names
    points, shares = pca(r)
    panels = {f"PCA: {shares[0]:.0%} and {sum(shares[1:]):.0%} of the variance": points}
    try:
        points, divergence = tsne(r, seed=seed)
        title = f"t-SNE: perplexity {perplexity_of(len(r)):.2g}, KL divergence {divergence:.2f}"
        panels[title] = points
    except UserError as error:
        print(error, file=sys.stderr)
        page.text(str(error))
    page.picture(space_figure(panels, names, marked), "space.png", "the classes in two projections")
    pairs = pairs_of(r)
    page.file("pairs.csv", pairs_csv(pairs, names))
    page.text(extremes_table(pairs, names))
    of_pairs = dict.fromkeys(i for pair in marked for i in pair)
    page.text(
        neighbours_table(r, names, list(of_pairs if len(names) > MANY else range(len(names))))
    )


def show_pairs(
    page: Page, model: ClassModel, pairs: list[tuple[int, int]], args: argparse.Namespace
) -> None:
    """A grid a pair, and how evenly its images change."""
    positions = blends(args.start, args.stop, args.columns)
    lines = ["| a = 1 | a = 0 | mean change a step | the largest | its a |", "| --- " * 5 + "|"]
    for pair in pairs:
        one, zero = (model.class_names[i] for i in pair)
        x = between_classes(
            model, pair, positions, rows=args.rows, seed=args.seed, truncation=args.truncation
        )
        title = f"a = 0: {zero}, a = 1: {one}"
        page.picture(
            grid_figure(x, positions, title),
            f"between-{file_name(one)}-{file_name(zero)}.png",
            f"{title}, a z a row",
            side=x.shape[-1],
        )
        change = pixel_change(x).mean(0)
        step = int(change.argmax())
        middle = (positions[step] + positions[step + 1]) / 2
        lines.append(
            f"| {one} | {zero} | {change.mean():.3f} | {change[step]:.3f} | {middle:.2f} |"
        )
    page.text(*lines)


def show_walks(page: Page, model: ClassModel, classes: list[int], args: argparse.Namespace) -> None:
    """A grid a class: z from one draw to another."""
    positions = blends(0.0, 1.0, args.columns)
    for index in classes:
        x = within_class(
            model,
            index,
            positions,
            path=args.path,
            rows=args.rows,
            seed=args.seed,
            truncation=args.truncation,
        )
        name = model.class_names[index]
        title = f"{name}: z1 (0) to z2 (1), {args.path}"
        figure = grid_figure(x, positions, title)
        page.picture(figure, f"within-{file_name(name)}.png", title, side=x.shape[-1])


def show_truncations(
    page: Page, model: ClassModel, real: Tensor, extractor: nn.Module, args: argparse.Namespace
) -> list[dict[str, Any]]:
    rows = sweep(model, args.truncations, real, extractor, seed=args.seed)
    page.picture(sweep_figure(rows), "truncation.png", "FID, and precision by recall")
    page.text(sweep_table(rows))
    page.text(
        f"{len(real):,} real images against as many generated ones of all classes alike,"
        f" {extractor.name}, weights {extractor.digest[:12]}, {extractor.precision}."
    )
    about = {"n": len(real), "seed": args.seed, "weights_sha256": extractor.digest, "rows": rows}
    page.file("truncation.json", json.dumps(about, indent=2) + "\n")
    return rows


def examine(model: ClassModel, args: argparse.Namespace, title: str) -> Page:
    """All of it, into args.out."""
    names, pairs = model.class_names, pairs_of(model.embeddings())
    if not pairs:
        raise UserError(f"{title} has {len(names)} class: wanted two or more to compare.")
    chosen = parse_pairs(args.pairs, names) if args.pairs else suggested_pairs(pairs)
    walked = parse_classes(args.within, names) if args.within else [chosen[0][0], chosen[-1][0]]
    if not walked:
        raise UserError(f'--within {args.within!r} names no class: wanted some, as in "a,b".')
    page = Page(Path(args.out))
    page.text(f"# Class embeddings of {title}", f"\n{len(names)} classes, seed {args.seed}.")
    extractor = load_inception("cpu", "fp32") if args.truncations else None
    real = real_images(model, extractor, args) if extractor else None
    page.text("## Where they lie")
    show_space(page, model, chosen, args.seed)
    page.text("## Between two classes")
    show_pairs(page, model, chosen, args)
    page.text("## Within a class")
    show_walks(page, model, list(dict.fromkeys(walked)), args)
    page.save()  # before many minutes
    if extractor:
        page.text("## Truncation")
        show_truncations(page, model, real, extractor, args)
        page.save()
    return page


def real_images(model: ClassModel, extractor: nn.Module, args: argparse.Namespace) -> Tensor:
    """Features (N, d) of --n training images, or of those of --real at the side of the model's."""
    if not args.real:
        return real_features(model.load_data("train"), extractor, args.n)
    one = model.images_of(model.draw_z(1, args.seed), model.embeddings()[:1], truncated=0.0)
    found = image_paths(Path(args.real))  # by name, which may mean by class
    paths = [found[i] for i in order(len(found), 0, 0)[: args.n].tolist()]
    batches = image_batches(paths, 50, side=one.shape[-1])
    return features(batches, extractor, len(paths), f"images of {args.real}")


def open_model(args: argparse.Namespace) -> tuple[ClassModel, str, Path]:
    """The model, its title, and the folder for what is found."""
    if bool(args.run_dir) == bool(args.weights):
        raise UserError("wanted one of a run's folder, such as runs/NAME, and --weights FILE.")
    if args.weights:
        path = Path(args.weights)
        for truncation in (args.truncation, *args.truncations):
            share(truncation)  # refused before minutes of work
        if args.truncations and not args.real:
            raise UserError(
                "--truncations of public weights needs real images to compare with: --real FOLDER."
            )
        return load_public(path), path.name, path.parent / f"{path.stem}-embeddings"
    trainer = open_run(args.run_dir, data_dir=args.data_dir)
    if not hasattr(trainer, "embeddings"):
        raise UserError(
            f"{trainer.config.model} has no class embeddings: wanted a run of --model biggan."
        )
    run_dir = Path(args.run_dir)
    return trainer, f"{run_dir.resolve().name}, step {trainer.step}", run_dir / "embeddings"


def file_name(name: str) -> str:
    """A class's name as part of a file's."""
    return re.sub(r"[^\w.+]", "_", name)[:60]


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    p.add_argument("run_dir", nargs="?", default="", help="folder of a run, such as runs/NAME")
    p.add_argument("--weights", default="", help="instead of a run: a public BigGAN-deep's weights")
    p.add_argument("--pairs", default="", help='of classes, as in "3,8; cat,dog" (default: the two'
                   " nearest and the two farthest)")  # fmt: skip
    p.add_argument("--columns", type=int, default=9, help="images a row (default: 9)")
    p.add_argument("--rows", type=int, default=4, help="draws of z (default: 4)")
    p.add_argument("--from", dest="start", type=float, default=0.0, help="first a (default: 0)")
    p.add_argument("--to", dest="stop", type=float, default=1.0, help="last a (default: 1)")
    p.add_argument(
        "--within", default="", help="classes to walk within (default: two of the pairs)"
    )
    p.add_argument("--path", choices=[*PATHS], default="spherical", help="of z within a class"
                   " (default: spherical)")  # fmt: skip
    p.add_argument("--truncation", type=float, default=0.0, help="of z in the grids (default: 0,"
                   " none)")  # fmt: skip
    p.add_argument("--truncations", default="", help="to compare by FID and precision, as in"
                   " 0.2,0.5,1,2,0 (0: none); takes Inception")  # fmt: skip
    p.add_argument("--n", type=int, help=f"images a truncation (default: {MOST})")
    p.add_argument("--real", default="", help="folder of images to compare with (default: the"
                   " run's training images)")  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="of z and of t-SNE (default: 0)")
    p.add_argument("--data_dir", help="folder of datasets (default: data)")
    p.add_argument("--out", default="", help="folder to write to (default: RUN_DIR/embeddings)")
    return p


def check_flags(args: argparse.Namespace) -> None:
    """UserError for values that argparse lets through; fills in --n and --data_dir."""
    args.truncations = parse_truncations(args.truncations) if args.truncations else []
    if not args.truncations and (args.real or args.n is not None):
        raise UserError("--real and --n belong to --truncations: add that, or leave them out.")
    if args.weights and args.data_dir is not None:
        raise UserError("--data_dir belongs to a run, and --weights has no dataset: leave it out.")
    args.n = MOST if args.n is None else args.n
    args.data_dir = args.data_dir or "data"
    ends = {"from": args.start, "to": args.stop, "truncation": args.truncation}
    for name, value in ends.items():
        if not math.isfinite(value):
            raise UserError(f"--{name} {value}: wanted a finite number.")
    for name, least in (("columns", 2), ("rows", 1), ("n", 10), ("truncation", 0), ("seed", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: wanted at least {least}.")
    if args.seed > MOST_SEED:
        raise UserError(f"--seed {args.seed}: wanted at most {MOST_SEED}.")
    if args.start == args.stop:
        raise UserError(f"--from {args.start} --to {args.stop}: wanted two different ends.")
    if args.real and (n := len(image_paths(Path(args.real)))) <= K:
        raise UserError(f"--real {args.real} holds {n} images: wanted {K + 1} or more.")


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    try:
        check_flags(args)
        model, title, out = open_model(args)
        args.out = args.out or str(out)
        if args.real:
            check_out("--real", Path(args.real), Path(args.out), deep=False)
        page = examine(model, args, title)
    except UserError as error:
        return print_error(error)
    except OSError as error:
        where = error.filename or "a picture"
        return print_error(UserError(f"{where} can't be used: {error.strerror or error}."))
    print("\n\n".join(part for part in page.parts if not part.startswith("![")))
    print("\n".join(f"wrote {path}" for path in page.files))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

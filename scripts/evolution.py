"""The grids of one fixed noise, as a run saved them, one after the other: how its images evolved.

    python scripts/evolution.py runs/NAME                         RUN/evolution.gif, 4 a second
    python scripts/evolution.py runs/NAME --out a.png --fps 8     all colours, larger
    python scripts/evolution.py runs/NAME --strip 5               RUN/strip.png, five stages

Each frame says its step; the last one stays for two seconds. Train with --sample_every 200 for
grids closer together than the checkpoints.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import _root  # noqa: F401
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lib.command import command, flag
from lib.errors import UserError
from lib.files import naming
from scripts._saved_run import contents

FPS = 4.0
LAST = 2.0  # seconds that the last frame stays, at least


def find_grids(run_dir: Path, tag: str) -> list[tuple[int, Path]]:
    """(step, PNG) of each grid of that tag, oldest first."""
    name = re.compile(re.escape(tag.replace("/", "-")) + r"-(\d{7,18})\.png")
    named = [(name.fullmatch(path.name), path) for path in (run_dir / "samples").iterdir()]
    return sorted((int(made[1]), path) for made, path in named if made and path.is_file())


def evenly(items: list[Any], most: int) -> list[Any]:
    """At most so many of them, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def read_picture(path: Path) -> Image.Image:
    """RGB; grey if all of it is. Raises UserError if it can't be read to its end."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        raise UserError(f"{path} cannot be read as a picture ({problem}): delete it.") from None
    red, green, blue = picture.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else picture


def labelled(picture: Image.Image, step: int) -> Image.Image:
    """The picture below a line with its step; width and height even."""
    height = max(14, picture.width // 24)
    font = ImageFont.load_default(height * 0.7)
    size = (picture.width + picture.width % 2, picture.height + height)
    frame = Image.new(picture.mode, (size[0], size[1] + size[1] % 2))
    frame.paste(picture, (0, height))
    place = (height // 4, height // 2)
    ImageDraw.Draw(frame).text(place, f"step {step:,}", fill="white", font=font, anchor="lm")
    return frame


def make_frames(run_dir: Path, tag: str, most: int, side: int) -> list[Image.Image]:
    """Two frames or more, one a grid, of one size and mode, at most `side` pixels each way."""
    folder = run_dir / "samples"
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is no folder: wanted a run's, such as runs/NAME.")
    if not folder.is_dir():
        raise UserError(f"{run_dir} has no samples/: found {contents(run_dir)}. Train it first.")
    grids, frames = find_grids(run_dir, tag), []
    if len(grids) < 2:
        raise UserError(
            f"{folder} holds {len(grids)} grids of {tag!r}: wanted two or more. Train further, or"
            " with a smaller --sample_every."
        )
    for step, path in evenly(grids, most):
        picture = read_picture(path)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        frames.append(labelled(picture, step))
        if frames[-1].size != frames[0].size:
            raise UserError(
                f"{path} has another size than {grids[0][1].name}: one animation wants one size."
            )
    grey = all(frame.mode == "L" for frame in frames)
    return frames if grey else [frame.convert("RGB") for frame in frames]


def save_pictures(frames: list[Image.Image], path: Path, fps: float) -> None:
    """Write a GIF (at most 256 colours a frame) or an animated PNG, to be played without end."""
    each = round(1000 / fps)
    durations = [each] * (len(frames) - 1) + [max(each, round(1000 * LAST))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def save_strip(frames: list[Image.Image], path: Path) -> None:
    """Write them in a row, or below each other if they are wide."""
    width, height = frames[0].size
    strip = np.concatenate([np.asarray(frame) for frame in frames], axis=int(height >= width))
    Image.fromarray(strip).save(path)


def target(args: argparse.Namespace) -> Path:
    """The file to write, in the format of its name; a GIF by default."""
    path = Path(args.out or args.run_dir / ("strip.png" if args.strip else "evolution.gif"))
    wanted = [".png"] if args.strip else [".gif", ".png", ".apng"]
    if path.suffix.lower() not in wanted:
        raise UserError(f"--out {path}: wanted a name that ends in {', '.join(wanted)}.")
    if args.out and not path.parent.is_dir():
        raise UserError(f"--out {path}: {path.parent} is no folder: make it first.")
    return path


@command(
    flag("run_dir", type=Path, help="folder of a run, such as runs/NAME"),
    flag("--out", default="", help="a .gif, .png or .apng (default: RUN_DIR/evolution.gif)"),
    flag("--fps", type=float, default=FPS, bounds=(0.01, 50), help="grids a second"),
    flag("--tag", default="samples", help="which grids, by tag"),
    flag("--frames", type=int, default=120, bounds=(2, 10_000), help="at most, evenly chosen"),
    flag("--strip", type=int, default=0, bounds=(2, 100), help="one PNG of so many stages instead"),
    flag("--side", type=int, default=640, bounds=(16, 10_000), help="at most, in pixels"),
)
def main(args: argparse.Namespace) -> None:
    if args.strip and args.fps != FPS:
        raise UserError("--strip makes one PNG: leave --fps out.")
    path = target(args)
    frames = make_frames(args.run_dir, args.tag, args.strip or args.frames, args.side)
    with naming(path), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        save_strip(frames, part) if args.strip else save_pictures(frames, part, args.fps)
        part.replace(path)
    print(f"{path}: {len(frames)} grids, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())

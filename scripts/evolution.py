"""The grids of one fixed noise, as a run saved them, one after the other: how its images evolved.

    python scripts/evolution.py runs/NAME                         RUN/evolution.gif, 4 a second
    python scripts/evolution.py runs/NAME --format apng --fps 8   all colours, larger
    python scripts/evolution.py runs/NAME --out evolution.mp4     needs imageio and its ffmpeg
    python scripts/evolution.py runs/NAME --strip 5               RUN/strip.png, five stages

Each frame says its step; the last one stays for two seconds. Train with --sample_every 200 for
grids closer together than the checkpoints.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parent.parent))

from lib.command import command, flag
from lib.errors import UserError, need
from scripts._saved_run import contents

FPS = 4.0
LAST = 2.0  # seconds that the last frame stays, at least
UNREADABLE = (OSError, SyntaxError, ValueError)  # of Pillow, on a file that is no PNG or a torn one


def find_grids(run_dir: Path, tag: str) -> list[tuple[int, Path]]:
    """(step, PNG) of each grid of that tag, oldest first. UserError if there are fewer than two."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is no folder: wanted a run's, such as runs/NAME.")
    folder = run_dir / "samples"
    if not folder.is_dir():
        raise UserError(f"{run_dir} has no samples/: found {contents(run_dir)}. Train it first.")
    name = re.compile(re.escape(tag.replace("/", "-")) + r"-(\d{7,})\.png")
    named = [(name.fullmatch(path.name), path) for path in folder.iterdir()]
    grids = sorted((int(made[1]), path) for made, path in named if made)
    if len(grids) < 2:
        raise UserError(
            f"{folder} holds {len(grids)} grids of {tag!r}: wanted two or more. Train further, or"
            " with a smaller --sample_every."
        )
    return grids


def evenly(grids: list[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    """At most so many of them, the first and the last among them."""
    if len(grids) <= most:
        return grids
    return [grids[round(i * (len(grids) - 1) / (most - 1))] for i in range(most)]


def read_grid(path: Path, side: int) -> Image.Image:
    """The picture, shrunk to at most `side` pixels; grey where all of it is."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except UNREADABLE as problem:
        raise UserError(f"{path} cannot be read as a picture ({problem}): delete it.") from None
    red, green, blue = (channel.tobytes() for channel in picture.split())
    if red == green == blue:
        picture = picture.convert("L")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def labelled(picture: Image.Image, step: int) -> Image.Image:
    """The picture below a line with its step; width and height even, as video has them."""
    height = max(14, picture.width // 24)
    font = ImageFont.load_default(height * 0.7)
    size = (picture.width + picture.width % 2, picture.height + height)
    frame = Image.new(picture.mode, (size[0], size[1] + size[1] % 2))
    frame.paste(picture, (0, height))
    white = 255 if frame.mode == "L" else (255, 255, 255)
    place = (height // 4, height // 2)
    ImageDraw.Draw(frame).text(place, f"step {step:,}", fill=white, font=font, anchor="lm")
    return frame


def make_frames(grids: list[tuple[int, Path]], side: int) -> list[Image.Image]:
    """A frame a grid, of one size and one mode. UserError if the grids differ in size."""
    frames = [labelled(read_grid(path, side), step) for step, path in grids]
    for frame, (_, path) in zip(frames, grids, strict=True):
        if frame.size != frames[0].size:
            raise UserError(
                f"{path} has another size than {grids[0][1].name}: one animation wants one size."
            )
    grey = all(frame.mode == "L" for frame in frames)
    return frames if grey else [frame.convert("RGB") for frame in frames]


def save_pictures(frames: list[Image.Image], path: Path, fps: float, kind: str) -> None:
    """Write a GIF (at most 256 colours a frame) or an animated PNG, to be played without end."""
    each = round(1000 / fps)
    durations = [each] * (len(frames) - 1) + [max(each, round(1000 * LAST))]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def save_mp4(frames: list[Image.Image], path: Path, fps: float) -> None:
    """Write H.264 with the ffmpeg of imageio-ffmpeg, an optional package."""
    ffmpeg = need("imageio-ffmpeg", "an mp4 (or take --format gif or apng)")
    writer = ffmpeg.write_frames(
        str(path), frames[0].size, fps=fps, macro_block_size=2, output_params=["-f", "mp4"]
    )
    shown = frames + frames[-1:] * round(LAST * fps)
    try:
        writer.send(None)
        for frame in shown:
            writer.send(frame.convert("RGB").tobytes())
        writer.close()
        written, _ = ffmpeg.count_frames_and_secs(str(path))
    except (OSError, RuntimeError) as problem:
        why = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UserError(f"ffmpeg could not make the mp4 ({why}).") from None
    if written != len(shown):  # it says nothing of a full disk
        raise UserError(f"ffmpeg wrote {written} of {len(shown)} frames: make room on the disk.")


FORMATS = ("gif", "apng", "mp4")
SUFFIXES = {".gif": "gif", ".png": "apng", ".apng": "apng", ".mp4": "mp4"}


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, renamed to it at the end."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def target(run_dir: Path, out: str, kind: str) -> tuple[Path, str]:
    """Where to write and in which format: --format's, else that of --out's name, else GIF."""
    path = Path(out or run_dir / f"evolution.{kind or 'gif'}")
    of_name = SUFFIXES.get(path.suffix.lower())
    if of_name is None:
        raise UserError(f"--out {path}: wanted a name that ends in {', '.join(SUFFIXES)}.")
    if kind and kind != of_name:
        raise UserError(f"--out {path} --format {kind}: they differ; leave one of the two out.")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: {path.parent} is no folder: make it first.")
    return path, of_name


def animate(
    run_dir: Path,
    *,
    out: str = "",
    kind: str = "",
    fps: float = FPS,
    tag: str = "samples",
    most: int = 120,
    side: int = 640,
) -> tuple[Path, int]:
    """Write the animation; its path and how many frames it has."""
    path, kind = target(run_dir, out, kind)
    frames = make_frames(evenly(find_grids(run_dir, tag), most), side)
    with beside(path) as part:
        if kind == "mp4":
            save_mp4(frames, part, fps)
        else:
            save_pictures(frames, part, fps, "GIF" if kind == "gif" else "PNG")
    return path, len(frames)


def draw_strip(run_dir: Path, *, out: str = "", tag: str, stages: int, side: int) -> Path:
    """Write the stages in a row, or below each other if they are wide."""
    path = Path(out or run_dir / "strip.png")
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise UserError(f"--strip --out {path}: wanted a .png in a folder that there is.")
    frames = make_frames(evenly(find_grids(run_dir, tag), stages), side)
    width, height = frames[0].size
    across = height >= width
    n = len(frames)
    strip = Image.new(frames[0].mode, (width * n, height) if across else (width, height * n))
    for i, frame in enumerate(frames):
        strip.paste(frame, (width * i, 0) if across else (0, height * i))
    with beside(path) as part:
        strip.save(part, "PNG")
    return path


@command(
    flag("run_dir", type=Path, help="folder of a run, such as runs/NAME"),
    flag("--out", default="", help="file to write (default: RUN_DIR/evolution.gif)"),
    flag("--format", choices=FORMATS, default="", help="(default: as --out ends, else gif)"),
    flag("--fps", type=float, default=FPS, help="grids a second, to 50"),
    flag("--tag", default="samples", help="which grids, by tag"),
    flag("--frames", type=int, default=120, bounds=(2, 10_000), help="at most, evenly chosen"),
    flag("--strip", type=int, default=0, bounds=(2, 100), help="one PNG of so many stages instead"),
    flag("--side", type=int, default=640, bounds=(16, 10_000), help="at most, in pixels"),
)
def main(args: argparse.Namespace) -> None:
    if not 0 < args.fps <= 50:  # viewers of GIFs take less than 20 ms for a mistake
        raise UserError(f"--fps {args.fps:g}: wanted more than 0 and at most 50.")
    if args.strip and (args.format or args.fps != FPS):
        raise UserError("--strip makes one PNG: leave --format and --fps out.")
    chosen = {"out": args.out, "tag": args.tag, "side": args.side}
    if args.strip:
        print(draw_strip(args.run_dir, stages=args.strip, **chosen))
        return
    path, n = animate(args.run_dir, kind=args.format, fps=args.fps, most=args.frames, **chosen)
    print(f"{path}: {n} grids, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())

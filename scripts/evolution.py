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
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parent.parent))

from lib.errors import UserError
from lib.flags import Parser, print_error
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
    """By Pillow, to be played without end."""
    each = round(1000 / fps)
    durations = [each] * (len(frames) - 1) + [max(each, round(1000 * LAST))]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def save_gif(frames: list[Image.Image], path: Path, fps: float) -> None:
    """At most 256 colours a frame; grey ones stay as they are."""
    save_pictures(frames, path, fps, "GIF")


def save_apng(frames: list[Image.Image], path: Path, fps: float) -> None:
    save_pictures(frames, path, fps, "PNG")


def save_mp4(frames: list[Image.Image], path: Path, fps: float) -> None:
    """H.264, by imageio with ffmpeg where they are installed."""
    try:
        import imageio_ffmpeg
    except ImportError:
        raise UserError(
            "an mp4 needs ffmpeg: pip install imageio-ffmpeg, or take --format gif or apng."
        ) from None
    writer = imageio_ffmpeg.write_frames(
        str(path), frames[0].size, fps=fps, macro_block_size=2, output_params=["-f", "mp4"]
    )
    shown = frames + frames[-1:] * round(LAST * fps)
    try:
        writer.send(None)
        for frame in shown:
            writer.send(frame.convert("RGB").tobytes())
        writer.close()
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    except (OSError, RuntimeError) as problem:
        raise UserError(f"ffmpeg could not make the mp4 ({first_line(problem)}).") from None
    if written != len(shown):  # it says nothing of a full disk
        raise UserError(f"ffmpeg wrote {written} of {len(shown)} frames: make room on the disk.")


def first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


FORMATS: dict[str, Callable[[list[Image.Image], Path, float], None]] = {
    "gif": save_gif,
    "apng": save_apng,
    "mp4": save_mp4,
}
SUFFIXES = {".gif": "gif", ".png": "apng", ".apng": "apng", ".mp4": "mp4"}


def target(run_dir: Path, out: str, kind: str) -> tuple[Path, str]:
    """Where to write and which format: that of --format, else of --out's name, else GIF."""
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
    fps: float = 4.0,
    tag: str = "samples",
    most: int = 120,
    side: int = 640,
) -> tuple[Path, int]:
    """Writes the animation, beside and renamed; its path and how many frames it has."""
    path, kind = target(run_dir, out, kind)
    frames = make_frames(evenly(find_grids(run_dir, tag), most), side)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        FORMATS[kind](frames, part, fps)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path, len(frames)


def draw_strip(run_dir: Path, *, out: str = "", tag: str, stages: int, side: int) -> Path:
    """Writes the stages one after another, beside each other or, where they are wide, below."""
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
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    strip.save(part, "PNG")
    part.replace(path)
    return path


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    p.add_argument("run_dir", help="folder of a run, such as runs/NAME")
    p.add_argument("--out", default="", help="file to write (default: RUN_DIR/evolution.gif)")
    p.add_argument(
        "--format", choices=tuple(FORMATS), default="", help="(default: as --out ends, else gif)"
    )
    p.add_argument("--fps", type=float, default=FPS, help="grids a second, to 50 (default: 4)")
    p.add_argument("--tag", default="samples", help="which grids, by tag (default: samples)")
    p.add_argument("--frames", type=int, default=120, help="at most, evenly chosen (default: 120)")
    p.add_argument("--strip", type=int, default=0, help="one PNG of so many stages instead")
    p.add_argument("--side", type=int, default=640, help="at most, in pixels (default: 640)")
    return p


def check_flags(args: argparse.Namespace) -> None:
    if not 0 < args.fps <= 50:  # viewers of GIFs take less than 20 ms for a mistake
        raise UserError(f"--fps {args.fps:g}: wanted more than 0 and at most 50.")
    if args.strip == 1 or args.strip < 0:
        raise UserError(f"--strip {args.strip}: wanted two stages or more.")
    if args.strip and (args.format or args.fps != FPS):
        raise UserError("--strip makes one PNG: leave --format and --fps out.")
    for name, least in (("frames", 2), ("side", 16)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: wanted at least {least}.")


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    try:
        check_flags(args)
        if args.strip:
            chosen = {"tag": args.tag, "stages": args.strip, "side": args.side}
            print(draw_strip(Path(args.run_dir), out=args.out, **chosen))
            return 0
        path, n = animate(
            Path(args.run_dir),
            out=args.out,
            kind=args.format,
            fps=args.fps,
            tag=args.tag,
            most=args.frames,
            side=args.side,
        )
    except UserError as error:
        return print_error(error)
    except OSError as error:
        where = error.filename or "a picture"
        return print_error(UserError(f"{where} can't be used: {error.strerror or error}."))
    print(f"{path}: {n} grids, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The curves and pictures that a run leaves: TensorBoard events, sample PNGs, lines of text.

A run that was killed has logged steps that its checkpoint does not know. They are cut out of the
event files before it goes on, and their PNGs deleted, so that each curve has one point a step and
no seam.
"""

import io
import math
import re
from contextlib import closing
from pathlib import Path

from torch import Tensor

from lib.checkpoint import prune
from lib.config import Config, save_config
from lib.events import EventFile, cut_events, has_event
from lib.files import write_beside_and_rename
from lib.guards import Bar
from lib.results import Result, append_result, keep_result, tensorboard_point


class RunLog:
    """The log of a run whose history ends at `step`; what is there of later steps is cut off."""

    def __init__(self, run_dir: Path, step: int) -> None:
        cut = cut_events(run_dir, step)
        grids = cut_samples(run_dir, step)
        if cut or grids:
            print(
                f"{run_dir} goes on from step {step}: {cut} logged values and {grids} grids of"
                " later steps are cut off"
            )
        self.run_dir = run_dir
        self.events = EventFile(run_dir, purge_step=step + 1 if cut else None)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            self.events.scalar(tag, value, step)

    def images(self, grids: dict[str, Tensor], step: int) -> None:
        """Write grids (C, H, W) in [-1, 1] to TensorBoard and to samples/<tag>-0001000.png."""
        for tag, grid in grids.items():
            write_grid(self.events, tag, grid, step)

    def results(self, results: list[Result]) -> None:
        """Keep results in results.jsonl and in TensorBoard, each unless it stands there already."""
        for result in results:
            keep_result(self.run_dir, result)
        self.flush()
        for tag, value, step in new_points(self.run_dir, results):
            self.events.scalar(tag, value, step)

    def flush(self) -> None:
        self.events.flush()

    def close(self) -> None:
        self.events.close()


class NoLog:
    """A log that keeps nothing, for the ranks above 0."""

    def ignore(self, *_: object) -> None:
        pass

    scalars = images = results = flush = close = ignore


def open_log(config: Config, step: int) -> RunLog:
    """Open the run's folder with its settings and its curves up to `step`."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, config.run_dir / "config.json")
    log = RunLog(config.run_dir, step)
    log.events.hparams(config)  # in every event file: an old run gets them too
    return log


def tidy(config: Config, step: int) -> None:
    """Mend the event files, and delete the checkpoints that a kill left over."""
    cut_events(config.run_dir, step)
    prune(config.run_dir / "checkpoints", step, keep=config.keep_checkpoints)


def record(config: Config, results: list[Result]) -> None:
    """Write results to results.jsonl, then those that TensorBoard lacks to it as well.

    The settings too if no training has left them: --run NAME then means those. An OSError of the
    one does not keep the results from the other: it is raised in the end.
    """
    run_dir = config.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        if not (run_dir / "config.json").is_file():
            save_config(config, run_dir / "config.json")
        for result in results:
            append_result(run_dir, result)
    finally:
        if new := new_points(run_dir, results):
            with closing(EventFile(run_dir)) as events:
                events.hparams(config)
                for tag, value, step in new:
                    events.scalar(tag, value, step)


def make_grid(images: Tensor, *, columns: int) -> Tensor:
    """images (N, C, S, S) in [-1, 1] -> one picture (3, H, W), with black lines between them."""
    from torchvision.utils import make_grid  # here: torchvision would slow every start

    return make_grid(images, nrow=columns, padding=2, pad_value=-1.0)


def write_grid(events: EventFile, tag: str, grid: Tensor, step: int) -> None:
    events.image(tag, (grid.float().cpu() + 1) / 2, step)
    path = events.path.parent / "samples" / f"{tag.replace('/', '-')}-{step:07d}.png"
    path.parent.mkdir(exist_ok=True)
    save_grid(grid, path)


def save_grid(grid: Tensor, path: Path) -> None:
    """Write a picture (C, H, W) in [-1, 1], whole or not at all."""
    from torchvision.utils import save_image

    save_image((grid.float().cpu() + 1) / 2, png := io.BytesIO(), format="png")
    write_beside_and_rename(path, png.getbuffer())


def cut_samples(run_dir: Path, step: int) -> int:
    """Delete the grids of steps after `step`, and return how many these were.

    With another --sample_every the run may not make them again.
    """
    deleted = 0
    for path in (run_dir / "samples").glob("*.png"):
        made = re.fullmatch(r".+-(\d{7,})", path.stem)
        if made and int(made[1]) > step:
            path.unlink()
            deleted += 1
    return deleted


def new_points(run_dir: Path, results: list[Result]) -> list[tuple[str, float, int]]:
    """Return (tag, value, step) of the results that TensorBoard has no point of."""
    points = [(*tensorboard_point(result), result["step"]) for result in results]
    return [p for p in points if not has_event(run_dir, p[0], p[2], p[1])]


# --log_lines. Loss_D, D(x) and the first D(G(z)) come from D's update, the others from after it
GAN_VALUES = (
    "Loss_D: {discriminator_loss:.4f} Loss_G: {generator_loss:.4f}"
    " D(x): {D(x):.4f} D(G(z)): {D(G(z1)):.4f} / {D(G(z2)):.4f}"
)


def log_line(step: int, steps: int, epoch_steps: int, values: dict[str, float], form: str) -> str:
    """[24/25][450/469] Loss_D: 0.9578 ...: a step as PyTorch's DCGAN example prints a batch.

    Epochs and batches count from 0. An epoch has as many batches as hold the dataset once, a short
    last one counted as whole. form: the values' format, by tag; "" shows all.
    """
    epoch, batch = divmod(step - 1, epoch_steps)
    shown = form.format_map(values) if form else " ".join(f"{t}: {values[t]:.4f}" for t in values)
    return f"[{epoch}/{math.ceil(steps / epoch_steps)}][{batch}/{epoch_steps}] {shown}"


def write_line(*args) -> None:
    """Print log_line(*args), above the progress bar if somebody watches it."""
    line = log_line(*args)
    Bar.write(line)

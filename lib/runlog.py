"""What a run leaves behind besides checkpoints: TensorBoard events, sample PNGs, results.jsonl.

A run that was killed has logged steps that its checkpoint does not know. They are cut out of the
event files before it goes on, and their PNGs deleted, so that each curve has one point a step and
no seam, and no grid stands there that the run, as it goes on, would not make.
"""

import json
import math
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lib.config import Config, save_config
from lib.distributed import rank
from lib.errors import UserError

Result = dict[str, Any]  # a score: "metric", "value", mostly "error", "n", "about"

ENCODERS = "encoder"  # latent_density of a score whose z is q(z | x)'s, and of no generated image
FRAME = 16  # bytes around a record: its length, that length's checksum, the payload's checksum


class RunLog:
    """The TensorBoard writer of a run whose history ends at `step`; the rest is cut off."""

    def __init__(self, run_dir: Path, step: int) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        cut = cut_events(run_dir, step)
        grids = cut_samples(run_dir, step)
        if cut or grids:
            print(
                f"{run_dir} goes on from step {step}: {cut} logged values and {grids} grids of"
                " later steps are cut off"
            )
        self.run_dir = run_dir
        self.writer = SummaryWriter(run_dir, purge_step=step + 1 if cut else None)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def images(self, grids: dict[str, Tensor], step: int) -> None:
        """Grids (C, H, W) in [-1, 1] to TensorBoard and to samples/<tag>-0001000.png."""
        for tag, grid in grids.items():
            write_grid(self.writer, self.run_dir, tag, grid, step)

    def settings(self, values: dict[str, Any]) -> None:
        """The settings as a table in TensorBoard's Text tab."""
        if has_event(self.run_dir, "settings/text_summary", 0):
            return
        rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
        self.writer.add_text("settings", f"| setting | value |\n| --- | --- |\n{rows}", 0)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def write_grid(writer: SummaryWriter, run_dir: Path, tag: str, grid: Tensor, step: int) -> None:
    from torchvision.utils import save_image  # here: torchvision would slow every start

    picture = (grid.float().cpu() + 1) / 2
    writer.add_image(tag, picture, step)
    path = run_dir / "samples" / f"{tag.replace('/', '-')}-{step:07d}.png"
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    save_image(picture, part, format="png")
    part.replace(path)  # never half a picture, whatever happens


class NoLog(RunLog):
    """What ranks above 0 log to: nothing."""

    def __init__(self) -> None:
        pass

    def scalars(self, values: dict[str, float], step: int) -> None:
        pass

    def images(self, grids: dict[str, Tensor], step: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def open_log(config: Config, step: int) -> RunLog:
    """The run's folder with its settings and its curves up to `step`, on rank 0."""
    if rank():
        return NoLog()
    config.run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, config.run_dir / "config.json")
    log = RunLog(config.run_dir, step)
    if step == 0:
        log.settings(asdict(config))
    return log


def cut_events(run_dir: Path, step: int) -> int:
    """Drop every event after `step` from the run's event files; how many were dropped.

    A torn last record, as a kill leaves it, goes too.
    """
    dropped = 0
    for path in sorted(run_dir.glob("events.out.tfevents.*")):
        records = list(read_records(path))
        kept = [r for r in records if Event.FromString(r).step <= step]
        if len(kept) == len(records) and sum(len(r) + FRAME for r in kept) == path.stat().st_size:
            continue
        dropped += len(records) - len(kept)
        part = path.with_name("cut.part")  # TensorBoard reads any name with "tfevents"
        with open(part, "wb") as file:
            writer = RecordWriter(file)
            for record in kept:
                writer.write(record)
        part.replace(path)
    return dropped


def cut_samples(run_dir: Path, step: int) -> int:
    """Delete the grids of steps after `step`; another --sample_every may not make them again.

    How many these were.
    """
    deleted = 0
    for path in (run_dir / "samples").glob("*.png"):
        made = re.fullmatch(r".+-(\d{7,})", path.stem)
        if made and int(made[1]) > step:
            path.unlink()
            deleted += 1
    return deleted


def read_records(path: Path) -> Iterator[bytes]:
    """The serialized events of a file, up to its end or to the first torn one."""
    yield from RawEventFileLoader(str(path)).Load()


def read_scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """tag -> its points (step, value) by step, over all event files of the run.

    Raises UserError if there is no event file, or if one is torn: what it lost is not known. A
    file may grow while it is read, by a training at work.
    """
    paths = sorted(run_dir.glob("events.out.tfevents.*"))
    if not paths:
        raise UserError(f"{run_dir} has no TensorBoard events: train it first, or pass a run.")
    curves: dict[str, dict[int, float]] = {}
    for path in paths:
        size = path.stat().st_size
        records = list(read_records(path))
        whole = sum(len(record) + FRAME for record in records)
        if whole < size:
            raise UserError(
                f"{path} is torn after {whole} of {size} bytes. If its training has ended, run the"
                " command again: it cuts the torn end off and goes on. Else look again in a moment."
            )
        for event in map(Event.FromString, records):
            for value in event.summary.value:
                if value.HasField("simple_value") or value.tensor.float_val:
                    number = value.simple_value or sum(value.tensor.float_val)
                    curves.setdefault(value.tag, {})[event.step] = number
    return {tag: sorted(points.items()) for tag, points in curves.items()}


def has_event(run_dir: Path, tag: str, step: int, value: float | None = None) -> bool:
    """Whether the event files have the tag at that step (with that scalar value, if given)."""
    for path in run_dir.glob("events.out.tfevents.*"):
        for event in map(Event.FromString, read_records(path)):
            if event.step == step and any(
                v.tag == tag and value in (None, v.simple_value) for v in event.summary.value
            ):
                return True
    return False


def record(config: Config, results: list[dict[str, Any]]) -> None:
    """Results to results.jsonl, and to TensorBoard but for points that stand there already.

    The settings too, where no training has left them: --run NAME then means those.
    """
    run_dir = config.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    if not (run_dir / "config.json").is_file():
        save_config(config, run_dir / "config.json")
    points = [(*point_of(result), result["step"]) for result in results]
    new = [(tag, v, step) for tag, v, step in points if not has_event(run_dir, tag, step, v)]
    if new:  # in one event file
        with SummaryWriter(run_dir) as writer:
            for point in new:
                writer.add_scalar(*point)
    for result in results:
        append_result(run_dir, result)


def record_grid(config: Config, tag: str, grid: Tensor, step: int) -> None:
    """A grid of a run that is scored, as RunLog.images writes those of its training; once."""
    if not has_event(config.run_dir, tag, step):
        config.run_dir.mkdir(parents=True, exist_ok=True)
        with SummaryWriter(config.run_dir) as writer:
            write_grid(writer, config.run_dir, tag, grid, step)


def keep(log: RunLog, result: dict[str, Any]) -> None:
    """A result to a log that is open, and to results.jsonl; neither where it stands already.

    A run that was killed comes by the same steps again.
    """
    tag, value = point_of(result)
    log.flush()
    if not has_event(log.run_dir, tag, result["step"], value):
        log.scalars({tag: value}, result["step"])
    known = ({k: v for k, v in old.items() if k != "date"} for old in read_results(log.run_dir))
    if plain(result) not in known:
        append_result(log.run_dir, result)


def point_of(result: dict[str, Any]) -> tuple[str, float]:
    """Tag and value in TensorBoard, which keeps float32.

    Tags: "fid" for the homework protocol in fp32, else "fid_10k", "fid_bf16" and so on; "kid" for
    the protocol all, which alone has it; "fid_truncation_0.5" of images of a truncated z,
    "fid_z_mixture" of a z drawn from a fitted density.
    """
    usual = "all" if result["metric"] == "kid" else "homework"
    words = (result.get("protocol", usual), result.get("precision", "fp32"))
    marks = [word for word in words if word not in (usual, "fp32")]
    if drawn := drawing_of(result):
        marks.append(drawn)
    value = struct.unpack("f", struct.pack("f", result["value"]))[0]
    return "_".join([result["metric"], *marks]), value


def drawing_of(settings: dict[str, Any]) -> str:
    """How z was drawn for a result, or will be by a config's settings; "" is from N(0, I).

    So it is where they do not tell it, and in scores of no generated images.
    """
    if truncation := settings.get("truncation", 0.0):
        return f"truncation_{truncation:g}"
    density = settings.get("latent_density", "prior")
    return "" if density in ("prior", ENCODERS) else f"z_{density}"


def drawing_in_words(result: dict[str, Any]) -> str:
    """Of what z the generated images are, where it is not drawn from N(0, I)."""
    if truncation := result.get("truncation"):
        return f" from z truncated at {truncation:g}"
    drawn = drawing_of(result)
    return f" from z of a {drawn.removeprefix('z_')} fitted to the encoder's" if drawn else ""


def mean_result(metric: str, values: Tensor, about: str) -> Result:
    """Mean of values (n,), one an image, with its standard error: NaN, unknown, of one value."""
    values = values.double()
    n = len(values)
    error = (values.std() / n**0.5).item() if n > 1 else math.nan
    return {"metric": metric, "value": values.mean().item(), "error": error, "n": n, "about": about}


def plain(result: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it: a NaN, as of an error that is unknown, is null."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in result.items()}


def read_results(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of results.jsonl, oldest first; one that a kill tore is passed over."""
    path = run_dir / "results.jsonl"
    results = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with suppress(ValueError):
            results.append(json.loads(line))
    return [result for result in results if isinstance(result, dict)]


def append_result(run_dir: Path, result: dict[str, Any]) -> None:
    """One dated line."""
    path = run_dir / "results.jsonl"
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    torn = path.is_file() and not path.read_bytes().endswith(b"\n")
    with open(path, "a") as file:
        file.write("\n" * torn + json.dumps(plain(result) | {"date": now}) + "\n")

"""TensorBoard's event files: written at once, read to the last whole event, cut and mended.

A file is a row of records: an event's length, its checksum, the event, its checksum. Events are
written here and not by a thread of TensorBoard's, so that a full disk is an error where it happens.
"""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lib.config import Config, defining
from lib.errors import UserError
from lib.files import naming, write_beside_and_rename

FLUSH_SECONDS = 10.0  # how old an event gets before a TensorBoard that looks on can see it
FRAME = 16  # bytes of a record that are not the event
CHUNK = 1 << 16  # bytes searched at once for the next record


class EventFile:
    """A new TensorBoard file in the run's folder; events are appended in the order given."""

    made = 0

    def __init__(self, run_dir: Path, purge_step: int | None = None) -> None:
        """purge_step: TensorBoard is to forget what it has read of this step and later ones."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        run_dir.mkdir(parents=True, exist_ok=True)
        EventFile.made += 1
        words = (f"{time.time():010.0f}", socket.gethostname(), str(os.getpid()), str(self.made))
        self.path = run_dir / f"events.out.tfevents.{'.'.join(words)}"
        self.file = open(self.path, "wb")  # noqa: SIM115 (closed by close)
        self.records, self.event, self.flushed = RecordWriter(self.file), Event, time.monotonic()
        self.write(file_version="brain.Event:2")
        if purge_step is not None:
            self.write(purge_step, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def write(self, step: int = 0, **content: Any) -> None:
        event = self.event(step=step, wall_time=time.time(), **content)
        with naming(self.path):
            self.records.write(event.SerializeToString())
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def scalar(self, tag: str, value: float, step: int) -> None:
        self.write(step, summary={"value": [{"tag": tag, "simple_value": float(value)}]})

    def image(self, tag: str, picture: Tensor, step: int) -> None:
        """A picture (C, H, W) in [0, 1]."""
        from torch.utils.tensorboard.summary import image

        self.write(step, summary=image(tag, picture, dataformats="CHW"))

    def hparams(self, config: Config) -> None:
        """Give what defines a run to the HPARAMS tab, which shows the newest scalars beside it."""
        from torch.utils.tensorboard.summary import hparams

        values = {field.name: getattr(config, field.name) for field in defining(config)}
        for name, value in values.items():
            if type(value) not in (int, float):  # a protobuf refuses bytes that are no text
                values[name] = str(value).encode(errors="backslashreplace").decode()
        self.write(summary=hparams(values, {})[1])

    def flush(self) -> None:
        with naming(self.path):
            self.file.flush()
        self.flushed = time.monotonic()

    def close(self) -> None:
        with naming(self.path):
            self.file.close()


class Record(NamedTuple):
    """A whole event and its place in the file."""

    start: int
    end: int
    event: Any


def event_files(run_dir: Path) -> list[Path]:
    there = run_dir.iterdir() if run_dir.is_dir() else ()  # glob would hide one that can't be read
    return sorted(p for p in there if p.name.startswith("events.out.tfevents.") and p.is_file())


def whole_records(data: bytes) -> Iterator[Record]:
    """Find every whole event in a file's bytes, also behind damage."""
    at = 0
    while at < len(data):
        if found := record_at(data, at):
            yield found
            at = found.end
        else:
            at = next_length(data, at + 1)


def next_length(data: bytes, at: int) -> int:
    """Return the first place from there on that has a length and its right checksum; or the end."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import CRC_TABLE

    table = np.array(CRC_TABLE, np.uint32)
    for start in range(at, len(data) - 11, CHUNK):
        part = np.frombuffer(data[start : start + CHUNK + 11], np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(part, 12)
        crc = np.full(len(windows), 2**32 - 1, np.uint32)
        for byte in windows.T[:8]:
            crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
        masked = ((~crc >> 15) | (~crc << 17)) + np.uint32(0xA282EAD8)
        wanted = np.ascontiguousarray(windows[:, 8:]).view("<u4")[:, 0]
        if len(places := np.flatnonzero(masked == wanted)):
            return start + int(places[0])
    return len(data)


def record_at(data: bytes, at: int) -> Record | None:
    """Return the record that begins there; None if there is none, it is damaged or no event."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    end = at + FRAME + announced_length(data, at)
    payload, checksum = data[at + 12 : end - 4], data[end - 4 : end]
    if not at + FRAME < end <= len(data) or not sums_to(payload, checksum):
        return None
    try:
        event = Event.FromString(payload)
    except DecodeError:
        return None
    return Record(at, end, event) if event.WhichOneof("what") else None


def announced_length(data: bytes, at: int) -> int:
    """Return the length of the event whose record begins there; 0 if none does."""
    length = data[at : at + 8]
    return int.from_bytes(length, "little") if sums_to(length, data[at + 8 : at + 12]) else 0


def sums_to(part: bytes, checksum: bytes) -> bool:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    return len(checksum) == 4 and int.from_bytes(checksum, "little") == masked_crc32c(part)


def damage_of(data: bytes, records: list[Record]) -> tuple[str, bool]:
    """Name the bytes that hold no event, and the steps beside them; True if it is a torn end only.

    A kill or a full disk tears the last record: its beginning is right, and the rest is missing.
    """
    bounds = [(0, 0), *((r.end, r.event.step) for r in records)]
    nexts = [*((r.start, r.event.step) for r in records), (len(data), None)]
    gaps = [
        f"bytes {end} to {start} hold no whole event ("
        + (f"after step {step}" if later is None else f"between steps {step} and {later}")
        + ")"
        for (end, step), (start, later) in zip(bounds, nexts, strict=True)
        if start > end
    ]
    tail = bounds[-1][0]
    torn = len(data) - tail < 12 or announced_length(data, tail) > len(data) - tail - FRAME
    return "; ".join(gaps), torn and len(gaps) == (tail < len(data))


def cut_events(run_dir: Path, step: int) -> int:
    """Drop every event after `step` from the run's event files; return how many.

    A torn last record, as a kill leaves it, goes too. If a file is damaged in another way, its
    whole events are kept, and the file as it was beside it, named .damaged.
    """
    dropped = 0
    for path in event_files(run_dir):
        data = path.read_bytes()
        records = list(whole_records(data))
        kept = b"".join(data[r.start : r.end] for r in records if r.event.step <= step)
        dropped += sum(r.event.step > step for r in records)
        damage, only_torn = damage_of(data, records)
        if damage and not only_torn:
            copy = path.with_name(path.name.replace("tfevents", "was") + ".damaged")
            write_beside_and_rename(copy, data)  # no name that TensorBoard would read
            print(
                f"warning: {path} is damaged: {damage}. Its {len(records)} whole events are kept,"
                f" and the file as it was is {copy.name}"
            )
        if not kept:
            path.unlink()
        elif len(kept) < len(data):
            write_beside_and_rename(path, kept)
    return dropped


def read_scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Return tag -> its points (step, value) by step, over all event files of the run.

    Raises UserError if there is no event file, or if one is damaged: it lacks points then. A
    training at work may just be writing the last one.
    """
    if not event_files(run_dir):
        raise UserError(f"{run_dir} has no TensorBoard events: train it first, or pass a run.")
    curves: dict[str, dict[int, float]] = {}
    for path in event_files(run_dir):
        data = path.read_bytes()
        records = list(whole_records(data))
        damage, only_torn = damage_of(data, records)
        if damage:
            raise UserError(
                f"{path} is {'torn' if only_torn else 'damaged'}: {damage}. If its training has"
                " ended, run its command with --do_train again: it keeps every whole event and goes"
                " on. Else look again in a moment."
            )
        for _, _, event in records:
            for value in event.summary.value:
                if value.HasField("simple_value") or value.tensor.float_val:
                    number = value.simple_value or sum(value.tensor.float_val)
                    curves.setdefault(value.tag, {})[event.step] = number
    return {tag: sorted(points.items()) for tag, points in curves.items()}


def has_event(run_dir: Path, tag: str, step: int, value: float) -> bool:
    """True if the event files have the tag at that step with that value."""
    return any(
        found.tag == tag and found.simple_value == value
        for path in event_files(run_dir)
        for record in whole_records(path.read_bytes())
        if record.event.step == step
        for found in record.event.summary.value
    )

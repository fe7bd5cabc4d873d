"""A user's own images, in and out: what --translate and --upscale share."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dataset import to_bytes
from lib.errors import UserError

NAMED = 5  # unreadable files named; the rest is counted


def check_request(flag: str, source: str, out: str) -> None:
    """UserError unless the flag that names a user's images and --out come together."""
    if source and not out:
        raise UserError(f"{flag} {source} needs --out DIR: where the results go.")
    if out and not source:
        raise UserError(f"--out {out} belongs to {flag}: the images to work on.")


def check_out(flag: str, source: Path, out: Path, *, deep: bool) -> None:
    """UserError where the results can't be written without harm: names are kept.

    deep: images are taken from folders below source too.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder.")
    if out.resolve() == source.resolve():
        raise UserError(f"--out {out} is {flag}'s folder: name another, names are kept.")
    if out.resolve() in source.resolve().parents:
        raise UserError(
            f"--out {out} holds {flag}'s folder {source}, whose images or others a result may"
            " overwrite: name another folder."
        )
    if deep and source.resolve() in out.resolve().parents:
        raise UserError(
            f"--out {out} lies in {flag}'s folder: name one outside, or the next time the results"
            " are taken for images too."
        )


def save(image: Tensor, path: Path) -> None:
    """image (C, H, W) in [-1, 1], in the format that the name says; a JPEG at quality 95.

    Written beside and renamed.
    """
    pixels = to_bytes(image).cpu().numpy().transpose(1, 2, 0)
    pixels = np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    kind = Image.registered_extensions()[path.suffix.lower()]
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(part, kind, quality=95)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UserError(f"{path} can't be written ({error.strerror or error}).") from None


def in_words(unreadable: dict[str, str]) -> str:
    """ "; skipped 1 unreadable: a.png (why)", or nothing."""
    if not unreadable:
        return ""
    named = [f"{name} ({why})" for name, why in list(unreadable.items())[:NAMED]]
    more = ", ..." if len(unreadable) > NAMED else ""
    return f"; skipped {len(unreadable):,} unreadable: {', '.join(named)}{more}"

"""Many image files -> one cache of squares: decoded in threads, what is amiss counted and named."""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import numpy as np

from lib.errors import UserError
from lib.guards import Bar
from sources import image_cache
from sources.image_files import Files
from sources.image_folder import EXTENSIONS, read_ahead
from sources.pictures import Picture, TooSmall, decode, reason

CHUNK = 256  # images decoded before they are written
NAMED = 5  # files named in a message; the rest is counted


@dataclass
class Decoding:
    """The named files at image_size x image_size, with 1 or 3 channels."""

    files: Files
    names: list[str]
    _: KW_ONLY
    image_size: int
    channels: int
    small_images: str  # with fewer pixels a side: refuse, skip or upscale
    label: str
    whole: bool = False  # not the middle square, but all of the image, distorted to a square
    sizes: Counter[str] = field(default_factory=Counter)  # "640x480" -> images that were so large
    unreadable: dict[str, str] = field(default_factory=dict)  # name -> what was wrong
    too_small: list[str] = field(default_factory=list)
    grey: int = 0

    def write(self, path: Path) -> None:
        """Into the cache at `path`, unless it is there; print on stderr what was found.

        Raises UserError if fewer than two images are left, or one is too small and that isn't
        allowed.
        """
        if image_cache.described(path) is None:
            about = {"unreadable": self.unreadable, "too_small": self.too_small}
            image_cache.write(path, self.chunks(), about)
            print(self.in_words(), file=sys.stderr)

    def chunks(self) -> Iterator[np.ndarray]:
        """Chunks (n, C, S, S) uint8 in the order of the names."""
        with Bar(total=len(self.names), desc=self.label, unit="image") as bar:
            for found in read_ahead(self.attempt, self.names, CHUNK):
                kept = [result.pixels for name, result in found if self.note(name, result)]
                bar.update(len(found))
                if kept:
                    yield np.stack(kept)[:, : self.channels]
        if (n := self.sizes.total()) < 2:
            raise UserError(
                f"{self.label}: {n} of {len(self.names):,} files are left as images"
                f"{self.left_out()}; a dataset needs at least two."
            )

    def attempt(self, name: str) -> tuple[str, Picture | Exception]:
        form = {"upscale": self.small_images == "upscale", "whole": self.whole}
        try:
            return name, decode(self.files.read(name), self.image_size, **form)
        except Exception as problem:  # Pillow's decoders raise nearly anything on a broken file
            return name, problem

    def note(self, name: str, result: Picture | Exception) -> bool:
        """Count the file; True if it gave an image. UserError if it is a small one and refused."""
        if isinstance(result, Picture):
            self.sizes[f"{result.width}x{result.height}"] += 1
            self.grey += result.grey
            return True
        if not isinstance(result, TooSmall):
            self.unreadable[name] = reason(result)
        elif self.small_images == "skip":
            self.too_small.append(name)
        else:
            raise UserError(
                f"{self.label}: {name} is {result}, smaller than --image_size {self.image_size}:"
                " choose a smaller one, or add --small_images skip (to leave such images out) or"
                " upscale (to enlarge them)."
            )
        return False

    def in_words(self) -> str:
        """Say in one line what was found."""
        most = self.sizes.most_common()
        sizes = ", ".join(f"{size} ({count:,})" for size, count in most[:3])
        if len(most) > 3:
            sizes += f" and {len(most) - 3:,} other sizes"
        kind = "grey" if self.channels == 1 else "colour"
        line = f"{self.label}: {self.sizes.total():,} images, {kind}, {sizes}"
        if self.channels == 3 and self.grey:
            line += f"; the {self.grey:,} grey ones among them become RGB"
        return line + self.left_out()

    def left_out(self) -> str:
        """Write '; left out 2 too small; skipped 1 unreadable: a.jpg (why)', or nothing."""
        line = f"; left out {len(self.too_small):,} too small" if self.too_small else ""
        line += skipped(self.unreadable, "unreadable")
        if self.files.passed_over:
            kinds = ", ".join(sorted(EXTENSIONS))
            line += f"; passed over {self.files.passed_over} (read are {kinds})"
        return line


def skipped(problems: dict[str, str], kind: str) -> str:
    """Write '; skipped 1 unreadable: a.png (why)', or nothing."""
    if not problems:
        return ""
    named = [f"{name} ({why})" for name, why in list(problems.items())[:NAMED]]
    more = ", ..." if len(problems) > NAMED else ""
    return f"; skipped {len(problems):,} {kind}: {', '.join(named)}{more}"

"""Many image files -> one cache of squares: decoded in threads, what is amiss counted and named."""

import os
import sys
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lib.errors import UserError
from sources import image_cache
from sources.image_files import Files
from sources.image_folder import EXTENSIONS
from sources.pictures import Picture, TooSmall, decode, reason

CHUNK = 256  # images decoded before they are written
CHUNKS_AHEAD = 2
NAMED = 5  # files named in a message; the rest is counted


class Decoding:
    """The named files at image_size x image_size, with 1 or 3 channels.

    small_images: what is done with one that has fewer pixels a side: refuse, skip or upscale.
    whole: not the middle square, but all of the image, distorted to a square.
    """

    def __init__(
        self,
        files: Files,
        names: list[str],
        *,
        image_size: int,
        channels: int,
        small_images: str,
        label: str,
        whole: bool = False,
    ) -> None:
        self.files, self.names, self.label, self.whole = files, names, label, whole
        self.image_size, self.channels, self.small_images = image_size, channels, small_images
        self.sizes: Counter[str] = Counter()  # "640x480" -> images that were so large
        self.unreadable: dict[str, str] = {}  # name -> what was wrong
        self.too_small: list[str] = []
        self.grey = 0

    def write(self, path: Path) -> None:
        """Into the cache at `path`, telling on stderr what was found.

        UserError where fewer than two images are left, or one is too small and that isn't allowed.
        """
        about = {"unreadable": self.unreadable, "too_small": self.too_small}
        image_cache.write(path, self.chunks(), about)
        print(self.in_words(), file=sys.stderr)

    def chunks(self) -> Iterator[np.ndarray]:
        """Chunks (n, C, S, S) uint8 in the order of the names."""
        for found in self.in_threads():
            kept = [result.pixels for name, result in found if self.note(name, result)]
            if kept:
                yield np.stack(kept)[:, : self.channels]
        if (n := self.sizes.total()) < 2:
            raise UserError(
                f"{self.label}: {n} of {len(self.names):,} files are left as images"
                f"{self.left_out()}; a dataset needs at least two."
            )

    def in_threads(self) -> Iterator[list[tuple[str, Picture | Exception]]]:
        """The files' pictures, or what went wrong, by CHUNK; a few chunks ahead of the taker."""
        ahead: deque = deque()
        pool = ThreadPoolExecutor(os.cpu_count())
        with pool, tqdm(total=len(self.names), desc=self.label, unit="image") as bar:
            for start in range(0, len(self.names), CHUNK):
                chosen = self.names[start : start + CHUNK]
                ahead.append([(name, pool.submit(self.attempt, name)) for name in chosen])
                if len(ahead) > CHUNKS_AHEAD:
                    yield results(ahead.popleft(), bar)
            while ahead:
                yield results(ahead.popleft(), bar)

    def attempt(self, name: str) -> Picture | Exception:
        upscale = self.small_images == "upscale"
        try:
            return decode(self.files.read(name), self.image_size, upscale=upscale, whole=self.whole)
        except Exception as problem:  # Pillow's decoders raise nearly anything on a broken file
            return problem

    def note(self, name: str, result: Picture | Exception) -> bool:
        """Whether the file gave an image; counted. UserError where a small one is refused."""
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
        """What was found, in one line."""
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
        """ "; left out 2 too small; skipped 1 unreadable: a.jpg (why)", or nothing."""
        line = f"; left out {len(self.too_small):,} too small" if self.too_small else ""
        if self.unreadable:
            first = [f"{name} ({why})" for name, why in list(self.unreadable.items())[:NAMED]]
            more = ", ..." if len(self.unreadable) > NAMED else ""
            line += f"; skipped {len(self.unreadable):,} unreadable: {', '.join(first)}{more}"
        if self.files.passed_over:
            kinds = ", ".join(sorted(EXTENSIONS))
            line += f"; passed over {self.files.passed_over}, which are not among {kinds}"
        return line


def results(started: list, bar: tqdm) -> list[tuple[str, Picture | Exception]]:
    found = [(name, future.result()) for name, future in started]
    bar.update(len(found))
    return found

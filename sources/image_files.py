"""Image files under a folder or in a zip archive: their names, their bytes, their fingerprint.

An archive is read in place: nothing of it is ever extracted to disk.
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from lib.errors import UserError
from sources.image_folder import is_image, passed_over

LARGEST = 1 << 28  # bytes of one file in an archive; what claims more is a bomb, not an image


class FolderFiles:
    """Every image file under a folder, at any depth, by its path below it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stamps = {}  # name -> size and time of change
        others = []
        for folder, files in folders_below(root):
            for path in (Path(folder, file) for file in files):
                name = path.relative_to(root).as_posix()
                if is_image(name) and path.is_file():
                    status = path.stat()
                    self.stamps[name] = (status.st_size, status.st_mtime_ns)
                else:
                    others.append(name)
        self.passed_over = passed_over(others, root)
        self.names = sorted(self.stamps)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def fingerprint(self) -> str:
        """Changes with the absolute path and the name, size or time of any image."""
        return digest(self.root.resolve(), sorted(self.stamps.items()))


def folders_below(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(path, names of files) of root and all folders below, links to folders among them, each once.

    A folder is known by its device and inode, so that a link to a folder above ends there.
    """
    seen: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=refuse_unreadable):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below.sort()
        yield folder, files


class ZipFiles:
    """Every image file in a zip archive, which is refused if any of its paths leads out of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
            raise UserError(
                f"{path} can't be read as a zip archive ({error}): wanted one, or a folder of"
                " images."
            ) from None
        for entry in self.archive.infolist():
            refuse_unsafe(path, entry)
        entries = [e for e in self.archive.infolist() if not e.is_dir()]
        windows = not any("/" in e.filename for e in entries)  # tools that write backslashes
        names = [e.filename.replace("\\", "/") if windows else e.filename for e in entries]
        self.entries = {n: e for n, e in zip(names, entries, strict=True) if is_image(n)}
        again = sum(map(is_image, names)) - len(self.entries)
        counts = (passed_over(names), f"{again:,} whose name comes again" * bool(again))
        self.passed_over = ", ".join(filter(None, counts))
        self.names = sorted(self.entries)

    def read(self, name: str) -> bytes:
        """Threads may call this at once."""
        if self.entries[name].file_size > LARGEST:
            raise ValueError(f"says to be {self.entries[name].file_size:,} bytes large")
        return self.archive.read(self.entries[name])

    def fingerprint(self) -> str:
        status = self.path.stat()
        return digest(self.path.resolve(), (status.st_size, status.st_mtime_ns))


Files = FolderFiles | ZipFiles


def open_files(path: Path, flag: str = "--folder") -> Files:
    """UserError, naming the flag, unless path is a folder or a zip archive."""
    if path.is_dir():
        return FolderFiles(path)
    if path.is_file():
        return ZipFiles(path)
    raise UserError(f"{flag} {path}: no folder and no zip archive is there.")


def refuse_unsafe(path: Path, entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename.replace("\\", "/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        raise UserError(
            f"{path} is refused: its entry {entry.orig_filename!r} leads out of the archive. Make"
            " the archive again without it."
        )
    if entry.flag_bits & 1:
        raise UserError(f"{path} is encrypted: unpack it, and name the folder.")


def refuse_unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename} can't be read ({error.strerror}).")


def digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]

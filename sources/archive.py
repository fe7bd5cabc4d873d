"""Published tar archives: the files wanted of one, unpacked by their known names alone."""

import gzip
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lib.download import check_digest, fetch, first_that_answers
from lib.errors import UserError
from lib.files import beside
from lib.guards import Bar


@dataclass(frozen=True)
class Published:
    """An archive that a dataset's files come in. size: in words, for a sentence."""

    url: str
    md5: str
    size: str
    files: Collection[str]  # what is unpacked of it

    def bring(self, names: list[str], folder: Path) -> None:
        """Unpack the named files into `folder` if one is missing there.

        The archive lies beside the folder, or is fetched. Raises UserError if it can't be had, is
        damaged, or lacks a file.
        """
        archive = folder.parent / self.url.rpartition("/")[2]
        if not missing_from(folder, names):
            return
        if not archive.is_file():
            first_that_answers(
                f"whole {archive.name} ({self.size})",
                {self.url: lambda: fetch(self.url, archive, md5=self.md5)},
                "Run again with a network (it resumes), or put the published file into"
                f" {archive.parent}.",
            )
        unpack(archive, folder, missing_from(folder, self.files))  # what is there is the user's
        if missing := missing_from(folder, names):
            raise UserError(
                f"{archive} lacks {', '.join(missing)}: delete it and run again, or put the"
                " published one there."
            )


def missing_from(folder: Path, names: Collection[str]) -> list[str]:
    return [name for name in names if not (folder / name).is_file()]


@contextmanager
def opened(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar archive to read all of it; UserError if it is damaged or breaks off."""
    try:
        with tarfile.open(path) as tar:
            yield tar
            check_end(tar)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        reason = " ".join(str(error).split())[:80]
        raise UserError(
            f"{path} is damaged ({reason}): delete it and run again, or put a whole one there."
        ) from None


def check_end(tar: tarfile.TarFile) -> None:
    """Raise ReadError if the archive is torn: iteration ends at a broken header in silence.

    A whole one ends with a block of zeros. Reading on to the end has gzip check its sum.
    """
    tar.fileobj.seek(tar.offset)
    end = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise tarfile.ReadError("it breaks off")
    while tar.fileobj.read(1 << 20):
        pass


def unpack(archive: Path, folder: Path, names: Collection[str]) -> None:
    """Put the archive's files of these names into `folder`, whatever their folder in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with opened(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            if name in names and member.isfile():
                extract(tar, member, folder / name)


def extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    options = {"desc": target.name, "total": member.size}
    with (
        beside(target) as part,
        open(part, "wb") as file,
        Bar.wrapattr(file, "write", **options) as written,
    ):
        shutil.copyfileobj(tar.extractfile(member), written)


def check_file(path: Path, md5: str) -> None:
    """UserError unless the file is the published one."""
    try:
        check_digest(path, md5=md5)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}. Delete it and run again.") from None

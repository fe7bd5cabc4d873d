"""Published tar archives: the files wanted of one, unpacked by their known names alone."""

import gzip
import secrets
import tarfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lib.download import check_digest, fetch, first_that_answers
from lib.errors import UserError


@dataclass(frozen=True)
class Published:
    """An archive that a dataset's files come in. size: in words, for a sentence."""

    url: str
    md5: str
    size: str
    files: Collection[str]  # what is unpacked of it

    def bring(self, names: list[str], folder: Path) -> None:
        """The named files into `folder`, unpacked if one lacks; the archive lies beside it, or is
        fetched to there.

        UserError: it can't be had, is damaged, or lacks a file.
        """
        archive = folder.parent / self.url.rpartition("/")[2]
        if missing_from(folder, names):
            if not archive.is_file():
                self.download(archive)
            unpack(archive, folder, missing_from(folder, self.files))  # what is there is the user's
            if missing := missing_from(folder, names):
                raise UserError(
                    f"{archive} lacks {', '.join(missing)}: delete it and run again, or put the"
                    " published one there."
                )

    def download(self, archive: Path) -> Path:
        return first_that_answers(
            f"whole {archive.name} ({self.size})",
            {self.url: lambda: fetch(self.url, archive, md5=self.md5)},
            "Run again with a network (it resumes), or put the published file into"
            f" {archive.parent}.",
        )


def missing_from(folder: Path, names: Collection[str]) -> list[str]:
    return [name for name in names if not (folder / name).is_file()]


def unpack(archive: Path, folder: Path, names: Collection[str]) -> None:
    """The archive's files of these names into `folder`, whatever their folder in the archive."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).name
                if name in names and member.isfile():
                    extract(tar, member, folder / name)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{archive} is damaged ({error}): delete it and run again.") from None
    except OSError as error:
        raise UserError(f"{archive} can't be unpacked into {folder} ({error}).") from None


def extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    part = target.with_name(f"{target.name}.{secrets.token_hex(8)}.part")
    source = tar.extractfile(member)
    bar = tqdm(desc=target.name, total=member.size, unit="B", unit_scale=True)
    try:
        with bar, open(part, "wb") as file:
            while block := source.read(1 << 20):
                file.write(block)
                bar.update(len(block))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def check_file(path: Path, md5: str) -> None:
    """UserError unless the file is the published one."""
    try:
        check_digest(path, md5=md5)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}. Delete it and run again.") from None

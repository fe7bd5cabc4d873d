"""download.py against a server on this machine and clients that are a line of Python."""

import hashlib
import http.server
import re
import sys
import threading

import pytest

from lib import download
from lib.download import fetch, file_digest, first_that_answers, npm_pack
from lib.errors import UserError

BODY = bytes(range(256)) * 1000
MD5 = hashlib.md5(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """BODY at /file with Range, at /plain without, at /broken only half of what it announces."""

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
        self.wfile.write(body[: len(body) // 2] if self.path == "/broken" else body)

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
    sha256 = hashlib.sha256(BODY).hexdigest()
    assert fetch(f"{server.url}/file", path, md5=MD5, sha256=sha256) == path
    assert path.read_bytes() == BODY
    assert list(path.parent.iterdir()) == [path]
    assert file_digest(path, "md5") == MD5


def test_fetch_resumes_what_is_there(server, path):
    part_with(path, BODY[:1234])
    fetch(f"{server.url}/file", path, md5=MD5)
    assert path.read_bytes() == BODY
    assert server.ranges == ["bytes=1234-"]


def test_fetch_starts_over_where_the_server_cannot_resume(server, path):
    part_with(path, b"of another file")
    fetch(f"{server.url}/plain", path, md5=MD5)
    assert path.read_bytes() == BODY


def test_fetch_takes_a_part_that_is_whole(server, path):
    part_with(path, BODY)
    fetch(f"{server.url}/file", path, md5=MD5)
    assert path.read_bytes() == BODY
    assert len(server.ranges) == 1


def test_fetch_starts_over_when_the_part_is_too_long(server, path):
    part_with(path, BODY + b"more")
    fetch(f"{server.url}/file", path)
    assert path.read_bytes() == BODY


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


def test_server_errors_and_no_server_are_sentences(server, path):
    with pytest.raises(UserError, match="404"):
        fetch(f"{server.url}/missing", path)
    with pytest.raises(UserError, match=r"^[^<]*refused"):
        fetch("http://127.0.0.1:9/file", path)


def test_folder_that_cannot_be_made_is_a_sentence(server, tmp_path):
    (tmp_path / "folder").write_text("a file where a folder is wanted")
    with pytest.raises(UserError, match="folder"):
        fetch(f"{server.url}/file", tmp_path / "folder" / "file.bin")


def test_client_leaves_its_file_in_the_folder(tmp_path):
    command = [sys.executable, "-c", "open('made.tgz', 'w').write('content')", "made@1.0"]
    assert download._fetched_by(command, tmp_path) == tmp_path / "made.tgz"
    assert list(tmp_path.iterdir()) == [tmp_path / "made.tgz"]


def test_client_that_fails_gives_its_error_line(tmp_path):
    says = "import sys; sys.exit('WARNING: retrying\\nERROR: no such package\\nlog is elsewhere')"
    with pytest.raises(UserError, match=r"^ERROR: no such package$"):
        download._fetched_by([sys.executable, "-c", says, "made==1.0"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_client_that_leaves_nothing_is_a_reason(tmp_path):
    with pytest.raises(UserError, match="left 0 files"):
        download._fetched_by([sys.executable, "-c", "", "made==1.0"], tmp_path)


def test_missing_client_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm is not installed"):
        npm_pack("made@1.0", tmp_path)


def test_first_that_answers(capsys):
    def fails():
        raise UserError("no answer")

    sources = {"one": fails, "two": lambda: 2, "three": lambda: 3}
    assert first_that_answers("numbers", sources, "Count.") == 2
    assert capsys.readouterr().err == "no numbers from one: no answer\n"
    with pytest.raises(UserError, match=r"^found no numbers \(one: no answer; x: no answer\). Cou"):
        first_that_answers("numbers", {"one": fails, "x": fails}, "Count by hand.")

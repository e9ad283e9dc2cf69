"""A known file arrives whole, checked, once, or not at all; the table of known files says what can be known."""

import hashlib
import http.server
import re
import threading
from pathlib import Path

import pytest

from dinov2_detrex.cli import run_command
from dinov2_detrex.runtime.downloads import WrongFile, cached_path, copy_to, fetch, identified, local_file
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.files import UNFINISHED
from dinov2_detrex.runtime.known_weights import BACKBONE, DETECTOR, KnownFile, find_known, known_files

CONTENT = b"weights" * 300_000  # two chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT under any name; under /cut/ it announces all of it, and breaks off."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith("/absent/"):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path.startswith("/cut/") else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    Handler.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_address[1]}"
        http_server.shutdown()


def known(server: str, folder: str = "whole", **published) -> KnownFile:
    return KnownFile("tiny", DETECTOR, address=f"{server}/{folder}/tiny.pth", **published)


def left(path: Path) -> set[str]:
    """Names in a folder, the lock's apart."""
    return {file.name for file in path.glob("*")} - {"tiny.pth.lock"} if path.is_dir() else set()


def test_a_published_file_is_downloaded_once_and_checked_each_time(server):
    file = known(server, sha256=SHA256, bytes=len(CONTENT))
    assert fetch(file) == fetch(file) == cached_path(file)
    assert Handler.asked == ["/whole/tiny.pth"] and left(cached_path(file).parent) == {"tiny.pth"}
    cached_path(file).write_bytes(b"other")
    with pytest.raises(WrongFile, match=rf"it has 5 bytes, the published one {len(CONTENT)}; delete .*/tiny.pth"):
        fetch(file)


@pytest.mark.parametrize(
    "published, words",
    [
        ({"sha256": "0" * 64}, f"its SHA-256 is {SHA256}, the published one {'0' * 64}"),
        ({"sha256": "01234567"}, f"its SHA-256 is {SHA256}, the published one 01234567"),
        ({"bytes": 5}, f"it has {len(CONTENT)} bytes, the published one 5"),
    ],
)
def test_another_file_than_the_published_one_is_refused_with_both_values_and_not_kept(server, published, words):
    file = known(server, **published)
    with pytest.raises(WrongFile, match=f"is not known://tiny: {words}; nothing was kept"):
        fetch(file)
    assert left(cached_path(file).parent) == set()


@pytest.mark.parametrize("beginning", ["", SHA256[:8]])
def test_what_publishes_no_whole_hash_is_trusted_once(server, beginning):
    file = known(server, sha256=beginning)
    path = fetch(file)
    assert Path(f"{path}.sha256").read_text() == f"{SHA256}  tiny.pth\n"  # as `sha256sum -c` reads it
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(
        WrongFile, match=f"the {'published' if beginning else 'first download'}.* {beginning or SHA256}"
    ):
        fetch(file)
    path.unlink()
    assert fetch(file).read_bytes() == CONTENT


def test_a_later_download_of_another_content_is_refused(server):
    file = known(server)
    path = fetch(file)
    path.unlink()
    Path(f"{path}.sha256").write_text(f"{'0' * 64}  tiny.pth\n")
    with pytest.raises(WrongFile, match=f"its SHA-256 is {SHA256}, that of the first download was {'0' * 64}"):
        fetch(file)
    assert not path.exists()


@pytest.mark.parametrize(
    "folder, words", [("cut", f"broke off: 1000 bytes came of the {len(CONTENT)}"), ("absent", "HTTP Error 404")]
)
def test_a_download_that_fails_leaves_nothing(server, folder, words):
    file = known(server, folder)
    with pytest.raises(UserError, match=words):
        fetch(file)
    assert left(cached_path(file).parent) == set()


def test_what_a_killed_download_left_is_removed_by_the_next(server):
    file = known(server)
    folder = cached_path(file).parent
    folder.mkdir(parents=True)
    for name in (f"{UNFINISHED}tiny.pth-1234.tmp", f"{UNFINISHED}other.pth-1234.tmp"):
        (folder / name).write_bytes(b"part")
    fetch(file)
    assert left(folder) == {"tiny.pth", "tiny.pth.sha256", f"{UNFINISHED}other.pth-1234.tmp"}


def test_processes_that_ask_at_once_download_once(server):
    file = known(server, sha256=SHA256)
    threads = [threading.Thread(target=fetch, args=(file,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Handler.asked == ["/whole/tiny.pth"]


def test_offline_a_file_of_the_cache_is_taken_and_another_is_one_line(server, monkeypatch):
    file = known(server, sha256=SHA256)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UserError, match=f"known://tiny is not in the cache, and HF_HUB_OFFLINE=1 .* put {file.address} at"
    ):
        fetch(file)
    cached_path(file).parent.mkdir(parents=True)
    cached_path(file).write_bytes(CONTENT)
    assert fetch(file) == cached_path(file) and Handler.asked == []


def test_a_copy_overwrites_no_other_file(server, tmp_path):
    file = known(server)
    assert copy_to(file, tmp_path / "mine") == copy_to(file, tmp_path / "mine") == tmp_path / "mine" / "tiny.pth"
    (tmp_path / "mine/tiny.pth").write_bytes(b"of mine")
    with pytest.raises(WrongFile, match="nothing was overwritten"):
        copy_to(file, tmp_path / "mine")
    assert (tmp_path / "mine/tiny.pth").read_bytes() == b"of mine"


@pytest.fixture
def mirror(server, tmp_path, monkeypatch):
    """A table of one's own with `tiny`, of which nothing is published, and `checked`."""
    rows = f"tiny,detector,coco_2017_train,{server}/whole/tiny.pth,\nchecked,backbone,,{server}/whole/c.pth,{SHA256}\n"
    (tmp_path / "own.csv").write_text(f"name,kind,classes,address,sha256\n{rows}")
    monkeypatch.setenv("DINOV2_DETREX_KNOWN_WEIGHTS", str(tmp_path / "own.csv"))


def test_the_commands_list_get_and_check(mirror, tmp_path, capsys):
    assert run_command("weights list", ["detector", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^tiny +detector .*coco_2017_train.* not published +not published +not published$", shown, re.M)
    assert run_command("weights get", ["tiny", "--to", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "mine/tiny.pth")
    assert run_command("weights check", [str(tmp_path / "mine/tiny.pth")]) == 0
    assert "is known://checked, by the 64 digits" in capsys.readouterr().out  # of the same content
    (tmp_path / "mine/tiny.pth").write_bytes(b"other")
    assert run_command("weights check", [str(tmp_path / "mine/tiny.pth")]) == 1
    assert f"that of the first download was {SHA256}" in capsys.readouterr().err
    assert run_command("weights check", [str(tmp_path / "own.csv")]) == 1
    assert "own.csv is none of the" in capsys.readouterr().err


def test_a_file_is_named_by_its_name_where_nothing_is_published(server, tmp_path, monkeypatch):
    (tmp_path / "own.csv").write_text(f"name,kind,address\ntiny,detector,{server}/whole/tiny.pth\n")
    monkeypatch.setenv("DINOV2_DETREX_KNOWN_WEIGHTS", str(tmp_path / "own.csv"))
    (tmp_path / "tiny.pth").write_bytes(CONTENT)
    assert "nothing to compare its own with" in identified(tmp_path / "tiny.pth")
    fetch(find_known("tiny"))
    assert "it equals the first download" in identified(tmp_path / "tiny.pth")


def test_a_path_stays_and_a_known_name_becomes_the_path_of_its_file(mirror):
    assert local_file("some/file.pth") == "some/file.pth"
    assert Path(local_file("known://checked")).read_bytes() == CONTENT


@pytest.mark.parametrize("text", ["name,kind,bytes\nx,detector,many\n", "name,size\nx,5\n", "kind\ndetector\n"])
def test_a_damaged_table_of_ones_own_is_one_line(tmp_path, monkeypatch, text):
    (tmp_path / "own.csv").write_text(text)
    monkeypatch.setenv("DINOV2_DETREX_KNOWN_WEIGHTS", str(tmp_path / "own.csv"))
    with pytest.raises(UserError, match="own.csv is no table of known weights .* its first line is name,kind,"):
        known_files()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean .*dinov2_vits14_pretrain"):
        find_known("known://dinov2_vits14_pretrained")
    with pytest.raises(UserError, match="weights list"):
        find_known("xyz")


def test_what_is_sent_on_request_alone_says_where_to_ask(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="on request alone .*DINOv3 License.* https://ai.meta.com/"):
        fetch(find_known("dinov3_vits16_pretrain_lvd1689m-08c60483"))


@pytest.mark.parametrize("file", known_files().values(), ids=lambda file: file.name)
def test_every_row_of_the_table_is_of_one_form(file):
    assert file.kind in (DETECTOR, BACKBONE) and file.backbone and file.pretrained_on
    assert file.licence in ("Apache-2.0", "DINOv3 License") and file.page.startswith("https://")
    assert file.address.startswith("https://") or file.licence == "DINOv3 License"
    assert file.file_name == f"{file.name}.pth"
    assert re.fullmatch("([0-9a-f]{64}|[0-9a-f]{8})?", file.sha256) and bool(file.sha256) == bool(file.sha256_from)
    assert bool(file.ap) == bool(file.classes) == (file.kind == DETECTOR)
    assert not file.ap or 45 < float(file.ap) < 65
    assert file.bytes is None or file.bytes > 2**20


def test_no_two_rows_are_of_one_file():
    files = list(known_files().values())
    assert len({file.address or file.name for file in files}) == len({file.file_name for file in files}) == len(files)

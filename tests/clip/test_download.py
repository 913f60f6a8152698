import hashlib
import os
import threading

import pytest
from mocoop.clip import download
from mocoop.clip.download import DownloadError, fetch

BODY = bytes(range(256)) * 8192  # 2 MiB; gdown writes half a MiB at a time
HASH = hashlib.sha256(BODY).hexdigest()
HALF = 1 << 19


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    """A connection that broke is not tried again in the same call, unless a test says so."""
    monkeypatch.setattr(download, "RETRIES", 0)


def cut(server, folder, at=3 * HALF, **options):
    """A first call whose connection breaks after so many bytes, as a kill would leave it; returns what is kept."""
    server.cuts = [at]
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/a.pt", folder, HASH, **options)
    (part,) = folder.glob("a.pt.*.part")
    server.asked.clear()
    return part


def test_downloads_then_takes_the_file_that_is_there(server, tmp_path):
    server.body = BODY
    path = fetch(f"{server.url}/models/a.pt", tmp_path / "new", HASH)
    assert path == tmp_path / "new" / "a.pt" and path.read_bytes() == BODY
    assert fetch(f"{server.url}/models/a.pt", tmp_path / "new", HASH) == path
    assert server.asked == [None]
    assert sorted(os.listdir(path.parent)) == ["a.pt", "a.pt.lock"]


def test_cut_connection_goes_on_where_it_stopped(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 2)
    server.body, server.cuts = BODY, [HALF, HALF]
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH).read_bytes() == BODY
    assert server.asked == [None, f"bytes={HALF}-", f"bytes={2 * HALF}-"]


def test_broken_download_resumes_in_the_next_call(server, tmp_path, record):
    server.body = BODY
    part = cut(server, tmp_path)
    assert part.read_bytes() == BODY[: 3 * HALF]
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH).read_bytes() == BODY
    assert server.asked == [None, f"bytes={3 * HALF}-"]  # (gdown looks before it asks for the rest)
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "a.pt.lock"]
    record("downloads", "connection cut, called again", "went on from what was kept")


def test_server_without_ranges_starts_anew(server, tmp_path, record):
    server.body, server.ranges = BODY, False
    cut(server, tmp_path)
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH).read_bytes() == BODY
    assert server.asked == [None, f"bytes={3 * HALF}-", None]
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "a.pt.lock"]
    record("downloads", "server without ranges, called again", "started anew, whole")


@pytest.mark.parametrize("old", [b"y" * HALF, b"y" * 3_000_000, BODY])
def test_part_that_leads_nowhere_is_thrown_away(server, tmp_path, old, record):
    """Of another file; or longer than the file, or already whole: then the server has no such range (416)."""
    server.body = BODY
    cut(server, tmp_path).write_bytes(old)
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH).read_bytes() == BODY
    assert server.asked[-1] is None and sorted(os.listdir(tmp_path)) == ["a.pt", "a.pt.lock"]
    record("downloads", "part of another file, too long or whole already, called again", "started anew, whole")


def test_part_of_another_address_is_not_gone_on_with(server, tmp_path, record):
    """The second mirror starts its own; what the first left goes when the file is there."""
    server.body = BODY[::-1]
    with pytest.raises(DownloadError):
        server.cuts = [3 * HALF]
        download.download(f"{server.url}/first", tmp_path / "a.pt", lambda path: "")
    server.body = BODY
    server.asked.clear()
    download.download(f"{server.url}/second", tmp_path / "a.pt", lambda path: "")
    assert server.asked == [None] and (tmp_path / "a.pt").read_bytes() == BODY and os.listdir(tmp_path) == ["a.pt"]
    record("downloads", "second mirror after the first one broke off", "whole, from the second alone")


def test_file_that_came_but_was_not_checked_yet_is_not_fetched_again(server, tmp_path):
    """A kill while the sum is taken."""
    server.body = BODY
    part = cut(server, tmp_path)
    part.rename(part.with_name(part.name[: -len("12345678.part")])).write_bytes(BODY)
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH).read_bytes() == BODY
    assert server.asked == [None] and sorted(os.listdir(tmp_path)) == ["a.pt", "a.pt.lock"]


def test_connection_that_keeps_breaking_keeps_what_came(server, tmp_path):
    server.body, server.cuts = BODY, [HALF]
    with pytest.raises(DownloadError, match=r"a.pt: .*\(524,288 bytes are kept; run this again to go on from there\)"):
        fetch(f"{server.url}/a.pt", tmp_path, HASH)
    server.cuts = [HALF, HALF]  # of the look, and of the rest
    with pytest.raises(DownloadError, match="1,048,576 bytes are kept"):
        fetch(f"{server.url}/a.pt", tmp_path, HASH)
    assert not (tmp_path / "a.pt").exists()
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH).read_bytes() == BODY


def test_wrong_hash_from_the_server_is_refused_with_both_values(server, tmp_path):
    server.body = BODY + b"!"
    with pytest.raises(DownloadError) as error:
        fetch(f"{server.url}/a.pt", tmp_path, HASH)
    text = str(error.value)
    assert HASH in text and hashlib.sha256(server.body).hexdigest() in text and "its 2097153 bytes" in text
    assert f"{server.url}/a.pt" in text
    assert os.listdir(tmp_path) == ["a.pt.lock"]


def test_wrong_file_in_the_folder_is_named_and_left_alone(server, tmp_path):
    server.body = BODY
    (tmp_path / "a.pt").write_bytes(b"mine")
    mine = hashlib.sha256(b"mine").hexdigest()
    with pytest.warns(
        UserWarning, match=f"a.pt is there, but its SHA-256 is {mine}, expected {HASH}. It is left alone"
    ):
        path = fetch(f"{server.url}/a.pt", tmp_path, HASH)
    assert path == tmp_path / f"a-{HASH[:8]}.pt" and path.read_bytes() == BODY
    assert (tmp_path / "a.pt").read_bytes() == b"mine"
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH) == path and len(server.asked) == 1


def test_no_free_name_is_an_error_not_an_overwrite(server, tmp_path):
    server.body = BODY
    (tmp_path / "a.pt").write_bytes(b"mine")
    (tmp_path / f"a-{HASH[:8]}.pt").mkdir()
    with pytest.raises(DownloadError, match="delete or rename the wrong files") as error:
        fetch(f"{server.url}/a.pt", tmp_path, HASH)
    assert f"a-{HASH[:8]}.pt is a folder" in str(error.value) and server.asked == []
    assert (tmp_path / "a.pt").read_bytes() == b"mine"


@pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream"])
def test_web_page_is_refused(server, tmp_path, content_type):
    server.body, server.content_type = b"\n<!DOCTYPE html><html><title>Log in</title></html>", content_type
    with pytest.raises(DownloadError, match='it is a web page called "Log in" instead of the file'):
        fetch(f"{server.url}/a.pt", tmp_path, HASH)
    assert os.listdir(tmp_path) == ["a.pt.lock"]


def test_missing_file_and_no_network_say_what_where_and_what_to_do(server, tmp_path):
    server.status = 404
    with pytest.raises(DownloadError, match="404 Not Found"):
        fetch(f"{server.url}/a.pt", tmp_path, HASH)
    with pytest.raises(DownloadError) as error:
        fetch("http://127.0.0.1:1/models/a.pt", tmp_path, HASH, "or do something else")
    lines = str(error.value).splitlines()
    assert lines[0].startswith("cannot get a.pt: no connection (")
    assert lines[1:] == [
        "  wanted: http://127.0.0.1:1/models/a.pt",
        f"  looked in: {tmp_path}",
        f"  what to do: get the file on another machine and put it at {tmp_path / 'a.pt'} (SHA-256 {HASH}), "
        "or do something else",
    ]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot get a.pt: .*file"):
        fetch("http://127.0.0.1:1/a.pt", tmp_path / "file" / "sub", HASH)


def test_without_a_hash_nothing_is_resumed(server, tmp_path):
    server.body = BODY
    part = cut(server, tmp_path)
    assert fetch(f"{server.url}/a.pt", tmp_path).read_bytes() == BODY
    assert server.asked == [None] and not part.exists()


def test_two_at_once_download_once(server, tmp_path):
    server.body, found = BODY, []
    threads = [threading.Thread(target=lambda: found.append(fetch(f"{server.url}/a.pt", tmp_path, HASH))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "a.pt"] * 2 and len(server.asked) == 1


def test_hash_of(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    assert download.hash_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

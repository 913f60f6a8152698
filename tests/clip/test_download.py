import hashlib
import os
import threading

import pytest
from mocoop.clip import download
from mocoop.clip.download import DownloadError, fetch

BODY = bytes(range(256)) * 1000  # 256,000 bytes
HASH = hashlib.sha256(BODY).hexdigest()


def test_downloads_then_takes_the_file_that_is_there(server, tmp_path):
    server.body = BODY
    path = fetch(f"{server.url}/models/a.pt", tmp_path / "new", HASH)
    assert path == tmp_path / "new" / "a.pt" and path.read_bytes() == BODY
    assert fetch(f"{server.url}/models/a.pt", tmp_path / "new", HASH) == path
    assert server.asked == [None]
    assert sorted(os.listdir(path.parent)) == ["a.pt", "a.pt.lock"]


def test_cut_connection_goes_on_where_it_stopped(server, tmp_path):
    server.body, server.cuts = BODY, [100_000, 50_000]
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH).read_bytes() == BODY
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_killed_download_resumes_in_the_next_process(server, tmp_path):
    server.body = BODY
    (tmp_path / "a.pt.part").write_bytes(BODY[:77_777])
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH).read_bytes() == BODY
    assert server.asked == ["bytes=77777-"]
    assert not (tmp_path / "a.pt.part").exists()


def test_server_without_ranges_restarts_cleanly(server, tmp_path):
    server.body, server.ranges = BODY, False
    (tmp_path / "a.pt.part").write_bytes(b"x" * 77_777)
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH).read_bytes() == BODY
    assert server.asked == ["bytes=77777-"]


@pytest.mark.parametrize("old", [b"y" * 1000, b"y" * 300_000])
def test_part_of_another_file_is_thrown_away(server, tmp_path, old):
    """Shorter: the sum is wrong after resuming. Longer: the server has no such range (416). Either way: once more."""
    server.body = BODY
    (tmp_path / "a.pt.part").write_bytes(old)
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH).read_bytes() == BODY
    assert server.asked == [f"bytes={len(old)}-", None]


def test_connection_that_keeps_breaking_keeps_what_came(server, tmp_path):
    server.body, server.cuts = BODY, [10_000] * 5
    with pytest.raises(DownloadError, match="50000 bytes are kept in .*a.pt.part, run again to go on"):
        fetch(f"{server.url}/a.pt", tmp_path, HASH)
    assert (tmp_path / "a.pt.part").read_bytes() == BODY[:50_000] and not (tmp_path / "a.pt").exists()
    assert fetch(f"{server.url}/a.pt", tmp_path, HASH).read_bytes() == BODY


def test_wrong_hash_from_the_server_is_refused_with_both_values(server, tmp_path):
    server.body = BODY + b"!"
    with pytest.raises(DownloadError) as error:
        fetch(f"{server.url}/a.pt", tmp_path, HASH)
    text = str(error.value)
    assert HASH in text and hashlib.sha256(server.body).hexdigest() in text and "256001 bytes" in text
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
    with pytest.raises(DownloadError, match="web page titled 'Log in' instead of the file"):
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
        "  sought: http://127.0.0.1:1/models/a.pt",
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
    (tmp_path / "a.pt.part").write_bytes(b"x" * 10)
    assert fetch(f"{server.url}/a.pt", tmp_path).read_bytes() == BODY
    assert server.asked == [None]


def test_two_at_once_download_once(server, tmp_path):
    server.body, found = BODY, []
    threads = [threading.Thread(target=lambda: found.append(fetch(f"{server.url}/a.pt", tmp_path, HASH))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "a.pt"] * 2 and len(server.asked) == 1


def test_sha256_of(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    assert download.sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

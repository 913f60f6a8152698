"""`prepare` against a loopback internet: archives, Google Drive, broken transfers, lies, bad archives, full disks."""

import contextlib
import dataclasses
import errno
import hashlib
import importlib.util
import io
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import gdown
import numpy as np
import pytest
from mocoop.clip import download
from mocoop.datasets import fetch, prepare
from mocoop.datasets.errors import DataError
from mocoop.datasets.sources import SOURCES
from PIL import Image
from scipy.io import savemat


@pytest.fixture()
def internet(monkeypatch):
    spec = importlib.util.spec_from_file_location("internet", Path(__file__).with_name("internet.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.Internet()
    net.connect(monkeypatch)
    monkeypatch.setattr(download, "RETRIES", 0)
    yield net
    net.close()


def tree(folder):
    """Every file below a folder with its size and time of change (but locks, which some filelocks write anew)."""
    files = [p for p in sorted(Path(folder).rglob("*")) if p.is_file() and p.suffix != ".lock"]
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def add(path, archive, name):
    """Add a file or folder to an open zip or tar file under another name."""
    if isinstance(archive, tarfile.TarFile):
        archive.add(path, name)
        return
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            archive.write(file, name + file.as_posix().removeprefix(path.as_posix()))


def pack(name, members):
    """Bytes of an archive called `name` that holds `members` (path inside -> path on disk, or bytes)."""
    buffer = io.BytesIO()
    modes = {".zip": "", ".tar": "w"}
    mode = modes.get(Path(name).suffix, "w:gz")
    with zipfile.ZipFile(buffer, "w") if not mode else tarfile.open(fileobj=buffer, mode=mode) as archive:
        for inside, source in members.items():
            if isinstance(source, Path):
                add(source, archive, inside)
            elif mode:
                member = tarfile.TarInfo(inside)
                member.size = len(source)
                archive.addfile(member, io.BytesIO(source))
            else:
                archive.writestr(inside, source)
    return buffer.getvalue()


# Folders around the wanted parts in the real archives.
AROUND = {
    "food-101.tar.gz": "food-101/",
    "dtd-r1.0.1.tar.gz": "dtd/",
    "fgvc-aircraft-2013b.tar.gz": "fgvc-aircraft-2013b/data/",
}


def publish(name, origin, internet, monkeypatch):
    """Offer a miniature on the internet in the archives of the real data set, and expect its counts."""
    data = prepare.dataset_class(name)
    folder, _, split = data.load(str(origin))
    files = []
    for file in SOURCES[name].files:
        around = AROUND.get(file.name, "")
        if file.makes:
            content = pack(file.name, {around + inside: folder / p for p, inside in file.makes.items()})
            if file.name == "caltech-101.zip":  # a tar.gz within a zip
                inner = pack("x.tar.gz", {"101_ObjectCategories": folder / "101_ObjectCategories"})
                members = {"caltech-101/101_ObjectCategories.tar.gz": inner, "caltech-101/Annotations.tar": b"x"}
                content = pack(file.name, {**members, "__MACOSX/101_ObjectCategories": b"x"})
        else:
            content = (folder / file.name).read_bytes()
        for url in file.urls:
            if url.startswith("drive:"):
                internet.drive(url.removeprefix("drive:"), content, confirm=bool(file.makes))
            else:
                internet.files[url.split("://")[1]] = content
        files.append(dataclasses.replace(file, md5=hashlib.md5(content).hexdigest() if file.md5 else ""))
    counts = [len(part) or None for part in split]
    source = dataclasses.replace(SOURCES[name], files=tuple(files), classes=len({i.label for i in split.test}))
    source = dataclasses.replace(source, train=counts[0], val=counts[1], test=counts[2])
    monkeypatch.setitem(SOURCES, name, source)
    return folder, split


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "ImageNet"])
def test_from_an_empty_folder_to_a_checked_data_set(name, tmp_path, miniature, internet, monkeypatch, capsys):
    miniature(name, tmp_path / "origin")
    _, split = publish(name, tmp_path / "origin", internet, monkeypatch)
    root = tmp_path / "data"
    assert prepare.main([name, "--root", str(root)]) == 0, capsys.readouterr().out
    folder, _, found = prepare.dataset_class(name).load(str(root))
    assert found == split
    assert not list(folder.glob(".unpack*")) and not (folder / ".downloads").exists()
    assert not list(folder.glob("*.tar*")) and not list(folder.glob("*.zip"))  # archives go when they are unpacked
    assert all(p.stat().st_mode & 0o044 == 0o044 for p in folder.glob("[!.]*"))  # others may read
    # A second call finds everything there: nothing is fetched, nothing changes.
    internet.requests.clear()
    before = tree(root)
    assert prepare.main([prepare.DATASETS[name].split(":")[0].split(".")[-1], "--root", str(root)]) == 0
    assert internet.requests == [] and tree(root) == before


def devkit(folder):
    """ImageNet's development kit for the four classes of the miniature; class numbers do not follow the WNIDs."""
    (folder / "data").mkdir(parents=True)
    wnids = ["n04008634", "n01440764", "n03773504", "n01608432"]
    rows = np.zeros((4, 1), dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    for i, wnid in enumerate(wnids):
        rows[i, 0] = (i + 1, wnid)
    savemat(folder / "data" / "meta.mat", {"synsets": rows})
    (folder / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n3\n4\n4\n3\n1\n2\n")


def test_imagenet_says_what_to_fetch_and_then_unpacks_it(tmp_path, miniature, internet, monkeypatch, capsys):
    origin = miniature("ImageNet", tmp_path / "origin")
    files = tuple(dataclasses.replace(file, md5="") for file in SOURCES["ImageNet"].files)
    monkeypatch.setitem(SOURCES, "ImageNet", dataclasses.replace(SOURCES["ImageNet"], files=files))
    internet.drive("1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF", (origin / "classnames.txt").read_bytes())
    root = tmp_path / "data"
    assert prepare.main(["imagenet", "--root", str(root)]) == 1
    out = capsys.readouterr().out
    for name in ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_val.tar", "ILSVRC2012_img_train.tar"):
        assert f"put it at {root / 'imagenet' / name}" in out
    assert "image-net.org/download.php (free registration" in out

    devkit(tmp_path / "kit")
    train, val = origin / "images" / "train", sorted((origin / "images" / "val").rglob("*.JPEG"))
    wnids = sorted(p.name for p in train.iterdir() if p.is_dir())
    for name, members in {
        "ILSVRC2012_devkit_t12.tar.gz": {"ILSVRC2012_devkit_t12": tmp_path / "kit"},
        "ILSVRC2012_img_val.tar": {f"ILSVRC2012_val_{n:08d}.JPEG": path for n, path in enumerate(val, 1)},
        "ILSVRC2012_img_train.tar": {
            f"{w}.tar": pack("x.tar", {f"{w}_{p.name}": p for p in sorted((train / w).iterdir())}) for w in wnids
        },
    }.items():
        (root / "imagenet" / name).write_bytes(pack(name, members))
    assert prepare.main(["imagenet", "--root", str(root)]) == 1  # only the counts are not those of the benchmark
    out = capsys.readouterr().out
    assert "4 (expected 1,000)  20 (expected 1,281,167)  -      8 (expected 50,000)" in out
    images = root / "imagenet" / "images"
    # Ground truth by hand: images 2 and 7 are of class number 1, which is n04008634.
    assert sorted(p.name[15:23] for p in (images / "val" / "n04008634").iterdir()) == ["00000002", "00000007"]
    assert (images / "val" / "n04008634" / "ILSVRC2012_val_00000002.JPEG").read_bytes() == val[1].read_bytes()
    assert len(list((images / "train" / "n01440764").iterdir())) == 5
    assert (root / "imagenet" / "ILSVRC2012_img_train.tar").exists()  # the user's own file stays


def test_linked_imagenet_needs_only_its_names(tmp_path, miniature, internet, capsys):
    origin = miniature("ImageNet", tmp_path / "origin")
    internet.drive("1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF", (origin / "classnames.txt").read_bytes())
    images = tmp_path / "data" / "imagenet" / "images"
    images.mkdir(parents=True)
    for part in ("train", "val"):
        (images / part).symlink_to(origin / "images" / part)
    assert prepare.prepare("ImageNet", tmp_path / "data") == []
    assert prepare.check("ImageNet", tmp_path / "data").row()[1:5] == [
        *("4 (expected 1,000)", "20 (expected 1,281,167)", "-", "8 (expected 50,000)")
    ]


def test_given_archive_is_used_and_checked(tmp_path, miniature, internet, monkeypatch, capsys):
    miniature("DescribableTextures", tmp_path / "origin")
    publish("DescribableTextures", tmp_path / "origin", internet, monkeypatch)
    given = tmp_path / "data" / "dtd" / "dtd-r1.0.1.tar.gz"
    given.parent.mkdir(parents=True)
    given.write_bytes(b"\x1f\x8b another version")
    assert prepare.main(["dtd", "--root", str(tmp_path / "data")]) == 1
    assert (
        f"{given}: it is damaged or another version: expected the MD5 checksum" in capsys.readouterr().out
        and given.exists()
    )
    given.write_bytes(internet.files.pop("www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz"))
    assert prepare.main(["dtd", "--root", str(tmp_path / "data")]) == 0
    assert given.exists()


def test_annotations_are_not_needed_where_the_published_split_is(tmp_path, miniature, internet, monkeypatch, capsys):
    miniature("OxfordPets", tmp_path / "origin")
    publish("OxfordPets", tmp_path / "origin", internet, monkeypatch)
    del internet.files["www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz"]
    assert prepare.main(["OxfordPets", "--root", str(tmp_path / "data")]) == 0
    assert "Not needed: the published split is there" in capsys.readouterr().out


def test_classnames_come_from_imagenet_if_it_is_there(tmp_path, miniature, internet, monkeypatch):
    miniature("ImageNetA", tmp_path / "origin")
    publish("ImageNetA", tmp_path / "origin", internet, monkeypatch)
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01440764 tench\n")
    prepare.prepare("ImageNetA", tmp_path)
    assert (tmp_path / "imagenet-adversarial" / "classnames.txt").read_text() == "n01440764 tench\n"
    assert not any("drive" in key for key, _ in internet.requests)


# --- downloads -----------------------------------------------------------------------------------------------------


URL = "https://example.org/file.bin"
KEY = "example.org/file.bin"
CONTENT = bytes(range(256)) * 8192  # 2 MiB


def test_broken_transfer_goes_on_with_the_next_call(tmp_path, internet):
    internet.files[KEY], internet.faults[KEY] = CONTENT, [1_500_000]
    target = tmp_path / "file.bin"
    with pytest.raises(fetch.FetchError, match="https://example.org/file.bin: "):
        fetch.download((URL,), target, hashlib.md5(CONTENT).hexdigest())
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part" and 0 < part.stat().st_size < len(CONTENT)
    kept = part.stat().st_size
    fetch.download((URL,), target, hashlib.md5(CONTENT).hexdigest())
    assert target.read_bytes() == CONTENT and list(tmp_path.iterdir()) == [target]
    assert internet.requests[-1] == (KEY, f"bytes={kept}-")


def test_broken_transfer_is_retried(tmp_path, internet, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 2)
    internet.files[KEY], internet.faults[KEY] = CONTENT, [1_000_000]
    fetch.download((URL,), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


LIES = [
    ((200, "<!DOCTYPE html><html><head><title>Moved</title>"), 'deleted: it is a web page called "Moved" instead'),
    ((200, "\n <!-- x -->\n<html>"), "deleted: it is a web page instead"),
    ((200, ""), "deleted: it is empty"),
    ((404, "gone"), "404"),
    ((503, "later"), "503"),
    ((200, "not the file"), "expected the MD5 checksum 0{32}, found"),
]


@pytest.mark.parametrize("answer, complaint", LIES)
def test_what_is_not_the_file_is_not_taken_for_it(answer, complaint, tmp_path, internet):
    internet.faults[KEY] = [answer]
    with pytest.raises(fetch.FetchError, match=complaint):
        fetch.download((URL,), tmp_path / "file.bin", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_split_cut_short(tmp_path, internet):
    internet.files[KEY] = b'{"train": [["a.jpg", 0'
    with pytest.raises(fetch.FetchError, match="it is not a whole JSON file"):
        fetch.download((URL,), tmp_path / "split.json")
    assert list(tmp_path.iterdir()) == []


def test_damaged_archive_without_a_sum_gives_way_to_the_next_address(tmp_path, internet, record):
    """It is read to its end; what came is not kept, and the next call would start anew."""
    internet.files[KEY] = damaged(GOOD, -6)
    internet.files["mirror.example.org/file"] = GOOD
    target = tmp_path / "file.tar.gz"
    with pytest.raises(fetch.FetchError, match="what the server sent was deleted: it is corrupt .CRC check failed"):
        fetch.download((URL,), target)
    assert list(tmp_path.iterdir()) == []
    fetch.download((URL, "https://mirror.example.org/file"), target)
    assert target.read_bytes() == GOOD and list(tmp_path.iterdir()) == [target]
    record("downloads", "damaged archive without a sum", "found by reading it; the next address is asked")


def test_file_whose_cut_would_not_be_noticed_is_not_resumed(tmp_path, internet):
    """classnames.txt has no sum and no end: half of an old one must not be completed by half of a new one."""
    internet.files[KEY], internet.faults[KEY] = CONTENT, [1_500_000]
    with pytest.raises(fetch.FetchError):
        fetch.download((URL,), tmp_path / "classnames.txt")
    internet.requests.clear()
    fetch.download((URL,), tmp_path / "classnames.txt")
    assert internet.requests == [(KEY, None)] and (tmp_path / "classnames.txt").read_bytes() == CONTENT


def test_second_address(tmp_path, internet):
    internet.files[KEY] = CONTENT
    fetch.download(("https://dead.example.org/x", URL), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    with pytest.raises(fetch.FetchError, match=r"(?s)dead.example.org/x: .*404.*\n.*dead.example.org/y: .*404"):
        fetch.download(("https://dead.example.org/x", "https://dead.example.org/y"), tmp_path / "other.bin")


@pytest.mark.parametrize("confirm", [False, True])
def test_drive(tmp_path, internet, confirm):
    internet.drive("abc_1", CONTENT, confirm)
    fetch.download(("drive:abc_1",), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_drive_refuses(tmp_path, internet):
    page = (
        '<html><p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></html>'
    )
    internet.files["drive.google.com/uc?id=abc_1"] = page
    with pytest.raises(fetch.FetchError, match="uc.id=abc_1: .*Too many users"):
        fetch.download(("drive:abc_1",), tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_while_downloading(tmp_path, monkeypatch):
    def full(**kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gdown, "download", full)
    with pytest.raises(DataError, match="is full. Make room and run this again; it goes on"):
        fetch.download((URL, URL), tmp_path / "file.bin")


def test_failed_download_says_where_to_put_the_file(tmp_path, internet, capsys):
    assert prepare.main(["StanfordCars", "--root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert (
        "StanfordCars: cars_train.tgz could not be fetched:\n  http://ai.stanford.edu/~jkrause/car196/cars_train" in out
    )
    assert f"put it at {tmp_path / 'stanford_cars' / 'cars_train.tgz'} and run this command again" in out


# --- archives ------------------------------------------------------------------------------------------------------


def tar_with(**fields):
    """A tar that holds one good file and one odd member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        good = tarfile.TarInfo("images/a.jpg")
        good.size = 1
        tar.addfile(good, io.BytesIO(b"x"))
        odd = tarfile.TarInfo()
        for name, value in fields.items():
            setattr(odd, name, value)
        tar.addfile(odd, io.BytesIO(b"y" * odd.size))
    return buffer.getvalue()


def zip_with(name, mode=0o100644):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("images/a.jpg", b"x")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        zipped.writestr(info, b"../../outside")
    return buffer.getvalue()


def tar_of(*members, **options):
    """A tar of TarInfos as they are, whatever they say."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"y" * member.size))
    return buffer.getvalue()


def member(name, **fields):
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def link_chain():
    """CVE-2025-4517: links whose path grows beyond what the system resolves, which the "data" filter then trusts."""
    folder, steps, path, members = "d" * 247, "abcdefghijklmnop", "", []
    for step in steps:
        members.append(member(os.path.join(path, folder), type=tarfile.DIRTYPE, mode=0o755))
        members.append(member(os.path.join(path, step), type=tarfile.SYMTYPE, linkname=folder))
        path = os.path.join(path, folder)
    far = os.path.join("/".join(steps), "l" * 254)
    members.append(member(far, type=tarfile.SYMTYPE, linkname="../" * len(steps)))
    members.append(member("escape", type=tarfile.SYMTYPE, linkname=f"{far}/../.."))
    members.append(member("escape/outside", size=1))
    return tar_of(*members, format=tarfile.GNU_FORMAT)


def damaged(content, place, value=None):
    """Content with one byte changed; counted from the end if negative."""
    content = bytearray(content)
    content[place] = content[place] ^ 255 if value is None else value
    return bytes(content)


FILES = {f"images/{n}.jpg": os.urandom(2000) for n in range(20)}  # each 512 bytes of header and 2,048 of content
GOOD = pack("a.tar.gz", FILES)
GOOD_TAR = pack("a.tar", FILES)
GOOD_ZIP = pack("a.zip", FILES)
REFUSED = "is refused: {} is a link or a device, or leads out of the folder"
BAD = {
    "up.tar": (tar_with(name="images/../../outside", size=1), REFUSED.format("'images/../../outside'")),
    "absolute.tar": (tar_with(name="/outside", size=1), REFUSED.format("'/outside'")),
    "link.tar": (
        tar_with(name="images/l", type=tarfile.SYMTYPE, linkname="../../outside"),
        REFUSED.format("'images/l'"),
    ),
    "link within.tar": (
        tar_with(name="images/l", type=tarfile.SYMTYPE, linkname="a.jpg"),
        REFUSED.format("'images/l'"),
    ),
    "absolute-link.tar": (tar_with(name="l", type=tarfile.SYMTYPE, linkname="/etc/passwd"), REFUSED.format("'l'")),
    "hard-link.tar": (tar_with(name="l", type=tarfile.LNKTYPE, linkname="../../secret"), REFUSED.format("'l'")),
    "chain of links.tar": (link_chain(), REFUSED.format("'a'")),
    "device.tar": (tar_with(name="images/d", type=tarfile.CHRTYPE), REFUSED.format("'images/d'")),
    "fifo.tar": (tar_with(name="images/f", type=tarfile.FIFOTYPE), REFUSED.format("'images/f'")),
    "file and folder of one name.tar": (
        tar_of(member("a", size=1), member("a/b", size=1)),
        "is corrupt .*(Not a directory|File exists)",
    ),
    "name of 5,000 letters.tar": (tar_of(member("a" * 5000, size=1)), "is corrupt .*too long"),
    "NUL in a name.tar": (tar_with(name="a", size=1, pax_headers={"path": "a\0b"}), "is refused: 'a.x00b'"),
    "more than the disk holds.tar": (
        member("images/a", size=1 << 50).tobuf(tarfile.GNU_FORMAT) + bytes(1024),
        "needs 1,125,899,906,842,624 bytes",
    ),
    "up.zip": (zip_with("images/../../outside"), REFUSED.format("'images/../../outside'")),
    "back.zip": (zip_with("..\\outside"), "is refused"),
    "absolute.zip": (zip_with("/outside"), "is refused: '/outside'"),
    "link.zip": (zip_with("images/l", stat.S_IFLNK | 0o777), "is refused: 'images/l' is a link"),
    "fifo.zip": (zip_with("images/f", stat.S_IFIFO | 0o777), "is refused: 'images/f' is a link or a device"),
    "short.tar.gz": (GOOD[: len(GOOD) // 2], "corrupt or cut short"),
    "short by one byte.tar.gz": (GOOD[:-1], "corrupt or cut short"),
    "wrong sum.tar.gz": (damaged(GOOD, -6), "corrupt .*CRC"),
    "cut between two files.tar": (GOOD_TAR[: 10 * 2560], "corrupt or cut short .*without the mark of an end"),
    "cut in a header.tar": (GOOD_TAR[: 10 * 2560 + 99], "corrupt or cut short .*without the mark of an end"),
    "cut in a file.tar": (GOOD_TAR[: 10 * 2560 - 99], "corrupt or cut short"),
    "damaged header.tar": (damaged(GOOD_TAR, 10 * 2560 + 5), "corrupt or cut short"),
    "short.zip": (GOOD_ZIP[: len(GOOD_ZIP) // 2], "corrupt or cut short"),
    "flipped.zip": (damaged(GOOD_ZIP, 300), "corrupt or cut short .*CRC"),  # within the first file
    "unknown packing.zip": (damaged(GOOD_ZIP, GOOD_ZIP.index(b"PK\x01\x02") + 10, 77), "corrupt or cut short"),
    "noise.tar.gz": (b"\x1f\x8b" + os.urandom(3000), "corrupt"),
    "noise.tar.xz": (b"\xfd7zXZ\x00" + bytes(3000), "corrupt"),
    "noise.tar": (b"x" * 5000, "corrupt or cut short"),
    "empty.tar": (pack("a.tar", {}), 'expected "images" in it, found nothing'),
    "other.zip": (pack("a.zip", {"pictures/a.jpg": b"x"}), 'expected "images" in it, found pictures'),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_archive_leaves_nothing_behind(name, tmp_path, record):
    content, complaint = BAD[name]
    secret, folder = tmp_path / "secret", tmp_path / "root" / "set"
    secret.write_text("secret")
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    before = tree(tmp_path)
    with pytest.raises(DataError, match=complaint):
        fetch.unpack(folder / name, folder, {"images": "images"})
    assert tree(tmp_path) == before and [p.name for p in folder.iterdir()] == [name]
    if not re.search("expected|Not a directory|too long", complaint):  # found without unpacking, too
        assert re.search(complaint, fetch_reason(folder / name))
    record("archives of data", name, "refused by name, nothing written")


def fetch_reason(path):
    """Why a downloaded archive without a known sum is not taken."""
    try:
        return fetch.why_wrong(path, path.name)
    except fetch.DiskFull as error:
        return str(error)


@pytest.mark.parametrize("content", [GOOD, GOOD_TAR, GOOD_ZIP])
def test_good_archive_is_good(tmp_path, content):
    """What the bad ones differ from."""
    (tmp_path / "a.tar").write_bytes(content)
    assert fetch.why_wrong(tmp_path / "a.tar", "a.tar") == ""
    fetch.unpack(tmp_path / "a.tar", tmp_path, {"images": "images"})
    assert {f"images/{p.name}": p.read_bytes() for p in (tmp_path / "images").iterdir()} == FILES


def test_archive_with_wrong_bytes_anywhere(tmp_path, record):
    """Half of it cut off, or bytes changed at random places: an error that names it, or exactly what was packed."""
    draw, good = random.Random(0), 0
    for content, ending in ((GOOD, "tar.gz"), (GOOD_ZIP, "zip")):
        for _ in range(60):
            bad = bytearray(content[: draw.choice([len(content), draw.randrange(len(content))])])
            for _ in range(draw.choice([1, 3, 50])):
                if bad:
                    bad[draw.randrange(len(bad))] = draw.randrange(256)
            path = tmp_path / f"a.{ending}"
            path.write_bytes(bad)
            try:
                fetch.unpack(path, tmp_path, {"images": "images"})
            except DataError as error:
                assert str(path) in str(error)
            else:
                good += 1
                found = {f"images/{p.name}": p.read_bytes() for p in (tmp_path / "images").iterdir()}
                assert all(found[name] == FILES[name] for name in found if name in FILES)
                shutil.rmtree(tmp_path / "images")
            assert [p.name for p in tmp_path.iterdir()] == [path.name]
            path.unlink()
    assert good < 20
    record("archives of data", "cut or with wrong bytes at random places", "refused by name, or exactly unpacked", 120)


def test_zip_that_does_not_fit(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(GOOD_ZIP)
    usage = fetch.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage._replace(free=39_999))
    with pytest.raises(DataError, match="needs 40,000 bytes unpacked; .* has 39,999 left"):
        fetch.unpack(tmp_path / "a.zip", tmp_path, {"images": "images"})


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_unpacking_is_not_taken_for_done(tmp_path, monkeypatch, error):
    (tmp_path / "a.tar.gz").write_bytes(GOOD)
    extracted = []
    plain = fetch.extract_member

    def stumble(tar, member, target, archive):
        if len(extracted) == 5:
            raise error
        extracted.append(member.name)
        plain(tar, member, target, archive)

    monkeypatch.setattr(fetch, "extract_member", stumble)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else DataError):
        fetch.unpack(tmp_path / "a.tar.gz", tmp_path, {"images": "images"})
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]
    monkeypatch.setattr(fetch, "extract_member", plain)
    (tmp_path / ".unpacking-a.tar.gz" / "images").mkdir(parents=True)  # what a killed process leaves
    fetch.unpack(tmp_path / "a.tar.gz", tmp_path, {"images": "images"})
    assert len(list((tmp_path / "images").iterdir())) == 20 and not (tmp_path / ".unpacking-a.tar.gz").exists()


def test_imagenet_cut_between_two_classes_is_found(tmp_path, record):
    classes = {f"n{n}.tar": pack("x.tar", {f"n{n}_{i}.JPEG": b"x" * 400 for i in range(3)}) for n in range(3)}
    whole = pack("a.tar", classes)
    for place in (11264, 11264 + 512 + 2 * 1024):  # the second class is not there, or has two of three images
        (tmp_path / "a.tar").write_bytes(whole[:place])
        with pytest.raises(DataError, match="corrupt or cut short"):
            fetch.unpack(tmp_path / "a.tar", tmp_path, {"images": ""}, "imagenet_train")
        assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]
    (tmp_path / "a.tar").write_bytes(whole)
    fetch.unpack(tmp_path / "a.tar", tmp_path, {"images": ""}, "imagenet_train")
    assert len(list((tmp_path / "images").rglob("*.JPEG"))) == 9
    record("archives of data", "ImageNet's tar of tars cut short", "refused by name, nothing written", 2)


def test_small_disk_is_told_before_unpacking(tmp_path, monkeypatch):
    (tmp_path / "a.tar.gz").write_bytes(GOOD)
    usage = fetch.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage._replace(free=39_999))
    with pytest.raises(fetch.DiskFull, match="needs 40,000 bytes unpacked; .* has 39,999 left"):
        fetch.why_wrong(tmp_path / "a.tar.gz", "a.tar.gz")


def test_validation_images_and_labels_must_agree(tmp_path):
    (tmp_path / "ILSVRC2012_val_00000001.JPEG").touch()
    with pytest.raises(DataError, match="expected 2 validation images, found 1"):
        fetch.sort_into_classes(tmp_path, ["n1", "n2"])
    devkit(tmp_path / "kit")
    (tmp_path / "kit" / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n5\n")
    with pytest.raises(DataError, match='expected class numbers of meta.mat, found "5"'):
        fetch.validation_wnids(tmp_path / "kit" / "data")


def test_archive_of_another_content_is_fetched_anew_by_the_next_call(
    tmp_path, miniature, internet, monkeypatch, capsys
):
    """What was downloaded and leads nowhere is deleted; a file of the user's own is left to the user."""
    miniature("DescribableTextures", tmp_path / "origin")
    publish("DescribableTextures", tmp_path / "origin", internet, monkeypatch)
    source = SOURCES["DescribableTextures"]
    files = tuple(dataclasses.replace(file, md5="") for file in source.files)
    monkeypatch.setitem(SOURCES, "DescribableTextures", dataclasses.replace(source, files=files))
    key = "www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz"
    good, internet.files[key] = internet.files[key], pack("a.tar.gz", {"pictures/a.jpg": b"x"})
    assert prepare.main(["dtd", "--root", str(tmp_path / "data")]) == 1
    out = capsys.readouterr().out
    assert 'expected "images" in it, found pictures. It was deleted; run this command again' in out
    internet.files[key] = good
    assert prepare.main(["dtd", "--root", str(tmp_path / "data")]) == 0


# --- checking ------------------------------------------------------------------------------------------------------


@pytest.fixture()
def textures(tmp_path, miniature, internet, monkeypatch):
    """A prepared miniature of DTD whose counts are expected."""
    miniature("DescribableTextures", tmp_path)
    folder, _ = publish("DescribableTextures", tmp_path, internet, monkeypatch)
    return folder


def test_check_of_a_good_root(textures, tmp_path, internet, capsys):
    before = tree(tmp_path)
    assert prepare.main(["dtd", "--root", str(tmp_path), "--check", "--decode"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["DescribableTextures", "3", "11", "4", "7", "good"]
    assert tree(tmp_path) == before and internet.requests == []


def test_check_names_missing_images(textures, tmp_path, capsys):
    for number in range(3):
        (textures / "images" / "zigzagged" / f"image_000{number}.jpg").unlink()
    assert prepare.main(["dtd", "--root", str(tmp_path), "--check"]) == 1
    out = capsys.readouterr().out
    assert "3 of the 22 images listed in" in out and "  zigzagged/image_0002.jpg" in out and "faulty" in out


def test_check_finds_links_that_lead_nowhere(tmp_path, miniature, monkeypatch, capsys, record):
    """Where images are listed and not named by a split file, a broken link looks like an image."""
    folder = miniature("ImageNetA", tmp_path)
    image = next(folder.rglob("*.jpg"))
    image.rename(tmp_path / "away.jpg")
    image.symlink_to(tmp_path / "gone.jpg")
    assert prepare.main(["ImageNetA", "--root", str(tmp_path), "--check"]) == 1
    out = capsys.readouterr().out
    assert "1 of the " in out and "images of ImageNetA do not exist" in out and image.name in out and "faulty" in out
    record("folders of data", "broken link among listed images, --check", "named")


def test_check_of_folders_that_hold_no_image(tmp_path, capsys, record):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    assert prepare.main(["ImageFolder", "--root", str(tmp_path), "--check"]) == 1
    assert "faulty" in capsys.readouterr().out
    record("folders of data", "empty train/ and test/, --check", "named")


def test_check_does_not_build_a_split(textures, tmp_path, capsys):
    (textures / "split_zhou_DescribableTextures.json").unlink()
    before = tree(tmp_path)
    assert prepare.main(["dtd", "--root", str(tmp_path), "--check"]) == 1
    assert "split_zhou_DescribableTextures.json is missing" in capsys.readouterr().out and tree(tmp_path) == before


def test_check_compares_counts(textures, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(
        SOURCES, "DescribableTextures", dataclasses.replace(SOURCES["DescribableTextures"], train=2820, classes=47)
    )
    assert prepare.main(["dtd", "--root", str(tmp_path), "--check"]) == 1
    out = capsys.readouterr().out
    assert "3 (expected 47)" in out and "11 (expected 2,820)" in out and "counts are not those of the benchmark" in out


def test_decode_finds_images_that_do_not_decode(textures, tmp_path, capsys):
    broken = textures / "images" / "banded" / "image_0001.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    (textures / "images" / "banded" / "image_0002.jpg").write_bytes(b"")
    assert prepare.main(["dtd", "--root", str(tmp_path), "--check"]) == 0
    capsys.readouterr()
    assert prepare.main(["dtd", "--root", str(tmp_path), "--check", "--decode"]) == 1
    out = capsys.readouterr().out
    assert "2 images do not decode" in out and f"  {broken} (" in out


@pytest.mark.parametrize("layout", ["parts", "classes alone"])
def test_a_folder_of_ones_own_is_checked_and_nothing_is_written(layout, tmp_path, internet, capsys):
    for part in ("train/", "test/") if layout == "parts" else ("",):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(5):
                Image.new("RGB", (9, 9)).save(tmp_path / part / name / f"{number}.png")
    broken = next(tmp_path.rglob("cat/3.png"))
    before = tree(tmp_path)
    counts = ["2", "10", "-", "10"] if layout == "parts" else ["2", "4", "2", "4"]  # round(2.5) + round(1) + rest
    assert prepare.main(["image_folder", "--root", str(tmp_path), "--check", "--decode"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["ImageFolder", *counts, "good"]
    assert tree(tmp_path) == before
    broken.write_bytes(broken.read_bytes()[:40])
    assert prepare.main(["ImageFolder", "--root", str(tmp_path), "--check", "--decode"]) == 1
    assert f"1 images do not decode:\n  {broken} (" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        prepare.main(["ImageFolder", "--root", str(tmp_path)])
    assert "nothing to fetch, only to --check" in capsys.readouterr().err


def test_check_finds_faulty_labels(textures, tmp_path, capsys):
    path = textures / "split_zhou_DescribableTextures.json"
    split = json.loads(path.read_text())
    split["test"][0][2] = "other"
    path.write_text(json.dumps(split))
    assert prepare.main(["dtd", "--root", str(tmp_path), "--check"]) == 1
    assert "label 0 has two names, 'banded' and 'other'" in capsys.readouterr().out


# --- names and the command -----------------------------------------------------------------------------------------


def test_names():
    assert prepare.resolve(["oxford_pets", "OXFORDPETS", "dtd"]) == ["OxfordPets", "DescribableTextures"]
    assert prepare.resolve(["all"]) == list(SOURCES) and len(SOURCES) == 15
    with pytest.raises(ValueError, match='"imagnet" is not a data set; did you mean ImageNet'):
        prepare.resolve(["imagnet"])


def test_counts_add_up_to_the_data_sets():
    """Train, val and test together are all images, whose number each data set's authors give."""
    images = {
        "Caltech101": 9_144 - 467 - 435,  # without the background and the second folder of faces
        "OxfordPets": 7_349,
        "StanfordCars": 16_185,
        "OxfordFlowers": 8_189,
        "Food101": 101 * 1000,
        "FGVCAircraft": 100 * 100,
        "SUN397": 397 * 100,
        "DescribableTextures": 47 * 120,
        "EuroSAT": 27_000,
        "UCF101": 13_320,
    }
    assert images == {n: s.train + s.val + s.test for n, s in SOURCES.items() if s.val is not None}


def test_the_command_itself(tmp_path):
    """From any folder, in a process of its own, without importing torch."""
    command = [sys.executable, "-X", "importtime", "-m", "mocoop.datasets.prepare", "eurosat", "--check", "--root", "."]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "EuroSAT: " in done.stdout and "does not exist" in done.stdout
    assert not any(line.split("|")[-1].strip() == "torch" for line in done.stderr.splitlines())
    with contextlib.suppress(FileNotFoundError):
        assert list(tmp_path.iterdir()) == []

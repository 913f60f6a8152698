import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from mocoop.classifier.images import Reader, ahead, each_image
from mocoop.clip import DEMO_PREPROCESS, build_transform
from mocoop.toolbox.dassl.utils import ImageError
from PIL import Image


def read(images, **options):
    return list(Reader(images, DEMO_PREPROCESS, workers=2, **options))


@pytest.fixture()
def picture():
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def test_every_form_of_an_image_gives_the_same_bits(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    expected = build_transform(DEMO_PREPROCESS)(Image.fromarray(picture))
    forms = {
        "path": tmp_path / "a.png",
        "text": str(tmp_path / "a.png"),
        "pillow": Image.open(tmp_path / "a.png"),
        "array": picture,
        "numbers": picture / 255,
        "pixels": torch.from_numpy(picture).permute(2, 0, 1),
        "prepared": expected,
        "folder": str(tmp_path),
    }
    for form, image in forms.items():
        (batch,) = read(image)
        assert torch.equal(batch.images, expected[None]), form
        (batch,) = read(iter([image, picture])) if form != "folder" else [batch]
        assert torch.equal(batch.images[0], expected), form


def test_stacks_and_grey_images(picture):
    (stack,) = read(np.stack([picture, 255 - picture]))
    assert torch.equal(stack.images[1], read(255 - picture)[0].images[0])
    (batch,) = read(torch.stack([torch.from_numpy(picture).permute(2, 0, 1)] * 2))
    assert torch.equal(batch.images[1], stack.images[0])
    grey = np.full((9, 9), 51, dtype=np.uint8)
    for image in (grey, grey[:, :, None], grey / 255):
        assert torch.allclose(read(image)[0].images, torch.tensor(51 / 255 / 0.5 - 1), atol=1e-6)


def test_images_are_turned_and_laid_on_white(tmp_path):
    halves = Image.new("RGB", (48, 48), "black")
    halves.paste("white", (0, 0, 48, 24))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise: the upper half comes to the right
    halves.save(tmp_path / "turned.png", exif=exif)
    (batch,) = read(tmp_path / "turned.png")
    assert batch.images[0, 0, :, :20].max() == -1 and batch.images[0, 0, :, 28:].min() == 1
    (opened,) = read(Image.open(tmp_path / "turned.png"))
    assert torch.equal(batch.images, opened.images)
    (clear,) = read(Image.new("RGBA", (9, 9), (0, 0, 0, 0)))
    assert clear.images.min() == 1
    (array,) = read(np.zeros((9, 9, 4), dtype=np.uint8))
    assert array.images.min() == 1


def test_batches_are_in_order_whichever_thread_is_done_first():
    def work(number):
        time.sleep(0.002 * (7 - number % 7))
        return number, threading.get_ident()

    done = list(ahead(range(40), work, workers=4, depth=8))
    assert [number for number, _ in done] == list(range(40))
    assert len({thread for _, thread in done}) > 1


def test_a_stream_is_read_a_little_ahead_only(picture):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield picture

    batches = iter(Reader(endless(), DEMO_PREPROCESS, batch_size=4, workers=2))
    for number in range(1, 4):
        batch = next(batches)
        assert batch.indices == list(range(4 * number - 4, 4 * number))
        assert taken <= 4 * number + 8
    batches.close()


def test_a_batch_is_as_long_as_asked(picture):
    assert [len(batch.names) for batch in read([picture] * 7, batch_size=3)] == [3, 3, 1]


def test_what_cannot_be_read_is_named_and_skipped_or_raised(picture, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    given = [picture, str(tmp_path / "broken.png"), tmp_path / "absent.jpg", np.zeros((2, 2, 7)), "text", picture]
    reader = Reader(given, DEMO_PREPROCESS, unreadable="skip", workers=2)
    (batch,) = reader
    assert batch.indices == [0, 5] and batch.names == ["image 0", "image 5"]
    assert [entry.index for entry in reader.skipped] == [1, 2, 3, 4]
    assert all(name in entry.reason for name, entry in zip(["broken.png", "absent.jpg"], reader.skipped, strict=False))
    assert "[2, 2, 7]" in reader.skipped[2].reason
    with pytest.raises(ImageError, match="broken.png"):
        read(given)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.zeros(3, 20, 20), "3, 48, 48"),
        (torch.full((3, 48, 48), float("nan")), "finite"),
        (torch.zeros(4, 9, 9, dtype=torch.uint8), r"\[3, H, W\]"),
        (np.full((9, 9, 3), 7.5), "0 to 1"),
        (np.zeros((9, 9, 3), dtype=np.int64), "uint8"),
        (np.zeros((0, 9, 3), dtype=np.uint8), "0, 9, 3"),
        (Image.new("RGB", (3000, 3)), "200 times"),
        (7, "found int"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_images_of_no_use_are_refused_in_words(image, said):
    with pytest.raises(ImageError, match=said):
        read([image])


def test_an_image_of_one_pixel_and_one_of_too_many(tmp_path, monkeypatch):
    (batch,) = read(Image.new("RGB", (1, 1), (255, 0, 0)))
    assert torch.equal(batch.images[0, 0], torch.ones(48, 48)) and torch.equal(batch.images[0, 2], -torch.ones(48, 48))
    Image.new("RGB", (60, 60)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="large.png.*exceeds limit"):
        read(tmp_path / "large.png")


def test_a_folder_stands_for_all_images_in_it_and_below(tmp_path, picture, capsys):
    (tmp_path / "below").mkdir()
    for name in ("b.png", "below/a.png", "a.png"):
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("hello")
    assert list(each_image(str(tmp_path))) == [str(tmp_path / name) for name in ("a.png", "b.png", "below/a.png")]
    assert "1 files that Pillow does not decode" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="found none"):
        list(each_image(tmp_path / "empty"))
    with pytest.raises(ValueError, match="found int"):
        list(each_image(3))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_refused_unopened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer, without end
    call = "import sys; from mocoop.toolbox.dassl.utils import read_image; read_image(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", call, tmp_path / "pipe.png"], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.strip().endswith('pipe.png": expected a file, found a pipe, socket or device')
    with pytest.raises(ImageError, match="expected a file, found a pipe"):
        read([str(tmp_path / "pipe.png")])


def test_a_path_where_nothing_is_is_not_to_be_repaired(tmp_path):
    with pytest.raises(ImageError, match='absent.png": no such file$'):
        read([tmp_path / "absent.png"])

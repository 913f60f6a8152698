"""Reading image files: Dassl's RGB where Dassl reads them right, grey of many bits, EXIF and alpha, and messages."""

import numpy as np
import pytest
from dassl.utils import ImageError, read_image
from PIL import Image

GREY = np.array([[0, 1, 100], [200, 254, 255]], dtype=np.uint8)


def read(path, image, upright=False, **options):
    image.save(path, **options)
    return np.asarray(read_image(str(path), upright))


def photo(mode, size=(5, 4)):
    """An image of a mode with every channel filled at random."""
    rng = np.random.default_rng(0)
    channels = [
        Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8)) for _ in Image.new(mode, (1, 1)).getbands()
    ]
    return Image.merge(mode, channels)


@pytest.mark.parametrize(
    "mode, ending",
    [
        ("RGB", "png"),
        ("RGB", "jpg"),
        ("L", "png"),
        ("L", "jpg"),
        ("CMYK", "jpg"),
        ("RGBA", "png"),
        ("LA", "png"),
        ("RGB", "webp"),
    ],
)
def test_eight_bits_are_read_bit_for_bit_as_dassl_reads_them(tmp_path, mode, ending):
    """Dassl: `Image.open(path).convert("RGB")`. The benchmark's images are all of this kind."""
    path = tmp_path / f"x.{ending}"
    ours = read(path, photo(mode))
    assert np.array_equal(ours, np.asarray(Image.open(path).convert("RGB")))
    for palette in (photo("RGB").quantize(8), photo("L").convert("1")):
        ours = read(tmp_path / "p.png", palette)
        assert np.array_equal(ours, np.asarray(Image.open(tmp_path / "p.png").convert("RGB")))


def test_a_turned_photograph_of_the_benchmark_stays_as_dassl_reads_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "x.jpg"
    lying = read(path, photo("RGB"), exif=exif)
    assert lying.shape == (4, 5, 3) and np.array_equal(lying, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("white", [255, 4095, 65535])
def test_grey_of_16_bits_equals_its_twin_of_8(tmp_path, ending, white):
    deep = Image.fromarray(np.round(GREY.astype(float) * white / 255).astype(np.uint16))
    got = read(tmp_path / f"x.{ending}", deep)
    assert got.shape == (2, 3, 3) and (got == GREY[..., None]).all()


@pytest.mark.parametrize("values", [GREY / np.float32(255), GREY.astype(np.float32), GREY * np.float32(40) - 1000])
def test_floats_equal_their_twin_of_8_bits(tmp_path, values):
    """Values of 0 to 1, of 0 to 255, and of any other range, whose extremes are black and white."""
    got = read(tmp_path / "x.tif", Image.fromarray(values.astype(np.float32)))
    assert (got == GREY[..., None]).all()


def test_odd_numbers_have_a_place(tmp_path):
    odd = np.array([[np.nan, -np.inf, 0.0], [0.5, 1.0, np.inf]], dtype=np.float32)
    assert read(tmp_path / "x.tif", Image.fromarray(odd))[..., 0].tolist() == [[0, 0, 0], [128, 255, 255]]
    for same in (np.zeros((2, 2), np.float32), np.full((2, 2), -7, np.int32)):
        assert not read(tmp_path / "x.tif", Image.fromarray(same)).any()
    far = np.array([[-70000, 0, 70000]], dtype=np.int32)
    assert read(tmp_path / "x.tif", Image.fromarray(far))[0, :, 0].tolist() == [0, 128, 255]


def test_an_image_without_any_finite_number_is_refused(tmp_path):
    with pytest.raises(ImageError, match="no pixel has a finite value"):
        read(tmp_path / "x.tif", Image.fromarray(np.full((2, 2), np.nan, np.float32)))


@pytest.mark.parametrize("orientation, steps", [(1, 0), (3, 2), (6, 3), (8, 1), (99, 0)])
def test_own_images_are_turned_as_their_exif_data_say(tmp_path, orientation, steps):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = photo("RGB")
    got = read(tmp_path / "x.png", image, upright=True, exif=exif)
    assert np.array_equal(got, np.rot90(np.asarray(image), steps))


def test_damaged_exif_data_say_nothing(tmp_path):
    image = photo("RGB")
    got = read(tmp_path / "x.png", image, upright=True, exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff\x01\x12")
    assert np.array_equal(got, np.asarray(image))


def test_transparent_parts_of_own_images_are_white(tmp_path):
    pixels = np.array([[[200, 100, 0, 0], [200, 100, 0, 255], [200, 100, 0, 51]]], dtype=np.uint8)
    image = Image.fromarray(pixels)
    # 51 of 255 is a fifth of the colour and four fifths of white.
    assert read(tmp_path / "a.png", image, upright=True).tolist() == [[[255] * 3, [200, 100, 0], [244, 224, 204]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    got = read(tmp_path / "p.png", palette, upright=True, transparency=1)
    assert got.tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("content, reason", [(b"", "(the file is empty); repair"), (b"text", "cannot identify image")])
def test_the_message_is_whole(tmp_path, content, reason):
    """It was cut at "UnidentifiedImageError: ", which ends as the name of our own class."""
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(str(path))
    message = str(caught.value)
    assert message.startswith(f'Cannot read the image "{path}" (') and reason in message
    worker = f"Caught ImageError in DataLoader worker process 0.\nTraceback\n  raise\nx.y.ImageError: {message}\n"
    assert str(ImageError(worker)) == message


@pytest.mark.parametrize("form", ["EPS", "MPEG"])
def test_formats_of_other_programs_are_not_opened_whatever_their_ending(tmp_path, form):
    path = tmp_path / "x.png"
    if form == "EPS":  # Pillow would start Ghostscript
        photo("RGB").save(path, format="EPS")
    else:
        path.write_bytes(b"\x00\x00\x01\xb3\x01\x00\x10" + bytes(20))
    with pytest.raises(ImageError, match="cannot identify image file"):
        read_image(str(path))

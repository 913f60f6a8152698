"""Image files to RGB: as Dassl reads them where it reads them right. Pillow and numpy are imported on first use."""

import os
import re
import stat
import struct
from typing import Any

# Formats that Pillow decodes by other programs (EPS) or not at all, and IPTC, which opens whatever it holds.
NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})


class ImageError(OSError):
    """An image file that cannot be read; the message names it."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker's error is rebuilt by torch from its whole traceback as text; the last line is ours.
        super().__init__(re.split(r"^[\w.]+\.ImageError: ", message, flags=re.MULTILINE)[-1].strip())


def readable_formats() -> list[str]:
    """The formats that this Pillow decodes by itself, in its order of trying them; all others are never opened."""
    from PIL import Image

    Image.preinit()  # the common ones come first, as in `Image.open`
    Image.init()
    return [form for form in Image.ID if form not in NOT_DECODED]


def read_image(path: str, upright: bool = False) -> Any:
    """Open an image file with Pillow, by its content (see `readable_formats`), and convert it to RGB.

    Eight bits a channel are converted as Dassl does it. Grey images of more bits, which Pillow would cut off at 255
    (16 bits turn white, floats black), are scaled, see `to_8_bit`.

    Args:
        path: of the file.
        upright: also turn the image as its EXIF data say, and lay transparent parts on white (Dassl does neither).

    Raises:
        ImageError: (an OSError) naming the file, if it is missing, no regular file, damaged, empty or not an image.
    """
    from PIL import Image

    check_regular(path)
    try:
        with Image.open(path, formats=readable_formats()) as image:
            return to_rgb(image, upright)
    except Exception as error:  # Pillow's plugins raise nearly anything on a damaged file
        empty = os.path.isfile(path) and os.path.getsize(path) == 0
        reason = "the file is empty" if empty else f"{type(error).__name__}: {error}"
        raise ImageError(f'Cannot read the image "{path}" ({reason}); repair or remove it') from error


def check_regular(path: str) -> None:
    """Refuse what is no regular file before it is opened: opening a pipe waits for whoever writes to it, without end.

    Raises:
        ImageError: it is not there, or not a regular file.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise ImageError(f'Cannot read the image "{path}": no such file') from error
    except (OSError, ValueError) as error:  # ValueError: the name holds a null character
        raise ImageError(f'Cannot read the image "{path}" ({type(error).__name__}: {error})') from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise ImageError(f'Cannot read the image "{path}": expected a file, found {kind}')


def to_rgb(image: Any, upright: bool = False) -> Any:
    """An opened image as RGB of 8 bits a channel; see `read_image`."""
    image = turned_upright(image) if upright else image
    image = to_8_bit(image) if image.mode == "F" or image.mode.startswith("I") else image
    return (on_white(image) if upright else image).convert("RGB")


def to_8_bit(image: Any) -> Any:
    """Scale a grey image of 16 or 32 bits or of floats to 8 bits.

    White is 255, 4095 or 65535 (8, 12 or 16 bits; floats: 1 or 255), whichever is the first that the brightest pixel
    does not exceed. Values below 0 or above all of these: black and white are the image's own extremes.

    Raises:
        ValueError: no pixel has a finite value.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    known = values[np.isfinite(values)]
    if not known.size:
        raise ValueError("no pixel has a finite value")
    low, high = known.min(), known.max()
    whites = [white for white in ((1, 255) if image.mode == "F" else (255, 4095, 65535)) if high <= white]
    black, white = (0, whites[0]) if low >= 0 and whites else (low, high)
    values = np.nan_to_num(values, nan=black, posinf=white, neginf=black)
    scaled = 255 * (values - black) / max(white - black, np.finfo(np.float64).tiny)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def turned_upright(image: Any) -> Any:
    """The image turned as its EXIF data say; damaged EXIF data are ignored."""
    from PIL import ExifTags, ImageOps

    try:
        return ImageOps.exif_transpose(image) if image.getexif().get(ExifTags.Base.Orientation, 1) != 1 else image
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):  # of Pillow's parser of EXIF data
        return image


def on_white(image: Any) -> Any:
    """The image on a white background, if it has transparent parts."""
    from PIL import Image

    if image.mode not in ("RGBA", "RGBa", "LA", "La", "PA") and "transparency" not in image.info:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))

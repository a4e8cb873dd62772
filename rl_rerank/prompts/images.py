"""Image files, opened as hostile data: local files of a few formats, within limits that are checked before decoding."""

import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP")
"""The formats that are decoded, whatever a file's name ends with."""
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
"""A page of A4 at 600 dpi has 35 million."""
MAX_RATIO = 200
"""Longer side by shorter side. Image processors refuse or distort longer strips."""


@dataclass(frozen=True)
class ImageFile:
    """What is known of an image file that has been decoded once."""

    width: int
    """Pixels, after the orientation tag is applied."""
    height: int
    sha256: str
    """Of the file."""


def check(path: str) -> None:
    """Refuse a file that is not an image within the limits, by its size and its header, without decoding it.

    Raises:
        ValueError: naming the file and the reason.
    """
    with _opened(_content(path), path):
        pass


def inspect(path: str) -> ImageFile:
    """Decode an image once, to know that all of it can be, and return its size and digest. Kept by path and time.

    Raises:
        ValueError: naming the file and the reason.
    """
    return _inspected(path, _modified(path))


def load(path: str) -> "Image":
    """Decode an image: RGB, upright, transparent parts on white.

    Raises:
        ValueError: naming the file and the reason.
    """
    return _decoded(_content(path), path)


@lru_cache(65536)
def _inspected(path: str, modified: int) -> ImageFile:
    content = _content(path)
    image = _decoded(content, path)
    return ImageFile(image.width, image.height, hashlib.sha256(content).hexdigest())


def _modified(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0  # which reading it explains


def _content(path: str) -> bytes:
    if "://" in path:
        raise _refused(path, "is an address, and none is fetched; give a file on this machine")
    file = Path(path)
    try:
        if not file.is_file():
            raise _refused(path, "is no file" if file.exists() else "does not exist")
        if (size := file.stat().st_size) > MAX_BYTES:
            raise _refused(path, f"has {size:,} bytes, more than {MAX_BYTES:,}")
        return file.read_bytes()
    except OSError as e:
        raise _refused(path, f"cannot be read: {e.strerror}") from None


def _opened(content: bytes, path: str) -> "Image":
    """Read the header only."""
    import io

    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        # Pillow warns of sizes that are refused here with a sentence.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:
            raise _refused(path, f"is no image of the formats {', '.join(FORMATS)}") from None
        except Image.DecompressionBombError:
            raise _refused(path, f"has more than {MAX_PIXELS:,} pixels") from None
        except (OSError, SyntaxError, ValueError) as e:
            raise _refused(path, f"is damaged: {e}") from None
    if image.width * image.height > MAX_PIXELS:
        raise _refused(path, f"has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
    if max(image.size) > MAX_RATIO * min(image.size):
        raise _refused(path, f"has {image.width} x {image.height} pixels: one side is over {MAX_RATIO} times the other")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise _refused(path, f"is animated, with {frames} frames; give the one that is meant")
    return image


def _decoded(content: bytes, path: str) -> "Image":
    from PIL import Image, ImageOps

    with _opened(content, path) as image:
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as e:
            raise _refused(path, f"is damaged: {e}") from None
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        # Converted directly, transparent parts would show colours that nobody sees.
        clear = upright.convert("RGBA")
        page = Image.new("RGBA", clear.size, "white")
        page.alpha_composite(clear)
        return page.convert("RGB")


def _refused(path: str, reason: str) -> ValueError:
    return ValueError(f"the image {path!r} {reason}")

"""Image files are hostile: each bad one gives a sentence with its name and the reason."""

import struct
import zlib

import pytest
from PIL import Image
from support.pages import page

from rl_rerank.prompts import images


def bomb(path, width, height):
    """A PNG of a few bytes whose header promises many pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def make(path, kind):
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "truncated":
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "animated":
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        frames[0].save(path, "WEBP", save_all=True, append_images=frames[1:])
    elif kind == "large":
        bomb(path, 9_000, 8_000)
    elif kind == "bomb":
        bomb(path, 20_000, 20_000)
    elif kind == "strip":
        Image.new("RGB", (1000, 2)).save(path)
    elif kind == "svg":
        path.write_text('<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>')
    elif kind == "gif":
        Image.new("RGB", (8, 8)).save(path, "GIF")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "does not exist"),
        ("folder", "is no file"),
        ("empty", "is no image of the formats PNG, JPEG, WEBP"),
        ("svg", "is no image of the formats PNG, JPEG, WEBP"),
        ("gif", "is no image of the formats PNG, JPEG, WEBP"),
        ("truncated", "is damaged: "),
        ("animated", "is animated, with 2 frames"),
        ("large", "has 9000 x 8000 pixels, more than 64,000,000"),
        ("bomb", "has more than 64,000,000 pixels"),
        ("strip", "has 1000 x 2 pixels: one side is over 200 times the other"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_the_reason(tmp_path, kind, reason):
    path = tmp_path / f"{kind}.png"
    make(path, kind)
    with pytest.raises(ValueError) as error:
        images.inspect(str(path))
    assert f"the image {str(path)!r}" in str(error.value)
    assert reason in str(error.value)


def test_what_a_header_tells_is_refused_without_decoding(tmp_path):
    make(tmp_path / "large.png", "large")
    with pytest.raises(ValueError, match="9000 x 8000"):
        images.check(str(tmp_path / "large.png"))
    make(tmp_path / "truncated.png", "truncated")
    images.check(str(tmp_path / "truncated.png"))  # only decoding can tell


def test_a_file_above_the_limit_of_bytes_is_not_read(tmp_path, monkeypatch):
    path = page(tmp_path / "a.png", "red")
    monkeypatch.setattr(images, "MAX_BYTES", 50)
    with pytest.raises(ValueError, match=r"has \d+ bytes, more than 50"):
        images.load(path)


@pytest.mark.parametrize("address", ["https://example.org/a.png", "http://127.0.0.1:9/a.png", "file:///etc/passwd"])
def test_no_address_is_fetched(address):
    with pytest.raises(ValueError, match="is an address, and none is fetched"):
        images.check(address)


def test_the_content_counts_and_not_the_name(tmp_path):
    Image.new("RGB", (5, 7), "red").save(tmp_path / "photo.png", "JPEG")
    assert images.load(str(tmp_path / "photo.png")).size == (5, 7)


def test_an_image_is_shown_upright_and_its_size_is_that_of_the_upright_one(tmp_path):
    image = Image.new("RGB", (30, 20), "white")
    image.paste("black", (0, 0, 10, 10))  # the upper left corner, before the turn
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    shown = images.load(str(tmp_path / "turned.png"))
    assert shown.size == (20, 30)
    assert shown.getpixel((18, 2)) == (0, 0, 0) and shown.getpixel((2, 2)) == (255, 255, 255)
    file = images.inspect(str(tmp_path / "turned.png"))
    assert (file.width, file.height) == (20, 30)


def test_palettes_are_resolved_and_transparent_parts_are_white(tmp_path):
    Image.new("RGB", (4, 4), "red").convert("P").save(tmp_path / "palette.png")
    red, green, blue = images.load(str(tmp_path / "palette.png")).getpixel((1, 1))
    assert red > 250 and green < 5 and blue < 5  # the nearest colour of the palette
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert images.load(str(tmp_path / "clear.png")).getpixel((1, 1)) == (255, 255, 255)


def test_a_changed_file_is_seen_as_another_image(tmp_path):
    path = tmp_path / "a.png"
    before = images.inspect(page(path, "red"))
    page(path, "blue", (10, 10))
    after = images.inspect(str(path))
    assert before.sha256 != after.sha256 and (after.width, after.height) == (10, 10)

"""Images that take far more time or memory to decode than others of their size are refused; normal images are read."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.image_limits import MOST_PARTS, MOST_SCANS
from rfdetr_core.base.images import TooLargeError, decode, inspect_image

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def progressive(scans: int, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    """A progressive JPEG of `scans` scans. Pillow writes 10; then the last one is repeated."""
    data = encoded(Image.fromarray(PIXELS).resize(size), "JPEG", progressive=True, **options)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - 10) + b"\xff\xd9"


def tiff(width: int, height: int, parts: int, rows: int, compression: int = 1) -> bytes:
    """A grey TIFF with `parts` strips of `rows` rows. All strips are the same bytes of the file."""
    strip = bytes(width * rows)
    lists = [np.full(parts, value, "<u4").tobytes() for value in (8, len(strip))]
    start = 8 + len(strip)
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1),
        (273, 4, parts, start), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, parts, start + len(lists[0])),
    ]  # fmt: skip
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, start + 8 * parts) + strip + b"".join(lists) + table


@pytest.mark.parametrize("scans", [10, 40, MOST_SCANS])
def test_a_jpeg_of_as_many_scans_as_a_tool_may_write_is_read(scans: int) -> None:
    plain = np.asarray(Image.open(io.BytesIO(progressive(scans))))
    np.testing.assert_array_equal(np.asarray(decode(progressive(scans), "a.jpg")), plain)


@pytest.mark.parametrize("scans", [MOST_SCANS + 1, 2_000])
def test_a_jpeg_of_more_scans_is_refused_with_their_number_and_what_to_do(scans: int) -> None:
    with pytest.raises(UserError, match=rf"a\.jpg .* has {scans:,} scans, more than the 100 .* not progressive"):
        decode(progressive(scans), "a.jpg")


def test_a_large_jpeg_may_have_fewer_scans_than_a_small_one() -> None:
    """An image of the largest size may have 20 scans. Only the scans are counted, so the pixels are not needed."""
    data = bytearray(progressive(21))
    start = data.index(b"\xff\xc2") + 5
    data[start : start + 4] = struct.pack(">HH", 10_000, 10_000)
    with pytest.raises(UserError, match="21 scans, more than the 20 allowed for its 100,000,000 pixels"):
        decode(bytes(data), "a.jpg")


def test_a_sequential_jpeg_of_many_scans_is_refused_too() -> None:
    data = encoded(Image.new("RGB", (16, 16)), "JPEG", subsampling=0)
    start = data.index(b"\xff\xda")
    scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0" + data[start + 14 : -2]
    with pytest.raises(UserError, match="500 scans"):
        decode(data[:start] + scan * 500 + b"\xff\xd9", "a.jpg")


def test_scans_of_thumbnails_and_bytes_that_look_like_scans_do_not_count() -> None:
    segment = b"\xff\xed" + struct.pack(">H", 60_002) + b"\xff\xda" * 30_000
    for jpeg in (progressive(10), encoded(Image.fromarray(PIXELS), "JPEG")):
        data = jpeg[:2] + segment * 3 + jpeg[2:] + b"\xff\xda" * 500  # behind the end, as a second frame
        np.testing.assert_array_equal(np.asarray(decode(data, "a.jpg")), np.asarray(decode(jpeg, "a.jpg")))


@pytest.mark.parametrize("filled", [b"", b"\xff\xff"])
def test_scans_are_counted_with_any_bytes_between_them(filled: bytes) -> None:
    head, scan, tail = progressive(150).partition(b"\xff\xda")
    data = head + scan + tail.replace(scan, b"\xff\xfe\0\4xy\xff\x01" + filled + scan)
    with pytest.raises(UserError, match="150 scans"):
        decode(data, "a.jpg")


@pytest.mark.parametrize("compression", [1, 5])
def test_a_tiff_of_millions_of_strips_is_refused_before_they_are_listed(compression: int) -> None:
    with pytest.raises(UserError, match=r"a\.tif .*2,000,000 strips or tiles, more than the 100,000 allowed"):
        decode(tiff(8, 2_000_000, 2_000_000, 1, compression), "a.tif")


def test_a_tiff_whose_strips_cover_it_again_and_again_is_refused() -> None:
    with pytest.raises(UserError, match="cover the picture more than 32 times"):
        decode(tiff(64, 48, 20_000, 47), "a.tif")


def test_a_tiff_of_a_strip_for_each_row_is_read() -> None:
    assert decode(tiff(2, 60_000, 60_000, 1), "a.tif").size == (2, 60_000)
    assert MOST_PARTS > 3 * 30_000  # enough for a strip per row in 3 separate bands of a picture 30,000 pixels high


def test_a_tiff_with_tiles_that_reach_beyond_it_is_read() -> None:
    image = Image.new("L", (65, 17), 9)
    assert decode(encoded(image, "TIFF", tiffinfo={278: 1}), "a.tif").getpixel((64, 16)) == (9, 9, 9)
    # 16 x 16 tiles of a picture of 17 x 17.
    tile, tags = bytes(256), [(256, 17), (257, 17), (258, 8), (259, 1), (262, 1), (277, 1), (322, 16), (323, 16)]
    rows = [*((tag, 4, 1, value) for tag, value in tags), (324, 4, 4, 8 + 256), (325, 4, 4, 8 + 256 + 16)]
    table = struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", *row) for row in rows) + bytes(4)
    lists = struct.pack("<4I4I", *[8] * 4, *[256] * 4)
    assert decode(struct.pack("<2sHI", b"II", 42, 8 + 256 + 32) + tile + lists + table, "a.tif").size == (17, 17)


def test_a_webp_may_have_half_of_the_pixels_and_is_refused_by_its_header() -> None:
    data = encoded(Image.fromarray(PIXELS), "WEBP")
    assert decode(data, "a.webp", max_pixels=2 * 64 * 48).size == (64, 48)
    with pytest.raises(TooLargeError, match=r"64 x 48 pixels are more than the 3,071 allowed for WEBP \(JPEG and PNG"):
        decode(data, "a.webp", max_pixels=2 * 64 * 48 - 1)
    assert decode(data, "a.webp", max_pixels=None).size == (64, 48)


def corrupted_mpo(data: bytes) -> bytes:
    second = data.index(b"\xff\xd8", 10)
    return data[: second + 400] + bytes(len(data) - second - 400)


def corrupted_png(data: bytes) -> bytes:
    return data[: data.index(b"fdAT") + 8] + bytes(400)


def corrupted_webp(data: bytes) -> bytes:
    start = data.rindex(b"VP8L") + 13
    return data[:start] + os.urandom(len(data) - start)


@pytest.mark.parametrize(
    ("kind", "corrupt"),
    [("MPO", corrupted_mpo), ("PNG", corrupted_png), ("WEBP", corrupted_webp)],
    ids=["MPO", "PNG", "WEBP"],
)
def test_only_the_first_of_several_frames_is_decoded(kind: str, corrupt: Callable[[bytes], bytes]) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    corrupted = corrupt(data)
    assert corrupted != data
    np.testing.assert_array_equal(np.asarray(decode(corrupted, "x")), np.asarray(decode(data, "x")))
    assert inspect_image(corrupted, "x").has_more_frames == (kind != "MPO")


def test_a_gif_is_not_opened_at_all() -> None:
    with pytest.raises(UserError, match="its content has none of these formats"):
        decode(encoded(Image.new("P", (3, 3)), "GIF"), "a.gif")

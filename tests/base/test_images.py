from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile, ImageOps

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.images import TooLargeError, decode, inspect_image, pixel_digest, read_verified

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
KINDS = ("PNG", "BMP", "TIFF", "JPEG", "WEBP")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode(data, "x")
    assert image.mode == "RGB"
    return np.asarray(image)


SAVED_AGAIN: dict[str, Callable[[Image.Image], bytes]] = {
    "png": encoded,
    "png, compressed less": lambda image: encoded(image, compress_level=1),
    "bmp": lambda image: encoded(image, "BMP"),
    "tiff": lambda image: encoded(image, "TIFF", compression="tiff_lzw"),
    "webp without loss": lambda image: encoded(image, "WEBP", lossless=True),
    "with metadata": lambda image: encoded(image, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    "turned, and said to be": lambda image: encoded(image.rotate(90, expand=True), exif=orientation(6)),
    "opaque": lambda image: encoded(image.convert("RGBA")),
}


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    return exif


@pytest.mark.parametrize("save", SAVED_AGAIN.values(), ids=SAVED_AGAIN.keys())
@pytest.mark.parametrize("strip", [1, 31, 2**20])
def test_a_copy_with_equal_decoded_pixels_has_the_same_pixel_digest(
    save: Callable[[Image.Image], bytes], strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfdetr_core.base.images._STRIP", strip)
    digest = pixel_digest(decode(save(Image.fromarray(PIXELS)), "x"))
    assert digest == hashlib.sha256(b"RGB 30 20\n" + PIXELS.tobytes()).hexdigest()


def test_other_pixels_or_another_shape_have_another_digest() -> None:
    changed = PIXELS.copy()
    changed[3, 4, 1] ^= 1
    several = [PIXELS, changed, PIXELS.reshape(30, 20, 3), PIXELS[:, ::-1], PIXELS[:-1]]
    assert len({pixel_digest(Image.fromarray(np.ascontiguousarray(pixels))) for pixels in several}) == len(several)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_early_is_refused_even_if_another_library_allows_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = encoded(Image.fromarray(PIXELS), kind)
    short = complete[: len(complete) * 2 // 3]

    def is_refused(_: int) -> bool:
        with contextlib.suppress(UserError):
            decode(short, "x")
            return False
        return True

    assert is_refused(0)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_refused, range(40)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("options", [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_give_their_pixels(options: tuple[str, dict[str, object]]) -> None:
    kind, more = options
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(PIXELS), kind, **more)), PIXELS)


def test_jpeg_gives_nearly_its_pixels() -> None:
    smooth = np.tile(np.linspace(0, 255, 30).astype(np.uint8)[None, :, None], (20, 1, 3))
    assert np.abs(pixels(encoded(Image.fromarray(smooth), "JPEG", quality=95)).astype(int) - smooth).max() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(PIXELS)
    data = encoded(stored, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(pixels(data), np.asarray(expected))
    assert decode(data, "x").size == ((20, 30) if orientation >= 5 else (30, 20))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(kind: str) -> None:
    grey = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    expected = np.repeat((grey / 257).round().astype(np.uint8)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(grey), kind)), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palette_images_are_converted_to_their_colours(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    np.testing.assert_array_equal(pixels(encoded(image)), np.asarray(image.convert("RGB")))


def test_transparent_pixels_become_white() -> None:
    image = Image.fromarray(np.dstack([PIXELS, np.zeros((20, 30), np.uint8)]))
    assert (pixels(encoded(image)) == 255).all()
    grey = Image.new("L", (3, 3), 7)
    assert (pixels(encoded(grey, transparency=7)) == 255).all()
    np.testing.assert_array_equal(
        pixels(encoded(Image.fromarray(np.dstack([PIXELS, np.full((20, 30), 255, np.uint8)])))), PIXELS
    )


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])  # a JPEG of Adobe's kind, with inverted colours
def test_print_colours_are_converted(kind: str) -> None:
    data = encoded(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), kind)
    assert (b"Adobe" in data) == (kind == "JPEG")
    assert np.abs(pixels(data).astype(int) - [255, 0, 0]).max() < 3


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_the_first_of_several_frames_is_decoded(kind: str, options: dict[str, Any]) -> None:
    first, other = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    data = encoded(first, kind, save_all=True, append_images=[other], **options)
    np.testing.assert_array_equal(pixels(data), PIXELS)
    assert (inspect_image(data, "x").format, inspect_image(data, "x").has_more_frames) == (kind, True)
    assert not inspect_image(encoded(first, kind, **options), "x").has_more_frames


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    ended = (*chunks, (b"IEND", b""))
    encoded_chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in ended)
    return b"\x89PNG\r\n\x1a\n" + b"".join(encoded_chunks)


def tiff(values: np.ndarray, planar: int = 1) -> bytes:
    """(H, W, 3) of 16 bits, plain."""
    height, width, _ = values.shape
    data = (values if planar == 1 else np.moveaxis(values, 2, 0)).astype("<u2").tobytes()
    plane = len(data) // 3
    strips = (1, 8) if planar == 1 else (3, 8 + len(data) + 6)
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8 + len(data)), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, *strips), (277, 3, 1, 3), (278, 4, 1, height),
        (279, 4, *((1, len(data)) if planar == 1 else (3, 8 + len(data) + 18))), (284, 3, 1, planar),
    ]  # fmt: skip
    extra = struct.pack("<3H3I3I", 16, 16, 16, *(8 + k * plane for k in range(3)), plane, plane, plane)
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data) + len(extra)) + data + extra + table


def colours_of_16_bits(values: np.ndarray, kind: str) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    return png((b"IHDR", head), (b"IDAT", zlib.compress(rows))) if kind == "PNG" else tiff(values)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_colours_of_16_bits_are_scaled(kind: str) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (6, 5, 3))
    assert np.abs(pixels(colours_of_16_bits(values, kind)) - values / 257).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", range(9, 17))
def test_16_bits_with_a_small_range_are_doubted(kind: str, bits: int) -> None:
    values = np.random.default_rng(1).integers(0, 2**bits, (30, 50, 3)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    expected = "dark" if bits <= 14 else ""
    assert inspect_image(colours_of_16_bits(values, kind), "x").doubt == expected
    assert inspect_image(encoded(Image.fromarray(values[:, :, 0].copy()), kind), "x").doubt == expected


def test_a_dark_picture_of_8_bits_is_not_doubted() -> None:
    for image in (Image.new("RGB", (9, 9), (3, 3, 3)), Image.new("L", (9, 9), 3)):
        for kind in KINDS:
            assert inspect_image(encoded(image, kind), "x").doubt == ""


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_a_fourth_band_that_is_not_transparency_is_doubted(kind: str, options: dict[str, Any]) -> None:
    random = np.random.default_rng(2)
    infrared = random.integers(0, 256, (20, 30))
    cut_out = np.where(random.random((20, 30)) < 0.5, 0, 255)
    soft = np.where(random.random((20, 30)) < 0.4, 99, cut_out)
    for band, expected in ((infrared, "veiled"), (cut_out, ""), (soft, ""), (np.full((20, 30), 255), "")):
        image = Image.fromarray(np.dstack([PIXELS, band.astype(np.uint8)]))
        assert inspect_image(encoded(image, kind, **options), "x").doubt == expected


def test_colours_of_16_bits_in_planes_are_refused() -> None:
    with pytest.raises(UserError, match="in separate planes"):
        pixels(tiff(np.full((6, 5, 3), 999), planar=2))


def test_transparency_of_every_kind_is_white() -> None:
    clear = Image.fromarray(np.dstack([PIXELS, np.zeros((20, 30), np.uint8)]))
    palette = Image.fromarray(PIXELS[:, :, 0] % 4).convert("P")
    grey_16 = Image.fromarray(np.full((4, 4), 999, np.uint16))
    for data in (
        encoded(clear, "WEBP", lossless=True, exact=True),
        encoded(clear, "TIFF"),
        encoded(clear.convert("LA")),
        encoded(palette, transparency=bytes([0, 0, 0, 0])),
        encoded(Image.new("P", (3, 3)), transparency=0),
        encoded(grey_16, transparency=999),
    ):
        assert (pixels(data) == 255).all()


def test_the_name_of_a_file_does_not_decide_its_format() -> None:
    np.testing.assert_array_equal(np.asarray(decode(encoded(Image.fromarray(PIXELS)), "a.jpg")), PIXELS)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_are_refused(mode: str) -> None:
    with pytest.raises(UserError, match=r"a\.tif.*32 bits"):
        decode(encoded(Image.new(mode, (4, 4)), "TIFF"), "a.tif")


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0", b"<svg/>", b"\0" * 99])
def test_data_that_is_not_an_image_is_refused_with_its_name_and_without_an_address(data: bytes) -> None:
    with pytest.raises(UserError, match=r"a\.png") as raised:
        decode(data, "a.png")
    assert "0x" not in str(raised.value)


def test_formats_that_are_not_listed_are_refused() -> None:
    with pytest.raises(UserError, match=r"a\.png"):
        decode(encoded(Image.fromarray(PIXELS), "GIF"), "a.png")


def test_an_image_of_too_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(PIXELS))
    with pytest.raises(TooLargeError, match="30 x 20 pixels are more than the 599 allowed"):
        decode(data, "a.png", max_pixels=599)
    # A raised limit counts, not the default of Pillow or of this project.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    for limit in (600, None):
        assert decode(data, "a.png", max_pixels=limit).size == (30, 20)


def test_an_image_may_be_as_narrow_as_it_likes() -> None:
    assert decode(encoded(Image.new("L", (1, 20_000))), "a.png").size == (1, 20_000)


def claiming(kind: str, side: int) -> bytes:
    """A small image whose header claims side x side pixels."""
    data = bytearray(encoded(Image.new("RGBA" if kind == "WEBP" else "RGB", (4, 4)), kind, lossless=True))
    if kind == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif kind == "JPEG":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", side, side)
    elif kind == "WEBP":
        extended = struct.pack("<4sIII", b"VP8X", 10, 16, 0)[:12] + (side - 1).to_bytes(3, "little") * 2
        data[12:12] = extended
        data[4:8] = struct.pack("<I", len(data) - 8)
    else:
        (start,) = struct.unpack_from("<I", data, 4)
        for entry in range(start + 2, start + 2 + 12 * data[start], 12):
            if data[entry] in (0, 1) and data[entry + 1] == 1:  # width and height
                data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


def test_no_image_expands_beyond_the_limit_whatever_its_header_claims(tmp_path: Path) -> None:
    """60,000 x 60,000 pixels (WebP: 16,000) are refused in a process that may allocate 256 MB more."""
    sides = {"PNG": 60_000, "BMP": 60_000, "TIFF": 60_000, "JPEG": 60_000, "WEBP": 16_000}
    for kind, side in sides.items():
        (tmp_path / kind).write_bytes(claiming(kind, side))
    bomb = zlib.compress(bytes(30_000 * 30_001 // 8), 9)  # 1 bit a pixel: 112 MB, compressed to 110 kB
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    (tmp_path / "bomb").write_bytes(png((b"IHDR", head), (b"IDAT", bomb)))
    code = f"""
import resource, sys
from pathlib import Path
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.images import decode
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
for path in sorted(Path({str(tmp_path)!r}).iterdir()):
    try:
        decode(path.read_bytes(), path.name)
    except UserError as error:
        print(path.name, "allowed" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    sizes = dict(line.split() for line in done.stdout.splitlines())
    assert sizes.keys() == {*sides, "bomb"}, done.stderr
    assert set(sizes.values()) == {"True"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_every_cut_file_is_refused(kind: str) -> None:
    data = encoded(Image.fromarray(PIXELS), kind)
    for length in range(0, len(data) - 64, 37):
        with pytest.raises(UserError, match="cut"):
            decode(data[:length], "cut")


@settings(max_examples=150, derandomize=True)
@given(st.sampled_from(KINDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_file_is_decoded_or_refused(kind: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(Image.fromarray(PIXELS), kind, exif=Image.Exif()))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    with contextlib.suppress(UserError):
        assert decode(bytes(data), "x").mode == "RGB"


def test_a_pointer_of_git_lfs_has_its_own_message() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    with pytest.raises(UserError, match=r"a\.jpg is a pointer of Git LFS.*git lfs pull"):
        decode(pointer, "a.jpg")


def test_bytes_are_returned_only_if_they_have_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"abc")
    sha256 = hashlib.sha256(b"abc").hexdigest()
    assert read_verified(path, sha256) == b"abc"
    path.write_bytes(b"abd")
    with pytest.raises(UserError, match=r"a\.png.*not the file that was validated"):
        read_verified(path, sha256)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.png.*dvc"):
        read_verified(path, sha256)

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from rfdetr_core import images
from rfdetr_core.errors import UserError
from rfdetr_core.images import decode, read_verified

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
def test_grey_and_palette_give_the_colours_they_stand_for(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    np.testing.assert_array_equal(pixels(encoded(image)), np.asarray(image.convert("RGB")))


def test_what_is_transparent_is_white() -> None:
    image = Image.fromarray(np.dstack([PIXELS, np.zeros((20, 30), np.uint8)]))
    assert (pixels(encoded(image)) == 255).all()
    grey = Image.new("L", (3, 3), 7)
    assert (pixels(encoded(grey, transparency=7)) == 255).all()
    np.testing.assert_array_equal(
        pixels(encoded(Image.fromarray(np.dstack([PIXELS, np.full((20, 30), 255, np.uint8)])))), PIXELS
    )


def test_print_colours_are_converted() -> None:
    assert (
        np.abs(pixels(encoded(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "TIFF")).astype(int) - [255, 0, 0]).max() < 3
    )


def test_of_several_frames_the_first_counts() -> None:
    other = Image.fromarray(255 - PIXELS)
    data = encoded(Image.fromarray(PIXELS), "TIFF", save_all=True, append_images=[other])
    np.testing.assert_array_equal(pixels(data), PIXELS)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_are_refused(mode: str) -> None:
    with pytest.raises(UserError, match=r"a\.tif.*32 bits"):
        decode(encoded(Image.new(mode, (4, 4)), "TIFF"), "a.tif")


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0", b"<svg/>", b"\0" * 99])
def test_what_is_no_image_is_refused_with_its_name_and_no_address(data: bytes) -> None:
    with pytest.raises(UserError, match=r"a\.png") as raised:
        decode(data, "a.png")
    assert "0x" not in str(raised.value)


def test_formats_that_are_not_listed_are_refused() -> None:
    with pytest.raises(UserError, match=r"a\.png"):
        decode(encoded(Image.fromarray(PIXELS), "GIF"), "a.png")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    with pytest.raises(UserError, match="30 x 20 pixels"):
        decode(encoded(Image.fromarray(PIXELS)), "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_every_cut_file_is_refused(kind: str) -> None:
    data = encoded(Image.fromarray(PIXELS), kind)
    for length in range(0, len(data) - 64, 37):
        with pytest.raises(UserError, match="cut"):
            decode(data[:length], "cut")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_file_is_decoded_or_refused(kind: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(Image.fromarray(PIXELS), kind, exif=Image.Exif()))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    with contextlib.suppress(UserError):
        assert decode(bytes(data), "x").mode == "RGB"


def test_bytes_are_given_only_when_they_are_those_of_the_digest(tmp_path: Path) -> None:
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

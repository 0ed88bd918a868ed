"""Decodes image files into upright RGB. Validation, training, evaluation and prediction share these functions."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from rfdetr_core.base import files, image_limits
from rfdetr_core.base.errors import UserError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000
# The pixel limit of a format is divided by this number. A WebP may have half as many pixels: to decode it, libwebp
# needs two more pictures of the same size with an alpha channel, about three times the memory of a JPEG of this size.
_LIMIT_DIVISORS = {"WEBP": 2}
# Warnings about the content of a decoded image. "": no warning. dark: the values of a 16-bit file need at most 14 bits,
# so the 8-bit picture is very dark. veiled: most pixels are half-transparent.
DOUBTS = ("", "dark", "veiled")
# The largest size of a file: an uncompressed pixel has four 16-bit channels, and 64 MiB are left for metadata.
_BYTES_OF_PIXEL, _BYTES_OF_METADATA = 8, 64 * 2**20
# Tags of TIFF. For 16-bit colours in separate planes, Pillow 13 returns wrong pixels without an error.
_BITS, _PLANAR = 258, 284
# Bytes of memory that a decoder may need. If less is free, a decoding error does not prove that the file is damaged.
_NEEDED = 4 * MAX_PIXELS
_STRIP = 2**20  # pixels that are hashed at once; hashing a copy of the complete picture would double the memory
_LARGEST_OF_14_BITS = 64  # the largest 14-bit number after scaling from 16 bits to 8


class _RefuseTruncated:
    """A context manager: in its block, Pillow refuses truncated files, even if another library allowed them.

    Several threads may be in the block at once. The last thread that leaves it restores Pillow's setting.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.allowed = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.allowed, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = self.allowed


_NO_TRUNCATED = _RefuseTruncated()


class TooLargeError(UserError):
    """An image has more pixels, or its file more bytes, than allowed."""


@dataclass(frozen=True)
class DecodedImage:
    """An image file after decoding.

    picture: the first frame, upright RGB. format: one of FORMATS. doubt: a warning, one of DOUBTS.
    """

    picture: Image.Image
    format: str
    has_more_frames: bool
    doubt: str


def decode(data: bytes, name: str, reduction: int = 1, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """Decode an image file into upright RGB (see `upright_rgb`). If it has several frames, the first one counts.

    Args:
        data: The bytes of the file.
        name: Names the file in messages.
        reduction: 2, 4 or 8: a JPEG may be decoded at this fraction of its size, rounded up. Pixel i then covers the
            pixels from i * reduction to (i + 1) * reduction - 1. This is quick, and only training uses it.
        max_pixels: The largest number of pixels allowed. None: no limit, since validation has already checked the file.

    Raises:
        UserError: the data is not an image of FORMATS, is damaged, or has too many pixels.
        MemoryError: memory is short, so the file may be fine.
    """
    return inspect_image(data, name, reduction, max_pixels).picture


def inspect_image(data: bytes, name: str, reduction: int = 1, max_pixels: int | None = MAX_PIXELS) -> DecodedImage:
    """Decode an image file, with its format and a warning about its content. Arguments and errors are as in `decode`.

    Args:
        data: The bytes of the file.
        name: Names the file in messages.
        reduction: See `decode`.
        max_pixels: See `decode`.
    """
    try:
        _check_pixels(_webp_canvas(data), "WEBP", max_pixels)
        with _NO_TRUNCATED, _open(data) as image:
            kind = "JPEG" if image.format in ("JPEG", "MPO") else str(image.format)
            pixels = _check_pixels(image.size, kind, max_pixels)
            if kind == "JPEG" and max_pixels is not None:
                image_limits.check_scans(data, pixels, max(max_pixels, MAX_PIXELS))
            tags = getattr(image, "tag_v2", {})
            if tags.get(_PLANAR) == 2 and max(tags.get(_BITS, (1,))) > 8:
                raise ValueError("its 16-bit colours are stored in separate planes: save it with interleaved colours")
            deep = image.mode.startswith("I;16") or ";16" in str(image.tile) or max(tags.get(_BITS, (1,))) > 8
            if reduction > 1:
                _reduce(image, reduction)
            image.load()
            several = kind != "JPEG" and bool(getattr(image, "is_animated", False))
            picture = upright_rgb(image)
            dark = deep and np.asarray(picture).max() <= _LARGEST_OF_14_BITS
            return DecodedImage(picture, kind, several, "dark" if dark else "veiled" if _is_veiled(image) else "")
    except TooLargeError as error:
        raise TooLargeError(f"{name} is too large: {error}. Make it smaller, or raise the limit.") from None
    except MemoryError:
        raise MemoryError(f"while {name} was decoded") from None
    # On a damaged file Pillow's decoders raise almost anything: struct.error, EOFError, KeyError, zlib.error, ...
    except Exception as error:
        if data.startswith(_LFS_POINTER):
            raise UserError(f"{name} is a pointer of Git LFS, not the image. Run: git lfs pull") from None
        if _is_memory_short():
            raise MemoryError(f"while {name} was decoded: {error}") from error
        raise UserError(f"{name} cannot be decoded as {', '.join(FORMATS)}: {error}. Replace or remove it.") from error


def _check_pixels(size: tuple[int, int], kind: str, max_pixels: int | None) -> int:
    """The number of pixels of an image. Raises TooLargeError if it is above max_pixels (see `decode`)."""
    pixels = size[0] * size[1]
    if max_pixels is not None and pixels > (most := max_pixels // _LIMIT_DIVISORS.get(kind, 1)):
        hint = f" for {kind} (JPEG and PNG may have more)" if most < max_pixels else ""
        raise TooLargeError(f"{size[0]} x {size[1]} pixels are more than the {most:,} allowed{hint}")
    return pixels


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """The canvas size of an extended WebP file; (0, 0) for other files. Pillow allocates the canvas on opening."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < 30:
        return 0, 0
    return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")


def _is_memory_short() -> bool:
    # Some decoders, such as WebP's, report a damaged file when memory runs out.
    try:
        np.empty(_NEEDED, np.uint8)  # the memory is only reserved, not written
    except MemoryError:
        return True
    return False


def _is_veiled(image: Image.Image) -> bool:
    if "A" not in image.getbands():
        return False
    counts = image.getchannel("A").histogram()
    return 2 * sum(counts[1:-1]) > sum(counts)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header of an image file, as Image.open does.

    Image.open refuses more than 179 million pixels, whatever `max_pixels` is: its limit is a setting of the process.
    """
    Image.init()
    for kind in FORMATS:
        factory, accept = Image.OPEN[kind]
        if accept is None or accept(data[:16]) is True:
            if kind == "TIFF":  # opening a TIFF lists all its parts
                image_limits.check_parts(data)
            return factory(io.BytesIO(data), "")
    raise ValueError("its content has none of these formats")


def read_limited(path: Path, max_pixels: int) -> bytes:
    """Read an image file that validation has not checked yet, unless it is too large.

    Raises:
        TooLargeError: the file has more bytes than an image of max_pixels can need. It is not read.
        OSError: it cannot be read.
    """
    limit = _BYTES_OF_PIXEL * max_pixels + _BYTES_OF_METADATA
    with files.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise TooLargeError(f"its {size:,} bytes are more than an image of {max_pixels:,} pixels can take")
        return file.read(size)


def _reduce(image: Image.Image, reduction: int) -> None:
    """Make an opened JPEG decode at a reduced size. Other formats ignore this."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    # If a side is not a multiple of the reduction, the last pixel of a row is narrower. If the image is then turned,
    # this pixel may come first, and it would shift all following pixels.
    if not turned or not (image.width % reduction or image.height % reduction):
        image.draft(None, (image.width // reduction, image.height // reduction))


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of the picture that `decode` gives. Only the header of the file is read.

    Raises:
        UserError: it cannot be opened as an image.
    """
    try:
        with files.open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size
    except Exception as error:
        raise UserError(f"{path} cannot be opened as {', '.join(FORMATS)}. Replace or remove it.") from error


def pixel_digest(picture: Image.Image) -> str:
    """SHA-256 of the pixels that training uses: the upright 8-bit RGB picture that `decode` gives.

    The hashed bytes are mode, width and height as text, such as "RGB 640 480" and a line feed, then the pixels row by
    row. So two files that differ only in metadata or lossless compression have the same pixel digest.
    """
    width, height = picture.size
    digest, rows = hashlib.sha256(f"{picture.mode} {width} {height}\n".encode()), max(1, _STRIP // width)
    for top in range(0, height, rows):
        digest.update(picture.crop((0, top, width, min(top + rows, height))).tobytes())
    return digest.hexdigest()


def read_verified(path: Path, sha256: str) -> bytes:
    """Read a file and check its digest. The checked bytes are returned, so the file cannot change in between.

    Raises:
        UserError: the file is missing or has another digest.
    """
    try:
        data = files.read_bytes(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}), but the manifest names it. Restore the dataset with dvc pull "
            "or dvc checkout. If the image was removed on purpose: dvc repro"
        ) from error
    if files.sha256_bytes(data) != sha256:
        raise UserError(
            f"{path} is not the file that was validated: its sha256 differs from the manifest. "
            "Restore it (dvc checkout), or validate again: dvc repro"
        )
    return data


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened image as RGB, turned upright by its EXIF orientation.

    16-bit greys are scaled to 8 bits. Transparent pixels are blended with white.

    Raises:
        UserError: the pixels have 32 bits or a sign, so the values of black and white are unknown.
    """
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # without this test, an upright image would be copied
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        problem = "its pixels have 32 bits or a sign, so the values of black and white are unknown"
        raise UserError(f"{problem}. Save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        # convert("RGB") would clip 16-bit greys at 255 (Pillow 13): most of the picture would become white.
        values = np.asarray(image, dtype=np.uint32)
        greys = ((values + 128) // 257).astype(np.uint8)
        greys[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(greys).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")

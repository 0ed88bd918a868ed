"""Decoding an image file: one rule for validation, training, evaluation and prediction."""

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
# libwebp decodes a whole picture through two more of its size, with transparency: three times the memory of a JPEG.
_LESS_PIXELS = {"WEBP": 2}
# dark: 16 bits, of which the picture uses 14 at most. veiled: most pixels are neither opaque nor clear.
DOUBTS = ("", "dark", "veiled")
# A plain file of four 16-bit channels, and room for what else it carries.
_BYTES_OF_PIXEL, _BYTES_BESIDE = 8, 64 * 2**20
# Tags of TIFF. Of colours of 16 bits that lie apart, Pillow 13 takes the halves for pixels, without a word.
_BITS, _PLANAR = 258, 284
# What a decoder may take. Where there is less, its failure says nothing of the file.
_NEEDED = 4 * MAX_PIXELS
_STRIP = 2**20  # pixels that are hashed at once: a copy of all of a large picture would take its memory again
_OF_14_BITS = 64  # what the largest number of 14 bits becomes when 16 are scaled to 8


class _NoTruncated:
    """While a thread is inside, Pillow refuses a file that ends early, whatever another library set for the process."""

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


_NO_TRUNCATED = _NoTruncated()


class TooLargeError(UserError):
    """An image of more pixels, or a file of more bytes, than are allowed."""


@dataclass(frozen=True)
class DecodedImage:
    """An image file after decoding.

    picture: the first frame, upright RGB. format: one of FORMATS. doubt: one of DOUBTS.
    """

    picture: Image.Image
    format: str
    has_more_frames: bool
    doubt: str


def decode(data: bytes, name: str, reduction: int = 1, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """Decode the bytes of an image into RGB by the rules of `upright_rgb`; of several frames, the first.

    reduction: 2, 4 or 8: a JPEG may come at this part of its size, rounded up, pixel i covering that many of its own
    from i * reduction on; that is quick, and for training alone. max_pixels: None for bytes that validation accepted.

    Raises:
        UserError: not an image of a known format, damaged, or larger than max_pixels; names `name`.
        MemoryError: memory is short, so that nothing is known of the file.
    """
    return inspect_image(data, name, reduction, max_pixels).picture


def inspect_image(data: bytes, name: str, reduction: int = 1, max_pixels: int | None = MAX_PIXELS) -> DecodedImage:
    """As `decode`, and what else is known of the file."""
    try:
        _check_pixels(_webp_canvas(data), "WEBP", max_pixels)
        with _NO_TRUNCATED, _open(data) as image:
            kind = "JPEG" if image.format in ("JPEG", "MPO") else str(image.format)
            pixels = _check_pixels(image.size, kind, max_pixels)
            if kind == "JPEG" and max_pixels is not None:
                image_limits.check_scans(data, pixels, max(max_pixels, MAX_PIXELS))
            tags = getattr(image, "tag_v2", {})
            if tags.get(_PLANAR) == 2 and max(tags.get(_BITS, (1,))) > 8:
                raise ValueError("it keeps each colour apart, in 16 bits: save it with its colours together")
            deep = image.mode.startswith("I;16") or ";16" in str(image.tile) or max(tags.get(_BITS, (1,))) > 8
            if reduction > 1:
                _reduce(image, reduction)
            image.load()
            several = kind != "JPEG" and bool(getattr(image, "is_animated", False))
            picture = upright_rgb(image)
            dark = deep and np.asarray(picture).max() <= _OF_14_BITS
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
    """The pixels of an image; raises where they are too many. max_pixels: None where validation has looked."""
    pixels = size[0] * size[1]
    if max_pixels is not None and pixels > (most := max_pixels // _LESS_PIXELS.get(kind, 1)):
        hint = f" for {kind}: as JPEG or PNG it may have more" if most < max_pixels else ""
        raise TooLargeError(f"{size[0]} x {size[1]} pixels are more than the {most:,} allowed{hint}")
    return pixels


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """The canvas of an extended WebP file, for which Pillow takes memory when it opens it; (0, 0) of any other."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < 30:
        return 0, 0
    return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")


def _is_memory_short() -> bool:
    # Some decoders, such as WebP's, call it a damaged file.
    try:
        np.empty(_NEEDED, np.uint8)  # it is not touched, so it costs nothing
    except MemoryError:
        return True
    return False


def _is_veiled(image: Image.Image) -> bool:
    if "A" not in image.getbands():
        return False
    counts = image.getchannel("A").histogram()
    return 2 * sum(counts[1:-1]) > sum(counts)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the head of an image file, as Image.open does.

    That one refuses more than 179 million pixels by a setting of the whole process, whatever `max_pixels` is.
    """
    Image.init()
    for kind in FORMATS:
        factory, accept = Image.OPEN[kind]
        if accept is None or accept(data[:16]) is True:
            if kind == "TIFF":  # opening it makes a list of its parts
                image_limits.check_parts(data)
            return factory(io.BytesIO(data), "")
    raise ValueError("no such file format")


def read_limited(path: Path, max_pixels: int) -> bytes:
    """The bytes of a file that no one has checked yet.

    Raises:
        TooLargeError: no image of max_pixels takes as many bytes; they are not read.
        OSError: it cannot be read.
    """
    limit = _BYTES_OF_PIXEL * max_pixels + _BYTES_BESIDE
    with files.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise TooLargeError(f"its {size:,} bytes are more than an image of {max_pixels:,} pixels can take")
        return file.read(size)


def _reduce(image: Image.Image, reduction: int) -> None:
    """Have an opened JPEG decoded at a reduced size; every other format stays as it is."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    # The last pixel of a row may cover more than there is; in a turned picture that would shift all others.
    if not turned or not (image.width % reduction or image.height % reduction):
        image.draft(None, (image.width // reduction, image.height // reduction))


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of the picture that `decode` gives, from the head of the file alone.

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
    """SHA-256 of a picture as `decode` gives it, which is as training sees it: upright, in 8 bits of red, green, blue.

    What is hashed: mode, width and height as text, such as "RGB 640 480" and a line feed, then the pixels row by row.
    Files of other bytes have it in common where only the container differs: metadata, compression without loss.
    """
    width, height = picture.size
    digest, rows = hashlib.sha256(f"{picture.mode} {width} {height}\n".encode()), max(1, _STRIP // width)
    for top in range(0, height, rows):
        digest.update(picture.crop((0, top, width, min(top + rows, height))).tobytes())
    return digest.hexdigest()


def read_verified(path: Path, sha256: str) -> bytes:
    """The bytes of a file whose digest is known: what is hashed is what is returned.

    Raises:
        UserError: the file is missing or its bytes are not those of the digest.
    """
    try:
        data = files.read_bytes(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}), yet the manifest names it. Bring the dataset back: "
            "dvc pull, or dvc checkout; if it was removed on purpose: dvc repro"
        ) from error
    if files.sha256_bytes(data) != sha256:
        raise UserError(
            f"{path} is not the file that was validated: its bytes have another sha256 than the manifest. "
            "Restore it (dvc checkout), or validate again: dvc repro"
        )
    return data


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened image in RGB, turned as its EXIF orientation says.

    16-bit greys are scaled to 8 bits, transparency is laid over white.

    Raises:
        UserError: pixels of 32 bits or with a sign, whose range is unknown.
    """
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else it would be copied
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        problem = "its pixels have 32 bits or a sign: which are black and white is unknown"
        raise UserError(f"{problem}. Save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        # convert("RGB") would clip 16-bit greys at 255 (Pillow 13): most of such a picture turns white.
        values = np.asarray(image, dtype=np.uint32)
        greys = ((values + 128) // 257).astype(np.uint8)
        greys[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(greys).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")

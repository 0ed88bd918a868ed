"""Decoding an image file: one rule for validation, training, evaluation and prediction."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rfdetr_core import files
from rfdetr_core.errors import UserError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000


def decode(data: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image into RGB by the rules of `upright_rgb`; of several frames, the first.

    Raises:
        UserError: not an image of a known format, damaged, or larger than MAX_PIXELS; names `name`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS:,} allowed")
            image.load()
            return upright_rgb(image)
    # On a damaged file Pillow's decoders raise almost anything: struct.error, EOFError, KeyError, zlib.error, ...
    except Exception as error:
        # The message of this one has an address in memory.
        reason = "no such file format" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{name} cannot be decoded as {', '.join(FORMATS)}: {reason}. Replace or remove it.") from error


def read_verified(path: Path, sha256: str) -> bytes:
    """The bytes of a file whose digest is known: what is hashed is what is returned.

    Raises:
        UserError: the file is missing or its bytes are not those of the digest.
    """
    try:
        data = path.read_bytes()
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
        UserError: pixels of 32 bits, whose range is unknown.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise UserError("its pixels have 32 bits, of which black and white are unknown: save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        # convert("RGB") would clip 16-bit greys at 255 (Pillow 13): most of such a picture turns white.
        values = np.asarray(image, dtype=np.float64)
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")

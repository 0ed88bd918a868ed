"""Image files that take far longer to decode than their size suggests: found from what a decoder reads first."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import TiffImagePlugin

# A progressive JPEG has about 10 scans, and some dozens where a tool searches for the smallest file. Each scan is a
# pass over all pixels. libtiff refuses more than 100 in a JPEG within a TIFF.
MOST_SCANS = 100
MOST_SCANNED_PIXELS = 20  # scans times pixels, in units of the most pixels that are allowed: 20 scans of the largest
# A picture of 100 million pixels in tiles of 64 x 64 has 25,000. Each takes some 10 microseconds, however small it is.
MOST_PARTS = 100_000
# Tiles at the edges reach out of the picture, at most four times its area, and each of up to 6 bands may have its own.
_MOST_COVERED = 32
_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_BARE_MARKERS = {0x01, *range(0xD0, 0xD9)}  # without a length: TEM, RST0 to RST7, SOI
_END, _START_OF_SCAN = 0xD9, 0xDA


def check_scans(data: bytes, pixels: int, max_pixels: int) -> None:
    """Compare the scans of a JPEG with the limits, without decoding one.

    Raises:
        ValueError: it has too many, alone or for its pixels; says what to do.
    """
    most = max(1, min(MOST_SCANS, MOST_SCANNED_PIXELS * max_pixels // max(pixels, 1)))
    # Two bytes of a thumbnail or profile may look like the beginning of a scan, so this counts too many, never too few.
    if _pairs(data) > most and (scans := _scans(data)) > most:
        problem = f"it has {scans:,} scans, more than the {most} allowed for its {pixels:,} pixels"
        raise ValueError(f"{problem}: save it again, as a JPEG that is not progressive")


def _pairs(data: bytes) -> int:
    """How often the marker of a scan is among the bytes; bytes.count takes ten times as long."""
    halves = (np.frombuffer(data, "<u2", (len(data) - start) // 2, start) for start in (0, 1))
    return sum(int(np.count_nonzero(half == int.from_bytes(_SCAN, "little"))) for half in halves)


def _scans(data: bytes) -> int:
    """The scans up to the end of the image, as libjpeg walks from marker to marker."""
    scans, position = 0, 2
    while (match := _MARKER.search(data, position)) and match[1][0] != _END:
        marker, position = match[1][0], match.end()
        scans += marker == _START_OF_SCAN
        position += 0 if marker in _BARE_MARKERS else int.from_bytes(data[position : position + 2], "big")
    return scans


def check_parts(data: bytes) -> None:
    """Compare the strips or tiles of the first picture of a TIFF with the limits, without reading one.

    Raises:
        ValueError: it has too many, or they cover the picture too often; says what to do.
    """
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2] == 43 else 8])  # 43: of 64 bits
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    parts = max(len(tags.get(tag, ())) for tag in (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.TILEOFFSETS))
    if parts > MOST_PARTS:
        problem = f"it has {parts:,} strips or tiles, more than the {MOST_PARTS:,} allowed"
        raise ValueError(f"{problem}: save it again with larger ones")
    if parts <= _MOST_COVERED:
        return
    width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    tiled = TiffImagePlugin.STRIPOFFSETS not in tags  # as Pillow sees it
    side = tags.get(TiffImagePlugin.TILEWIDTH, width) if tiled else width
    rows = tags.get(TiffImagePlugin.TILELENGTH if tiled else TiffImagePlugin.ROWSPERSTRIP, height)
    if parts * min(side, width) * min(rows, height) > _MOST_COVERED * width * height:
        raise ValueError(f"its {parts:,} strips or tiles cover it more than {_MOST_COVERED} times: save it again")

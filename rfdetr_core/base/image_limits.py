"""Limits on image files that take far longer to decode than their size suggests. Checked before anything is decoded."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import TiffImagePlugin

# A progressive JPEG has about 10 scans, or some dozens if a tool searched for the smallest file. Each scan is a pass
# over all pixels. libtiff refuses more than 100 in a JPEG inside a TIFF.
MOST_SCANS = 100
# The largest product of scans and pixels, divided by the pixel limit: an image of the largest size may have 20 scans.
MOST_SCANNED_PIXELS = 20
# Strips or tiles. A picture of 100 million pixels in tiles of 64 x 64 has 25,000. Each part takes about 10
# microseconds, however small it is.
MOST_PARTS = 100_000
# The area of all tiles together, relative to the picture. Tiles reach over the edges: together they have at most four
# times its area. Each of up to 6 bands may have its own tiles: 4 x 6 = 24. The rest is a margin.
_MOST_COVERED = 32
_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_BARE_MARKERS = {0x01, *range(0xD0, 0xD9)}  # markers without a length: TEM, RST0 to RST7, SOI
_END, _START_OF_SCAN = 0xD9, 0xDA


def check_scans(data: bytes, pixels: int, max_pixels: int) -> None:
    """Compare the number of scans of a JPEG with the limits. Nothing is decoded.

    Args:
        data: The bytes of the file.
        pixels: Width times height of the image.
        max_pixels: The largest number of pixels that an image may have.

    Raises:
        ValueError: there are more than MOST_SCANS, or too many for the number of pixels. The message has the remedy.
    """
    most = max(1, min(MOST_SCANS, MOST_SCANNED_PIXELS * max_pixels // max(pixels, 1)))
    # The quick count may be too high, never too low: two bytes of a thumbnail or profile may look like a scan's marker.
    if _count_scan_markers(data) > most and (scans := _scans(data)) > most:
        problem = f"it has {scans:,} scans, more than the {most} allowed for its {pixels:,} pixels"
        raise ValueError(f"{problem}: save it again, as a JPEG that is not progressive")


def _count_scan_markers(data: bytes) -> int:
    """How often the two-byte marker of a scan occurs in the data. bytes.count() takes ten times as long."""
    halves = (np.frombuffer(data, "<u2", (len(data) - start) // 2, start) for start in (0, 1))
    return sum(int(np.count_nonzero(half == int.from_bytes(_SCAN, "little"))) for half in halves)


def _scans(data: bytes) -> int:
    """The number of scans up to the end of the image. Goes from marker to marker, as libjpeg does."""
    scans, position = 0, 2
    while (match := _MARKER.search(data, position)) and match[1][0] != _END:
        marker, position = match[1][0], match.end()
        scans += marker == _START_OF_SCAN
        position += 0 if marker in _BARE_MARKERS else int.from_bytes(data[position : position + 2], "big")
    return scans


def check_parts(data: bytes) -> None:
    """Compare the strips or tiles of a TIFF's first picture with the limits. None is read.

    Raises:
        ValueError: there are too many, or they cover the picture too often. The message has the remedy.
    """
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2] == 43 else 8])  # 43: BigTIFF
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
    tiled = TiffImagePlugin.STRIPOFFSETS not in tags  # Pillow decides by the same tag
    side = tags.get(TiffImagePlugin.TILEWIDTH, width) if tiled else width
    rows = tags.get(TiffImagePlugin.TILELENGTH if tiled else TiffImagePlugin.ROWSPERSTRIP, height)
    if parts * min(side, width) * min(rows, height) > _MOST_COVERED * width * height:
        raise ValueError(
            f"its {parts:,} strips or tiles cover the picture more than {_MOST_COVERED} times: save it again"
        )

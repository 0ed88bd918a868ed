"""Every image file, opened once: the bytes that are hashed are the bytes that are decoded."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rfdetr_core.base import images
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.images import FORMATS, TooLargeError
from rfdetr_core.ingest import duplicates
from rfdetr_core.ingest.folder import leaves

_HEAD = struct.Struct("<IIB?")
_FAULTS = ("image-unreadable", "image-too-large")


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Digest of an image file, its size as decoded and its thumbnail (see `duplicates`), or what is wrong with it: code
    and text of a finding. decoded: the pixels were looked at now, not in an earlier run. kind, several: see
    `images.Look`; empty where only the manifest is known."""

    sha256: str = ""
    width: int = 0
    height: int = 0
    code: str | None = None
    fault: str = ""
    thumbnail: bytes = b""
    decoded: bool = False
    kind: str = ""
    several: bool = False

    def value(self) -> bytes:
        """What a cache keeps: all that follows from the bytes of the file."""
        if self.code:
            return _HEAD.pack(0, 0, _FAULTS.index(self.code), False) + self.fault.encode(errors="backslashreplace")
        return _HEAD.pack(self.width, self.height, FORMATS.index(self.kind), self.several) + self.thumbnail

    @classmethod
    def of_value(cls, sha256: str, value: bytes) -> FileFacts:
        """The facts that `value` made."""
        (width, height, number, several), rest = _HEAD.unpack_from(value), value[_HEAD.size :]
        if width:
            return cls(sha256, width, height, thumbnail=rest, kind=FORMATS[number], several=several)
        return cls(sha256, code=_FAULTS[number], fault=rest.decode())


def examine(root: Path, max_pixels: int, recall: Callable[[bytes], bytes | None], path: str) -> FileFacts:
    """Read and hash one image of a dataset, and decode it unless the cache recalls its bytes."""
    file = root / path
    if leaves(root, path):
        return FileFacts(code="path-outside", fault=f"{path} is a link out of the dataset folder")
    try:
        if not file.is_file():
            missing = not file.exists()
            fault = f"there is no file {path}" if missing else f"{path} is no regular file"
            return FileFacts(code="image-missing" if missing else "image-unreadable", fault=fault)
        data = images.read_limited(file, max_pixels)
    except TooLargeError as error:
        return FileFacts(code="image-too-large", fault=str(error))
    except OSError as error:
        return FileFacts(code="image-unreadable", fault=f"{path} cannot be read: {error.strerror}")
    sha256 = hashlib.sha256(data)
    known = recall(sha256.digest())
    if known is not None:
        return FileFacts.of_value(sha256.hexdigest(), known)
    return replace(_decode(data, max_pixels), sha256=sha256.hexdigest(), decoded=True)


def _decode(data: bytes, max_pixels: int) -> FileFacts:
    try:
        seen = images.look(data, "it", max_pixels=max_pixels)
    except UserError as error:
        return FileFacts(code=_FAULTS[isinstance(error, TooLargeError)], fault=str(error))
    thumbnail = duplicates.thumbnail(seen.picture)
    size = seen.picture.size
    return FileFacts(width=size[0], height=size[1], thumbnail=thumbnail, kind=seen.kind, several=seen.several)

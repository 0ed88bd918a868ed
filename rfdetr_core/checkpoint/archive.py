"""Reads files of torch.save, after a check that they contain no code and no tensor larger than the file."""

from __future__ import annotations

import argparse
import math
import os
import pickletools
import types
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import MOST_LEVELS, open_regular
from rfdetr_core.base.memory import shortage_message
from rfdetr_core.base.schema import MOST_BYTES, exceeded_limit, short

# Older files of upstream have `args` of these types instead of a dict. Both only hold values.
_NAMESPACES: list[Any] = [argparse.Namespace, types.SimpleNamespace]
_REPEATED = MOST_BYTES // 10_000  # bytes that each further use of the same container counts: 10,000 reach the limit
_MOST_PICKLED = 2**24  # the limit of data.pkl in bytes; a normal file has a hundredth of that
# The classes and functions that a file may use. torch allows more, among them functions that allocate any amount of
# memory that the file asks for.
_DTYPES = {"float16", "float32", "float64", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "bool"}
_STORAGES = {"Half", "Float", "Double", "BFloat16", "Byte", "Char", "Short", "Int", "Long", "Bool"}
_KNOWN = {
    *(f"{kind.__module__} {kind.__name__}" for kind in _NAMESPACES),
    *(f"torch {name}" for name in _DTYPES | {"Size", "device"}),
    *(f"torch {name}Storage" for name in _STORAGES),
    *(f"{module} {name}" for module in ("__builtin__", "builtins") for name in ("set", "complex")),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "_codecs encode"),
    *("collections OrderedDict", "collections Counter"),
}


def load(path: Path, *, tensors: bool = True) -> Any:
    """Read a file of torch.save as dicts, lists, tuples and tensors on the CPU. A namespace becomes a dict.

    tensors: False gives tensors on the device meta, which have a shape but no memory.

    Raises:
        UserError: the file is missing, a folder, not of torch.save, cut off, damaged or compressed; it needs code to be
            run, is nested too deeply, or its tensors need more memory than the file has bytes.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            _check_pickle(_check_members(file, size, path), path)
            with torch.serialization.safe_globals(_NAMESPACES):
                # Load first on the device meta, where tensors need no memory, to check their sizes.
                bare = _Copy(path, size).copy_plain(
                    torch.load(_start(file), map_location="meta", weights_only=True), "", 0
                )
                if not tensors:
                    return bare
                return _Copy(path, size).copy_plain(
                    torch.load(_start(file), map_location="cpu", weights_only=True), "", 0
                )
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Give the path of a checkpoint (.pth, .pt or .ckpt).") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error.strerror or error}.") from error
    except Exception as error:  # a broken or malicious file can raise anything
        if (shortage := shortage_message(error)) is not None:
            raise UserError(f"{path}: {shortage}. Free some memory. If the file is damaged, get it again.") from error
        if path.suffix in (".onnx", ".xml"):
            raise UserError(
                f"{path} is an exported file, not a checkpoint. Give the checkpoint (.pth) that it was exported from."
            ) from None
        raise UserError(f"{path} is not a checkpoint, or is cut off ({type(error).__name__}). Get it again.") from error


def _start(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return file


def _check_members(file: BinaryIO, size: int, path: Path) -> bytes:
    """Check the sizes and checksums of the archive's members. Return the content of its member data.pkl."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        packed = next(
            (member for member in members if member.compress_type or member.file_size != member.compress_size), None
        )
        if packed is not None:
            raise UserError(f"{path}: its member {packed.filename} is compressed. Save the file again with torch.save.")
        # Zip readers disagree about bytes before the first member and about a name that comes twice. So both are
        # refused.
        is_complete = (
            sum(member.file_size for member in members) <= size and min(member.header_offset for member in members) == 0
        )
        if not is_complete or len({member.filename for member in members}) != len(members) or archive.comment:
            raise UserError(f"{path} is not an archive as torch.save writes it. Save it again with torch.save.")
        pickled = next(member for member in members if member.filename.partition("/")[2] == "data.pkl")
        if pickled.file_size > _MOST_PICKLED:
            raise UserError(f"{path}: its member data.pkl is larger than the limit of {_MOST_PICKLED:,} bytes.")
        if (damaged := archive.testzip()) is not None:  # torch.load itself does not compare the stored CRCs
            raise UserError(
                f"{path} is damaged: the checksum of its member {damaged} is wrong. Copy or download the file again."
            )
        return archive.read(pickled)


def _check_pickle(pickled: bytes, path: Path) -> None:
    """Refuse a file that uses other classes or functions than those of tensors, numbers and containers."""
    globals_used = {str(argument) for code, argument, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}
    if refused := sorted(name.replace(" ", ".") for name in globals_used - _KNOWN):
        raise UserError(
            f"{path} is refused: it asks for {', '.join(refused)}, and making such objects can run code. No code was "
            "run. Save it again with tensors and plain values only."
        )


class _Copy:
    """Copies containers into plain dicts, lists and tuples, so that a file cannot override their methods.

    Checks the limits for all files, and that the tensors are not larger than the file.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size, self.remaining = path, size, MOST_BYTES
        self.copied: set[int] = set()

    def copy_plain(self, value: Any, place: str, level: int) -> Any:
        """Copy a value.

        Args:
            value: A value of the file.
            place: The dotted path of the value inside the file, for messages.
            level: How deeply it is nested.
        """
        self.remaining -= 64 + (len(value) if isinstance(value, str | bytes) else 0)
        if isinstance(value, dict | list | tuple) and value:
            self.remaining -= _REPEATED if id(value) in self.copied else 0
            self.copied.add(id(value))
        if self.remaining < 0 or level > MOST_LEVELS:
            raise UserError(
                f"{self.path}: {place.partition('.')[0] or 'its content'} has more than {exceeded_limit(level)}."
            )
        if isinstance(value, Tensor):
            self._check_bytes(_bytes_of(value), place)
            return value
        if isinstance(value, tuple(_NAMESPACES)):
            value = vars(value)
        if isinstance(value, dict):
            inner = {key: f"{place}.{short(str(key))}" if place else short(str(key)) for key in dict.keys(value)}
            copied = {self.copy_plain(key, inner[key], level): self.copy_plain(item, inner[key], level + 1)
                      for key, item in dict.items(value)}  # fmt: skip
            # Views that share memory count with their full sizes: writing them, or loading a detector, expands them.
            self._check_bytes(sum(_bytes_of(tensor) for tensor in copied.values() if isinstance(tensor, Tensor)), place)
            return copied
        if isinstance(value, list | tuple):
            items = [self.copy_plain(item, place, level + 1) for item in value]
            return items if isinstance(value, list) else tuple(items)
        return value

    def _check_bytes(self, size: int, place: str) -> None:
        if size > self.size:
            raise UserError(
                f"{self.path}: the tensors of {place or 'its content'} need {size:,} bytes, but the file has only "
                f"{self.size:,}. Clone the tensors, so that they share no memory, and save them again with torch.save."
            )


def _bytes_of(tensor: Tensor) -> int:
    """The bytes of a tensor, or of the storage that it is a view of, if that is larger."""
    return max(math.prod(tensor.shape) * tensor.element_size(), tensor.untyped_storage().nbytes())

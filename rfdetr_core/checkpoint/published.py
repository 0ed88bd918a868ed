"""Downloads upstream's published weights by name. A file is only used if it has the published MD5."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.download import FAILURES, check_public, download, reason

_STORE = "https://storage.googleapis.com/rfdetr/"
_MOST_BYTES = 2 * 2**30  # several times the size of the largest variant's weights
_SUFFIXES = (".ckpt", ".pt", ".pth")
_ABANDONED = 3600.0  # seconds; a partial file that has not grown for longer belongs to a process that was killed


@dataclass(frozen=True)
class Published:
    """A published file: its address, its MD5, and a limit of its size. Upstream does not publish the size."""

    address: str
    md5: str
    most_bytes: int = _MOST_BYTES


# rfdetr 1.11.2, rfdetr/assets/model_weights.py
_FILES = {
    "rf-detr-nano.pth": "nano_coco/checkpoint_best_regular.pth fb6504cce7fbdc783f7a46991f07639f",
    "rf-detr-small.pth": "small_coco/checkpoint_best_regular.pth fb37061c1af7bace359c91b723a8d5c1",
    "rf-detr-medium.pth": "medium_coco/checkpoint_best_regular.pth 7223f764a87b863f02eb8d52bf0ce2ee",
    "rf-detr-large-2026.pth": "rf-detr-large-2026.pth 5cb72153541cbcb9aa6efa26222acc75",
    "rf-detr-base.pth": "rf-detr-base-coco.pth b4d3ce46099eaed50626ede388caf979",
    "rf-detr-base-2.pth": "rf-detr-base-2.pth 462f4d9df407ddc1812f42614040e913",
    "rf-detr-base-o365.pth": "top-secret-1234/lwdetr_dinov2_small_o365_checkpoint.pth d93f4921ccbb0f0a2e4364bed290892b",
    "rf-detr-large.pth": "rf-detr-large.pth 992c8e862aa733a7bb2777e45d49f1a0",
    "rf-detr-seg-preview.pt": "rf-detr-seg-preview.pt e35820c28fb86080558123e47a5e49ca",
    "rf-detr-seg-nano.pt": "rf-detr-seg-n-ft.pth 9995497791d0ff1664a1d9ddee9cfd20",
    "rf-detr-seg-small.pt": "rf-detr-seg-s-ft.pth 0a2a3006381d0c42853907e700eadd08",
    "rf-detr-seg-medium.pt": "rf-detr-seg-m-ft.pth a49af1562c3719227ad43d0ca53b4c7a",
    "rf-detr-seg-large.pt": "rf-detr-seg-l-ft.pth 275f7b094909544ed2841c94a677d07e",
    "rf-detr-seg-xlarge.pt": "rf-detr-seg-xl-ft.pth 3693b35d0eea86ebb3e0444f4a611fba",
    "rf-detr-seg-xxlarge.pt": "rf-detr-seg-2xl-ft.pth 040bc3412af840fa8a47e0ff69b552ba",
}
PUBLISHED = {name: Published(_STORE + file.split()[0], file.split()[1]) for name, file in _FILES.items()}


def resolve_weights(name: str | None, folder: Path) -> Path | None:
    """The path of the file that `pretrain_weights` or `resume` of params.yaml names.

    name: null, a file in `folder` (weights/), or a published name. A published file is taken from `folder`, else from
    the cache, else it is downloaded.

    Raises:
        UserError: there is no such file or published name; a published file has a wrong MD5 or SHA-256; or the download
            fails.
    """
    if name is None:
        return None
    local = folder / name
    if Path(name).name == name and local.is_file():
        if name in PUBLISHED:
            _check(local, PUBLISHED[name])
        return local
    if name in PUBLISHED:
        return fetch(name)
    available = sorted(path.name for path in folder.glob("[!.]*") if path.suffix in _SUFFIXES and path.is_file())
    raise UserError(
        f"{name!r} is neither a file in {folder}/ nor a published name. Write the name without a folder. "
        f"In {folder}/: {listed(available, 10) or 'nothing'}. Published: {', '.join(PUBLISHED)}."
    )


def cache_folder() -> Path:
    """The folder of published files, the same as upstream's: $RF_HOME, else $ROBOFLOW_HOME, else ~/.roboflow/models."""
    home = os.environ.get("RF_HOME") or os.environ.get("ROBOFLOW_HOME") or "~/.roboflow/models"
    return Path(home).expanduser().absolute()


def fetch(name: str, check: Callable[[str], None] = check_public) -> Path:
    """The path of a published file in the cache. A missing file is downloaded; an interrupted download is resumed.

    Each process has its own partial file, so several processes can download the same file at once.

    check: Called with the target of each redirect. Raises if the redirect must not be followed.

    Raises:
        UserError: the download failed, or the file has another MD5 or SHA-256.
    """
    published, path = PUBLISHED[name], cache_folder() / name
    if path.exists():
        _check(path, published)
        _remember(path)
        return path
    say(f"downloading {name} from {published.address} to {path}", file=sys.stderr)
    _remove_abandoned(path)
    part = path.with_name(f"{name}.part")
    with files.replacing(path) as temporary:
        with suppress(FileNotFoundError):
            os.utime(part)  # otherwise other processes would take the file for abandoned
            part.replace(temporary)  # of several processes, only the first gets the partial file
        try:
            _complete(name, temporary, check)
        except UserError:
            raise
        except BaseException as error:
            begun = temporary.stat().st_size > 0
            if begun:
                temporary.replace(part)
            if not isinstance(error, FAILURES):
                raise
            advice = "Run again to resume the download" if begun else "Try again later"
            raise UserError(
                f"{name} could not be downloaded from {published.address}: {reason(error)}. {advice}, or put the file "
                f"into weights/ or into the folder that RF_HOME names (now {path.parent}) yourself."
            ) from error
    _remember(path)
    return path


def _remember(path: Path) -> None:
    """Write the SHA-256 of a file next to it in the cache, unless it was written before."""
    with suppress(UserError):  # the cache of another user may be read-only
        if not _sha256_file(path.name).exists():
            files.write_text(_sha256_file(path.name), f"{files.sha256_file(path)}  {path.name}\n")


def _complete(name: str, part: Path, check: Callable[[str], None]) -> None:
    """Download the rest of a file and check it. Raises a UserError if the server sends another file."""
    published, resumed = PUBLISHED[name], part.stat().st_size > 0
    download(published.address, part, published.most_bytes, check)
    if resumed and files.md5_file(part) != published.md5:
        part.write_bytes(b"")  # the partial file may have been the start of another release
        download(published.address, part, published.most_bytes, check)
    actual = files.md5_file(part)
    if actual != published.md5:
        raise UserError(
            f"{published.address} sent a file with the MD5 {actual}, but that of {name} is {published.md5}. The file "
            "was discarded. Try again later, or put the right file into weights/."
        )
    if (mismatch := _sha256_mismatch(part, name)) is not None:
        raise UserError(f"{published.address} sent a file {mismatch}")


def _remove_abandoned(path: Path) -> None:
    """Remove partial files older than _ABANDONED. Their processes were killed: a running download writes more often."""
    for part in path.parent.glob(f".{path.name}.*"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _ABANDONED:
                part.unlink()


def _check(path: Path, published: Published) -> None:
    actual = files.md5_file(path)
    if actual != published.md5:
        raise UserError(
            f"{path} is not the published file: its MD5 is {actual}, not {published.md5}. Rename it if it is your own "
            "file. Delete it if it is damaged."
        )
    if (mismatch := _sha256_mismatch(path, path.name)) is not None:
        raise UserError(f"{path} is a file {mismatch}")


def _sha256_mismatch(path: Path, name: str) -> str | None:
    """Compare the SHA-256 of a file with the SHA-256 of the first file that had this name.

    An attacker can make different files with the same MD5. So the SHA-256 of the first file is kept in the cache, in
    the format of `sha256sum`. Returns a message if the two differ. None: they are equal, or no earlier file is known.
    """
    first_path = _sha256_file(name)
    if not first_path.exists():
        return None
    actual, first = files.sha256_file(path), (files.read_bytes(first_path).decode(errors="replace").split() or [""])[0]
    if actual == first:
        return None
    return (
        f"with the published MD5, but its SHA-256 is {actual}. The first file of this name had {first!r} "
        f"({first_path}). One of the two is forged. Find out which. "
        f"If the first is forged, delete it and {first_path.name}."
    )


def _sha256_file(name: str) -> Path:
    return cache_folder() / f"{name}.sha256"

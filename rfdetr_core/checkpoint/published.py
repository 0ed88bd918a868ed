"""Upstream's published weights: fetched by name, used only when their MD5 is the published one."""

from __future__ import annotations

import http.client
import os
import shutil
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import say

_STORE = "https://storage.googleapis.com/rfdetr/"
_ATTEMPTS = 3


@dataclass(frozen=True)
class Published:
    """Where upstream keeps a file, and its MD5."""

    address: str
    md5: str


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
    """The file that `pretrain_weights` or `resume` of params.yaml names.

    `name` is null, a file in `folder` (weights/), or a published name, which is looked for in `folder`, then in the
    cache, then downloaded.

    Raises:
        UserError: anything else, with what there is; a published file whose MD5 is wrong; no network.
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
    there = sorted(path.name for path in folder.glob("*") if path.is_file() and not path.name.startswith("."))
    raise UserError(
        f"{name!r} is no file in {folder}/ and no published name (a name has no folder). "
        f"In {folder}/: {', '.join(there) or 'nothing'}. Published: {', '.join(PUBLISHED)}."
    )


def cache_folder() -> Path:
    """Where published files are kept, as upstream's: $RF_HOME, else $ROBOFLOW_HOME, else ~/.roboflow/models."""
    home = os.environ.get("RF_HOME") or os.environ.get("ROBOFLOW_HOME") or "~/.roboflow/models"
    return Path(home).expanduser().absolute()


def fetch(name: str) -> Path:
    """The published file `name` in the cache, downloaded if it is not there. What was cut off is gone on with.

    Raises:
        UserError: it could not be fetched, or what there is has another MD5.
    """
    published, path = PUBLISHED[name], cache_folder() / name
    if path.exists():
        _check(path, published)
        return path
    part = path.with_name(f"{name}.part")
    say(f"downloading {name} from {published.address} to {path}", file=sys.stderr)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        _download(published.address, part)
        if resumed and files.md5_file(part) != published.md5:
            part.unlink()  # what was there may have been the start of another release
            _download(published.address, part)
        found = files.md5_file(part)
        if found != published.md5:
            part.unlink()
            raise UserError(
                f"{published.address} sent a file of MD5 {found}, but {name} has {published.md5}; it was thrown away. "
                "Try again later, or put the right file into weights/."
            )
        part.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"{name} could not be downloaded from {published.address} to {path.parent}: {error}. "
            "What has come is kept: run again to go on, or put the file into weights/ yourself."
        ) from error
    return path


def _download(address: str, part: Path) -> None:
    """Bring `part` to its full length; each attempt goes on where the last one ended."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _download_rest(address, part)
            return
        except (OSError, http.client.HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR
            if refused or attempt == _ATTEMPTS:
                raise


def _download_rest(address: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to send; the MD5 tells whether that is so
        raise
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        with part.open("ab" if goes_on else "wb") as file:
            shutil.copyfileobj(response, file, 1 << 20)
            size = file.tell()
    whole = int(length) + have * goes_on if length else size
    if size != whole:
        raise ConnectionError(f"cut off after {size} of {whole} bytes")


def _check(path: Path, published: Published) -> None:
    found = files.md5_file(path)
    if found != published.md5:
        raise UserError(
            f"{path} is not the published file: its MD5 is {found}, not {published.md5}. Rename it if it is your own, "
            "delete it if it is damaged."
        )

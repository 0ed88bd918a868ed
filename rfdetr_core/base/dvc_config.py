"""What DVC is configured to do in a project. DVC is imported when it is asked for: that takes a third of a second."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from rfdetr_core.base.errors import UserError


@lru_cache
def dvc_config(root: Path) -> dict[str, Any]:
    """DVC's configuration: of this clone, of the project, the user and the system. Raises UserError: it is broken."""
    from dvc.config import Config, ConfigError  # type: ignore[import-untyped]

    try:
        return dict(Config(dvc_dir=str((root / ".dvc").resolve())))
    except ConfigError as error:
        raise UserError(f"DVC's configuration cannot be read ({error}). See: dvc config --list --show-origin") from None


def cache_folder(root: Path) -> Path:
    """DVC's cache, as configured, else the usual one."""
    return root / ".dvc" / (dvc_config(root)["cache"].get("dir") or "cache")


def project_above(folder: Path) -> Path | None:
    """The nearest folder from `folder` on upwards that is a project of DVC."""
    return next((candidate for candidate in (folder, *folder.parents) if (candidate / ".dvc").is_dir()), None)

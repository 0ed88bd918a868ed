"""DVC's configuration of a project. DVC is imported only when needed: the import takes a third of a second."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from rfdetr_core.base.errors import UserError


@lru_cache
def dvc_config(root: Path) -> dict[str, Any]:
    """DVC's configuration, merged from this clone, the project, the user and the system.

    Raises:
        UserError: it cannot be read.
    """
    from dvc.config import Config, ConfigError  # type: ignore[import-untyped]

    try:
        return dict(Config(dvc_dir=str((root / ".dvc").resolve())))
    except ConfigError as error:
        raise UserError(f"DVC's configuration cannot be read ({error}). See: dvc config --list --show-origin") from None


def cache_folder(root: Path) -> Path:
    """The folder of DVC's cache: as configured, by default .dvc/cache."""
    return root / ".dvc" / (dvc_config(root)["cache"].get("dir") or "cache")


def project_above(folder: Path) -> Path | None:
    """The nearest DVC project: `folder` itself or one of its parents."""
    return next((candidate for candidate in (folder, *folder.parents) if (candidate / ".dvc").is_dir()), None)

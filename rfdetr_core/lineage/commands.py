"""The commands of lineage. What they need is imported when they run."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_core.errors import UserError

if TYPE_CHECKING:
    from rfdetr_core.lineage.trace import Archive, Trace

_COLUMNS = ("split", "path", "sha256", "width", "height", "labels")


def add_commands(commands: Any) -> None:
    """Add audit to the parsers of the command line."""
    audit = commands.add_parser("audit", help="say what made a file, which images, and what an image was used for")
    audit.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a model file, or another tracked result")
    audit.add_argument("--images", action="store_true", help="list every image behind FILE, as CSV")
    audit.add_argument("--image", metavar="PATH_OR_SHA256", help="list every model that this image went into")
    audit.add_argument(
        "--diff", type=Path, nargs=2, metavar=("A", "B"), help="what differs in the making of two models"
    )
    audit.add_argument("--repo", type=Path, default=Path(), metavar="DIR", help="the clone to search (default: here)")
    audit.add_argument("--json", action="store_true", help="for programs")
    audit.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> None:
    from rfdetr_core.lineage.history import History
    from rfdetr_core.lineage.trace import Archive, trace

    asked = [name for name in ("file", "image", "diff") if getattr(options, name) is not None]
    if len(asked) != 1:
        raise UserError("audit takes one of FILE, --image PATH_OR_SHA256 and --diff A B.")
    archive = Archive(History(options.repo, working_tree=True))
    if options.image is not None:
        _audit_image(options, archive)
    elif options.diff is not None:
        _audit_difference(options, archive)
    elif options.images:
        _list_images(options, archive)
    else:
        from rfdetr_core.lineage.text import plain, told

        traced = trace(options.file, archive)
        print(json.dumps(plain(traced, archive), indent=2) if options.json else told(options.file, traced, archive))
        if traced.found_by is None or traced.contradicted:
            sys.exit(1)


def _list_images(options: argparse.Namespace, archive: Archive) -> None:
    from rfdetr_core.lineage.images import rows_of
    from rfdetr_core.lineage.trace import trace

    traced = trace(options.file, archive)
    rows = list(rows_of(traced, archive))
    if options.json:
        print(json.dumps(rows))
    else:
        writer = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if traced.contradicted:
        sys.exit("\n".join(f"note: {note}" for note in traced.notes))


def _audit_image(options: argparse.Namespace, archive: Archive) -> None:
    from rfdetr_core.lineage.images import digest_of, uses_of
    from rfdetr_core.lineage.text import told_uses

    sha256 = digest_of(options.image, archive)
    answer = uses_of(sha256, archive)
    rows = [
        {"role": one.role, "path": one.path, "tensors": one.tensors, "md5": one.md5}
        | {"commit": one.commit.id if one.commit else None}
        for one in answer.uses
    ]
    plain = {"sha256": sha256, "uses": rows, "unknown": answer.unknown, "notes": archive.notes}
    print(json.dumps(plain, indent=2) if options.json else told_uses(sha256, answer, archive.notes))
    if answer.unknown:
        sys.exit(1)


def _audit_difference(options: argparse.Namespace, archive: Archive) -> None:
    from rfdetr_core.lineage.difference import compare_images, compare_lineages
    from rfdetr_core.lineage.images import rows_of
    from rfdetr_core.lineage.text import told_difference
    from rfdetr_core.lineage.trace import trace

    old, new = (_with_lineage(path, trace(path, archive)) for path in options.diff)
    changes = compare_lineages(old.lineage or {}, new.lineage or {})
    images = compare_images(rows_of(old, archive), rows_of(new, archive))
    if options.json:
        print(json.dumps({"making": changes, "images": images}, indent=2))
    else:
        print(told_difference(changes, images))


def _with_lineage(path: Path, traced: Trace) -> Trace:
    if traced.lineage is None:
        raise UserError(f"{path} carries no lineage, and no record of it was found: there is nothing to compare.")
    return traced

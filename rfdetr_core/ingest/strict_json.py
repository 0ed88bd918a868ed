"""JSON with what other parsers pass over in silence: doubled keys, byte order marks, bottomless nesting."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.paths import leaves
from rfdetr_core.ingest.records import Place, shown

# Parsed, it takes several times as much memory.
MOST_BYTES = 2 * 2**30


def read(root: Path, file: str, findings: Findings) -> Any:
    """Parse a file; None, and a finding, where that cannot be done. NaN and infinities are left to the checks."""

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            names = [name for name, _ in pairs]
            doubled = next(name for name in names if names.count(name) > 1)
            annotation = value.get("id") if "image_id" in value and isinstance(value.get("id"), int) else None
            findings.add(
                "key-doubled", Place(file, annotation=annotation), f"{shown(doubled)} stands twice in an object"
            )
        return value

    place, fault = Place(file), ""
    if leaves(root, file):
        findings.add("labels-outside", place, "it is a link out of the dataset folder")
        return None
    try:
        size = (root / file).stat().st_size
        if size > MOST_BYTES:
            raise OSError(0, f"its {size:,} bytes are more than the {MOST_BYTES:,} allowed: split the dataset")
        data = (root / file).read_bytes()
        if data.startswith(codecs.BOM_UTF8):
            findings.add("byte-order-mark", place, "the file begins with a byte order mark")
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=collect)
    except json.JSONDecodeError as error:
        place, fault = Place(file, error.lineno), str(error)
    except RecursionError:
        fault = "nested too deeply"
    except (OSError, ValueError) as error:
        fault = str(getattr(error, "strerror", error))
    findings.add("labels-unreadable", place, f"no JSON: {fault}")
    return None

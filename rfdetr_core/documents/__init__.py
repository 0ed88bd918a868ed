"""Write documents about a model: a model card, an ML-BOM, Croissant, and Annex IV of the AI Act.

`facts.collect` reads a model file, the git history of its project and its evaluation, and returns `Facts`. Each format
has a module with a function from `Facts` to text: `model_card`, `bom`, `croissant`, `annex_iv`. The Markdown documents
share their sections in `tables`, `training_tables` and `limits`. The command `document` and MLflow publishing call
`write_documents`. Equal facts give equal bytes: no document says when or on which machine it was written. Nothing is
downloaded. Start reading in `facts.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import say
from rfdetr_core.documents.annex_iv import annex_iv
from rfdetr_core.documents.bom import bom
from rfdetr_core.documents.croissant import croissant
from rfdetr_core.documents.facts import Facts, collect
from rfdetr_core.documents.model_card import model_card

PREVIOUS = "previous"  # the subfolder for replaced documents
# The function that writes the text of each document, by file name.
DOCUMENTS: dict[str, Callable[[Facts], str]] = {
    "model_card.md": model_card,
    "bom.cdx.json": bom,
    "croissant.json": croissant,
    "annex_iv.md": annex_iv,
}


def write_documents(file: Path, folder: Path, root: Path = Path()) -> list[Path]:
    """Write every document about a model file to a folder. Returns the paths.

    Args:
        file: A model file with lineage.
        folder: The folder for the documents. An existing file with other content is first copied to previous/; its new
            name contains the beginning of its SHA-256.
        root: The project whose history is read.

    Raises:
        UserError: The file is not a model file, has no lineage or contradicts its lineage, or the documents cannot be
            written. Existing documents are then unchanged.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name a folder for the documents: --out DIR")
    facts = collect(file, root)
    texts = {
        name: write(facts) for name, write in DOCUMENTS.items()
    }  # all texts exist before the first file is written
    try:
        _back_up(folder, texts)
        with ExitStack() as stack:
            for name, text in texts.items():
                stack.enter_context(files.replacing(folder / name)).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"the documents cannot be written to {folder}: {error.strerror or error}.") from error
    return [folder / name for name in texts]


def _back_up(folder: Path, texts: Mapping[str, str]) -> None:
    """Copy existing documents that would be replaced: a person may have edited them."""
    for path in (folder / name for name in texts):
        if path.is_dir():
            raise UserError(f"{path} is a folder. Name another folder for the documents: --out DIR")
        if path.is_file() and (content := files.read_bytes(path)) != texts[path.name].encode():
            previous = folder / PREVIOUS / f"{path.stem}-{files.sha256_bytes(content)[:8]}{path.suffix}"
            files.write_bytes(previous, content)
            say(f"note: {path} had other content; the old file is kept as {previous}", file=sys.stderr)

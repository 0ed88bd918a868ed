"""Documents about a model, written from its record: a model card, an ML-BOM, Croissant, and Annex IV of the AI Act.

`collect` gathers what is known of a model file, and each module makes one document of it. Equal facts make equal bytes:
no document has the time or the machine of its writing. Nothing is fetched.
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

KEPT = "previous"  # the folder, below that of the documents, of files that were replaced
# By the name of its file, what writes the text of a document.
DOCUMENTS: dict[str, Callable[[Facts], str]] = {
    "model_card.md": model_card,
    "bom.cdx.json": bom,
    "croissant.json": croissant,
    "annex_iv.md": annex_iv,
}


def write_documents(file: Path, folder: Path, root: Path = Path()) -> list[Path]:
    """Write every document about a model file to a folder; their paths.

    Args:
        file: A model file that carries its record.
        folder: Where the documents are written. A file of the same name that says something else is kept below
            previous/, under its name and the beginning of its SHA-256.
        root: The project whose history is asked.

    Raises:
        UserError: The file is not a model file, carries no record or is contradicted by it; or the documents cannot be
            written. Then what stood there is unchanged.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder. Name a folder for the documents: --out DIR")
    facts = collect(file, root)
    texts = {name: write(facts) for name, write in DOCUMENTS.items()}  # all of them, before the first is written
    try:
        _keep(folder, texts)
        with ExitStack() as stack:
            for name, text in texts.items():
                stack.enter_context(files.replacing(folder / name)).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"the documents cannot be written to {folder}: {error.strerror or error}.") from error
    return [folder / name for name in texts]


def _keep(folder: Path, texts: Mapping[str, str]) -> None:
    """Copy what a person may have filled in, and would be replaced."""
    for path in (folder / name for name in texts):
        if path.is_dir():
            raise UserError(f"{path} is a folder. Name another one for the documents: --out DIR")
        if path.is_file() and (content := files.read_bytes(path)) != texts[path.name].encode():
            previous = folder / KEPT / f"{path.stem}-{files.sha256_bytes(content)[:8]}{path.suffix}"
            files.write_bytes(previous, content)
            say(f"note: {path} was another one; it is kept as {previous}", file=sys.stderr)

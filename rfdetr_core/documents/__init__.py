"""Documents about a model, written from its record: a model card, an ML-BOM, Croissant, and Annex IV of the AI Act.

`collect` gathers what is known of a model file, and each module makes one document of it. Equal facts make equal bytes:
no document has the time or the machine of its writing. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.documents.annex_iv import annex_iv
from rfdetr_core.documents.bom import bom
from rfdetr_core.documents.croissant import croissant
from rfdetr_core.documents.facts import Facts, collect
from rfdetr_core.documents.model_card import model_card

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
        folder: Where the documents are written; those of an earlier call are replaced.
        root: The project whose history is asked.

    Raises:
        UserError: The file is not a model file, carries no record or is contradicted by it; or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder. Name a folder for the documents: --out DIR")
    facts = collect(file, root)
    texts = {name: write(facts) for name, write in DOCUMENTS.items()}  # all of them, before the first is written
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        files.write_text(folder / name, text)
    return [folder / name for name in texts]

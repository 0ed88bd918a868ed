"""The command `suspects`: lists suspected label errors of a split, as CSV and as a page with crops.

In: a model file and a split of the project. Out: a CSV file, lines for the terminal, and with `--page` a page.
`list_suspects` is the command. `examine` runs the model and compares its detections with the labels; the rules are in
`evaluation.suspects`. docs/suspects.md describes the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_core.audit.seen import TRAINED, Seen, seen_by
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS, DataConfig, read_classes, read_manifest
from rfdetr_core.base.params import read_section
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.printing import one_line
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.evaluation.analysis import Analysis, Results
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import detect, require_classes
from rfdetr_core.evaluation.operating import best_f1
from rfdetr_core.evaluation.suspects import suspects
from rfdetr_core.inference.exported import load_predictor
from rfdetr_core.inference.predictor import BasePredictor
from rfdetr_core.report.evaluation import sections
from rfdetr_core.report.evaluation.examples import Pictures
from rfdetr_core.report.evaluation.overlays import LEGEND
from rfdetr_core.report.evaluation.picture_requests import PictureRequests
from rfdetr_core.report.page import write_page

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path("reports/suspects")
_TEMPLATE = Path(__file__).parent / "suspects.html"
_PRINTED = ("certainty", "suspicion", "image", "annotation", "label", "detected", "score", "seen")
_CROPS = 200  # the most crops on the page


@dataclass(frozen=True)
class Examined:
    """The detections of a model on a split, and the suspected label errors.

    samples: the images, sorted by image_id. table: see `examine`. seen: which images the model was trained on.
    """

    split: str
    samples: list[Sample]
    analysis: Analysis
    results: Results
    table: pd.DataFrame
    seen: Seen


def examine(predictor: BasePredictor, where: ProjectPaths, split: str, seen: Seen) -> Examined:
    """Run a model on a split and compare its detections with the labels: masks if the model has masks, else boxes.

    The table of the result has the columns of `evaluation.suspects.suspects`, and after `image` a column `seen`:
    TRAINED, CHOSEN, or "" if the model has not used the image.

    Args:
        predictor: The model.
        where: The folders of the project's data.
        split: The split.
        seen: The images that the model has used.

    Raises:
        UserError: the split does not exist or is empty; an input is missing; an image differs from the manifest; the
            dataset has other classes than the model.
    """
    samples, names = _samples(where, split), tuple(entry.name for entry in read_classes(where.classes))
    require_classes(predictor, names)
    annotations = files.read_json(where.split(split)[0])
    rows = detect(predictor, where.dataset, samples, names)
    segments = predictor.architecture.segmentation
    results = Results.from_rows(rows, rows if segments else None)
    analysis = Analysis.from_results(annotations, results, "segm" if segments else "bbox")
    table = suspects(analysis)
    digests = {sample.path: sample.sha256 for sample in samples}
    uses = [seen.by_sha256.get(digests[path], "") for path in table.image.tolist()]
    table.insert(int(table.columns.get_loc("image")) + 1, "seen", uses)
    return Examined(split, samples, analysis, results, table, seen)


def list_suspects(
    checkpoint: Path,
    split: str,
    output: Path | None = None,
    limit: int = 20,
    *,
    page: bool = False,
    device: str = "auto",
) -> Iterator[str]:
    """Write the suspected label errors of a split as CSV. Yields the lines to print.

    Args:
        checkpoint: The model file.
        split: A split of the project in the current folder.
        output: The .csv file to write; None: FOLDER/<split>.csv.
        limit: How many suspects to print.
        page: Write also a page with crops, beside the CSV file.
        device: The device to run on.

    Raises:
        UserError: see `examine`; the file is not a checkpoint; `output` is not a .csv file.
    """
    output = output or FOLDER / f"{split}.csv"
    if output.suffix != ".csv":
        raise UserError(f"--output {output} must be a CSV file. Give it a name that ends in .csv.")
    where = ProjectPaths(dataset=Path(read_section(DataConfig, "data").dir))
    _samples(where, split)  # before the weights are read
    batch_size = read_section(EvaluateConfig, "evaluate").batch_size
    predictor = load_predictor(checkpoint, device=device, batch_size=batch_size)
    examined = examine(predictor, where, split, seen_by([checkpoint])[0])
    if page:
        _write_page(output.with_suffix(".html"), checkpoint, where, examined)
    files.write_table(output, examined.table.to_numpy(dtype=object).tolist(), list(examined.table.columns))
    images, labels, total = len(examined.samples), len(examined.analysis.objects), len(examined.table)
    yield f"{split}: {images:,} images, {labels:,} labels, {total:,} suspects"
    yield from _lines(examined.table.head(limit))
    yield from notes(examined)
    yield f"all: {output}" + (f", {output.with_suffix('.html')}" if page else "")


def notes(examined: Examined) -> Iterator[str]:
    """Notes on the limits of the list: labels that the model has learnt, and images that it may have used."""
    uses = [examined.seen.by_sha256.get(sample.sha256) for sample in examined.samples]
    if count := uses.count(TRAINED):
        yield (
            f"note: the model was trained on {count:,} of these images. It repeats the labels that it learnt, also the "
            "wrong ones. Use models that were not trained on these images: docs/suspects.md"
        )
    if examined.seen.unknown:
        yield f"note: not all images that the model was trained on are known: {'; '.join(examined.seen.unknown)}"


def _samples(where: ProjectPaths, split: str) -> list[Sample]:
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}. Use {', '.join(SPLITS[:-1])} or {SPLITS[-1]}.")
    samples = read_samples(*where.split(split))
    if not samples:
        with_images = [name for name in SPLITS if name != split and read_manifest(where.split(name)[1])]
        raise UserError(f"the split {split} has no image. Splits with images: {', '.join(with_images) or 'none'}.")
    return sorted(samples, key=lambda sample: sample.image_id)


def _lines(table: pd.DataFrame) -> list[str]:
    """The table as lines for the terminal. Line ends in names are escaped."""
    rows = [[*_PRINTED]] if len(table) else []
    for row in table[[*_PRINTED]].to_numpy(dtype=object).tolist():
        numbers = (f"{value:.2f}" if isinstance(value, float) else value for value in row)
        rows.append(["-" if text in ("nan", "<NA>", "") else text for text in map(one_line, numbers)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _write_page(path: Path, checkpoint: Path, where: ProjectPaths, examined: Examined) -> None:
    analysis = examined.analysis
    overall = best_f1(analysis.mean_curve)
    title = "Masks" if analysis.kind == "segm" else "Boxes"
    kind = sections.Kind(title, analysis, {}, {}, analysis.objects.head(0), overall.threshold, overall, {})
    requests = PictureRequests(where.dataset, examined.samples)
    annotations = files.read_json(where.split(examined.split)[0])
    examples = Pictures(kind, analysis.confusions(kind.thresholds), requests, examined.results, annotations)
    examples.request_suspects(_CROPS)
    pictures, _ = requests.render()
    write_page(
        path,
        _TEMPLATE,
        f"Suspected label errors in {examined.split}",
        split=examined.split,
        images=len(examined.samples),
        objects=len(analysis.objects),
        total=len(examined.table),
        checkpoint=str(checkpoint),
        notes=list(notes(examined)),
        legend=LEGEND,
        gallery=examples.gallery("suspects", pictures, {"suspicion": "all suspicions"}, noun="label"),
    )

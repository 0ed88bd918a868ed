"""The command `compare`: runs two model files on the same images, and writes a page and a summary of the differences.

In: two model files and a split of the project. Out: index.html, and lines for the terminal. `compare_files` computes
the comparison with `evaluation.comparison` and `evaluation.changes`. `write_comparison` writes the page. ci/compare.py
calls both. sections.py has the tables and charts, examples.py the pictures on the page, png.py the pictures as files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rfdetr_core.audit.seen import TRAINED, Seen, seen_by
from rfdetr_core.base.errors import listed
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.metadata import read_metadata
from rfdetr_core.base.params import read_section
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.printing import one_line
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.evaluation.changes import Changes
from rfdetr_core.evaluation.comparison import Comparison, NotComparableError, compare_models
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.resampling import SCORES
from rfdetr_core.report.comparison import sections
from rfdetr_core.report.comparison.examples import Pictures
from rfdetr_core.report.config import ReportConfig
from rfdetr_core.report.evaluation.overlays import LEGEND
from rfdetr_core.report.evaluation.picture_requests import PictureRequests
from rfdetr_core.report.page import write_page

PAGE = Path("reports/compare/index.html")
_TEMPLATE = Path(__file__).parent / "comparison.html"
_TONES = {"better": "good", "worse": "error"}  # Conclusion -> kind of the status line. The others are warnings.


@dataclass(frozen=True)
class FileComparison:
    """Two model files compared on the images of a split.

    scores: the scores of both. seen: for each model, the images on which it was trained or whose scores chose its
    epoch. where: the folders of the data. samples: the images, in the order of their ids. changes: the objects and
    errors by which the models differ.
    """

    scores: Comparison
    seen: tuple[Seen, Seen]
    where: ProjectPaths
    samples: list[Sample]
    changes: Changes

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each image by its path."""
        return {sample.path: sample.sha256 for sample in self.samples}


def compare_files(
    old: Path,
    new: Path,
    where: ProjectPaths,
    split: str,
    *,
    resamples: int,
    batch_size: int = 1,
    repository: Path = Path(),
) -> FileComparison:
    """Run two model files on the images of a split, and compare their detections.

    Args:
        old: The first model file.
        new: The second model file.
        where: The folders of the project's data.
        split: The split to compare on.
        resamples: The number of bootstrap draws.
        batch_size: Images at a time.
        repository: A folder of the git repository whose history has the manifests of the trainings.

    Raises:
        NotComparableError: see `compare_models`; or a model was trained on images of the split.
        UserError: an input is missing or damaged, or an image differs from the manifest.
    """
    samples = sorted(read_samples(*where.split(split)), key=lambda sample: sample.image_id)
    before, after = seen_by((old, new), repository)
    images = {sample.path: sample.sha256 for sample in samples}
    _refuse_trained(
        split, len(samples), {str(old): before.among(images, TRAINED), str(new): after.among(images, TRAINED)}
    )
    read_metadata(where.metadata_of(split))  # raises before the models run if the file is missing
    scores = compare_models(old, new, where, split, resamples, batch_size)
    return FileComparison(scores, (before, after), where, samples, Changes.from_comparison(scores))


def _refuse_trained(split: str, images: int, trained: dict[str, list[str]]) -> None:
    """Raise a NotComparableError if a model was trained on images of the split: a model may remember their labels.

    trained: path of the model file -> the images of the split that it was trained on.
    """
    messages = [
        f"{path} was trained on {len(paths):,} of the {images:,} images of {split} ({listed(paths)})"
        for path, paths in trained.items()
        if paths
    ]
    if messages:
        raise NotComparableError(
            f"{'; '.join(messages)}. Scores on these images do not show how a model does on new images. Choose a "
            "split that neither model was trained on (--split), or remove these images from the split."
        )


def write_comparison(path: Path, compared: FileComparison, crops: int) -> None:
    """Write the page of a comparison, whole or not at all. Equal inputs give equal bytes.

    Args:
        path: The file to write.
        compared: The comparison.
        crops: The highest number of pictures of each kind of change.

    Raises:
        UserError: the metadata of the split is missing, or an image differs from the manifest.
    """
    scores, changes = compared.scores, compared.changes
    metadata = read_metadata(compared.where.metadata_of(scores.split))
    requests = PictureRequests(compared.where.dataset, compared.samples)
    examples = Pictures(scores, changes, requests, crops)
    pictures, brightness = requests.render()
    score_table, score_chart = sections.scores(scores)
    cost, errors = sections.errors(scores)
    write_page(
        path,
        _TEMPLATE,
        f"Comparison on {scores.split}",
        split=scores.split,
        sentence=scores.sentence(),
        tone=_TONES.get(scores.conclusion, "warning"),
        measure=scores.measure,
        images=scores.images,
        objects=scores.objects,
        classes=len(scores.names),
        models=[
            sections.facts(*model, compared.digests)
            for model in zip("AB", (scores.old, scores.new), compared.seen, strict=True)
        ],
        known=sections.class_differences(scores),
        scores=score_table,
        score_chart=score_chart,
        per_class=sections.per_class(scores),
        slices=sections.slice_table(scores, brightness, metadata),
        crops=crops,
        pairs=examples.pairs(pictures),
        changed=sections.images(changes),
        cost=cost,
        errors=errors,
        kinds=sections.kinds(changes),
        gallery=examples.gallery(pictures),
        legend=LEGEND,
    )


def compare(old: Path, new: Path, split: str, folder: Path) -> Iterator[str]:
    """The command `compare`: write index.html into a folder. Yields the lines of the summary.

    Args:
        old: The first model file, A in the summary.
        new: The second model file, B in the summary.
        split: The split to compare on.
        folder: The folder of the page.

    Raises:
        UserError: see `compare_files`.
    """
    where, config = ProjectPaths(Path(read_section(DataConfig, "data").dir)), read_section(ReportConfig, "report")
    batch_size = read_section(EvaluateConfig, "evaluate").batch_size
    compared = compare_files(old, new, where, split, resamples=config.resamples, batch_size=batch_size)
    write_comparison(folder / PAGE.name, compared, config.crops)
    scores = compared.scores
    for name, side in (("A", scores.old), ("B", scores.new)):
        yield f"{name:7}{one_line(side.model.path)}: {side.model.variant}"
    yield f"{split:7}{scores.images:,} images, {scores.objects:,} objects; scores of {scores.measure}"
    yield f"{'':7}{'A':>6}{'B':>7}   difference in points, 95 % interval"
    for name, title in SCORES.items():
        values = [f"{value:.3f}" if value == value else "-" for value in sections.pair(scores, name)]
        ends = scores.intervals[name]
        change = f"{scores.differences[name]:+.2f}, {ends[0]:+.2f} to {ends[1]:+.2f}" if ends else "-"
        yield f"{title:7}{values[0]:>6}{values[1]:>7}   {change}"
    yield scores.sentence()
    for title, classes in sections.class_differences(scores):
        yield f"{title}: {listed(map(one_line, classes))}"
    for name, seen in zip("AB", compared.seen, strict=True):
        yield from (f"{name}: {one_line(line)}" for line in sections.seen_notes(seen, compared.digests))
    yield compared.changes.sentence()
    yield f"page   {one_line(folder / PAGE.name)}"

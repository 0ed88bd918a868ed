"""A comparison as PNG files, for places that cannot show its page: curves, AP by class, fixed and new errors."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unicodedata import bidirectional

from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from rfdetr_core.base import files
from rfdetr_core.base.printing import one_line
from rfdetr_core.evaluation.changes import ADDED, FOUND, GONE, LOST
from rfdetr_core.evaluation.comparison import Comparison
from rfdetr_core.evaluation.pictures import FONT, label_of
from rfdetr_core.metrics.coco import ClassScores
from rfdetr_core.report.comparison import FileComparison
from rfdetr_core.report.comparison.examples import Change, changed_detections, changed_objects
from rfdetr_core.report.evaluation.overlays import GROUPS, LEGEND, Overlays
from rfdetr_core.report.evaluation.picture_requests import Outline, PictureRequests
from rfdetr_core.report.gallery import Picture, Shape
from rfdetr_core.report.text import plural
from rfdetr_core.report.training import plot_trainings

CURVES, CLASSES, FIXED, NEW = "curves.png", "classes.png", "fixed_errors.png", "new_errors.png"
MOST_BYTES = 150_000  # the largest size of a file
_CLASSES = 25  # the most classes in a picture
_ERRORS = 4  # the most errors in a picture
_CANDIDATES = 20  # the errors of a picture are chosen from the first 20 of each kind of change
_LONGEST = 24  # the longest name beside an axis, in characters
_TILE = 160  # the side of a crop, in pixels
_GAP = 8  # the distance between two crops, in pixels
_LINE, _SIZE = 18, 12  # the height of a line of text and of its letters, in pixels
_GREY, _BLUE, _ORANGE, _TEXT, _FAINT = "#7a7a7a", "#0072B2", "#D55E00", "#222222", "#666666"
_STRIP = re.compile(r"M(\d+) (\d+)h(\d+)v(\d+)h")


def write_pictures(folder: Path, compared: FileComparison, histories: Mapping[str, Path]) -> dict[str, str]:
    """Write the pictures of a comparison. Those of an earlier call are replaced. Equal inputs give equal bytes.

    No file is larger than MOST_BYTES. A picture with nothing to show is left out: curves if there is no history.csv, AP
    by class if no class was measured, errors if none was fixed or new.

    Args:
        folder: The folder for the files.
        compared: The comparison of the base and the new model.
        histories: Name of a training -> its history.csv, for the trainings whose file is local.

    Returns:
        Name of a file -> what it shows, in words. The words have no names from the data.

    Raises:
        UserError: An image is missing or differs from the manifest, or a history.csv cannot be read.
    """
    for name in (CURVES, CLASSES, FIXED, NEW):
        (folder / name).unlink(missing_ok=True)
    scores = compared.scores
    drawn = [*_curves(scores, histories), *_classes(scores), *_errors(compared)]  # all, before the first is written
    for name, picture, _ in drawn:
        _write(folder / name, picture)
    return {name: words for name, _, words in drawn}


_Pictures = Iterator[tuple[str, Image.Image, str]]  # name of the file, picture, and what it shows


def _curves(scores: Comparison, histories: Mapping[str, Path]) -> _Pictures:
    if histories:
        figure = plot_trainings(histories, masks=scores.kind == "segm")
        figure.set_size_inches(9, 3.2)
        words = f"Loss and AP 50:95 on valid over the epochs: {' and '.join(histories)}"
        yield CURVES, _drawn(figure), words


def _classes(scores: Comparison) -> _Pictures:
    """The AP of each class for both models. If there are many classes: those with the largest changes."""
    both = zip(scores.old.scores.per_class, scores.new.scores.per_class, strict=True)
    # The AP of a class without objects is NaN. NaN is not equal to itself.
    measured = [(new, old.ap, new.ap) for old, new in both if old.ap == old.ap and new.ap == new.ap]
    if not measured:
        return
    largest = sorted(measured, key=lambda row: (-abs(row[2] - row[1]), row[0].name))[:_CLASSES]
    rows = sorted(largest, key=lambda row: (row[2] - row[1], row[0].name))  # at the bottom: the largest decrease
    figure = Figure(figsize=(7, 1.3 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    colors = [_BLUE if after >= before else _ORANGE for _, before, after in rows]
    before, after = [row[1] for row in rows], [row[2] for row in rows]
    axes.hlines(places, before, after, colors=colors, linewidth=2.5, zorder=1)
    dots: dict[str, Any] = {"s": 36, "clip_on": False}  # a dot at 0 is drawn over the axis, not cut off
    axes.scatter(before, places, c="white", edgecolors=_GREY, linewidths=1.5, label="base", zorder=2, **dots)
    axes.scatter(after, places, c=colors, zorder=3, **dots)
    for color, label in ((_BLUE, "new, as good or better"), (_ORANGE, "new, worse")):
        if color in colors:
            axes.scatter([], [], c=color, label=label, **dots)
    for position, (_, old, new) in enumerate(rows):
        axes.annotate(
            f"{100 * (new - old):+.1f}", (1, position), (4, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=8, color=_TEXT,
        )  # fmt: skip
    axes.set_yticks(
        list(places), [_axis_label(class_scores) for class_scores, _, _ in rows], fontsize=8, parse_math=False
    )
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("AP 50:95; in brackets: how many objects the class has", fontsize=8, color=_FAINT)
    suffix = f", the {len(rows)} of {len(measured)} classes that changed most" if len(rows) < len(measured) else ""
    axes.set_title(f"AP 50:95 of {scores.measure} by class{suffix}", loc="left", fontsize=10, fontweight="bold")
    axes.set_title("points", loc="right", fontsize=8, color=_FAINT)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    rose, fell = (sum(sign * (new - old) > 0 for _, old, new in measured) for sign in (1, -1))
    words = f"AP 50:95 of {scores.measure} of the base and the new model by class: of {len(measured)} classes "
    yield CLASSES, _drawn(figure), f"{words}{rose} rose, {fell} fell, {len(measured) - rose - fell} stayed"


def _axis_label(scores: ClassScores) -> str:
    """The name of a class and its number of objects, for an axis.

    The class number replaces a right-to-left name, which would reverse the order of the number of objects beside it.
    """
    right_to_left = any(bidirectional(character) in ("R", "AL") for character in scores.name)
    name = f"class {scores.index}" if right_to_left else _name(scores.name, scores.index)
    return f"{name} ({scores.instances:,})"


def _name(name: str, number: int) -> str:
    """The name of a class, shortened if it is long. The class number replaces a name that no font can draw."""
    return _cut(label_of(one_line(name), number), _LONGEST)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _errors(compared: FileComparison) -> _Pictures:
    """Crops of fixed errors and of new errors, each with the detections of both models."""
    scores, changes, counts = compared.scores, compared.changes, compared.changes.counts()
    sides = (scores.old, scores.new)
    old, new = (Overlays(side.analysis, side.thresholds, side.results, scores.annotations) for side in sides)
    candidates = [
        *changed_objects(changes, old, new, _CANDIDATES),
        *changed_detections(changes, old, new, _CANDIDATES),
    ]
    for name, noun, kinds in ((FIXED, "fixed error", (FOUND, GONE)), (NEW, "new error", (LOST, ADDED))):
        chosen = _chosen(*([change for change in candidates if change.change == kind] for kind in kinds))
        if chosen:
            title = f"{len(chosen)} of {plural(sum(counts[kind] for kind in kinds), noun)}"
            rows = [(_caption(change, new), new.analysis.images.path[change.image]) for change in chosen]
            sheet = _sheet(title, rows, _crops(compared, chosen, old), _crops(compared, chosen, new))
            yield name, sheet, f"{title}, as the base and the new model see it"


def _crops(compared: FileComparison, changes: Sequence[Change], overlays: Overlays) -> list[Picture]:
    """A crop of each change, with all labels and all detections of a model in it."""
    requests = PictureRequests(compared.where.dataset, [compared.samples[change.image] for change in changes])
    for index, change in enumerate(changes):
        requests.request_crop(index, change.box, _outlines_of(change, overlays))
    return requests.render()[0]


def _chosen(*kinds: Sequence[Change]) -> list[Change]:
    """Choose changes from all kinds in turn: first one change of each image, then the second changes, and so on."""
    in_turn = [change for turn in zip_longest(*kinds) for change in turn if change is not None]
    chosen_of_image, ranked = Counter[int](), list[tuple[int, Change]]()
    for change in in_turn:
        ranked.append((chosen_of_image[change.image], change))
        chosen_of_image[change.image] += 1
    return [change for _, change in sorted(ranked, key=lambda pair: pair[0])][:_ERRORS]


def _outlines_of(change: Change, overlays: Overlays) -> list[Outline]:
    """All outlines of an image for a model. Those that changed are bold and come first."""
    boxes = [outline.box for outline in change.outlines]
    outlines = [
        replace(outline, style="bold" if outline.box in boxes else "")
        for outline in overlays.all_outlines(change.image)
    ]
    return sorted(outlines, key=lambda outline: outline.style, reverse=True)


def _caption(change: Change, new: Overlays) -> str:
    caption = f"{change.change}: {_name(new.analysis.classes[change.label], change.label)} {change.score:.2f}"
    return caption + (f", {change.kind}" if change.kind else "")


def _sheet(title: str, rows: Sequence[tuple[str, str]], old: Sequence[Picture], new: Sequence[Picture]) -> Image.Image:
    """A picture with a row for each change: its caption, the path of the image, and a crop for each model.

    Args:
        title: The text at the top.
        rows: Caption and path of each change.
        old: The crops with the detections of the base.
        new: The crops with the detections of the new model.
    """
    width, high = 2 * _TILE + _GAP, 3 * _LINE + _TILE + _GAP
    start = _LINE + 2 * _GAP
    legend = start + len(rows) * high
    sheet = Image.new("RGB", (width + 2 * _GAP, legend + len(LEGEND) // 2 * _LINE + _GAP), "white")
    draw, font, bold = ImageDraw.Draw(sheet), _font(FONT), _font(FONT.with_stem(f"{FONT.stem}-Bold"))
    draw.text((_GAP, _GAP), title, _TEXT, bold)
    columns = (_GAP, _GAP + _TILE + _GAP)
    for number, ((caption, path), *pair) in enumerate(zip(rows, old, new, strict=True)):
        top, path = start + number * high, one_line(path if path.isascii() else ascii(path))
        draw.text((_GAP, top), _fitting(caption, font, width), _TEXT, font)
        draw.text((_GAP, top + _LINE), _fitting(path, font, width), _FAINT, font)
        for left, side, picture in zip(columns, ("base", "new model"), pair, strict=True):
            draw.text((left, top + 2 * _LINE), side, _FAINT, font)
            sheet.paste(_outlined(picture), (left, top + 3 * _LINE))
    for number, (name, color) in enumerate(LEGEND):
        left, top = columns[number % 2], legend + number // 2 * _LINE
        draw.rectangle((left, top + 4, left + 9, top + 13), outline=color, width=2)
        draw.text((left + 16, top), name, _TEXT, font)
    return sheet


def _font(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), _SIZE)


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A text that fits the width in pixels. If it is too long, its middle is replaced by dots."""
    length = len(text)
    while length > 2 and font.getlength(short := f"{text[: length // 2]}...{text[-(length // 2) :]}") > width:
        length -= 1
    return text if font.getlength(text) <= width else short


def _outlined(picture: Picture) -> Image.Image:
    """A crop with its shapes drawn over it, the first on top. Only bold shapes have their masks drawn."""
    data = base64.b64decode(picture.source.partition(",")[2])
    image = Image.open(io.BytesIO(data)).convert("RGB")
    for shape in reversed(picture.shapes):
        image = _with_mask(image, shape) if shape.style else image
        box = (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)
        ImageDraw.Draw(image).rectangle(box, outline=GROUPS[shape.group].color, width=3 if shape.style else 1)
    return image


def _with_mask(image: Image.Image, shape: Shape) -> Image.Image:
    """A picture with the mask of a shape over it. The outline of the shape is a path of rectangles."""
    covered = Image.new("L", image.size)
    for strip in _STRIP.finditer(shape.outline):
        left, top, width, height = map(int, strip.groups())
        covered.paste(90, (left, top, left + width, top + height))
    return Image.composite(Image.new("RGB", image.size, GROUPS[shape.group].color), image, covered)


def _drawn(figure: Figure) -> Image.Image:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return Image.open(data)


def _write(path: Path, picture: Image.Image) -> None:
    """Write a PNG without metadata, with as many colours as possible within MOST_BYTES."""
    for colors in (256, 128, 64, 32):
        data = io.BytesIO()
        picture.convert("RGB").quantize(colors).save(data, "PNG", optimize=True)
        if data.tell() <= MOST_BYTES:
            break
    files.write_bytes(path, data.getvalue())

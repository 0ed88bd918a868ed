"""Drawn detections: on one image, and side by side with the ground truth."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import bidirectional

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, features
from pycocotools.coco import COCO

from rfdetr_core.base import files
from rfdetr_core.evaluation.scoring import ImageJudgement
from rfdetr_core.inference.conversion import import_supervision
from rfdetr_core.metrics.coco import Row

if TYPE_CHECKING:
    import supervision
else:
    supervision = import_supervision()

RIGHT, WRONG = "#0072B2", "#D55E00"  # two colours that the colour-blind tell apart
PANEL = 640  # pixels: the longer side of an image in a side-by-side picture
_TITLE_SIZE, _LINE, _GAP = 16, 24, 8
# DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew, Georgian, Armenian; not Chinese.
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


def pick(judgements: Sequence[ImageJudgement], count: int) -> dict[str, ImageJudgement]:
    """By name, a third each of the best, the middle and the worst images by F1; empty ones last."""
    ranked = sorted(judgements, key=lambda one: (one.empty, -one.f1, one.image["file_name"]))
    count = min(count, len(ranked))
    each = {"best": -(-count // 3), "middle": count // 3, "worst": (count + 1) // 3}
    shown = [one for one in ranked if not one.empty]
    shown = shown if len(shown) >= count else ranked
    start = each["best"] + (len(shown) - count) // 2
    parts = {
        "best": shown[: each["best"]],
        "middle": shown[start : start + each["middle"]],
        "worst": shown[len(shown) - each["worst"] :][::-1],
    }
    return {f"{part}_{number}": one for part, some in parts.items() for number, one in enumerate(some, start=1)}


def compare(
    picture: Image.Image, one: ImageJudgement, names: Mapping[int, str], threshold: float, *, masks: bool
) -> Image.Image:
    """Ground truth on the left, detections above the threshold on the right; what matches is blue, the rest orange."""
    truth = [(row, True) for _, row in one.found] + [(row, False) for row in one.missed]
    seen = [(row, True) for row, _ in one.found] + [(row, False) for row in one.wrong]
    panels = []
    for rows in (truth, seen):
        labels = [label_of(names[row["category_id"]], row["category_id"], row.get("score")) for row, _ in rows]
        panels.append(draw(picture, _detections(rows, one.image, masks), labels, side=PANEL, palette=[RIGHT, WRONG]))
    left = PANEL + _GAP
    canvas = Image.new("RGB", (left + PANEL, panels[0].height + 2 * _LINE + _GAP), "white")
    found = len(one.found)
    file = one.image["file_name"]
    file = file if file.isascii() or _can_draw(str(FONT), file) else ascii(file)
    _write(canvas, 0, 0, [(f"{file}   F1 {one.f1:.2f}", "black")])
    told = [(f"{found} found, ", RIGHT), (f"{len(one.missed)} missed", WRONG)]
    _write(canvas, 0, _LINE, [(f"ground truth: {len(truth)} = ", "black"), *told])
    told = [(f"{found} right, ", RIGHT), (f"{len(one.wrong)} wrong", WRONG)]
    _write(canvas, left, _LINE, [(f"detections above {threshold:.2f}: {len(seen)} = ", "black"), *told])
    canvas.paste(panels[0], (0, 2 * _LINE + _GAP))
    canvas.paste(panels[1], (left, 2 * _LINE + _GAP))
    return canvas


def draw(
    picture: Image.Image,
    found: supervision.Detections,
    labels: list[str],
    *,
    side: int,
    palette: Sequence[str] | None = None,
) -> Image.Image:
    """An image, its longer side `side` pixels, with masks, boxes and labels in the colours of the class ids."""
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    drawn = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    if not len(found):
        return drawn
    assert found.class_id is not None
    # All in reverse: the first, which is the best, is drawn last.
    boxes = (found.xyxy * np.array([size[0] / picture.width, size[1] / picture.height] * 2))[::-1]
    ids = found.class_id[::-1]
    masks = None
    if found.mask is not None:
        resized = [Image.fromarray(mask).resize(size, Image.Resampling.NEAREST) for mask in found.mask[::-1]]
        masks = np.stack([np.asarray(mask) for mask in resized])
    shown = supervision.Detections(xyxy=boxes, mask=masks, class_id=ids)
    thickness = max(1, round(2 * side / PANEL))
    font_size = round(12 * side / PANEL)
    # A label stands on its box; where that would be outside the image, it stands inside.
    boxes = boxes.copy()
    boxes[:, 1] = boxes[:, 1].clip(min=font_size + 2 * thickness)
    labelled = supervision.Detections(xyxy=boxes, class_id=ids)
    colors = supervision.ColorPalette.from_hex(list(palette)) if palette else supervision.ColorPalette.DEFAULT
    lookup = supervision.ColorLookup.CLASS
    if masks is not None:
        drawn = supervision.MaskAnnotator(colors, opacity=0.35, color_lookup=lookup).annotate(drawn, shown)
    drawn = supervision.BoxAnnotator(colors, thickness=thickness, color_lookup=lookup).annotate(drawn, shown)
    font: dict[str, Any] = {"font_size": font_size, "font_path": _font_path(labels)}
    annotator = supervision.RichLabelAnnotator(colors, lookup, **font, text_padding=thickness)
    return annotator.annotate(drawn, labelled, labels=labels[::-1])


def label_of(name: str, number: int, score: float | None = None) -> str:
    """What is written beside a detection, or, without a score, beside an object.

    number: of the class; it stands for a name with a character that no font here has.
    """
    name = name if _font_path([name]) is None or _can_draw(str(FONT), name) else f"class {number}"
    return name if score is None else f"{name} {score:.2f}"


def _font_path(texts: Iterable[str]) -> str | None:
    """The font for some texts: None, Pillow's own, which has ASCII, or FONT for any other character."""
    return None if all(map(str.isascii, texts)) else str(FONT)


@cache
def _can_draw(font: str, text: str) -> bool:
    """Whether a font has every character of a text, and Pillow what writing from right to left needs."""
    drawn = ImageFont.truetype(font, _TITLE_SIZE)
    missing = bytes(drawn.getmask("\U0010ffff"))  # no font has this character: it is the box for those that lack
    turned = any(bidirectional(character) in ("R", "AL") for character in text)
    return (not turned or bool(features.check("fribidi"))) and all(bytes(drawn.getmask(one)) != missing for one in text)


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a PNG without metadata: equal pixels, equal bytes."""
    data = io.BytesIO()
    Image.fromarray(np.asarray(picture.convert("RGB"))).save(data, format="PNG", optimize=False)
    files.write_bytes(path, data.getvalue())


def _detections(rows: list[tuple[Row, bool]], image: Row, masks: bool) -> supervision.Detections:
    """Annotations or results of an image; class id 0: matched, 1: not."""
    boxes = np.array([row["bbox"] for row, _ in rows], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    coder = COCO()
    coder.imgs = {image["id"]: image}
    drawn = np.stack([coder.annToMask(row) for row, _ in rows]).astype(np.bool_) if masks and rows else None
    return supervision.Detections(boxes, drawn, class_id=np.array([not matched for _, matched in rows], dtype=np.int64))


def _write(canvas: Image.Image, left: int, top: int, parts: Sequence[tuple[str, str]]) -> None:
    path = _font_path(text for text, _ in parts)
    font = ImageFont.truetype(path, _TITLE_SIZE) if path else ImageFont.load_default(_TITLE_SIZE)
    pen = ImageDraw.Draw(canvas)
    x = float(left + 4)
    for text, color in parts:
        pen.text((x, top + 4), text, fill=color, font=font)
        x += pen.textlength(text, font=font)

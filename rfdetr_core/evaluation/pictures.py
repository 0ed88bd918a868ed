"""Draws detections on an image, alone or side by side with the ground truth."""

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

RIGHT, WRONG = "#0072B2", "#D55E00"  # Two colours that colour-blind people can distinguish.
PANEL = 640  # The longer side of an image in a side-by-side picture, in pixels.
_TITLE_SIZE, _LINE, _GAP = 16, 24, 8
# DejaVu Sans, which comes with matplotlib. It has Latin, Greek, Cyrillic, Arabic, Hebrew, Georgian and Armenian
# characters, but no Chinese ones.
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


def pick(judgements: Sequence[ImageJudgement], count: int) -> dict[str, ImageJudgement]:
    """Choose `count` images by F1: a third each of the best, the middle and the worst, by names such as "best_1".

    Images without objects and detections are chosen only if there are too few others.
    """
    ranked = sorted(judgements, key=lambda judgement: (judgement.empty, -judgement.f1, judgement.image["file_name"]))
    count = min(count, len(ranked))
    counts = {"best": -(-count // 3), "middle": count // 3, "worst": (count + 1) // 3}
    candidates = [judgement for judgement in ranked if not judgement.empty]
    candidates = candidates if len(candidates) >= count else ranked
    start = counts["best"] + (len(candidates) - count) // 2
    parts = {
        "best": candidates[: counts["best"]],
        "middle": candidates[start : start + counts["middle"]],
        "worst": candidates[len(candidates) - counts["worst"] :][::-1],
    }
    return {
        f"{part}_{number}": judgement
        for part, members in parts.items()
        for number, judgement in enumerate(members, start=1)
    }


def compare(
    picture: Image.Image, judgement: ImageJudgement, names: Mapping[int, str], threshold: float, *, masks: bool
) -> Image.Image:
    """Draw an image twice: the ground truth on the left, the detections above the threshold on the right.

    Objects and detections that match each other are blue, all others are orange.

    Args:
        picture: The image.
        judgement: Its objects and detections.
        names: The names of the classes by id.
        threshold: The score threshold of the detections, for the title.
        masks: Draw masks too.
    """
    truth = [(row, True) for _, row in judgement.correct] + [(row, False) for row in judgement.missed]
    detections_drawn = [(row, True) for row, _ in judgement.correct] + [(row, False) for row in judgement.wrong]
    panels = []
    for rows in (truth, detections_drawn):
        labels = [label_of(names[row["category_id"]], row["category_id"], row.get("score")) for row, _ in rows]
        panels.append(
            draw(picture, _detections(rows, judgement.image, masks), labels, side=PANEL, palette=[RIGHT, WRONG])
        )
    left = PANEL + _GAP
    canvas = Image.new("RGB", (left + PANEL, panels[0].height + 2 * _LINE + _GAP), "white")
    hits = len(judgement.correct)
    file = judgement.image["file_name"]
    file = file if file.isascii() or _can_draw(str(FONT), file) else ascii(file)
    _write(canvas, 0, 0, [(f"{file}   F1 {judgement.f1:.2f}", "black")])
    parts = [(f"{hits} found, ", RIGHT), (f"{len(judgement.missed)} missed", WRONG)]
    _write(canvas, 0, _LINE, [(f"ground truth: {len(truth)} = ", "black"), *parts])
    parts = [(f"{hits} right, ", RIGHT), (f"{len(judgement.wrong)} wrong", WRONG)]
    _write(canvas, left, _LINE, [(f"detections above {threshold:.2f}: {len(detections_drawn)} = ", "black"), *parts])
    canvas.paste(panels[0], (0, 2 * _LINE + _GAP))
    canvas.paste(panels[1], (left, 2 * _LINE + _GAP))
    return canvas


def draw(
    picture: Image.Image,
    detections: supervision.Detections,
    labels: list[str],
    *,
    side: int,
    palette: Sequence[str] | None = None,
) -> Image.Image:
    """Draw masks, boxes and labels on an image, in the colours of the class ids.

    Args:
        picture: The image.
        detections: Boxes in pixels of the image, with masks if there are any.
        labels: The text beside each detection.
        side: The longer side of the result, in pixels.
        palette: A colour for each class id; None: supervision's default.
    """
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    drawn = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    if not len(detections):
        return drawn
    assert detections.class_id is not None
    # Drawn in reverse order, so that the first detection, which is the best, is on top.
    boxes = (detections.xyxy * np.array([size[0] / picture.width, size[1] / picture.height] * 2))[::-1]
    ids = detections.class_id[::-1]
    masks = None
    if detections.mask is not None:
        resized = [Image.fromarray(mask).resize(size, Image.Resampling.NEAREST) for mask in detections.mask[::-1]]
        masks = np.stack([np.asarray(mask) for mask in resized])
    scaled = supervision.Detections(xyxy=boxes, mask=masks, class_id=ids)
    thickness = max(1, round(2 * side / PANEL))
    font_size = round(12 * side / PANEL)
    # A label is above its box, or inside the box if it would be outside the image.
    boxes = boxes.copy()
    boxes[:, 1] = boxes[:, 1].clip(min=font_size + 2 * thickness)
    labelled = supervision.Detections(xyxy=boxes, class_id=ids)
    colors = supervision.ColorPalette.from_hex(list(palette)) if palette else supervision.ColorPalette.DEFAULT
    lookup = supervision.ColorLookup.CLASS
    if masks is not None:
        drawn = supervision.MaskAnnotator(colors, opacity=0.35, color_lookup=lookup).annotate(drawn, scaled)
    drawn = supervision.BoxAnnotator(colors, thickness=thickness, color_lookup=lookup).annotate(drawn, scaled)
    font: dict[str, Any] = {"font_size": font_size, "font_path": _font_path(labels)}
    annotator = supervision.RichLabelAnnotator(colors, lookup, **font, text_padding=thickness)
    return annotator.annotate(drawn, labelled, labels=labels[::-1])


def label_of(name: str, number: int, score: float | None = None) -> str:
    """The text beside a detection, or beside an object if there is no score.

    Args:
        name: The name of the class.
        number: The number of the class. It replaces a name with a character that is in none of the fonts.
        score: The score of the detection, 0 to 1. None: the text is only the name.
    """
    name = name if _font_path([name]) is None or _can_draw(str(FONT), name) else f"class {number}"
    return name if score is None else f"{name} {score:.2f}"


def _font_path(texts: Iterable[str]) -> str | None:
    """The font for texts. None: Pillow's default font, if all characters are ASCII; else FONT."""
    return None if all(map(str.isascii, texts)) else str(FONT)


@cache
def _can_draw(font: str, text: str) -> bool:
    """Whether a font has every character of a text. Right-to-left text also needs Pillow with fribidi."""
    loaded_font = ImageFont.truetype(font, _TITLE_SIZE)
    missing = bytes(loaded_font.getmask("\U0010ffff"))  # No font has this character: this is the missing-glyph box.
    right_to_left = any(bidirectional(character) in ("R", "AL") for character in text)
    return (not right_to_left or bool(features.check("fribidi"))) and all(
        bytes(loaded_font.getmask(character)) != missing for character in text
    )


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a PNG without metadata. Equal pixels give equal bytes."""
    data = io.BytesIO()
    Image.fromarray(np.asarray(picture.convert("RGB"))).save(data, format="PNG", optimize=False)
    files.write_bytes(path, data.getvalue())


def _detections(rows: list[tuple[Row, bool]], image: Row, masks: bool) -> supervision.Detections:
    """Annotations or results of an image. The class id is 0 for a matched one and 1 for an unmatched one."""
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

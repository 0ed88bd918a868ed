"""Writes docs/findings.md: the table of `rules.py`, with one or two sentences that say what each code means.

No stage imports this module, so an edit of a sentence reruns nothing.
"""

from __future__ import annotations

from rfdetr_core.ingest.rules import RULES

MEANINGS = {
    # Files of labels.
    "labels-unreadable": "The annotation file of a split, or data.yaml, cannot be read: a syntax error, not UTF-8, "
    "or too large.",
    "labels-malformed": "The annotation file of a split, or data.yaml, can be read but does not follow its format. "
    "Or a split exists twice, in two folders or files.",
    "labels-missing": "An annotation file, or the folder of images that belongs to it, does not exist.",
    "labels-outside": "An annotation file, or a path in data.yaml or params.yaml, is outside the dataset folder.",
    "base-ignored": "`path:` in data.yaml names a folder that does not exist. The key is ignored.",
    "layout-ambiguous": "The folder contains a dataset in two layouts. Only one of them is read.",
    "label-unreadable": "The label file of one YOLO image cannot be read.",
    "label-without-image": "A YOLO label file does not belong to any image. It is not used.",
    "labels-not-read": "A file has the name of a COCO annotation file, but no split uses it.",
    "key-doubled": "An object in a JSON file has the same key twice.",
    "byte-order-mark": "A label file begins with a byte order mark (the bytes EF BB BF).",
    "id-not-integer": 'Ids are text ("1") or have a decimal point (1.0).',
    # Classes.
    "class-malformed": "The class table has an error: no classes, a class without a valid id or name, or two classes "
    "with the same id or name.",
    "class-not-in-train": "valid or test has objects of a class that is not in the class table of train.",
    "class-ids-differ": "A class has one id in train and another id in valid or test.",
    "class-untrained": "A class has objects in valid or test, but not in train.",
    "class-unused": "No split has an object of this class.",
    "class-names-alike": "Two class names differ only by upper and lower case or white space.",
    # Splits.
    "split-missing": "There is no train or no valid split.",
    "split-empty": "train or valid has no image, or no object.",
    "test-empty": "test has no image, or no object.",
    "test-missing": "`test:` in data.yaml names a folder that does not exist.",
    "test-without-labels": "There is a file image_info_test*.json. It lists images of test without annotations.",
    "leakage": "The same image file (equal bytes) is in two splits.",
    "near-leakage": "Two splits have images that look alike: re-encoded, resized, brighter or mirrored copies.",
    "origin-leakage": "Two splits have augmented copies of one picture. Roboflow's file names show it.",
    "names-in-two-splits": "Images of two splits have the same names, but different content.",
    "masks-incomplete": "Some objects of a split have a mask, others have only a box.",
    "boxes-in-other-unit": "All boxes of a COCO file are fractions of the image, or most boxes of a YOLO split are "
    "in pixels.",
    "boxes-as-corners": "The boxes of a COCO file seem to be left, top, right, bottom.",
    # Images.
    "image-malformed": "An entry of `images` has no valid id.",
    "image-id-doubled": "Two entries of `images` have the same id, so it is not known which image "
    "their annotations belong to.",
    "image-listed-twice": "One image file has two entries in a split.",
    "image-doubled": "The same image file (equal bytes) is in one split twice.",
    "near-doubled": "A split has images that look alike: re-encoded, resized, brighter or mirrored copies.",
    "image-not-listed": "An image file in the dataset folder does not belong to a split. It is not used.",
    "image-not-read": "A picture has a format that is not read here, such as GIF, HEIC or a raw format.",
    "image-without-labels": "YOLO images of a split have no label file. They are used as images without objects.",
    "image-missing": "A split lists an image file that does not exist.",
    "image-unreadable": "An image file is damaged or cannot be opened.",
    "image-too-large": "An image has more pixels than validate.max_pixels allows, or its file is too large.",
    "image-of-other-kind": "The suffix of an image file does not match its content: a JPEG named .png, for example.",
    "image-with-frames": "An image file has several frames or pages.",
    "range-unused": "Images have 16 bits per channel, but use at most a quarter of the range, like "
    "images of 12 or 14 bits.",
    "transparency-unlikely": "In some images, most pixels are half transparent. The fourth channel may be a colour, "
    "such as infrared.",
    "image-size-differs": "The label file states another width or height than the image has.",
    "image-size-zero": "The label file states width 0 and height 0 for images.",
    "path-outside": "The path of an image leaves the dataset folder: it is absolute, has `..`, or is a link to a "
    "place outside.",
    "path-malformed": "The path of an image is empty, too long, or has a backslash or a control character.",
    "name-not-portable": "The name of an image has a character or a form that other systems refuse or change.",
    "names-alike": "The names of two images differ only by upper and lower case, or by the Unicode form of their "
    "characters.",
    "name-differs": "A file has another name than the labels expect: upper and lower case, the Unicode form, or "
    "characters such as %20 differ.",
    "file-ignored": "A file or folder is skipped: it is hidden, made by a file manager, a folder that is a link, or "
    "unreadable.",
    "label-shared": "Two YOLO images have the same label file: 1.jpg and 1.png, for example.",
    # Metadata of images.
    "metadata-unreadable": "metadata.csv cannot be read as a table with exactly one column file_name.",
    "metadata-column": "A column has no name, the name path, or the same name as another column.",
    "metadata-row": "A row names no image, or has another number of cells than the header.",
    "metadata-doubled": "Two rows have different values for the same image. None of these rows is used.",
    "metadata-ambiguous": "The file name in a row fits several images.",
    "metadata-without-image": "The file name in a row fits no image of the dataset.",
    "metadata-value": "A value has more than 1,000 characters, a line end or a control character.",
    "metadata-licence-unknown": "Images have a licence id that is not in the list `licenses` of the COCO file.",
    # Annotations.
    "many-objects": "An image has more than 300 objects. Most models have 300 queries.",
    "box-doubled": "Two objects have the same box, but differ in class or mask.",
    "keypoints-ignored": "data.yaml has the key kpt_shape, so the label files have keypoints. They are skipped.",
    "ignored-as-crowd": "Annotations have the key ignore: 1.",
    "annotation-malformed": "An annotation has no valid id (COCO), or a line is not a class with a box or polygon "
    "(YOLO).",
    "annotation-id-doubled": "Two annotations have the same id.",
    "annotation-without-image": "An annotation has the id of an image that does not exist.",
    "annotation-doubled": "An image has the same annotation twice: the same class, box and mask.",
    # Checks of one annotation.
    "class-unknown": "An annotation has a class id that is not in the class table.",
    "crowd-malformed": "iscrowd is not 0 or 1.",
    "box-malformed": "A box is not a list of four numbers.",
    "box-not-finite": "A number of a box is NaN, infinite or far too large.",
    "box-without-area": "The width or height of a box is 0 or negative.",
    "box-outside": "A box is completely outside the image.",
    "box-beyond-image": "A box is more than 1.5 times as wide or high as the image.",
    "segmentation-malformed": "A mask is not a list of polygons or a run-length code, or it has no area.",
    "partly-outside": "A box or polygon reaches more than half a pixel over the edge of the image.",
    "polygon-crosses-itself": "The outline of a polygon crosses itself.",
    "box-unlike-mask": "A mask reaches more than 2 pixels out of its box.",
    "box-tiny": "A box is at most 1 pixel wide or high.",
    "box-whole-image": "A box is the whole image.",
    "area-unlike-box": "The key area is larger than the box, less than half of the mask, or not a positive number.",
}

_EFFECTS = {"dataset": "stop always", "split": "stop or keep", "unusable": "leave out", "usable": "leave out or keep"}


def markdown() -> str:
    """docs/findings.md: `python -m rfdetr_core.ingest.meanings > docs/findings.md`."""
    head = """# Findings of validation

All codes that `validate` can report: what each code means, its default severity, its effect, and what to do. Which data
is checked, and how: [data.md](data.md).

By default (`validate.on_error: stop`), every error stops the pipeline before training. With `on_error: drop`, the
column "effect" says what happens:

| effect | if the finding is an error | if the finding is a warning |
|---|---|---|
| stop always | the pipeline stops; the severity cannot be changed | never a warning |
| stop or keep | the pipeline stops | the pipeline continues, and nothing is left out |
| leave out | the image, annotation, class or metadata is not used | as for an error |
| leave out or keep | the image or annotation is not used | it is used |

`validate.severities` in params.yaml sets another severity for a code: `error`, `warning` or `ignore`. An ignored
finding has the effect of a warning, and is not reported.

Written by `python -m rfdetr_core.ingest.meanings > docs/findings.md`.

| code | meaning | severity | effect | what to do |
|---|---|---|---|---|
"""
    rows = [
        (rule.code, MEANINGS[rule.code], rule.severity, _EFFECTS[rule.scope], rule.advice) for rule in RULES.values()
    ]
    return head + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


if __name__ == "__main__":
    print(markdown(), end="")

"""Every kind of finding in one table: its code, how grave it is, what becomes of what it names, what to do about it."""

from __future__ import annotations

from rfdetr_core.ingest.checks import ANNOTATION_RULES, Rule

_OTHERS = (
    # Files of labels.
    Rule("labels-unreadable", "error", "dataset", "Write the file again as valid UTF-8."),
    Rule("labels-malformed", "error", "dataset", "Export the dataset again, or mend the file by hand."),
    Rule("labels-missing", "error", "dataset", "Add what is missing, or remove the folder or key that asks for it."),
    Rule("labels-outside", "error", "dataset", "Name files inside the dataset folder, and put them there."),
    Rule("base-ignored", "warning", "split", "Write path: . or remove the key: then every reader finds the images."),
    Rule("layout-ambiguous", "warning", "split", "Remove the files of the layout that is not meant."),
    Rule("label-unreadable", "error", "unusable", "Write the label file again as UTF-8 text, or remove it."),
    Rule("label-without-image", "warning", "split", "Add the image or remove the label file."),
    Rule("key-doubled", "error", "dataset", "Keep one of the two: readers differ in which they take."),
    Rule("byte-order-mark", "warning", "split", "It is skipped here; other readers may fail: save without it."),
    # Classes.
    Rule("class-malformed", "error", "dataset", "Give every class an id from 0 up and a name, of its own each."),
    Rule("class-not-in-train", "error", "unusable", "Add the class to train, or remove it from this split."),
    Rule("class-ids-differ", "warning", "split", "Classes are matched by name; export the splits together."),
    Rule("class-untrained", "warning", "split", "It cannot be learnt: move images of it to train."),
    Rule("class-unused", "warning", "split", "Label objects of it, or remove it from the class table."),
    Rule("class-names-alike", "warning", "split", "If they are one class, give them one name and id."),
    # Splits.
    Rule(
        "split-missing",
        "error",
        "dataset",
        "Training needs train and valid: add it, or cut it from train: validate.split.",
    ),
    Rule("split-empty", "error", "dataset", "Add images with objects to the split."),
    Rule("test-empty", "warning", "split", "Add images with objects, or remove the split: valid is evaluated then."),
    Rule("test-without-labels", "warning", "split", "Remove it, or add annotations/instances_test*.json."),
    Rule("leakage", "warning", "usable", "Remove it from one of the splits: scores would flatter."),
    Rule("near-leakage", "warning", "usable", "Compare the two; copies in two splits flatter the scores."),
    Rule("origin-leakage", "warning", "usable", "Keep the copies of one picture in one split: scores would flatter."),
    Rule("names-in-two-splits", "warning", "usable", "Compare them; copies in two splits flatter the scores."),
    Rule("masks-incomplete", "warning", "split", "Draw the missing masks, if a segmenter is to be trained."),
    Rule("boxes-in-other-unit", "error", "split", "COCO wants pixels, YOLO parts of the image: export again."),
    Rule("boxes-as-corners", "error", "split", "COCO wants left, top, width, height: export again."),
    # Images.
    Rule("image-malformed", "error", "unusable", "Write an entry with an id from 0 up and a file_name."),
    Rule("image-id-doubled", "error", "unusable", "Give every image an id of its own."),
    Rule("image-listed-twice", "error", "unusable", "Merge the entries into one."),
    Rule("image-doubled", "warning", "usable", "Remove one of the two."),
    Rule("near-doubled", "warning", "usable", "Compare the two, and remove one if nothing is new in it."),
    Rule("image-not-listed", "warning", "split", "It is not used; list it (without objects it is a negative)."),
    Rule("image-missing", "error", "unusable", "Add the file or remove the entry."),
    Rule("image-unreadable", "error", "unusable", "Replace the file, or remove it with its entry."),
    Rule("image-too-large", "error", "unusable", "Make it smaller, or raise validate.max_pixels in params.yaml."),
    Rule(
        "image-of-other-kind", "warning", "usable", "It is read by its content; rename it, other tools go by the name."
    ),
    Rule("image-with-frames", "warning", "usable", "The first one is used; save the others as images of their own."),
    Rule("image-size-differs", "error", "usable", "Check that its boxes fit, then correct the size."),
    Rule("path-outside", "error", "unusable", "Name a file inside the dataset folder, and put it there."),
    Rule("path-malformed", "error", "unusable", "Name it with / between folders and without control characters."),
    Rule("name-not-portable", "warning", "usable", "Rename it: other systems or people read this name as another."),
    Rule("names-alike", "warning", "usable", "Rename one: on other systems they are one file."),
    Rule("name-differs", "error", "unusable", "Write the name as the file has it."),
    Rule("file-ignored", "warning", "split", "Remove it, or make it an ordinary file of the dataset."),
    Rule("label-shared", "error", "unusable", "Give each image a label file: rename one of them."),
    # Annotations.
    Rule("many-objects", "warning", "usable", "A model finds at most as many as it has queries: cut the image up."),
    Rule("box-doubled", "warning", "usable", "Keep the right one of them."),
    Rule("keypoints-ignored", "warning", "split", "Boxes are used, keypoints are not."),
    Rule("annotation-malformed", "error", "unusable", "Write it as the format wants it."),
    Rule("annotation-id-doubled", "error", "unusable", "Give every annotation an id of its own."),
    Rule("annotation-without-image", "error", "unusable", "Use the id of an image, or remove the annotation."),
    Rule("annotation-doubled", "warning", "usable", "Remove one of the two."),
)
RULES = {rule.code: rule for rule in (*_OTHERS, *ANNOTATION_RULES)}

_EFFECTS = {
    "dataset": "always stops",
    "split": "as an error always stops",
    "unusable": "always left out",
    "usable": "as an error left out, else used",
}


def markdown() -> str:
    """docs/findings.md: `python -m rfdetr_core.ingest.rules > docs/findings.md`."""
    head = """# What validation finds

Written by `python -m rfdetr_core.ingest.rules > docs/findings.md`. `validate.severities` in params.yaml gives a code
another severity: `error`, `warning` or `ignore`; not to those that always stop. An error stops the run; with
`validate.on_error: drop` what it names is left out instead, where something can be.

| code | severity | with `drop` | what to do |
|---|---|---|---|
"""
    rows = (f"| {rule.code} | {rule.severity} | {_EFFECTS[rule.scope]} | {rule.advice} |\n" for rule in RULES.values())
    return head + "".join(rows)


if __name__ == "__main__":
    print(markdown(), end="")

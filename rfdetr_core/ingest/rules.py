"""Every kind of finding in one table: its code, how grave it is, what becomes of what it names, what to do about it."""

from __future__ import annotations

from rfdetr_core.ingest.checks import ANNOTATION_RULES, Rule

_OTHERS = (
    # Files of labels.
    Rule("labels-unreadable", "error", "dataset", "Write the file again as valid UTF-8."),
    Rule("labels-malformed", "error", "dataset", "Export the dataset again, or mend the file by hand."),
    Rule("labels-missing", "error", "dataset", "Add what is missing, or remove the folder or key that asks for it."),
    Rule("labels-outside", "error", "dataset", "Name files inside the dataset folder, and put them there."),
    Rule("label-unreadable", "error", "unusable", "Write the label file again as UTF-8 text, or remove it."),
    Rule("label-without-image", "warning", "usable", "Add the image or remove the label file."),
    Rule("key-doubled", "error", "dataset", "Keep one of the two: readers differ in which they take."),
    Rule("byte-order-mark", "warning", "usable", "It is skipped here; other readers may fail: save without it."),
    # Classes.
    Rule("class-malformed", "error", "dataset", "Give every class an id from 0 up and a name, of its own each."),
    Rule("class-not-in-train", "error", "unusable", "Add the class to train, or remove it from this split."),
    Rule("class-ids-differ", "warning", "usable", "Classes are matched by name; export the splits together."),
    Rule("class-untrained", "warning", "usable", "It cannot be learnt: move images of it to train."),
    Rule("class-unused", "warning", "usable", "Label objects of it, or remove it from the class table."),
    # Splits.
    Rule("split-missing", "error", "dataset", "Training needs train and valid: add the split."),
    Rule("split-empty", "error", "dataset", "Add images with objects to the split."),
    Rule("test-empty", "warning", "usable", "Add images with objects, or remove the split: valid is evaluated then."),
    Rule("leakage", "warning", "usable", "Remove it from one of the splits: scores would flatter."),
    # Images.
    Rule("image-malformed", "error", "unusable", "Write an entry with an id from 0 up and a file_name."),
    Rule("image-id-doubled", "error", "unusable", "Give every image an id of its own."),
    Rule("image-listed-twice", "error", "unusable", "Merge the entries into one."),
    Rule("image-doubled", "warning", "usable", "Remove one of the two."),
    Rule("image-not-listed", "warning", "usable", "It is not used; list it (without objects it is a negative)."),
    Rule("image-missing", "error", "unusable", "Add the file or remove the entry."),
    Rule("image-unreadable", "error", "unusable", "Replace the file, or remove it with its entry."),
    Rule("image-size-differs", "error", "usable", "Check that its boxes fit, then correct the size."),
    Rule("path-outside", "error", "unusable", "Name a file inside the dataset folder, and put it there."),
    Rule("path-malformed", "error", "unusable", "Name it with / between folders and without control characters."),
    # Annotations.
    Rule("annotation-malformed", "error", "unusable", "Write it as the format wants it."),
    Rule("annotation-id-doubled", "error", "unusable", "Give every annotation an id of its own."),
    Rule("annotation-without-image", "error", "unusable", "Use the id of an image, or remove the annotation."),
    Rule("annotation-doubled", "warning", "usable", "Remove one of the two."),
)
RULES = {rule.code: rule for rule in (*_OTHERS, *ANNOTATION_RULES)}

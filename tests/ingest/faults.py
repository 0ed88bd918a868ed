"""The catalogue of faulty datasets. Each fault is planted in a good dataset and gives one finding at one place."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.base.test_image_limits import progressive, tiff
from tests.ingest.samples import (
    coco_content,
    edit_coco,
    make_coco,
    make_masks,
    make_plain,
    make_yolo,
    picture,
    write_coco,
)

Plant = Callable[[Path], object]
JSON = {split: f"{split}/_annotations.coco.json" for split in ("train", "valid", "test")}
TRAIN, VALID, TEST = JSON.values()
PNG, LABEL, OTHER_LABEL = "train/train_2.png", "labels/train/train_1.txt", "labels/train/train_2.txt"


class Fault(NamedTuple):
    """One fault and its expected finding. where: the line, or the id of the annotation."""

    make: Callable[[Path], Path]
    plant: Plant
    code: str
    file: str
    where: int | None = None
    config: Mapping[str, Any] = MappingProxyType({})


def coco(change: Callable[[Any], object], split: str = "train") -> Plant:
    return lambda root: edit_coco(root, split, change)


def update(kind: str, index: int = 1, **changes: Any) -> Plant:
    return coco(lambda content: content[kind][index].update(changes))


def add(kind: str, index: int = 1, split: str = "train", **changes: Any) -> Plant:
    return coco(lambda content: content[kind].append(content[kind][index] | changes), split)


def on(code: str, **changes: Any) -> Fault:
    """A fault of annotation 11."""
    return Fault(make_coco, update("annotations", **changes), code, TRAIN, 11)


def mask(code: str, segmentation: Any, **changes: Any) -> Fault:
    return Fault(make_masks, update("annotations", segmentation=segmentation, **changes), code, TRAIN, 11)


def entry(code: str, kind: str, **changes: Any) -> Fault:
    """A fault of an additional entry."""
    return Fault(make_coco, add(kind, 2 if kind == "images" else 1, **changes), code, TRAIN)


def file(code: str, harm: Callable[[Path], object], path: str = PNG, **config: Any) -> Fault:
    return Fault(make_coco, lambda root: harm(root / path), code, path, None, config)


def text(code: str, path: str, change: Callable[[bytes], bytes], where: int | None = None) -> Fault:
    make = make_coco if path.endswith(".json") else make_yolo
    return Fault(make, lambda root: (root / path).write_bytes(change((root / path).read_bytes())), code, path, where)


def renamed(file: str, listed: str) -> Fault:
    """The annotation file lists another spelling of the name of an existing file."""
    return Fault(
        make_coco,
        lambda root: (
            (root / PNG).rename(root / "train" / file),
            edit_coco(root, "train", lambda content: content["images"][1].update(file_name=listed)),
        ),
        "name-differs",
        TRAIN,
    )


def named(code: str, name: str, old: str = "train_2.png", file: str | None = None) -> Fault:
    """A fault of a name, both in the file system and in the annotations."""

    def plant(root: Path) -> None:
        (root / "train" / old).rename(root / "train" / name)
        edit_coco(root, "train", lambda content: content["images"][int(old[6]) - 1].update(file_name=name))

    return Fault(make_coco, plant, code, file or f"train/{name}")


def row(code: str, line: str) -> Fault:
    return text(code, LABEL, lambda old: old + f"\r\n{line}\r\n".encode(), 4)


def stray(path: str, line: str = "0 0.5 0.5 0.1 0.1") -> Fault:
    """A label file without an image."""

    def plant(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{line}\n")

    return Fault(make_yolo, plant, "label-without-image", path)


def definition(code: str, old: str, new: str) -> Fault:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return text(code, "data.yaml", change)


def metadata(code: str, content: str | bytes, where: int | None = None) -> Fault:
    """A fault of metadata.csv."""
    data = content if isinstance(content, bytes) else content.encode()
    return Fault(
        make_coco, lambda root: (root / "metadata.csv").write_bytes(data), f"metadata-{code}", "metadata.csv", where
    )


def away(path: str, code: str, place: str, make: Callable[[Path], Path] = make_coco) -> Fault:
    return Fault(make, lambda root: (root / path).rename(root.parent / "away"), code, place)


def replaced(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    def harm(path: Path) -> None:
        path.unlink()
        for step in steps:
            step(path)

    return harm


def link_out(path: Path) -> None:
    path.rename(path.parents[2] / "outside")
    path.symlink_to(path.parents[2] / "outside")


def emptied(split: str, *keys: str) -> Plant:
    def plant(root: Path) -> None:
        for path in root.glob(f"{split}/*.png") if "images" in keys else ():
            path.unlink()
        edit_coco(root, split, lambda content: content.update({key: [] for key in ("annotations", *keys)}))

    return plant


def copied(source: str, target: str, change: int = 0) -> Plant:
    """A copy of an image: identical, or with one changed pixel."""

    def plant(root: Path) -> None:
        with Image.open(root / source) as image:
            image.putpixel((3, 3), tuple(value ^ change for value in image.getpixel((3, 3))))
            image.save(root / target)

    return plant


def scaled(content: Any) -> None:
    for annotation in content["annotations"]:
        annotation["bbox"] = [value / (64, 48)[k % 2] for k, value in enumerate(annotation["bbox"])]


def as_corners(content: Any) -> None:
    for annotation, box in zip(
        content["annotations"], ([40, 30, 60, 44], [32, 24, 52, 36], [20, 30, 50, 46]), strict=True
    ):
        annotation["bbox"] = box


def crowded(content: Any) -> None:
    for k in range(300):
        content["annotations"].append({"id": 100 + k, "image_id": 1, "category_id": 3, "bbox": [1 + k / 10, 2, 9, 8]})


def two_origins(root: Path) -> None:
    for split, index in (("train", 1), ("valid", 0)):
        name = f"x_png.rf.{split}.png"
        (root / split / f"{split}_{index + 1}.png").rename(root / split / name)
        edit_coco(root, split, lambda content, index=index, name=name: content["images"][index].update(file_name=name))


def two_of_a_name(root: Path) -> None:
    for index, folder in enumerate(("a", "b")):
        (root / "train" / folder).mkdir()
        (root / "train" / f"train_{index + 1}.png").rename(root / "train" / folder / "x.png")
        name = f"{folder}/x.png"
        edit_coco(
            root, "train", lambda content, index=index, name=name: content["images"][index].update(file_name=name)
        )
    (root / "metadata.csv").write_text("file_name,site\nx.png,a\ntrain/b/x.png,a\n")


def without_test(root: Path) -> None:
    for kind in ("images", "labels"):
        (root / kind / "test").rename(root.parent / kind)


TRIANGLE = [33.0, 25.0, 50.0, 25.0, 40.0, 35.0]
NAN, INFINITE = float("nan"), float("inf")
RLE = [64 * 48 - 20, 10, 10]

ANNOTATIONS = {
    "class unknown": on("class-unknown", category_id=4),
    "class id text": on("id-not-integer", category_id="3")._replace(where=None),
    "class id a word": on("class-unknown", category_id="cat"),
    "class id true": on("class-unknown", category_id=True),
    "class id 3.0": on("id-not-integer", category_id=3.0)._replace(where=None),
    "class id 3.5": on("class-unknown", category_id=3.5),
    "class id list": on("class-unknown", category_id=[3]),
    "crowd two": on("crowd-malformed", iscrowd=2),
    "annotation to ignore": on("ignored-as-crowd", ignore=1)._replace(where=None),
    "box of three": on("box-malformed", bbox=[1, 2, 3]),
    "box of five": on("box-malformed", bbox=[1, 2, 3, 4, 5]),
    "box missing": on("box-malformed", bbox=None),
    "box of text": on("box-malformed", bbox=["1", 2, 3, 4]),
    "box of booleans": on("box-malformed", bbox=[True, 2, 3, 4]),
    "box NaN": on("box-not-finite", bbox=[NAN, 2, 3, 4]),
    "box infinite": on("box-not-finite", bbox=[1, 2, INFINITE, 4]),
    "box beyond floats": on("box-not-finite", bbox=[1, 2, 10**400, 4]),
    "box beyond all images": on("box-not-finite", bbox=[1, 2, 1e200, 1e200]),
    "box of no width": on("box-without-area", bbox=[1, 2, 0, 4]),
    "box of negative height": on("box-without-area", bbox=[1, 20, 3, -4]),
    "box of an area beyond floats": on("box-without-area", bbox=[1, 2, 1e-200, 1e-200]),
    "box outside": on("box-outside", bbox=[70, 2, 3, 4]),
    "box at the edge, outside": on("box-outside", bbox=[-3, 2, 3, 4]),
    "box partly outside": on("partly-outside", bbox=[60, 40, 10, 4]),
    "box larger than the image": on("box-beyond-image", bbox=[-30, 2, 97, 4], area=None),
    "box of a pixel": on("box-tiny", bbox=[5, 5, 1, 9], area=9),
    "box of half a pixel": on("box-tiny", bbox=[5, 5, 9, 0.5], area=4.5),
    "box of the whole image": on("box-whole-image", bbox=[0, 0, 64, 48]),
    "area too large": on("area-unlike-box", area=4000),
    "area negative": on("area-unlike-box", area=-1),
    "area NaN": on("area-unlike-box", area=NAN),
    "area text": on("area-unlike-box", area="12"),
    "annotation of no image": on("annotation-without-image", image_id=99),
    "annotation of image id text": on("id-not-integer", image_id="1")._replace(where=None),
    "annotation of no image id": on("annotation-without-image", image_id=1.5),
    "annotation doubled": Fault(make_coco, add("annotations", id=99), "annotation-doubled", TRAIN, 99),
    "box of two classes": Fault(make_coco, add("annotations", id=99, category_id=3), "box-doubled", TRAIN, 99),
    "annotation id doubled": Fault(
        make_coco, add("annotations", id=10, bbox=[1, 1, 5, 5]), "annotation-id-doubled", TRAIN, 10
    ),
    "annotation without id": on("annotation-malformed", id=None)._replace(where=None),
    "annotation id text": on("id-not-integer", id="11")._replace(where=None),
    "annotation id 11.5": on("annotation-malformed", id=11.5)._replace(where=None),
    "annotation id infinite": on("annotation-malformed", id=INFINITE)._replace(where=None),
    "annotation of negative id": on("annotation-malformed", id=-5)._replace(where=None),
    "annotation id beyond doubles": on("annotation-malformed", id=2**60)._replace(where=None),
    "annotation that is text": Fault(
        make_coco, coco(lambda content: content["annotations"].append("x")), "annotation-malformed", TRAIN
    ),
    "boxes in parts of the image": Fault(make_coco, coco(scaled), "boxes-in-other-unit", TRAIN),
    "boxes as corners": Fault(make_coco, coco(as_corners), "boxes-as-corners", TRAIN),
    "more objects than queries": Fault(make_coco, coco(crowded), "many-objects", "train/train_1.png"),
}
MASKS = {
    "polygon of two points": mask("segmentation-malformed", [[1, 2, 3, 4]]),
    "polygon of odd length": mask("segmentation-malformed", [[*TRIANGLE, 1]]),
    "polygon on a line": mask("segmentation-malformed", [[1, 1, 2, 2, 3, 3]]),
    "polygon with NaN": mask("segmentation-malformed", [[NAN, *TRIANGLE[1:]]]),
    "polygon beyond all images": mask("segmentation-malformed", [[1e200, *TRIANGLE[1:]]]),
    "polygon not nested": mask("segmentation-malformed", TRIANGLE),
    "polygon of text": mask("segmentation-malformed", [["1", *TRIANGLE[1:]]]),
    "segmentation text": mask("segmentation-malformed", "no"),
    "RLE of another size": mask("segmentation-malformed", {"size": [9, 9], "counts": [71, 10]}),
    "RLE of width and height": mask("segmentation-malformed", {"size": [64, 48], "counts": RLE}),
    "RLE of a size in floats": mask("segmentation-malformed", {"size": [48.0, 64.0], "counts": RLE}),
    "RLE too short": mask("segmentation-malformed", {"size": [48, 64], "counts": RLE[:2]}),
    "RLE too long": mask("segmentation-malformed", {"size": [48, 64], "counts": [*RLE, 5]}),
    "RLE with a negative run": mask("segmentation-malformed", {"size": [48, 64], "counts": [3082, -10]}),
    "RLE without a pixel": mask("segmentation-malformed", {"size": [48, 64], "counts": [3072]}),
    "RLE without counts": mask("segmentation-malformed", {"size": [48, 64]}),
    "compressed RLE cut off": mask("segmentation-malformed", {"size": [48, 64], "counts": "oo"}),
    "compressed RLE of other characters": mask("segmentation-malformed", {"size": [48, 64], "counts": "h\u00e9 !"}),
    "polygon partly outside": mask("partly-outside", [[40, 30, 70, 30, 40, 40]], bbox=[40, 30, 30, 10]),
    "polygon crossing itself": mask("polygon-crosses-itself", [[32, 24, 52, 36, 52, 24, 32, 30]]),
    "polygon out of its box": mask("box-unlike-mask", [[32, 24, 60, 24, 52, 36]]),
    "RLE out of its box": mask("box-unlike-mask", {"size": [48, 64], "counts": RLE}),
    "area less than the mask's": mask("area-unlike-box", [[32, 24, 52, 24, 52, 36, 32, 36]], area=20),
    "one without mask": Fault(make_masks, update("annotations", segmentation=[]), "masks-incomplete", TRAIN),
}
ENTRIES = {
    "image without id": entry("image-malformed", "images", id=None, file_name="train_3.png"),
    "image id true": entry("image-malformed", "images", id=True, file_name="train_3.png"),
    "image id text": Fault(make_coco, update("images", 2, id="x"), "id-not-integer", TRAIN),
    "image id blank": entry("image-malformed", "images", id="", file_name="train_3.png"),
    "images of no size": Fault(
        make_coco,
        coco(lambda content: [image.update(width=0, height=0) for image in content["images"]]),
        "image-size-zero",
        TRAIN,
    ),
    "image of no width": Fault(make_coco, update("images", width=0), "image-size-differs", PNG),
    "image that is a list": Fault(
        make_coco, coco(lambda content: content["images"].append([])), "image-malformed", TRAIN
    ),
    "image id doubled": entry("image-id-doubled", "images", file_name="train_3.png"),
    "image listed twice": entry("image-listed-twice", "images", id=8),
    "path with ..": entry("path-outside", "images", id=8, file_name="../train/x.png"),
    "path absolute": entry("path-outside", "images", id=8, file_name="/etc/passwd"),
    "path with a drive": entry("path-outside", "images", id=8, file_name="C:\\x.png"),
    "path of another computer": entry("path-outside", "images", id=8, file_name="\\\\host\\x.png"),
    "path with a backslash": entry("path-malformed", "images", id=8, file_name="a\\x.png"),
    "path with a line break": entry("path-malformed", "images", id=8, file_name="a\nb.png"),
    "path with NUL": entry("path-malformed", "images", id=8, file_name="a\0.png"),
    "path of half a character": entry("path-malformed", "images", id=8, file_name="\ud800.png"),
    "path too long": entry("path-malformed", "images", id=8, file_name="x" * 300),
    "path empty": entry("path-malformed", "images", id=8, file_name=""),
    "path a number": entry("path-malformed", "images", id=8, file_name=7),
    "path missing": entry("path-malformed", "images", id=8, file_name=None),
    "class id doubled": entry("class-malformed", "categories", id=7, name="cow"),
    "class name doubled": entry("class-malformed", "categories", id=8),
    "class name a number": entry("class-malformed", "categories", id=8, name=1.5),
    "class name a list, as its parent": entry("class-malformed", "categories", id=8, name=["x"], supercategory=["x"]),
    "class name blank": entry("class-malformed", "categories", id=8, name=" "),
    "class name of half a character": entry("class-malformed", "categories", id=8, name="\ud800"),
    "class id text in the table": Fault(make_coco, update("categories", id="7"), "id-not-integer", TRAIN),
    "class id a word in the table": entry("class-malformed", "categories", id="cow", name="cow"),
    "class unused": entry("class-unused", "categories", id=8, name="cow"),
    "class of another spelling": Fault(
        make_coco, add("categories", split="valid", id=8, name="D og"), "class-names-alike", VALID
    ),
    "class of valid alone": Fault(
        make_coco,
        coco(lambda content: content["categories"][1].update(name="cow"), "valid"),
        "class-not-in-train",
        VALID,
    ),
    "class of another id": Fault(
        make_coco,
        coco(
            lambda content: (content["categories"][0].update(id=4), content["annotations"][0].update(category_id=4)),
            "valid",
        ),
        "class-ids-differ",
        VALID,
    ),
    "class without objects in train": Fault(
        make_coco, update("annotations", 0, category_id=7), "class-untrained", TRAIN
    ),
    "no class": Fault(make_coco, coco(lambda content: content.update(categories=[])), "class-malformed", TRAIN),
    "no list of images": Fault(make_coco, coco(lambda content: content.pop("images")), "labels-malformed", TRAIN),
    "annotations an object": Fault(
        make_coco, coco(lambda content: content.update(annotations={})), "labels-malformed", TRAIN
    ),
}
FILES = {
    "JSON with a syntax error": text("labels-unreadable", VALID, lambda _: b'{"images": [],\n "annotations": [}', 2),
    "JSON empty": text("labels-unreadable", VALID, lambda _: b"", 1),
    "JSON without end": text("labels-unreadable", VALID, lambda old: old[:-9], 1),
    "JSON nested too deeply": text("labels-unreadable", VALID, lambda _: b"[" * 100_000),
    "JSON objects nested too deeply": text("labels-unreadable", VALID, lambda _: b'{"a":' * 100_000),
    "JSON number of 5000 digits": text("labels-unreadable", VALID, lambda _: b'{"images": ' + b"1" * 5000 + b"}"),
    "JSON not in UTF-8": text("labels-unreadable", VALID, lambda _: b"\xff\xfe{"),
    "JSON with a doubled key": text("key-doubled", TRAIN, lambda old: old.replace(b'"info"', b'"images": [], "info"')),
    "JSON with a key doubled in an annotation": text(
        "key-doubled", TRAIN, lambda old: old.replace(b'"image_id"', b'"bbox": [], "image_id"', 1), 10
    ),
    "JSON with a key doubled in what is not read": text(
        "key-doubled", TRAIN, lambda old: old.replace(b'"year"', b'"year": 1, "year"')
    ),
    "JSON with a byte order mark": text("byte-order-mark", TRAIN, lambda old: b"\xef\xbb\xbf" + old),
    "JSON a link out": file("labels-outside", link_out, TEST),
    "JSON a pipe": file("labels-missing", replaced(os.mkfifo), TEST)._replace(file="test"),
    "JSON missing": away(TEST, "labels-missing", "test"),
    "no train": away("train", "split-missing", "train"),
    "no valid": away("valid", "split-missing", "valid"),
    "valid twice": Fault(
        make_coco,
        lambda root: ((root / "val").mkdir(), write_coco(root, "val", coco_content("valid"))),
        "labels-malformed",
        "val",
    ),
    "train without images": Fault(make_coco, emptied("train", "images"), "split-empty", TRAIN),
    "valid without objects": Fault(make_coco, emptied("valid"), "split-empty", VALID),
    "train of crowds alone": Fault(
        make_coco,
        coco(lambda content: [annotation.update(iscrowd=1) for annotation in content["annotations"]]),
        "split-empty",
        TRAIN,
    ),
    "annotations of a fourth split": Fault(
        make_coco,
        lambda root: ((root / "dev").mkdir(), write_coco(root, "dev", coco_content("test"))),
        "labels-not-read",
        "dev/_annotations.coco.json",
    ),
    "annotations beside plain COCO's": Fault(
        make_plain,
        lambda root: (root / "annotations/instances_minival.json").write_text("{}"),
        "labels-not-read",
        "annotations/instances_minival.json",
    ),
    "test without objects": Fault(make_coco, emptied("test"), "test-empty", TEST),
    "two layouts": Fault(
        make_coco, lambda root: (root / "data.yaml").write_text("names: [x]"), "layout-ambiguous", "."
    ),
    "plain COCO of two years": Fault(
        make_plain,
        lambda root: (root / "annotations/instances_train2014.json").write_text("{}"),
        "labels-malformed",
        "annotations/instances_train2017.json",
    ),
    "plain COCO without a folder of images": away(
        "val2017", "labels-missing", "annotations/instances_val2017.json", make_plain
    ),
    "plain COCO with a test split without annotations": Fault(
        make_plain,
        lambda root: (
            (root / "annotations/instances_test2017.json").rename(root / "annotations/image_info_test2017.json"),
            (root / "test2017").rename(root.parent / "away"),
        ),
        "test-without-labels",
        "annotations/image_info_test2017.json",
    ),
    "named annotations missing": Fault(
        make_coco,
        lambda root: None,
        "labels-missing",
        "a.json",
        config={"coco": {"train": {"annotations": "a.json", "images": "train"}}},
    ),
    "named folder outside": Fault(
        make_coco,
        lambda root: None,
        "labels-outside",
        "../x",
        config={"coco": {"train": {"annotations": TRAIN, "images": "../x"}}},
    ),
    "hidden image": file("file-ignored", lambda path: path.write_text("x"), "train/._train_1.png"),
    "file of a file manager": file("file-ignored", lambda path: path.write_text("x"), "train/desktop.ini"),
    "hidden folder": file("file-ignored", Path.mkdir, ".cache"),
    "thumbnails of a server": file("file-ignored", lambda path: path.mkdir(parents=True), "train/@eaDir"),
    "linked folder": file("file-ignored", lambda path: path.symlink_to("."), "train/again"),
}
IMAGES = {
    "image not listed": Fault(
        make_coco, coco(lambda content: content["images"].pop(2)), "image-not-listed", "train/train_3.png"
    ),
    "image outside all splits": Fault(
        make_coco,
        lambda root: ((root / "more").mkdir(), picture(99).save(root / "more/a.png")),
        "image-not-listed",
        "more",
    ),
    "picture of another format": file("image-not-read", lambda path: picture(99).save(path), "train/a.GIF"),
    "picture of another format without a reader": file("image-not-read", Path.touch, "a.heic"),
    "image missing": file("image-missing", Path.unlink),
    "image a link to itself": file("image-missing", replaced(lambda path: path.symlink_to(path.name))),
    "image a link out": file("path-outside", link_out),
    "image a link to a device": file("path-outside", replaced(lambda path: path.symlink_to("/dev/zero"))),
    "image a pipe": file("image-unreadable", replaced(os.mkfifo)),
    "image a folder": file("image-unreadable", replaced(Path.mkdir)),
    "image truncated": file("image-unreadable", lambda path: path.write_bytes(path.read_bytes()[:-40])),
    "image empty": file("image-unreadable", lambda path: path.write_bytes(b"")),
    "image text": file("image-unreadable", lambda path: path.write_text("<svg/>")),
    "image of 32 bits": file(
        "image-unreadable", lambda path: Image.fromarray(np.ones((48, 64), np.float32)).save(path, "TIFF")
    ),
    "image of 12 bits in 16": file(
        "range-unused",
        lambda path: Image.fromarray(np.random.default_rng(5).integers(0, 4096, (48, 64)).astype(np.uint16)).save(path),
    )._replace(file=TRAIN),
    "image of four colours": file(
        "transparency-unlikely",
        lambda path: Image.merge("RGBA", (*picture(5).split(), picture(6).split()[0])).save(path),
    )._replace(file=TRAIN),
    "image of another size": file("image-size-differs", lambda path: picture(5, (48, 64)).save(path)),
    "image too large": file("image-too-large", lambda path: picture(5, (64, 49)).save(path), max_pixels=64 * 48),
    "WebP too large": file("image-too-large", lambda path: picture(5).save(path, "WEBP"), max_pixels=64 * 48 + 1),
    "JPEG of 2,000 scans": file("image-unreadable", lambda path: path.write_bytes(progressive(2_000))),
    "TIFF of 100,001 strips": file("image-unreadable", lambda path: path.write_bytes(tiff(2, 100_001, 100_001, 1))),
    "JPEG named PNG": file("image-of-other-kind", lambda path: picture(55).save(path, "JPEG")),
    "image of two frames": file(
        "image-with-frames", lambda path: picture(55).save(path, save_all=True, append_images=[picture(56)])
    ),
    "copy in another split": Fault(make_coco, copied("test/test_1.png", PNG), "leakage", PNG),
    "copy in the split": Fault(make_coco, copied("train/train_1.png", PNG), "image-doubled", PNG),
    "near copy in another split": Fault(make_coco, copied("test/test_1.png", PNG, 9), "near-leakage", PNG),
    "near copy in the split": Fault(make_coco, copied("train/train_1.png", PNG, 9), "near-doubled", PNG),
    "augmented copies in two splits": Fault(make_coco, two_origins, "origin-leakage", "train/x_png.rf.train.png"),
    "one name in two splits": named("names-in-two-splits", "valid_1.png"),
    "name of a device": named("name-not-portable", "con.png"),
    "name that begins with a space": named("name-not-portable", " a.png"),
    "name that ends with a space": named("name-not-portable", "a.png "),
    "name that ends with a dot": named("name-not-portable", "a.png."),
    "name with a question mark": named("name-not-portable", "a?.png"),
    "name that turns the direction": named("name-not-portable", "a\u202egnp.png"),
    "name of composed characters": named("name-not-portable", "e\u0301.png"),
    "names that differ by case": named("names-alike", "Train_1.png", file="train/train_1.png"),
    "file of another case": Fault(
        make_coco, lambda root: (root / PNG).rename(root / "train/TRAIN_2.png"), "name-differs", TRAIN
    ),
    "file of the characters of an address": renamed("\u00e9 2.png", listed="%C3%A9%202.png"),
    "file of other characters": renamed("e\u0301.png", listed="\u00e9.png"),
    "name that is not Unicode": Fault(
        make_coco,
        lambda root: (root / "train" / os.fsdecode(b"\xff.png")).write_bytes(b""),
        "image-not-listed",
        "train/\\udcff.png",
    ),
}
YOLO = {
    "three columns": row("annotation-malformed", "0 0.5 0.5"),
    "a track": row("annotation-malformed", "0 0.5 0.5 0.1 0.1 12"),
    "a confidence": row("annotation-malformed", "0 0.5 0.5 0.1 0.1 0.9"),
    "decimal comma": row("annotation-malformed", "0 0,5 0,5 0,1 0,1"),
    "class as text": row("annotation-malformed", "cat 0.5 0.5 0.1 0.1"),
    "class between two": row("annotation-malformed", "0.5 0.5 0.5 0.1 0.1"),
    "digits of another script": row("annotation-malformed", "\u0660 0.5 0.5 0.1 0.1"),
    "underscore in a number": row("annotation-malformed", "0 0.5 0.5 0.1 0.1_0"),
    "polygon of odd length in a row": row("annotation-malformed", "0 0.1 0.1 0.2 0.1 0.2 0.2 0.3"),
    "class too large": row("class-unknown", "2 0.5 0.5 0.1 0.1"),
    "class negative": row("class-unknown", "-1 0.5 0.5 0.1 0.1"),
    "NaN": row("box-not-finite", "0 nan 0.5 0.1 0.1"),
    "infinite polygon": row("box-not-finite", "0 0.1 0.1 inf 0.1 0.2 0.2"),
    "no width": row("box-without-area", "0 0.5 0.5 0 0.1"),
    "in pixels": row("box-outside", "0 32 24 10 10"),
    "in pixels, around all": row("box-beyond-image", "0 4 6 16 12"),
    "over the edge": row("partly-outside", "0 1 0.5 0.5 0.25"),
    "row doubled": row("annotation-doubled", "0 0.1875 0.25 0.25 0.25"),
    "all in pixels": Fault(
        make_yolo,
        lambda root: [
            (root / f"labels/train/train_{k}.txt").write_text("0 12 12 16 12\n1 42 30 20 12\n") for k in (1, 2)
        ],
        "boxes-in-other-unit",
        "data.yaml",
    ),
    "label file with a byte order mark": text("byte-order-mark", LABEL, lambda old: b"\xef\xbb\xbf" + old),
    "label file no text": text("label-unreadable", OTHER_LABEL, lambda _: b"\xff\xfe\x00"),
    "label file a pipe": Fault(
        make_yolo, lambda root: replaced(os.mkfifo)(root / OTHER_LABEL), "label-unreadable", OTHER_LABEL
    ),
    "label file a folder": Fault(
        make_yolo, lambda root: replaced(Path.mkdir)(root / OTHER_LABEL), "label-unreadable", OTHER_LABEL
    ),
    "label file a link out": Fault(
        make_yolo,
        lambda root: (
            (root / OTHER_LABEL).rename(root.parent / "outside"),
            (root / OTHER_LABEL).symlink_to(root.parent / "outside"),
        ),
        "label-unreadable",
        OTHER_LABEL,
    ),
    "label file without image": Fault(
        make_yolo,
        lambda root: (root / "labels/train/other.txt").write_text("0 0.5 0.5 0.1 0.1\n"),
        "label-without-image",
        "labels/train/other.txt",
    ),
    "label file with the characters of an address": Fault(
        make_yolo,
        lambda root: (
            (root / "images/train/train_2.png").rename(root / "images/train/d\u00e9 2.png"),
            (root / OTHER_LABEL).rename(root / "labels/train/d%C3%A9%202.txt"),
        ),
        "name-differs",
        "labels/train/d%C3%A9%202.txt",
    ),
    "label file across from no image": stray("other/labels/x.txt"),
    "label file in a folder of another case": stray("Labels/train/x.txt", "not even numbers"),
    "label file of another case": Fault(
        make_yolo,
        lambda root: (root / OTHER_LABEL).rename(root / "labels/train/Train_2.txt"),
        "name-differs",
        "labels/train/Train_2.txt",
    ),
    "label file beside images": stray("images/train/x.txt"),
    "label file in a folder of another name": stray("annotation/train_1.txt"),
    "image without a label file": Fault(
        make_yolo, lambda root: (root / OTHER_LABEL).unlink(), "image-without-labels", "data.yaml"
    ),
    "image in a folder that is not of a split": Fault(
        make_yolo,
        lambda root: ((root / "images/more").mkdir(), picture(99).save(root / "images/more/a.png")),
        "image-not-listed",
        "images/more",
    ),
    "two images of one label file": Fault(
        make_yolo,
        lambda root: picture(99).save(root / "images/train/train_1.webp", lossless=True),
        "label-shared",
        "images/train/train_1.webp",
    ),
    "YAML with a syntax error": definition("labels-unreadable", "names:", "names: [:"),
    "YAML with a doubled key": definition("labels-unreadable", "nc: 2", "nc: 2\nnc: 2"),
    "YAML that makes an object": definition("labels-unreadable", "nc: 2", "nc: !!python/object/apply:os.getcwd []"),
    "YAML with a tag": definition("labels-unreadable", "nc: 2", "nc: !x 2"),
    "YAML of two documents": definition("labels-unreadable", "nc: 2", "nc: 2\n---\nnc: 2"),
    "YAML nested too deeply": text("labels-unreadable", "data.yaml", lambda _: b"a: " + b"[" * 5000),
    "YAML of many aliases": text(
        "labels-unreadable",
        "data.yaml",
        lambda _: (
            b"a0: &a0 x\n"
            + b"".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n".encode() for k in range(1, 12))
        ),
    ),
    "YAML too large": text("labels-unreadable", "data.yaml", lambda old: old + b"#" * 2**20),
    "YAML a link out": Fault(
        make_yolo,
        lambda root: (
            (root / "data.yaml").rename(root.parent / "outside"),
            (root / "data.yaml").symlink_to(root.parent / "outside"),
        ),
        "labels-outside",
        "data.yaml",
    ),
    "YAML without keys": text("labels-malformed", "data.yaml", lambda _: b"- x"),
    "names missing": definition("class-malformed", "names: [cat, dog]", ""),
    "names with a gap": definition("class-malformed", "[cat, dog]", "{0: cat, 2: dog}"),
    "names numbers": definition("class-malformed", "[cat, dog]", "[cat, 2]"),
    "names that are numbers": definition("class-malformed", "[cat, dog]", "[0, dog]"),
    "names doubled": definition("class-malformed", "[cat, dog]", "[cat, cat]"),
    "nc differs": definition("class-malformed", "nc: 2", "nc: 3"),
    "path of another machine": definition("labels-outside", "path: .", "path: /home/someone/data"),
    "path of Windows": definition("labels-outside", "path: .", "path: C:/data"),
    "path that leaves": definition("labels-outside", "path: .", "path: ../.."),
    "path that is not there": definition("base-ignored", "path: .", "path: coco8"),
    "path a number in YAML": definition("labels-malformed", "path: .", "path: 3"),
    "folder of valid missing": definition("labels-missing", "images/valid", "images/vaild"),
    "one of two test folders missing": definition("labels-missing", "images/test", "[images/test, images/more]"),
    "test folder missing": Fault(make_yolo, without_test, "test-missing", "data.yaml"),
    "test folder too long": definition("labels-malformed", "images/test", "x" * 300),
    "test folder with NUL": definition("labels-malformed", "images/test", '"a\\0b"'),
    "pose dataset": definition("keypoints-ignored", "nc: 2", "nc: 2\nkpt_shape: [3, 2]"),
    "pose dataset malformed": definition("labels-malformed", "nc: 2", "nc: 2\nkpt_shape: 17"),
}
METADATA = {
    "metadata not UTF-8": metadata("unreadable", b"file_name,site\ntrain_1.png,M\xfcnchen\n", 2),
    "metadata empty": metadata("unreadable", ""),
    "metadata that begins with an empty line": metadata("unreadable", "\nfile_name,site\ntrain_1.png,a\n", 1),
    "metadata with an open quote": metadata("unreadable", 'file_name,site\ntrain_1.png,"a\n'),
    "metadata without file names": metadata("unreadable", "image,site\ntrain_1.png,a\n", 1),
    "metadata with semicolons": metadata("unreadable", "file_name;site\ntrain_1.png;a\n", 1),
    "metadata with two columns of names": metadata("unreadable", "file_name,file name\ntrain_1.png,a\n", 1),
    "metadata of many columns": metadata("unreadable", f"file_name{',a' * 200}\n", 1),
    "metadata a link out": Fault(
        make_coco,
        lambda root: (
            (root.parent / "outside").write_text("file_name,site\ntrain_1.png,a\n"),
            (root / "metadata.csv").symlink_to(root.parent / "outside"),
        ),
        "metadata-unreadable",
        "metadata.csv",
    ),
    "metadata a folder": Fault(
        make_coco, lambda root: (root / "metadata.csv").mkdir(), "metadata-unreadable", "metadata.csv"
    ),
    "metadata a pipe": Fault(
        make_coco, lambda root: os.mkfifo(root / "metadata.csv"), "metadata-unreadable", "metadata.csv"
    ),
    "metadata column without a name": metadata("column", "file_name,site, \ntrain_1.png,a,\n", 1),
    "metadata column doubled": metadata("column", "file_name,site,Site \ntrain_1.png,a,a\n", 1),
    "metadata column of two spellings": metadata("column", "file_name,license,licence\ntrain_1.png,a,a\n", 1),
    "metadata column path": metadata("column", "file_name,path\ntrain_1.png,a\n", 1),
    "metadata row too short": metadata("row", 'file_name,site,note\ntrain_1.png,a,"b"\n\ntrain_2.png,a\n', 4),
    "metadata row too long": metadata("row", "file_name,site\ntrain_1.png,a,b,c,d\ntrain_2.png,a\n", 2),
    "metadata row of no image": metadata("row", "file_name,site\n ,a\n", 2),
    "metadata of one image twice": metadata("doubled", "file_name,site\ntrain_1.png,a\ntrain/train_1.png,b\n", 3),
    "metadata of two images": Fault(make_coco, two_of_a_name, "metadata-ambiguous", "metadata.csv", 2),
    "metadata of no image": metadata("without-image", "file_name,site\ntrain_1.png,a\ntrain_9.png,a\n", 3),
    "metadata value too long": metadata("value", f"file_name,site\ntrain_1.png,{'a' * 1001}\n", 2),
    "metadata value of two lines": metadata("value", 'file_name,site\ntrain_1.png,"a\nb"\n', 2),
    "licence not listed": Fault(make_coco, update("images", license=3), "metadata-licence-unknown", TRAIN),
}
FAULTS: dict[str, Fault] = ANNOTATIONS | MASKS | ENTRIES | FILES | IMAGES | YOLO | METADATA

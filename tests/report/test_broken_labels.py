"""Labels that were broken on purpose are among the first suspects of a well trained model."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfdetr_core import RFDETRPico
from rfdetr_core.audit.seen import Seen
from rfdetr_core.base import files
from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.report.suspects import examine
from tests.broken import ADDED, MOVED, OTHER, REMOVED, break_labels
from tests.rendered import coco, write_dataset

SPLITS = {"train": range(90), "valid": range(90, 100), "test": range(100, 200)}
TRAINED_ON = {
    "train": 18,
    "valid": 2,
}  # the number of broken labels: the same share as in the examined images (about 1.6 labels per image)


@pytest.mark.slow
def test_of_20_broken_labels_15_are_among_the_first_40_suspects(tmp_path: Path) -> None:
    """A Pico is trained on 90 images of two classes; 10 more choose the epoch; 100 others are examined.

    The same share of the labels is broken in all three splits. The correct labels of the 100 images are used only to
    check that the model is good. The labels to break in them are drawn five times, with the same model.
    """
    labels = {name: break_labels(coco(SPLITS[name]), count)[0] for name, count in TRAINED_ON.items()}
    write_dataset(tmp_path / "data", SPLITS, labels)
    model = RFDETRPico(resolution=64, num_queries=15, device="cpu")
    model.train(
        dataset_dir=tmp_path / "data",
        output_dir=tmp_path / "run",
        epochs=50,
        batch_size=8,
        lr=1e-3,
        lr_encoder=6e-4,
        lr_vit_layer_decay=1.0,
        lr_component_decay=1.0,
        lr_scheduler="cosine",
        warmup_epochs=3,
        augmentation={"vertical_flip": 0.5, "quarter_turn": 0.5},
        multi_scale="off",
        amp_dtype=None,
        eval_interval=10,
        best_model_metric="map_50",
        num_workers=0,
    )
    assert model.evaluate("test", output_dir=tmp_path / "run")["map_50"] >= 0.9
    assert model.data is not None
    path, _ = model.data.split("test")
    right = files.read_json(path)
    predictor = Predictor.from_checkpoint(tmp_path / "run" / "checkpoint_best_total.pth", device="cpu")
    for seed in range(5):
        annotations, broken = break_labels(right, 20, seed)
        assert [sum(label.kind == kind for label in broken) for kind in (MOVED, REMOVED, ADDED, OTHER)] == [5, 5, 5, 5]
        files.write_json(path, annotations)
        first = examine(predictor, model.data, "test", Seen({}, [])).table.head(40)
        assert sum(label.is_suspected(first) for label in broken) >= 15

"""Records outputs of upstream's model: `python -m tests.parity.record` writes tests/model/recorded.json."""

from __future__ import annotations

import json
from typing import Any

import torch

from rfdetr_core.ops.structures import MaskFactors
from tests.model.test_recorded import ARCHITECTURES, IMAGES, RECORD, digest
from tests.parity.reference import build_upstream_like, nested, random_weights


@torch.inference_mode()
def record() -> dict[str, Any]:
    """Digests of upstream's outputs by architecture, mode and output."""
    recorded: dict[str, Any] = {}
    for name, architecture in ARCHITECTURES.items():
        model = build_upstream_like(architecture)
        model.load_state_dict(random_weights(model))
        recorded[name] = {}
        for mode in ("eval", "train"):
            output = model.double().train(mode == "train")(nested(IMAGES))
            digests = {"logits": digest(output["pred_logits"]), "boxes": digest(output["pred_boxes"])}
            if isinstance(masks := output.get("pred_masks"), dict):
                masks = MaskFactors(masks["spatial_features"], masks["query_features"], masks["bias"]).dense()
            recorded[name][mode] = digests if masks is None else digests | {"masks": digest(masks)}
    return recorded


if __name__ == "__main__":
    RECORD.write_text(json.dumps(record(), indent=1) + "\n")

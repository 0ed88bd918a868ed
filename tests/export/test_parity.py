"""The comparison of a file with its checkpoint. Instead of a file, tests use the graph in torch, broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.loading import build_from_checkpoint
from rfdetr_core.export import graph as graphs
from rfdetr_core.export.graph import CHOSEN, CompleteGraph, RawGraph
from rfdetr_core.export.parity import TOLERANCE, Array, Differences, FileWithTokens, compare, compare_batches
from rfdetr_core.inference.sessions import Session
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.detector import Detector
from rfdetr_core.model.proposals import best_tokens
from tests.checkpoint.tiny import TINY
from tests.evaluation.scene import write_random_checkpoint

Outputs = dict[str, Array]


class TorchSession(Session):
    """A graph in torch with the interface of a session. break_outputs: changes the outputs in place."""

    path, runtime, precision, device, threads = Path("model.onnx"), "torch", "f32", "cpu", 1

    def __init__(self, graph: Any, break_outputs: Callable[[Outputs], None] | None = None) -> None:
        self.graph, self.break_outputs = graph, break_outputs
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.network = graph.network if isinstance(graph, RawGraph) else graph.raw.network
        self.sizes: list[int] = []

    def _run(self, inputs: dict[str, Array]) -> Outputs:
        (images,) = (torch.from_numpy(array) for array in inputs.values())
        self.sizes.append(len(images))
        choose, chosen = self.network.proposer.choose, []

        def note(scores: Tensor, count: int) -> Tensor:
            chosen.append(choose(scores, count))
            return chosen[0]

        self.network.proposer.choose = note
        try:
            with torch.no_grad():
                outputs = {
                    name: value.numpy().copy() for name, value in zip(self.outputs, self.graph(images), strict=True)
                }
        finally:
            self.network.proposer.choose = choose
        if self.break_outputs:
            self.break_outputs(outputs)
        return outputs | {CHOSEN: chosen[0].numpy()}


Source = tuple[Architecture, Detector]


@pytest.fixture(scope="module", params=[False, True], ids=["detector", "segmenter"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("source") / "model.pth"
    write_random_checkpoint(path, replace(TINY, queries=12, segmentation=request.param))
    built = build_from_checkpoint(path)
    return built.architecture, built.detector


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(3)
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((48, 40), (33, 80))]


def make_graph(source: Source, kind: str) -> RawGraph | CompleteGraph:
    """kind: raw, uint8 or float."""
    architecture, detector = source
    complete: Any = CompleteGraph(detector, architecture, kind, branches=False)
    return RawGraph(detector, architecture) if kind == "raw" else complete


def check(source: Source, graph: Any, break_outputs: Any = None, batch: int | None = None) -> Differences:
    session = TorchSession(graph, break_outputs)
    images = "normalised" if isinstance(graph, RawGraph) else graph.kind
    return compare(FileWithTokens(session, session, images), source[1], source[0], pictures(), batch)


@pytest.mark.parametrize("kind", ["raw", "uint8", "float"])
def test_an_equal_file_passes_and_each_query_is_counted(source: Source, kind: str) -> None:
    differences = check(source, make_graph(source, kind))
    assert max(differences.boxes, differences.scores, differences.masks or 0) < TOLERANCE / 5
    assert (differences.masks is not None) == source[0].segmentation
    assert differences.figures()["batches"] == [1, 3]
    assert differences.queries == 3 * (1 + 3) * 12  # two pictures and noise, alone and three together
    assert differences.ties == 0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_file_for_a_fixed_number_of_images_is_run_with_this_number(source: Source, size: int) -> None:
    assert check(source, make_graph(source, "uint8"), batch=size).figures()["batches"] == [size]


def wrong_mean(graph: CompleteGraph) -> None:
    graph.mean[0] += 0.004  # a level of 255


def other_query(graph: CompleteGraph) -> None:
    graph.raw.network.query_features[5] += 0.05


def other_class_order(graph: CompleteGraph) -> None:
    graph.raw.network.class_head.weight.data = graph.raw.network.class_head.weight[[1, 0, 2, 3]]
    graph.raw.network.class_head.bias.data = graph.raw.network.class_head.bias[[1, 0, 2, 3]]


@pytest.mark.parametrize("break_graph", [wrong_mean, other_query, other_class_order])
def test_a_graph_that_computes_something_else_fails(source: Source, break_graph: Callable[[Any], None]) -> None:
    graph = make_graph(source, "uint8")
    with torch.no_grad():
        break_graph(graph)
    with pytest.raises(UserError, match="has no counterpart"):
        check(source, graph)


@pytest.mark.parametrize("how", [{"mode": "nearest"}, {"mode": "bilinear"}, {"mode": "bilinear", "antialias": True}])
def test_another_resize_fails(source: Source, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds, too, for the same filter without rounding to 8 bits."""

    def resize(pixels: Tensor, side: int, *, branches: bool) -> Tensor:
        return torch.nn.functional.interpolate(pixels, (side, side), **how)

    monkeypatch.setattr(graphs, "resize_as_pillow", resize)
    with pytest.raises(UserError, match="has no counterpart"):
        check(source, make_graph(source, "uint8"))


def moved(outputs: Outputs) -> None:
    if "dets" in outputs:
        outputs["dets"][-1, 3, 0] += 2 * TOLERANCE
    else:
        outputs["boxes"][-1, 3, 0] += 0.02  # pixels, of 120 at most


def lost(outputs: Outputs) -> None:
    outputs["dets" if "dets" in outputs else "boxes"][-1, 3, 1] = np.nan


def last_lost(outputs: Outputs) -> None:
    outputs["dets" if "dets" in outputs else "boxes"][-1, -1, 1] = np.nan


def rescored(outputs: Outputs) -> None:
    if "labels" in outputs:
        outputs["labels"][-1, 3] += 0.01
    else:
        outputs["scores"][-1, 3] += 2 * TOLERANCE


def swapped(outputs: Outputs) -> None:
    """Class ids that are off by one."""
    if "labels" in outputs:
        outputs["labels"][:] = np.roll(outputs["labels"], 1, axis=-1)
    else:
        outputs["classes"] += 1


def doubled(outputs: Outputs) -> None:
    """One query is returned twice, instead of the next one."""
    for name, values in outputs.items():
        if name != CHOSEN:
            values[-1, 4] = values[-1, 3]


@pytest.mark.parametrize("kind", ["raw", "uint8"])
@pytest.mark.parametrize("break_outputs", [moved, lost, last_lost, rescored, swapped, doubled])
def test_other_outputs_fail(source: Source, kind: str, break_outputs: Any) -> None:
    with pytest.raises(UserError, match=r"has no counterpart|(boxes|scores) differ by [0-9.e-]*(nan)? from those of"):
        check(source, make_graph(source, kind), break_outputs)


@pytest.mark.parametrize("kind", ["raw", "uint8"])
@pytest.mark.parametrize("value", [0.01, np.nan])
def test_other_masks_fail(source: Source, kind: str, value: float) -> None:
    if not source[0].segmentation:
        pytest.skip("a detector has no masks")

    def change(outputs: Outputs) -> None:
        place = np.unravel_index(
            np.abs(outputs["masks"]).argmin(), outputs["masks"].shape
        )  # far from 0, all probabilities are 0 or 1
        outputs["masks"][place] += value

    with pytest.raises(UserError, match=r"^masks differ by \S+ from those of the checkpoint, more than 0\.0001\.$"):
        check(source, make_graph(source, kind), change)


@pytest.mark.parametrize("kind", ["raw", "uint8"])
def test_a_batch_whose_last_images_are_wrong_fails(source: Source, kind: str) -> None:
    def repeat_first(outputs: Outputs) -> None:
        for values in outputs.values():
            values[1:] = values[:1]

    with pytest.raises(UserError, match=r"has no counterpart|differ by"):
        check(source, make_graph(source, kind), repeat_first)


def test_detections_are_compared_where_all_scores_tie(source: Source) -> None:
    """The class head of an untrained model gives each query the same score."""
    architecture, detector = source
    flat = build_flat(architecture, detector)
    assert check((architecture, flat), make_graph((architecture, flat), "uint8")).boxes < TOLERANCE
    with pytest.raises(UserError, match=r"detection 3 of the file .* has no counterpart"):
        check((architecture, flat), make_graph((architecture, flat), "uint8"), moved)


def build_flat(architecture: Architecture, detector: Detector) -> Detector:
    import copy

    flat = copy.deepcopy(detector)
    torch.nn.init.zeros_(flat.class_head.weight)
    torch.nn.init.constant_(flat.class_head.bias, -4.6)
    return flat


def choosing(source: Source, margin: float) -> RawGraph:
    """A graph that replaces the last chosen token by the next one. Its score is lower by `margin`."""
    graph: Any = make_graph(source, "raw")

    def choose(scores: Tensor, count: int) -> Tensor:
        order = best_tokens(scores, count + 1)
        return torch.cat([order[:, : count - 1], order[:, count:]], dim=1)

    graph.network.proposer.choose = choose
    return graph


def tie(source: Source, margin: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all tokens scores that are `margin` apart from each other, in the detector and its graphs."""
    from rfdetr_core.model.proposals import ProposalHead

    def ladder(self: ProposalHead, tokens: Tensor) -> Tensor:
        order = (torch.arange(tokens.shape[1]) * 7) % 16
        return (order * margin).expand(tokens.shape[0], -1)

    monkeypatch.setattr(ProposalHead, "scores", ladder)


def test_tokens_that_nearly_tie_are_followed_and_counted(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    tie(source, TOLERANCE / 2, monkeypatch)
    differences = check(source, choosing(source, TOLERANCE / 2))
    assert differences.boxes < TOLERANCE / 5
    assert differences.ties == 3 * (1 + 3)  # one token of each image


def test_a_file_that_starts_from_other_tokens_fails(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    tie(source, TOLERANCE * 2, monkeypatch)
    with pytest.raises(UserError, match="query 11 has no counterpart: the file starts it from another position"):
        check(source, choosing(source, TOLERANCE * 2))


def test_a_file_that_starts_two_queries_from_one_token_fails(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds even if the token ties with the one that is left out."""
    tie(source, 0.0, monkeypatch)
    graph: Any = make_graph(source, "raw")
    graph.network.proposer.choose = lambda scores, count: best_tokens(scores, count)[:, [0, *range(count - 1)]]
    with pytest.raises(UserError, match="starts two queries of one image from the same position"):
        check(source, graph)


def test_a_comparison_does_not_change_the_detector(source: Source) -> None:
    before = {**vars(source[1].proposer)}
    check(source, make_graph(source, "raw"))
    assert vars(source[1].proposer) == before


def test_batches_of_a_rounded_file_are_compared_with_single_images(source: Source) -> None:
    graph, side = make_graph(source, "raw"), source[0].resolution
    assert compare_batches(TorchSession(graph), "normalised", side, pictures()[0]) < TOLERANCE

    def change(outputs: Outputs) -> None:
        if len(outputs["dets"]) == 3:
            outputs["dets"][2, 0, 0] += 2 * TOLERANCE

    with pytest.raises(UserError, match=r"images in a batch differ by 0\.0002 from the same images alone"):
        compare_batches(TorchSession(graph, change), "normalised", side, pictures()[0])

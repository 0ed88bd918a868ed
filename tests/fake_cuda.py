"""Fake tensors on "cuda" without a GPU: shapes and devices without numbers. They show where the host would wait.

In `fake_cuda()`, an operation that needs a number of a tensor raises: `item`, `bool`, `nonzero`, an index of booleans.
An operation on tensors of two devices raises, too. `Watched` records implicit copies, as in `new_tensor`.
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Copy(NamedTuple):
    """A copy between two devices. waits: the host waits until the device has finished it."""

    operation: str
    to: str
    waits: bool
    line: str


class Watched(TorchDispatchMode):
    """Records the copies between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[Copy] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        result = func(*args, **keywords)
        before, after = (
            [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)] for tree in ((args, keywords), result)
        )
        if len({tensor.device.type for tensor in (*before, *after)}) > 1:
            to = after[0].device.type
            # Only a copy to the device can be asynchronous; the host must wait for a copy to itself.
            waits = to == "cpu" or not keywords.get("non_blocking")
            self.copies.append(Copy(str(func), to, waits, _line_of_the_core()))
        return result

    @property
    def waits(self) -> list[Copy]:
        return [copy for copy in self.copies if copy.waits]


def _line_of_the_core() -> str:
    lines = [frame for frame in traceback.extract_stack() if "/rfdetr_core/" in frame.filename]
    return f"{lines[-1].filename}:{lines[-1].lineno}: {lines[-1].line}" if lines else ""


@contextmanager
def fake_cuda() -> Iterator[Watched]:
    """Make all new tensors fake in this block. A tensor from outside is refused."""
    with FakeTensorMode(allow_non_fake_inputs=False), Watched() as watched:
        yield watched


def to_fake_cuda(module: nn.Module) -> None:
    """Replace parameters and buffers by fake ones on CUDA. Any other tensor stays, and will be refused."""
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(empty_like(value), value.requires_grad))
        for name, value in part.named_buffers(recurse=False):
            setattr(part, name, empty_like(value))


def empty_like(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype, device="cuda")


def backward(loss: Tensor) -> dict[Tensor, Tensor]:
    """The gradient of each leaf. Autograd's own engine would need a real device."""
    gradients: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    gradients[loss.grad_fn][0] = torch.ones_like(loss)
    leaf_gradients = {}
    for node in _from_end_to_start(loss.grad_fn):
        arriving = gradients.pop(node, {})
        if not arriving:
            continue
        if hasattr(node, "variable"):
            leaf_gradients[node.variable] = arriving[0]
            continue
        arguments = [arriving.get(number) for number in range(len(node._input_metadata))]
        edges = node.next_functions
        if isinstance(
            node, BackwardCFunction
        ):  # a Python function also returns gradients for inputs that are not tensors
            outgoing = [
                value for value, needed in zip(node.apply(*arguments), node.needs_input_grad, strict=True) if needed
            ]
            edges = [edge for edge in edges if edge[0] is not None]
        else:
            outgoing = node(*arguments)
            outgoing = outgoing if isinstance(outgoing, tuple) else (outgoing,)
        for (next_node, number), gradient in zip(edges, outgoing, strict=True):
            if next_node is not None and gradient is not None:
                # The engine, not the node, sums the gradient of a broadcast tensor.
                gradient = gradient.sum_to_size(next_node._input_metadata[number].shape)
                before = gradients[next_node].get(number)
                gradients[next_node][number] = gradient if before is None else before + gradient
    return leaf_gradients


def _from_end_to_start(end: Any) -> list[Any]:
    """All nodes of a graph, each before the nodes that get gradients from it."""
    order, visited, open_nodes = [], {end}, [(end, iter(end.next_functions))]
    while open_nodes:
        node, following = open_nodes[-1]
        for next_node, _ in following:
            if next_node is not None and next_node not in visited:
                visited.add(next_node)
                open_nodes.append((next_node, iter(next_node.next_functions)))
                break
        else:
            order.append(node)
            open_nodes.pop()
    return order[::-1]

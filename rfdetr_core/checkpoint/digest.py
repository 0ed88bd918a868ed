"""The digest of a model's tensors, whatever file they are in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from rfdetr_core.checkpoint.keys import upstream_weights


def tensor_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tensors of a detector, given by our names, sorted by upstream's.

    Of each: name, dtype, shape and bytes (little-endian, row-major), each preceded by its length in 8 bytes. So a file
    that is renamed, or saved again by another tool, keeps the digest, and any changed weight changes it.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(upstream_weights(dict(weights)).items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        shape = ",".join(map(str, tensor.shape))
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        for field in (name.encode(), dtype.encode(), shape.encode(), content):
            digest.update(len(field).to_bytes(8, "little"))
            digest.update(field)
    return digest.hexdigest()

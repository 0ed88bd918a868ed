"""Computes seeds from a purpose and numbers such as epoch and image. Seeds do not depend on processes or restarts."""

from __future__ import annotations

import hashlib

import torch


def mixed_seed(*parts: int | str) -> int:
    """A seed of 63 bits from integers and texts. Equal parts give equal seeds on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A new CPU generator, seeded with `mixed_seed`. torch's global generator is not used."""
    return torch.Generator().manual_seed(mixed_seed(*parts))

"""Seeds that are pure functions of what they are for, so that no process, worker or restart can shift them."""

from __future__ import annotations

import hashlib

import torch


def mixed_seed(*parts: int | str) -> int:
    """A seed of 63 bits from integers and texts; equal parts give equal seeds on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator of its own, seeded with `mixed_seed`; the global one is left alone."""
    return torch.Generator().manual_seed(mixed_seed(*parts))

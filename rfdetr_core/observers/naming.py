"""Names that MLflow takes: a class may be called anything."""

from __future__ import annotations

import hashlib
import re

_LONGEST = 250
_DIGEST = 32
# What MLflow's pattern lacks; the colon that escapes it; and as MLflow refuses what is another path when normalised,
# the dot that makes a part "." or "..", one of two at the start, and a slash beside which a part is empty.
_ESCAPED = re.compile(r"[^\w/.\- ]|(?<![^/])\.(?=\.?(?:/|\Z))|\A\.(?=\.)|\A/|(?<=/)/|/\Z")


def mlflow_name(key: str) -> str:
    """A key as the name of a metric or param: no two keys have the same, and most have themselves.

    What MLflow would refuse is written as the bytes of its UTF-8, each as a colon and two hexadecimal digits. Of a name
    that is too long the end is a digest.
    """
    name = _ESCAPED.sub(lambda found: _bytes(found.group()), key) or ":"
    if len(name) <= _LONGEST:
        return name
    # An escape never has two colons.
    end = "::" + hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
    return name[: _LONGEST - len(end)] + end


def _bytes(character: str) -> str:
    return "".join(f":{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))

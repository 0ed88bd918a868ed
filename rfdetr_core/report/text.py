"""Numbers, nouns, colours and names as text."""

from __future__ import annotations

DASH = "\N{EN DASH}"  # for a missing value
TIMES = "\N{MULTIPLICATION SIGN}"


def number(value: float) -> str:
    """A number with thousands separators: 12,345."""
    return f"{value:,}"


def percent(part: float, whole: float) -> str:
    """A share in per cent with one digit after the point, or a dash if `whole` is 0."""
    return f"{100 * part / whole:.1f} %" if whole else DASH


def short(value: float) -> str:
    """A number with three digits, from 1,000 on with two and a k: 1.41, 22.6, 1.4k."""
    return f"{float(f'{value / 1000:.2g}'):g}k" if value >= 1000 else f"{float(f'{value:.3g}'):g}"


def plural(count: int, noun: str) -> str:
    """A number with its noun: 1 class, 2 classes."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def hue(index: int) -> str:
    """The colour of a class in pictures, by its index. Consecutive classes have very different colours."""
    return f"hsl({(index * 137.508 + 48) % 360:.0f} 95% 58%)"


def isolated(name: str) -> str:
    """A name for use in a sentence. Right-to-left characters in it do not change the direction of the sentence."""
    return f"\u2068{name}\u2069"

"""Numbers as text."""

from __future__ import annotations

DASH = "\N{EN DASH}"  # where there is no value
TIMES = "\N{MULTIPLICATION SIGN}"


def number(value: float) -> str:
    """A number with its thousands apart: 12,345."""
    return f"{value:,}"


def percent(part: float, whole: float) -> str:
    """A share in per cent with one digit, or a dash where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else DASH


def short(value: float) -> str:
    """A number in three digits, or two and a k: 1.41, 22.6, 1.4k."""
    return f"{float(f'{value / 1000:.2g}'):g}k" if value >= 1000 else f"{float(f'{value:.3g}'):g}"


def plural(count: int, noun: str) -> str:
    """A number and its noun: 1 class, 2 classes."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def hue(index: int) -> str:
    """The colour of a class in pictures, by its index: far apart for neighbours."""
    return f"hsl({(index * 137.508 + 48) % 360:.0f} 95% 58%)"


def isolated(name: str) -> str:
    """A name within a sentence: what it has of other directions of writing does not turn the rest."""
    return f"\u2068{name}\u2069"

"""Kubernetes quantities ("500m", "4Gi", "1e3") as numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

_SUFFIXES: dict[str, Fraction] = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12), "P": Fraction(10**15),
    "E": Fraction(10**18), "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30),
    "Ti": Fraction(2**40), "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip
_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d{1,3})|([numkMGTPE]|[KMGTPE]i)?)")


def parse(text: str | int | float) -> Fraction:
    """The exact value of a quantity.

    Raises:
        ValueError: it is not one.
    """
    found = _FORM.fullmatch(str(text))
    if found is None:
        raise ValueError(f"{text!r} is no quantity")
    number, exponent, suffix = found.groups()
    return Fraction(number) * (Fraction(10) ** int(exponent) if exponent else _SUFFIXES[suffix or ""])


def divided(value: Fraction, divisor: str) -> int:
    """`value` in units of `divisor`, rounded up, as the downward API shows resources ("0" and "" mean 1)."""
    unit = parse(divisor or "1") or Fraction(1)
    return math.ceil(value / unit)


def total(parts: Iterable[Mapping[str, Fraction]]) -> dict[str, Fraction]:
    """Sum of resource lists."""
    result: dict[str, Fraction] = {}
    for part in parts:
        for name, value in part.items():
            result[name] = result.get(name, Fraction(0)) + value
    return result


def show(value: Fraction) -> str:
    """A plain number: whole units where it is whole, else thousandths."""
    return str(value.numerator) if value.denominator == 1 else f"{math.ceil(value * 1000)}m"

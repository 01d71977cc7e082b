"""Check digits, written here anew: sharing an engine's own arithmetic would hide its mistakes."""

from __future__ import annotations

import unicodedata

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def digits(text: str) -> str:
    """The digits of a text as ASCII, full-width ones too, and a final X; all else is dropped."""
    plain = unicodedata.normalize("NFKC", text)
    return "".join(character for character in plain.upper() if character in "0123456789X")


def cn_id_check(first17: str) -> str:
    """The last character of a Chinese identity number (GB 11643, MOD 11-2)."""
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, first17, strict=True))
    return "10X98765432"[total % 11]


def luhn_check(digits_before: str) -> str:
    """The last digit of a bank card: with it, the sum with every second digit doubled from the right ends in 0."""
    total = 0
    for at, digit in enumerate(reversed(digits_before)):
        value = int(digit) * (2 if at % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def is_cn_id(text: str) -> bool:
    """Whether a text holds 18 characters of a Chinese identity number with the right check character."""
    plain = digits(text)
    return len(plain) == 18 and plain[:17].isdigit() and cn_id_check(plain[:17]) == plain[17]


def is_bank_card(text: str) -> bool:
    """Whether a text holds 13 to 19 digits with the right Luhn digit."""
    plain = digits(text)
    return plain.isdigit() and 13 <= len(plain) <= 19 and luhn_check(plain[:-1]) == plain[-1]

"""Check digits and plausibility of numbers."""

from __future__ import annotations

from datetime import date

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECK = "10X98765432"


def luhn(number: str) -> bool:
    """The check digit of bank cards (ISO/IEC 7812-1). `number` is digits only."""
    total = 0
    for place, character in enumerate(reversed(number)):
        digit = int(character) * (1 + place % 2)
        total += digit - 9 if digit > 9 else digit
    return total % 10 == 0


def mod_11_2(number: str) -> bool:
    """The check character of an 18-character Chinese resident ID (GB 11643-1999, ISO 7064 MOD 11-2)."""
    if len(number) != 18 or not number[:17].isdigit():
        return False
    remainder = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, number, strict=False)) % 11
    return _ID_CHECK[remainder] == number[17].upper()


def resident_id(number: str) -> bool:
    """A number of 18 characters that carries a possible birth date: a wrong check digit may be a slip of the pen."""
    if not plausible_date(number[6:10], number[10:12], number[12:14]):
        return False
    return mod_11_2(number) or number[0] in "123456789"


def old_resident_id(number: str) -> bool:
    """The 15-digit form issued before 1999."""
    return number[0] in "12345678" and plausible_date("19" + number[6:8], number[8:10], number[10:12])


def bank_card(number: str) -> bool:
    """13 to 19 digits with a right check digit."""
    digits = "".join(filter(str.isdigit, number))
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits)


def ip_address(text: str) -> bool:
    """Four numbers of at most 255."""
    return all(int(part) <= 255 for part in text.split("."))


def plausible_date(year: str, month: str, day: str) -> bool:
    """A day of the calendar between 1850 and 2199."""
    try:
        return 1850 <= date(int(year), int(month), int(day)).year < 2200
    except ValueError:
        return False

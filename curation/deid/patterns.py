"""Compiling patterns: RE2, so that no input can make a search slow; its messages stay silent."""

from __future__ import annotations

from typing import Any

import re2

# Latin letters with their accents. Small ranges keep RE2's automata small, the Unicode classes do not.
UPPER = "A-ZÀ-ÖØ-ÞĀ-ſ"
LETTER = "A-Za-zÀ-ÖØ-öø-ɏ"


def compiled(pattern: str) -> Any:
    """An RE2 pattern; `{U}` and `{L}` stand for the ranges of Latin capitals and letters inside brackets."""
    options = re2.Options()
    options.max_mem = 256 << 20
    options.log_errors = False
    return re2.compile(pattern.replace("{U}", UPPER).replace("{L}", LETTER), options)

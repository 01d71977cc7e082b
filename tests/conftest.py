"""Marks every test of tests/lab as one that needs the lab."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder says what it needs, so that no mark can be forgotten."""
    for item in items:
        if Path(__file__).parent / "lab" in item.path.parents:
            item.add_marker(pytest.mark.lab)

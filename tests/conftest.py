"""Marks every test of tests/lab as one that needs the lab."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder says what it needs, so that no mark can be forgotten. The long ones come last: what the gate runs
    is known first.
    """
    for item in items:
        if Path(__file__).parent / "lab" in item.path.parents:
            item.add_marker(pytest.mark.lab)
    items.sort(key=lambda item: item.get_closest_marker("long") is not None)

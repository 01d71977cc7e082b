"""Keeps libraries that change the interpreter away from each other: unit tests share their processes."""

from __future__ import annotations

import sys

import pytest

from tests.s3_server import endpoint

__all__ = ["endpoint"]

_INTERN = sys.intern


@pytest.fixture(autouse=True)
def _the_interpreters_own_intern(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """ansible-core replaces `sys.intern` for good when it is imported; torch._dynamo refuses anything else there."""
    if request.module.__name__.rpartition(".")[2].startswith("test_trainer"):
        monkeypatch.setattr(sys, "intern", _INTERN)

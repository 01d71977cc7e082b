"""The form of an image's name that the admission policy asks for."""

from __future__ import annotations

import re

import pytest
from medllm_k8s.admission_rules import PINNED

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    "image",
    [
        "registry.internal/medllm:32b-v1.0", "registry.internal:5000/a/medllm:1", f"registry.internal/medllm@{DIGEST}",
        f"registry.internal:5000/a/medllm:1@{DIGEST}",
    ],
)  # fmt: skip
def test_a_version_or_a_digest_is_let_in(image: str) -> None:
    assert re.search(PINNED, image)


@pytest.mark.parametrize(
    "image",
    [
        "medllm", "medllm:1", "registry.internal/medllm", "registry.internal/medllm:", "registry.internal:5000/medllm",
        "registry.internal:5000/a/medllm", "registry.internal/medllm@sha256:0a",
        f"registry.internal/medllm@md5:{'0' * 32}", f"registry.internal/medllm:1@{DIGEST}0",
        "registry.internal/medllm:1 ",
    ],
)  # fmt: skip
def test_what_may_be_another_image_tomorrow_is_not(image: str) -> None:
    """The port of a registry is no version."""
    assert not re.search(PINNED, image)

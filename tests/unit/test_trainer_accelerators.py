"""Each declared accelerator is looked for where its package puts it; nothing falls back to another one."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from medllm.errors import UserError
from trainer.ranks import BACKENDS, require_accelerator


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch_npu as this machine can't have it: importable, and `torch.npu` is there from then on."""
    monkeypatch.setitem(sys.modules, "torch_npu", ModuleType("torch_npu"))
    monkeypatch.setattr(torch, "npu", SimpleNamespace(is_available=lambda: True), raising=False)


def test_a_cpu_needs_nothing() -> None:
    require_accelerator("cpu")


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="declares trainer_accelerator cuda"):
        require_accelerator("cuda")


def test_ascend_without_its_extension_is_refused_with_the_fix() -> None:
    with pytest.raises(UserError, match="torch_npu can't be imported") as caught:
        require_accelerator("npu")
    assert "install the torch_npu of this torch" in caught.value.problems[0].fix


@pytest.mark.usefixtures("extension")
def test_ascend_with_a_device_is_taken() -> None:
    require_accelerator("npu")


@pytest.mark.usefixtures("extension")
def test_ascend_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "npu", SimpleNamespace(is_available=lambda: False))
    with pytest.raises(UserError, match="this machine shows torch none"):
        require_accelerator("npu")


def test_each_accelerator_has_its_collectives() -> None:
    assert BACKENDS == {"cuda": "nccl", "npu": "hccl", "cpu": "gloo"}

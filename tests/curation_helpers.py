"""Small de-identified trees, signed as `medllm data deid` signs them; work whose worker can be told afterwards."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from curation.prepare.workers import Task
from medllm.manifest import sign_manifest


def sign_clean(tree: Path, signer: Ed25519PrivateKey, *, failed: str = "", stage: str = "deid") -> None:
    """Write report, manifest and signature of a tree; the file at the relative path `failed` did not pass."""
    files = [
        {"patient": path.parent.name, "file": path.name, "validation_passed": str(path.relative_to(tree)) != failed}
        for path in sorted(tree.glob("patients/*/*"))
        if path.name != "meta.json"
    ]
    (tree / "report.json").write_text(json.dumps({"files": files}))
    sign_manifest(tree, signer, {"stage": stage, "summary": {"validation_passed": True}})


def marking(task: Task, parameters: dict[str, Any]) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """As `prepare` of test_prepare_run; leaves a mark for each parent of a worker: on Ray that is its node's daemon."""
    from tests.unit.test_prepare_run import prepare

    (Path(parameters["marks"]) / str(os.getppid())).touch()
    return prepare(task, parameters)

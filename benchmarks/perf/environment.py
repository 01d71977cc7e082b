"""Environments of others' programs, each made from a lock of its own, so that none of them touches ours."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from medllm.errors import user_error
from medllm.files import cache_dir

# Seconds; the largest environment (torch) takes about two minutes on a slow line.
_LIMIT_S = 1200


def locked_environment(project: Path, name: str) -> Path:
    """The `bin` directory of the environment that `project`'s uv.lock describes, made at the first time.

    Args:
        project: a directory with pyproject.toml and uv.lock
        name: begins the environment's directory in the cache

    Raises:
        UserError: there is no lock, or the environment cannot be made from it.
    """
    lock = project / "uv.lock"
    if not lock.is_file():
        raise user_error("there is no lock", f"make one: uv lock --project {project}", file=lock)
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    place = cache_dir() / f"{name}-{digest}"
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(place)}
    environment.pop("VIRTUAL_ENV", None)
    command = [sys.executable, "-m", "uv", "sync", "--quiet", "--frozen", "--project", str(project)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_LIMIT_S
        )  # fmt: skip
        reason = done.stderr.strip().splitlines()[-1:] if done.returncode else None
    except subprocess.TimeoutExpired:
        reason = [f"not ready after {_LIMIT_S} s"]
    if reason is not None:
        why = reason[0].strip() if reason else "uv gave no reason"
        raise user_error(
            f"the environment {name} cannot be made ({why})",
            "let this machine reach a package index (UV_INDEX_URL), or fill uv's cache where one is reached",
            file=lock,
        )
    return place / "bin"

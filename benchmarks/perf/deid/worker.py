"""An engine in a process of its own, bound to one core, that is asked over pipes: no text touches a disk."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Answer:
    """What one pass took, and each text's spans as [start, end, name, score]."""

    processor_s: float
    wall_s: float
    spans: list[list[list[Any]]]


class Worker:
    """Speaks as `peer.serve` does. Errors name the engine and the kind of failure, never a text.

    Raises:
        RuntimeError: the engine did not start, failed on a text, or ended.
    """

    def __init__(self, name: str, command: Sequence[str | Path]) -> None:
        self.name = name
        core = max(os.sched_getaffinity(0))
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # Its messages may hold texts: they go nowhere.
        self._process = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *map(str, command)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
            env={**os.environ, **threads, "PYTHONPATH": ""}, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        try:
            self.about = self._read()
        except BaseException:
            self.close()
            raise

    def ask(self, texts: Sequence[str]) -> Answer:
        """One pass over the texts."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"texts": list(texts)}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(f"{self.name} ended before its answer") from None
        return Answer(**self._read())

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # what was not yet sent is not wanted any more
            self._process.stdin.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended before its answer")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name} failed: {answer['error']}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

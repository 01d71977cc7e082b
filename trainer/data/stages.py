"""Where a rank's time goes: seconds by stage, summed over the threads that work at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# In the loader's threads.
READ, DECODE, COLLATE = WORK = ("read", "decode", "collate")
# In the thread that trains. Gradients are exchanged inside "compute"; "communicate" is the end of a step, at which a
# rank waits for the slowest.
WAIT, COMPUTE, COMMUNICATE, SAVE = STEP = ("wait", "compute", "communicate", "save")


class StageClock:
    """Threads may measure at once; a measurement costs about a microsecond."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside towards one of `WORK` or `STEP`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begin
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + spent

    def seconds(self) -> dict[str, float]:
        """Since the start; a stage that was never entered is absent."""
        with self._lock:
            return dict(self._seconds)

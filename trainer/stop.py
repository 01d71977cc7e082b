"""Being asked to stop."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """SIGTERM as a flag: the step is finished and a checkpoint written before the process ends."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

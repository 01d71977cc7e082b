"""What a loss says of a step: finite, in line with those before, or a spike."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

# Standard deviations of a normal distribution in a median absolute deviation.
_MAD = 1.4826
# Below this share of the median a loss's scatter is not told from none: small models repeat their losses.
_FLOOR = 0.02


class UnstableError(Exception):
    """A step must not stand; `samples`: how many the run had taken with it. All ranks see the same."""

    def __init__(self, step: int, samples: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.samples, self.reason = step, samples, reason


class SpikeWatch:
    """Judges losses by the median and the scatter of the last `window` good ones; both ignore single outliers.

    `factor`: how many robust standard deviations above the median a loss may lie. No step is called a spike before
    half a window is known, so that the fall at a run's beginning is not one's measure.
    """

    def __init__(self, window: int, factor: float) -> None:
        self._losses: deque[float] = deque(maxlen=window)
        self._factor = factor

    def begin(self, losses: Iterable[float]) -> None:
        """Start anew with the losses of the last steps, oldest first: a resumed run judges as one that went on."""
        self._losses.clear()
        self._losses.extend(loss for loss in losses if math.isfinite(loss))

    def judge(self, loss: float) -> str | None:
        """Why the step must not stand; None and remembered when it may. `loss` in nats a token."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        assert self._losses.maxlen is not None
        if 2 * len(self._losses) >= self._losses.maxlen:
            middle = median(self._losses)
            scatter = max(_MAD * median(abs(one - middle) for one in self._losses), _FLOOR * abs(middle))
            if loss > middle + self._factor * scatter:
                return f"the loss is {loss:.4g}, the median of the last {len(self._losses)} steps {middle:.4g}"
        self._losses.append(loss)
        return None

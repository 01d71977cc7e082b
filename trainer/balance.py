"""Keeps the modalities' gradient norms together: the running means of image and waveform within a ratio of the text's.

What counts as a modality's norm says `trainer.model.gates`. A tower's gradient is scaled where it enters the tower
(on-the-fly gradient modulation, Peng et al., CVPR 2022, with this norm in place of their share of the logits). The text
is the measure and never scaled: it goes through no tower. Single steps scatter around their means, the more the
smaller the batch.

What this does and does not do: it holds the asked figure, and keeps one tower from filling the clipped norm. AdamW
divides by a gradient's own scale, so a constant factor does not make a tower learn slower or faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trainer.model.gates import MODALITIES

_TEXT = "text"
# A tower that gets next to nothing is not blown up without bound: its gradient may be noise.
_LARGEST = 10.0


class Balance:
    """Running means of the norms, and the towers' scales that follow from them.

    Args:
        limit: largest ratio of two modalities' norms; None measures only
        memory: of the running means: the share that is kept each step
    """

    def __init__(self, limit: float | None, memory: float) -> None:
        self._limit, self._memory = limit, memory
        self.means: dict[str, float] = {}

    def begin(self, means: Mapping[str, float]) -> None:
        """Go on with the means of a checkpoint."""
        self.means = dict(means)

    def update(self, squares: Sequence[float]) -> dict[str, float]:
        """Take a step's sums of squares, by `MODALITIES` and before scaling; its norms after scaling.

        A modality that no sample of the step had (0) changes nothing.
        """
        scales = self.scales()
        norms = {name: math.sqrt(square) for name, square in zip(MODALITIES, squares, strict=True) if square > 0}
        for name, norm in norms.items():
            if math.isfinite(norm):
                before = self.means.get(name, norm)
                self.means[name] = self._memory * before + (1 - self._memory) * norm
        return {name: norm * scales[name] for name, norm in norms.items()}

    def balanced(self) -> dict[str, float]:
        """The running means after scaling; within the limit of each other unless a scale reached its bound."""
        scales = self.scales()
        return {name: mean * scales[name] for name, mean in self.means.items()}

    def scales(self) -> dict[str, float]:
        """For each modality the factor of its gradient: both towers within √limit of the text, so within limit of
        each other."""
        found = dict.fromkeys(MODALITIES, 1.0)
        text = self.means.get(_TEXT, 0.0)
        if self._limit is None or text <= 0:
            return found
        reach = math.sqrt(self._limit)
        for name, mean in self.means.items():
            if name != _TEXT and mean > 0:
                wanted = min(max(mean, text / reach), text * reach)
                found[name] = min(max(wanted / mean, 1 / _LARGEST), _LARGEST)
        return found

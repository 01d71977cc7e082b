"""The run's curves for TensorBoard: `<run>/tensorboard/`, written by rank 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DIRECTORY = "tensorboard"
# Curves matter by the minute; each flush is a write to the parallel file system.
_FLUSH_S = 30


class Curves:
    """Scalars by step. What a resumed run does again takes the place of what it had done."""

    def __init__(self, run: Path, step: int) -> None:
        """`step`: how many are done; curves that were written beyond it are dropped from sight."""
        # Here and not above: TensorBoard takes a second to import, and only rank 0 writes.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / DIRECTORY), purge_step=step + 1, flush_secs=_FLUSH_S)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Each value under its name, as `train/loss`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def rewound(self, step: int) -> None:
        """The run went back to `step`."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        log = SessionLog(status=SessionLog.START)
        files = self._writer.file_writer
        assert files is not None
        files.event_writer.add_event(Event(step=step + 1, session_log=log))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

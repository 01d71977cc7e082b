"""How long to wait before something that failed is tried again."""

from __future__ import annotations

from dataclasses import dataclass

# kubelet: containers and images wait 10 s, then twice as long each time, to 5 minutes.
FIRST_S = 10.0
LONGEST_S = 300.0
# kubelet: after a run of twice the longest wait a container is as good as new.
FORGIVEN_S = 600.0


@dataclass(slots=True)
class BackOff:
    """The waits of one container or image; the first retry does not wait."""

    next_s: float = 0.0

    def failed(self, ran_s: float = 0.0) -> float:
        """Count a failure after a run of `ran_s` seconds. Returns the seconds to wait."""
        if ran_s >= FORGIVEN_S:
            self.next_s = 0.0
        wait = self.next_s
        self.next_s = min(max(2 * wait, FIRST_S), LONGEST_S)
        return wait

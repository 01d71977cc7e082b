"""Several drills on one training run: the long one in the background, the others one after the other elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from medllm.remote import Remote
from medllm.site import Site
from runbooks.drill import training
from runbooks.drill.drill import Course, Drill, Outcome
from runbooks.drill.injector import Injector, Target
from runbooks.drill.look import look
from runbooks.drill.show import Show
from runbooks.drill.told import EngineTold

# So long a drill may take that is started beside another one, until that takes its node out.
ROOM = timedelta(seconds=200)
POLL_S = 2.0


class Session:
    """Drills of one command. The training run is started when there is none, and ended then too."""

    def __init__(self, site: Site, alerts: Mapping[str, frozenset[str]], show: Show) -> None:
        self.site, self.alerts, self.show = site, alerts, show
        self.outcomes: list[Outcome] = []

    def run(self, injectors: Sequence[Injector], runs: int) -> list[Outcome]:
        """Each drill so often. Outcomes in the order in which the drills ended.

        Raises:
            UserError: the training run is refused.
            RemoteError: mgmt can't be asked, or the training run does not start.
        """
        with Remote(self.site.mgmt) as mgmt:
            started = training.start(self.site, mgmt)
            try:
                warm = self.show.drill("training", 1)
                try:
                    training.await_(
                        lambda: training.is_warm(look(mgmt, self.site, training.RUN)), training.WARM_S, mgmt,
                        f"the run {training.RUN} makes no steps, or has no checkpoint",
                    )  # fmt: skip
                    warm.end(f"run {training.RUN} makes steps and has a checkpoint", good=True)
                except BaseException:
                    warm.end("does not start", good=False)
                    raise
                self._all(injectors, runs)
            finally:
                if started:
                    training.stop(self.site, mgmt, EngineTold(mgmt, self.site))
        return self.outcomes

    def _all(self, injectors: Sequence[Injector], runs: int) -> None:
        nodes = [host.name for host in self.site.gpu_nodes]
        slow = deque((each, number) for number in range(1, runs + 1) for each in injectors if each.spares_training)
        quick = deque((each, number) for number in range(1, runs + 1) for each in injectors if not each.spares_training)
        count = 0
        while slow or quick:
            if not slow:
                self._one(*quick.popleft(), nodes[count % len(nodes)], count)
                count += 1
                continue
            injector, number = slow.popleft()
            # The last node: drills elsewhere then also meet the one where rank 0 is.
            hot = nodes[-1]
            course = Course()
            thread = threading.Thread(
                target=self._one, args=(injector, number, hot, number), kwargs={"course": course}, daemon=True
            )
            thread.start()
            while not course.over:
                room = course.free_until is not None and datetime.now(UTC) + ROOM < course.free_until
                if not (quick and room):
                    time.sleep(POLL_S)
                    continue
                others = [name for name in nodes if name != hot]
                each, number = quick.popleft()
                outcome = self._one(each, number, others[count % len(others)], count, apart=frozenset({hot}))
                course.beside.append(outcome)
                count += 1
            thread.join()

    def _one(
        self, injector: Injector, number: int, node: str, count: int, *, apart: frozenset[str] = frozenset(),
        course: Course | None = None,
    ) -> Outcome:  # fmt: skip
        target = Target(node, count % self.site.gpu.per_node, training.RUN)
        drill = Drill(self.site, self.alerts, self.show)
        try:
            outcome = drill.run(injector, target, number, apart=apart, course=course)
        finally:
            drill.close()
            if course is not None:
                course.over = True
        self.outcomes.append(outcome)
        return outcome

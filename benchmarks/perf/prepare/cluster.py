"""Samples a second of `medllm data prepare`: local processes beside Ray nodes of one CPU each on this machine.

Wall time from the twelfth sample on, so that starting workers does not count; the least and the most of several runs.
All of them are on one machine, whatever else it does: they show what Ray costs, not how it scales over machines.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from curation.prepare.patient import Parameters, prepare_patient, tasks_of
from curation.prepare.ray_cluster import ray_cluster
from curation.prepare.run import RUN, run
from curation.prepare.workers import Executor, Task, local_processes
from curation.sample import write_sample
from medllm.files import write_atomic

RESULT = Path(__file__).parents[2] / "results" / "prepare-ray.json"
_PATIENTS, _REPEATS, _FIRST = 240, 3, 12
_NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}


def main() -> None:
    """Measure, print and write the result."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sample(folder / "raw", _PATIENTS)
        tasks = list(tasks_of(folder / "raw" / "patients"))
        measure = _Measure(tasks, folder)
        rates = {
            "1_process": measure.of(lambda _: local_processes(1)),
            "2_processes": measure.of(lambda _: local_processes(2)),
        }
        cluster = Cluster(initialize_head=True, head_node_args={**_NODE, "include_dashboard": False})
        try:
            rates["1_ray_node"] = measure.of(lambda run_: ray_cluster(cluster.address, [run_ / RUN]))
            cluster.add_node(**_NODE)
            rates["2_ray_nodes"] = measure.of(lambda run_: ray_cluster(cluster.address, [run_ / RUN]))
        finally:
            cluster.shutdown()
    result = {
        "unit": "samples/s of `medllm data sample` with 10 variants, least and most of the runs",
        "samples": len(tasks),
        "runs": _REPEATS,
        "rates": rates,
        "load_average_of_5_min": round(os.getloadavg()[1], 1),
        "cores": os.cpu_count(),
        "ray": version("ray"),
    }
    write_atomic(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


class _Measure:
    def __init__(self, tasks: list[Task], folder: Path) -> None:
        self._tasks, self._folder, self._runs = tasks, folder, 0

    def of(self, executor: Callable[[Path], Executor]) -> list[float]:
        """[least, most] samples/s of the runs with the executor that `executor` makes for a run's directory."""
        rates = sorted(self._once(executor) for _ in range(_REPEATS))
        return [round(rates[0], 1), round(rates[-1], 1)]

    def _once(self, executor: Callable[[Path], Executor]) -> float:
        self._runs += 1
        destination = self._folder / f"run{self._runs}"
        times: list[float] = []
        parameters = Parameters(variants=10).as_json()
        run(
            self._tasks, prepare_patient, parameters, destination, executor(destination),
            lambda _done, _all: times.append(time.monotonic()),
        )  # fmt: skip
        return (len(times) - 1 - _FIRST) / (times[-1] - times[_FIRST])


if __name__ == "__main__":
    main()

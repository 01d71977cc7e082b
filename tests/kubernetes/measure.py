"""How long the program's operations take, and what the control plane needs: `python -m tests.kubernetes.measure`.

Everything is on the loopback interface: four nodes that pull no image, so nothing but Kubernetes and Pulumi works. One
round is preview, up, no-op, destroy of the whole stack with the training Job.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from lab.kubernetes import build, environment
from lab.kubernetes.arguments import COMPONENTS
from lab.kubernetes.local import LocalControlPlane
from lab.kubernetes.local_nodes import LocalNodes
from medllm.files import write_atomic
from medllm.site import load_site
from tests.kubernetes.program import REPOSITORY, Program, counts, lay_out

OPERATIONS = ("preview", "up", "no_op", "destroy")
Json = dict[str, Any]


def seconds_of(program: Program, *arguments: str) -> tuple[float, str]:
    begin = time.monotonic()
    output = program.run(*arguments)
    return round(time.monotonic() - begin, 2), output


def one_round(program: Program) -> tuple[dict[str, float], int]:
    """Seconds of each operation, and the number of resources."""
    took: dict[str, float] = {}
    took["preview"], _ = seconds_of(program, "preview")
    took["up"], output = seconds_of(program, "up", "--yes", "--skip-preview")
    made = counts(output)
    assert set(made) == {"created"}, made
    took["no_op"], output = seconds_of(program, "up", "--yes", "--skip-preview")
    assert set(counts(output)) == {"unchanged"}, output
    program.run("state", "unprotect", "--all", "--yes")
    took["destroy"], output = seconds_of(program, "destroy", "--yes", "--skip-preview", "--run-program=false")
    # Volumes with data stay by their policy; the next round begins without them.
    program.kubectl("delete", "persistentvolumes", "--all", "--wait")
    return took, made["created"]


def resident_mib(pid: int) -> float:
    """Proportional set size (proc_pid_smaps_rollup(5)): pages that several processes share count in parts."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return round(int(found[1]) / 1024, 1)


def measure(rounds: int, directory: Path) -> Json:
    """All figures; `directory` is empty."""
    site = load_site(REPOSITORY / "inventory" / "lab")
    binaries = build.ensure([*COMPONENTS, "pulumi", "kubectl"], print)
    nodes = [host.name for host in site.gpu_nodes]
    begin = time.monotonic()
    with LocalControlPlane(binaries, directory / "cluster") as plane:
        start_s = round(time.monotonic() - begin, 2)
        with LocalNodes(plane, directory / "nodes", nodes, images={}):
            prepared = environment.prepare(
                directory / "environment", plane.kubeconfig(), directory / "passphrase", binaries
            )
            program = lay_out(directory / "repository", prepared)
            program.declare("hosts.yml", lambda text: text.replace("scheduler: slurm", "scheduler: kubernetes"))
            done = [one_round(program) for _ in range(rounds)]
            memory = {name: resident_mib(pid) for name, pid in plane.processes().items()}
    series = {name: [took[name] for took, _ in done] for name in OPERATIONS}
    return {
        "resources": done[0][1],
        "control_plane_start_s": start_s,
        "seconds": {
            name: {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}
            for name, values in series.items()
        },
        "control_plane_pss_mib": {**memory, "sum": round(sum(memory.values()), 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", type=Path, help="write the figures to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medllm-measure-") as directory:
        figures = measure(chosen.rounds, Path(directory))
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
    report = {
        "commit": commit,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpus": os.cpu_count(), "system": platform.platform()},
        "command": f"python -m tests.kubernetes.measure --rounds {chosen.rounds}",
        **figures,
    }
    text = json.dumps(report, indent=1) + "\n"
    if chosen.record:
        write_atomic(chosen.record, text)
    print(text, end="")


if __name__ == "__main__":
    main()

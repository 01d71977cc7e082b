"""Our reader against WebDataset, MosaicML streaming and LitData: the same pixels, lossless, decoded, on one core.

    python -m benchmarks.perf.loader [--samples N] [--rounds N] [--record FILE]
    python -m benchmarks.perf.loader leak [--samples N] [--record FILE]
    python -m benchmarks.perf.loader codecs [--record FILE]

Every reader runs in a process of its own that is bound to one core, and the readers take turns round by round, so that
what else the machine does meets all of them. Ratios are of medians. Each peer is measured twice: with 16-bit PNG, which
keeps files small, and with raw arrays, which need no decoding and about twice the room.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.perf.environment import locked_environment
from benchmarks.perf.loader import ours
from benchmarks.perf.loader.codecs import measure_codecs
from benchmarks.perf.loader.leak import measure_leak
from benchmarks.perf.loader.peers import READERS
from medllm.files import write_atomic
from trainer.launch import rank_environment

_HERE = Path(__file__).parent
# What issue and specification ask: times the peer's samples a second and core.
GOALS = {"webdataset": 3.0, "mosaic": 2.0, "litdata": 1.5}


def _run(command: Sequence[str | Path], directory: Path) -> dict[str, Any]:
    """The JSON of a process's last line; one core, no thread pools."""
    core = max(os.sched_getaffinity(0))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(directory), "PYTHONPATH": ""}
    done = subprocess.run(
        ["taskset", "--cpu-list", str(core), *map(str, command)],
        capture_output=True, text=True, env=environment, check=False, timeout=900, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def compare(samples: int, rounds: int) -> dict[str, Any]:
    """Samples a second of each reader, and ratios of ours to each peer's.

    Raises:
        RuntimeError: a reader failed, or gave other pixels than were written.
    """
    python = locked_environment(_HERE, "loader-peers") / "python"
    with tempfile.TemporaryDirectory(prefix="medllm-loader-") as name:
        directory = Path(name)
        ours.write_originals(directory, samples)
        ours.write(directory)
        mine: list[str | Path] = [sys.executable, "-m", "benchmarks.perf.loader.ours"]
        commands: dict[str, list[str | Path]] = {
            "ours": mine,
            **{kind: [python, _HERE / "peers.py"] for kind in READERS},
        }
        truth = ours.original_fingerprint(directory)
        for kind, command in commands.items():
            if kind != "ours":
                _run([*command, "write", kind, directory], directory)
            if _run([*command, "check", kind, directory], directory)["fingerprint"] != truth:
                raise RuntimeError(f"{kind} gives other pixels than were written")
        rates: dict[str, list[float]] = {kind: [] for kind in commands}
        for number in range(rounds):
            for kind, command in commands.items():
                done = _run([*command, "read", kind, directory], directory)
                rates[kind].append(done["samples"] / done["seconds"])
            print(f"round {number + 1} of {rounds} done", file=sys.stderr)
        sizes = {kind: ours.stored_bytes(directory, kind) / samples for kind in commands}
    middle = {kind: median(found) for kind, found in rates.items()}
    return {
        "samples": samples, "rounds": rounds,
        "readers": {
            kind: {
                "samples_per_s_per_core": round(middle[kind], 1),
                "all": [round(rate, 1) for rate in rates[kind]],
                "stored_kB_per_sample": round(sizes[kind] / 1e3, 1),
                "ours_is_times": round(middle["ours"] / middle[kind], 2),
                "goal_times": GOALS.get(kind.partition("-")[0]),
            }
            for kind in commands
        },
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when the measurement was made, whatever it says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf.loader", description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=["compare", "leak", "codecs"], default="compare")
    parser.add_argument("--samples", type=int, help="300 to compare, 200000 for the leak")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=Path, help="a JSON file; each measurement has a key of its own in it")
    options = parser.parse_args(arguments)
    if options.what == "compare":
        found = compare(options.samples or 300, options.rounds)
    elif options.what == "leak":
        ours_to_be = {**os.environ, **rank_environment(1, "cpu")}
        if ours_to_be != dict(os.environ):
            # The allocator reads its settings at a process's start: measure under those of a rank.
            words = sys.argv[1:] if arguments is None else arguments
            os.execve(sys.executable, [sys.executable, "-m", "benchmarks.perf.loader", *words], ours_to_be)
        found = measure_leak(options.samples or 200_000)
    else:
        found = measure_codecs()
    found["machine"] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    print(json.dumps(found, indent=1))
    if options.record:
        known = json.loads(options.record.read_text()) if options.record.is_file() else {}
        write_atomic(options.record, json.dumps({**known, options.what: found}, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

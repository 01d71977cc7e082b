"""The report on a de-identified tree: report.json, and report.html for people. Counts and pseudonyms, no text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medllm.files import write_atomic

REPORT, PAGE = "report.json", "report.html"
# A page stays a page; report.json has all of them.
HELD_SHOWN = 500
_UNITS = {".txt": "characters"}


def write_report(folder: Path, files: Sequence[Mapping[str, Any]], review: Mapping[str, Any]) -> None:
    """Write both forms. Equal input gives equal bytes: no time, no host."""
    report = {"files": files, "review": review}
    write_atomic(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    write_atomic(folder / PAGE, render(files, review))


def render(files: Sequence[Mapping[str, Any]], review: Mapping[str, Any]) -> str:
    """The page."""
    environment = page_environment(Path(__file__).parent)
    passed = [entry for entry in files if entry["validation_passed"]]
    held = [entry for entry in files if not entry["validation_passed"]]
    kinds: dict[str, Counter[str]] = {}
    for entry in passed:
        for kind, count in entry["phi_counts"].items():
            kinds.setdefault(kind, Counter()).update(count)
    findings: Counter[str] = Counter()
    found_in: Counter[str] = Counter()
    for entry in files:
        findings.update(entry.get("findings", {}))
        found_in.update(entry.get("findings", {}).keys())
    return environment.get_template("report.html.j2").render(
        patients=len({entry["patient"] for entry in passed}),
        passed=len(passed),
        held=sorted(held, key=lambda entry: (entry["reason"], entry["patient"], entry["file"]))[:HELD_SHOWN],
        held_total=len(held),
        reasons=Counter(entry["reason"] for entry in held).most_common(),
        kinds=sorted(kinds.items()),
        replaced=sum(count["original"] for count in kinds.values()),
        left=sum(count["redacted"] for count in kinds.values()),
        validation_passed=bool(passed) and not any(count["redacted"] for count in kinds.values()),
        findings=[(kind, count, found_in[kind]) for kind, count in findings.most_common()],
        sizes=_sizes(passed),
        review=review,
    )


def page_environment(folder: Path) -> Environment:
    """Templates of `folder`: every value is escaped, a missing one is an error."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{share:.2%}"
    return environment


def _sizes(passed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Files and lengths by type."""
    rows: dict[str, Counter[str]] = {}
    for entry in passed:
        row = rows.setdefault(PurePosixPath(entry["file"]).suffix, Counter())
        row["files"] += 1
        row["original"] += entry["original_length"]
        row["redacted"] += entry["redacted_length"]
    return [{"type": kind, "unit": _UNITS.get(kind, "bytes"), **row} for kind, row in sorted(rows.items())]

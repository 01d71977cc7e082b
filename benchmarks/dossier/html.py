"""The dossier as one page: no script, no font, no picture from elsewhere; every value escaped; made to be printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.dossier.model import Dossier, Item, Signatures, ThresholdPart
from benchmarks.dossier.store import sha256
from medllm.verdict import REHEARSED, Evidence, Outcome

GROUPS = {"hardware": "Hardware", "software": "Software", "data": "Data", "training": "Training"}
# From worst to best: what needs a person comes first.
ORDER = ("FAIL", "NOT_RUN", "INCONCLUSIVE", REHEARSED, "PASS")
# Sign beside the colour, so that the page can be read without colours.
SIGNS = {"PASS": "✓", REHEARSED: "◐", "FAIL": "✕", "NOT_RUN": "–", "INCONCLUSIVE": "?"}
OPERATORS = {"==": "", "<": "< ", "<=": "≤ ", ">": "> ", ">=": "≥ "}
# A page stays a page: whole texts lie in raw/, all values in dossier.json.
READINGS, RAW_LINES, RAW_TEXTS = 64, 200, 200


@dataclass(frozen=True, slots=True)
class Verdict:
    """The page's headline."""

    tone: str
    title: str
    text: str


def verdict(dossier: Dossier, signatures: Signatures) -> Verdict:
    """What the dossier as a whole says."""
    bad = [item for item in dossier.items if item.outcome is not Outcome.PASS]
    simulated = [item for item in dossier.items if item.evidence is Evidence.SIMULATED]
    if bad:
        counts = Counter(item.label for item in bad)
        shown = ", ".join(f"{counts[name]} {name}" for name in ORDER if counts[name])
        signed = " Signed with waivers." if signatures.signatures else ""
        return Verdict("FAIL", "Not accepted", f"{shown} of {len(dossier.items)} items.{signed}")
    if simulated:
        return Verdict(
            REHEARSED,
            "Rehearsed",
            f"Everything passed, and {len(simulated)} of {len(dossier.items)} items stand on simulated evidence: "
            "this certifies nothing.",
        )
    if not dossier.complete:
        return Verdict("NOT_RUN", "Passed in part", "Only a part of the checks or hosts was asked for.")
    if signatures.signatures:
        return Verdict("PASS", "Accepted", f"All {len(dossier.items)} items passed on real evidence, and it is signed.")
    return Verdict("PASS", "Ready to sign", f"All {len(dossier.items)} items passed on real evidence.")


def render(dossier: Dossier, signatures: Signatures, raw: Mapping[str, str], *, now: datetime | None = None) -> str:
    """The page. `raw` holds the raw texts by hash; `now` decides which waivers have expired."""
    moment = now or datetime.now(UTC)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["value"] = _value
    environment.filters["clock"] = lambda time: f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    counts = Counter(item.label for item in dossier.items)
    evidences = Counter(item.evidence.value if item.evidence else "none" for item in dossier.items)
    by_host: dict[str, dict[str, Item]] = {host.name: {} for host in dossier.hosts}
    by_check: dict[str, list[Item]] = {}
    for item in dossier.items:
        by_host[item.host][item.check] = item
        by_check.setdefault(item.check, []).append(item)
    return environment.get_template("dossier.html.j2").render(
        d=dossier,
        verdict=verdict(dossier, signatures),
        counts=[(name, counts[name]) for name in ORDER if counts[name]],
        total=len(dossier.items),
        evidences=sorted(evidences.items()),
        attention=sorted(
            (item for item in dossier.items if item.outcome is not Outcome.PASS),
            key=lambda item: ORDER.index(item.label),
        ),
        groups=[
            (title, rows)
            for group, title in GROUPS.items()
            if (rows := [_row(items) for items in by_check.values() if items[0].group == group])
        ],
        checks=[(check, items[0].title) for check, items in by_check.items()],
        grid=[(host, cells) for host, cells in by_host.items() if cells],
        signs=SIGNS,
        gpus=sum(len(host.gpus) for host in dossier.hosts),
        waivers=[(waiver, waiver.expires <= moment) for waiver in dossier.waivers],
        signatures=[(entry, sha256(entry.public_key)) for entry in signatures.signatures],
        artifacts=[(artifact, _cut(raw.get(artifact.sha256))) for artifact in dossier.artifacts[:RAW_TEXTS]],
        artifacts_left=max(0, len(dossier.artifacts) - RAW_TEXTS),
    )


def _row(items: Sequence[Item]) -> dict[str, Any]:
    """One check over all hosts."""
    counts = Counter(item.label for item in items)
    readings = [(item, part) for item in items for part in item.measurements]
    readings.sort(key=lambda pair: pair[1].outcome is Outcome.PASS)
    threshold = items[0].threshold
    return {
        "title": items[0].title,
        "proves": items[0].proves,
        "counts": [(name, counts[name]) for name in ORDER if counts[name]],
        "hosts": len(items),
        "measured": _range(items),
        "wanted": f"{OPERATORS[threshold.op]}{_value(threshold.value)} {threshold.unit}",
        "threshold": threshold,
        "bar": _bar(items, threshold),
        "evidence": sorted({item.evidence.value if item.evidence else "none" for item in items}),
        "evidence_reasons": list(dict.fromkeys(item.evidence_reason for item in items))[:4],
        "reasons": [item for item in items if not item.measurements],
        "readings": readings[:READINGS],
        "left": max(0, len(readings) - READINGS),
    }


def _range(items: Sequence[Item]) -> str:
    """Lowest to highest of the values that were read and are not refuted."""
    values = [part.value for item in items for part in item.measurements if not part.refuted and not part.unsure]
    numbers = sorted(value for value in values if not isinstance(value, str))
    if not numbers:
        return "–"
    unit = items[0].threshold.unit
    low, high = numbers[0], numbers[-1]
    return f"{_value(low)} {unit}" if low == high else f"{_value(low)} to {_value(high)} {unit}"


def _bar(items: Sequence[Item], threshold: ThresholdPart) -> dict[str, float] | None:
    """Where the values lie beside the limit, in percent of a scale that ends a little beyond both; limits only."""
    if threshold.op == "==" or isinstance(threshold.value, str) or threshold.value <= 0:
        return None
    numbers = [
        float(part.value)
        for item in items
        for part in item.measurements
        if not isinstance(part.value, str) and not part.refuted and not part.unsure
    ]
    if not numbers or min(numbers) < 0:
        return None
    scale = 1.1 * max(*numbers, float(threshold.value))
    low, high = 100 * min(numbers) / scale, 100 * max(numbers) / scale
    return {"left": low, "width": max(high - low, 1.5), "limit": 100 * float(threshold.value) / scale}


def _value(value: int | float | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cut(text: str | None) -> str:
    if text is None:
        return "(the raw text is no longer there)"
    lines = text.splitlines()
    if len(lines) <= RAW_LINES:
        return text
    return "\n".join(lines[:RAW_LINES]) + f"\n… {len(lines) - RAW_LINES} more lines in the file"

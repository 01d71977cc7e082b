"""Was the data set de-identified, and does its signed validation report say that nothing is left?"""

from __future__ import annotations

from typing import Any

from medllm.checks import dataset
from medllm.checks.base import Check, NotRun, Reading, View


def _read(view: View) -> list[Reading]:
    manifest = dataset.manifest(view)
    if isinstance(manifest, Reading):
        return [manifest]
    report: Any = manifest.meta.get("deidentification")
    if not isinstance(report, dict):
        raise NotRun("the signed manifest carries no de-identification report")
    passed, files, counts = (report.get(name) for name in ("validation_passed", "files_passed", "phi_counts"))
    if type(passed) is not bool or type(files) is not int or not isinstance(counts, dict):
        raise NotRun("the report lacks validation_passed, files_passed or phi_counts")
    before = _sum(counts, "original")
    # `redacted` counts what the validation still finds in the redacted text.
    left = _sum(counts, "redacted")
    detail = f"{before} identifiers of {len(counts)} kinds in {files} files before"
    if passed and not before:
        return [Reading(view.subject.dataset, left, unsure="no identifier was found at all, so nothing was proved")]
    return [Reading(view.subject.dataset, left, detail, None if passed else "the validation did not pass")]


def _sum(counts: dict[str, Any], name: str) -> int:
    """All kinds together. Raises NotRun on anything that is no count."""
    values = [kind.get(name) if isinstance(kind, dict) else None for kind in counts.values()]
    if any(type(value) is not int or value < 0 for value in values):
        raise NotRun(f"a count of {name} identifiers is missing in the report")
    return sum(value for value in values if value is not None)


CHECK = Check(
    id="deid_validated",
    title="De-identification is validated",
    proves="The data set's signed manifest carries a validation report that found no identifier left.",
    group="data",
    tags=frozenset({"data", "privacy"}),
    where="mgmt",
    probes=dataset.probes,
    read=_read,
    clears=("phi_found",),
    attested=True,
)

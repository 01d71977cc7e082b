"""Was the data set de-identified, and does its signed validation report say that nothing is left?"""

from __future__ import annotations

from typing import Any

from medllm.checks import dataset
from medllm.checks.base import Check, NotRun, Reading, View


def _read(view: View) -> list[Reading]:
    manifest = dataset.manifest(view)
    if isinstance(manifest, Reading):
        return [manifest]
    report: Any = manifest.meta.get("deid")
    if not isinstance(report, dict):
        raise NotRun("the signed manifest carries no de-identification report")
    passed, residual = report.get("validation_passed"), report.get("residual")
    if type(passed) is not bool or type(residual) is not int:
        raise NotRun("the de-identification report has no validation_passed or no residual count")
    redacted = report.get("redacted", {})
    total = sum(count for count in redacted.values() if type(count) is int) if isinstance(redacted, dict) else 0
    refuted = None if passed else "the validation did not pass"
    return [Reading(view.subject.dataset, residual, f"{total} identifiers redacted before", refuted)]


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

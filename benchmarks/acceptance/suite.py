"""The acceptance suite: one SSH session a host, all at once; then every check reads, is judged, is recorded."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from benchmarks.acceptance.hardware import host_part
from benchmarks.dossier.model import (
    SCHEMA,
    Artifact,
    Dossier,
    Item,
    MeasurementPart,
    NotApplicable,
    Selection,
    SitePart,
    ThresholdPart,
    Waiver,
)
from benchmarks.dossier.store import raw_text, sha256
from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View
from medllm.checks.batch import run_probes
from medllm.checks.provenance import NAME, Facts, evidence_of, parse_facts, provenance_probe
from medllm.errors import user_error
from medllm.remote import Result, each
from medllm.site.model import Host, Site
from medllm.verdict import Evidence, Judgement, Measurement, Outcome, Threshold, judge, label, worst

Results = Mapping[str, Mapping[str, Result]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run: checks with their thresholds, on which hosts, for what."""

    site: Site
    subject: Subject
    checks: tuple[tuple[Check, Threshold], ...]
    not_applicable: tuple[Check, ...]
    hosts: tuple[Host, ...]
    selection: Selection

    def hosts_of(self, check: Check) -> tuple[Host, ...]:
        """The chosen hosts that a check runs on."""
        return tuple(host for host in self.hosts if check.where in host.groups)


def plan(
    site: Site,
    thresholds: Mapping[str, Threshold | None],
    checks: Iterable[Check],
    subject: Subject,
    *,
    tags: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> Plan:
    """Choose the checks that carry one of the tags (or are named by one), on the hosts named.

    Raises:
        UserError: an unknown tag or host, or nothing to run.
    """
    every = tuple(checks)
    known = sorted({tag for check in every for tag in (*check.tags, check.id)})
    for tag in tags:
        if tag not in known:
            raise user_error(f"no check has the tag {tag!r}", f"use one of: {', '.join(known)}", key="--tag")
    names = [host.name for host in site.hosts]
    for host in hosts:
        if host not in names:
            raise user_error(f"the site has no host {host!r}", f"use one of: {', '.join(names)}", key="--host")
    wanted = [check for check in every if not tags or {*check.tags, check.id} & set(tags)]
    missing = [check.id for check in wanted if check.id not in thresholds]
    if missing:
        raise user_error(
            f"the thresholds catalogue has no {missing[0]!r}", "add it to inventory/thresholds", key=missing[0]
        )
    bound = [(check, thresholds[check.id]) for check in wanted]
    chosen = Plan(
        site,
        subject,
        tuple((check, threshold) for check, threshold in bound if threshold is not None),
        tuple(check for check, threshold in bound if threshold is None),
        tuple(host for host in site.hosts if not hosts or host.name in hosts),
        Selection(tags=list(tags), hosts=list(hosts)),
    )
    if not any(chosen.hosts_of(check) for check, _ in chosen.checks):
        raise user_error("no check is left to run", "name other tags or hosts", key="--tag/--host")
    return chosen


def collect(chosen: Plan) -> Results:
    """Run every probe of the plan: results by host and command."""
    return each(chosen.site.hosts, lambda host: run_probes(host, _probes(chosen, host)))


def _probes(chosen: Plan, host: Host) -> list[Probe]:
    probes: list[Probe] = []
    binaries: set[str] = set()
    for check, _ in chosen.checks:
        if not chosen.hosts_of(check):
            continue
        if host in chosen.hosts_of(check):
            probes += check.probes(chosen.site, host, chosen.subject)
            binaries |= set(check.binaries)
        if "gpu_nodes" in host.groups:
            binaries |= set(check.node_binaries)
    return [*probes, provenance_probe(binaries)] if binaries else probes


def assess(
    chosen: Plan, results: Results, *, created: datetime, duration_s: float, waivers: Sequence[Waiver] = ()
) -> tuple[Dossier, dict[str, str]]:
    """Judge what was collected. Returns the dossier and the raw texts by their hash."""
    raw: dict[str, str] = {}
    artifacts: dict[tuple[str, str], Artifact] = {}
    for host, by_command in results.items():
        names = {probe.command: probe.name for probe in _probes(chosen, chosen.site.host(host))}
        for command, result in by_command.items():
            text = raw_text(result)
            digest = sha256(text)
            raw[digest] = text
            artifacts[host, command] = Artifact(
                sha256=digest,
                host=host,
                probe=names.get(command, ""),
                command=command,
                started=result.started,
                duration_s=round(result.duration_s, 3),
                rc=result.rc,
                error=result.error,
            )
    facts = {host: _facts(by_command) for host, by_command in results.items()}
    items = [
        _item(chosen, check, threshold, host, results, artifacts, facts)
        for check, threshold in chosen.checks
        for host in chosen.hosts_of(check)
    ]
    site = chosen.site
    dossier = Dossier(
        schema_version=SCHEMA,
        created=created,
        duration_s=round(duration_s, 3),
        tool_version=version("medllm-cluster"),
        site=SitePart(
            name=site.name,
            profile=site.profile,
            versions=site.versions,
            thresholds=site.thresholds_catalogue,
            sha256=site.sha256,
        ),
        dataset=chosen.subject.dataset,
        run=chosen.subject.run,
        complete=not chosen.selection.tags and not chosen.selection.hosts,
        selection=chosen.selection,
        hosts=[host_part(host, results.get(host.name, {})) for host in chosen.hosts],
        items=items,
        not_applicable=[
            NotApplicable(check=check.id, title=check.title, why="no threshold of the catalogue fits this site")
            for check in chosen.not_applicable
        ],
        waivers=list(waivers),
        artifacts=list(artifacts.values()),
    )
    return dossier, raw


def run(chosen: Plan, waivers: Sequence[Waiver] = ()) -> tuple[Dossier, dict[str, str]]:
    """Collect and assess."""
    created, begin = datetime.now(UTC), time.monotonic()
    results = collect(chosen)
    return assess(chosen, results, created=created, duration_s=time.monotonic() - begin, waivers=waivers)


def _item(
    chosen: Plan,
    check: Check,
    threshold: Threshold,
    host: Host,
    results: Results,
    artifacts: Mapping[tuple[str, str], Artifact],
    facts: Mapping[str, Facts | str],
) -> Item:
    probes = check.probes(chosen.site, host, chosen.subject)
    mine = results.get(host.name, {})
    view = View(
        chosen.site,
        host,
        chosen.subject,
        {probe.name: mine[probe.command] for probe in probes if probe.command in mine},
    )
    read = [artifacts[host.name, probe.command] for probe in probes if (host.name, probe.command) in artifacts]
    measured: list[tuple[Measurement, Judgement]] = []
    try:
        readings = check.read(view)
        if not readings:
            raise NotRun("there was nothing to read")
        measured = [
            (measurement, judge(measurement, threshold))
            for measurement in (_measurement(reading, threshold, host, probes, read) for reading in readings)
        ]
        outcome = worst(judgement.outcome for _, judgement in measured)
        reason = _reason(outcome, [judgement for _, judgement in measured])
    except (NotRun, ValueError) as error:
        outcome, reason = Outcome.NOT_RUN, str(error)
    evidence, evidence_reason = _evidence(chosen, check, host, facts, outcome)
    return Item(
        check=check.id,
        title=check.title,
        proves=check.proves,
        group=check.group,
        host=host.name,
        outcome=outcome,
        evidence=evidence,
        evidence_reason=evidence_reason,
        label=label(outcome, evidence),
        reason=reason,
        clears=list(check.clears),
        threshold=ThresholdPart(
            quantity=threshold.quantity,
            op=threshold.op,
            value=threshold.value,
            unit=threshold.unit,
            asked=threshold.asked,
            source=threshold.source,
            derivation=threshold.derivation,
            low=threshold.low,
            high=threshold.high,
        ),
        measurements=[
            MeasurementPart(
                device=measurement.device,
                value=measurement.value,
                unit=measurement.unit,
                detail=measurement.detail,
                refuted=measurement.refuted,
                unsure=measurement.unsure,
                command=measurement.command,
                time=measurement.time,
                outcome=judgement.outcome,
            )
            for measurement, judgement in measured
        ],
        artifacts=[artifact.sha256 for artifact in read],
    )


def _measurement(
    reading: Reading, threshold: Threshold, host: Host, probes: Sequence[Probe], read: Sequence[Artifact]
) -> Measurement:
    return Measurement(
        value=reading.value,
        unit=threshold.unit,
        host=host.name,
        device=reading.device,
        command=", ".join(probe.name for probe in probes),
        time=max(artifact.started for artifact in read),
        raw_sha256=tuple(artifact.sha256 for artifact in read),
        detail=reading.detail,
        refuted=reading.refuted,
        unsure=reading.unsure,
    )


def _reason(outcome: Outcome, judgements: Sequence[Judgement]) -> str:
    """The reasons of the members that made the outcome, the first few."""
    reasons = [judgement.reason for judgement in judgements if judgement.outcome is outcome]
    return "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")


def _facts(by_command: Mapping[str, Result]) -> Facts | str:
    """What a host says of its binaries, or why that is not known."""
    for command, result in by_command.items():
        if result.ok and result.stdout.startswith("binary\t") and "apt-cache policy" in command:
            try:
                return parse_facts(result.stdout)
            except ValueError as error:
                return str(error)
    return f"the {NAME} of its binaries is not known"


def _evidence(
    chosen: Plan, check: Check, host: Host, facts: Mapping[str, Facts | str], outcome: Outcome
) -> tuple[Evidence | None, str]:
    """The weakest evidence among the binaries that a check stands on. Without any answer there is none to speak of."""
    if check.attested:
        if outcome is Outcome.NOT_RUN:
            return None, "there is no signed statement"
        return Evidence.ATTESTED, "a statement signed with the curator's key"
    keys = [key.fingerprint for key in chosen.site.lock.vendor_keys]
    places = [(host, name) for name in check.binaries]
    if check.node_binaries:
        places += [(node, name) for node in chosen.site.gpu_nodes for name in check.node_binaries]
    reasons = []
    for place, name in places:
        known = facts.get(place.name, f"{place.name} was not asked")
        if isinstance(known, str):
            if outcome is Outcome.NOT_RUN:
                return None, known
            return Evidence.SIMULATED, f"{place.name}: {known}"
        if outcome is Outcome.NOT_RUN and known.binaries.get(name) is None:
            return None, f"{name} is not on {place.name}"
        evidence, reason = evidence_of(name, known, keys)
        if evidence is Evidence.SIMULATED:
            return evidence, f"{place.name}: {reason}"
        reasons.append(reason)
    return Evidence.MEASURED, "; ".join(dict.fromkeys(reasons))

"""Absent, empty, late, foreign or garbled input is never a PASS: each input of each check is spoilt in turn."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from benchmarks.acceptance import suite
from benchmarks.dossier.model import Item
from medllm.checks import CHECKS
from medllm.checks.provenance import NAME, provenance_probe
from medllm.remote import Result
from medllm.verdict import Evidence, Outcome
from tests.unit.acceptance_inputs import CHECK_IDS, SUBJECT, change, check, good, good_results, site, thresholds

SITE = site()
THRESHOLDS = thresholds(SITE)
GOOD = good_results(SITE)
EVERY_PROBE = [(identifier, probe) for identifier, probes in good(SITE).items() for probe in probes]

SPOILT: dict[str, dict[str, object]] = {
    "empty": {"stdout": "", "stderr": ""},
    "blank": {"stdout": "\n \n", "stderr": ""},
    "timed out": {"rc": None, "stdout": "", "error": "timed out after 10 s"},
    "host unreachable": {"rc": None, "stdout": "", "error": "unreachable: no answer"},
    "not installed": {"rc": 127, "stdout": "", "stderr": "sh: 1: tool: not found"},
    "permission denied": {"rc": 1, "stdout": "", "stderr": "Permission denied"},
    "killed": {"rc": None, "error": "timed out after 10 s"},
    "garbled": {"stdout": "\x00\ufffd <html>503 Service Unavailable</html>\n"},
    "an excuse, exit 0": {"stdout": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"},
}


def assess(results: dict[str, dict[str, Result]]) -> list[Item]:
    plan = suite.plan(SITE, THRESHOLDS, CHECKS, SUBJECT)
    dossier, _ = suite.assess(plan, results, created=datetime.now(UTC), duration_s=1)
    return dossier.items


def of(items: list[Item], identifier: str, host: str) -> Item:
    return next(item for item in items if (item.check, item.host) == (identifier, host))


def first_host(identifier: str) -> str:
    return SITE.group(check(identifier).where)[0].name


def test_every_check_has_good_inputs_here() -> None:
    assert sorted(good(SITE)) == sorted(CHECK_IDS)
    for identifier, texts in good(SITE).items():
        probes = check(identifier).probes(SITE, SITE.group(check(identifier).where)[0], SUBJECT)
        assert sorted(probe.name for probe in probes) == sorted(texts), identifier


def test_good_inputs_pass_everywhere() -> None:
    items = assess(GOOD)
    assert {(item.check, item.host): item.label for item in items} == {
        (item.id, host.name): "PASS" for item in CHECKS for host in SITE.group(item.where)
    }, [item.reason for item in items if item.label != "PASS"]


@pytest.mark.parametrize("spoil", SPOILT, ids=SPOILT)
@pytest.mark.parametrize(("identifier", "probe"), EVERY_PROBE, ids=[f"{a}/{b}" for a, b in EVERY_PROBE])
def test_a_spoilt_input_is_no_pass(identifier: str, probe: str, spoil: str) -> None:
    host = SITE.group(check(identifier).where)[0]
    command = next(item.command for item in check(identifier).probes(SITE, host, SUBJECT) if item.name == probe)
    item = of(assess(change(GOOD, host.name, command, **SPOILT[spoil])), identifier, host.name)
    assert item.outcome is not Outcome.PASS
    assert item.label != "PASS"
    assert item.reason


@pytest.mark.parametrize(("identifier", "probe"), EVERY_PROBE, ids=[f"{a}/{b}" for a, b in EVERY_PROBE])
def test_a_deleted_input_is_not_run(identifier: str, probe: str) -> None:
    host = SITE.group(check(identifier).where)[0]
    command = next(item.command for item in check(identifier).probes(SITE, host, SUBJECT) if item.name == probe)
    results = {name: dict(by_command) for name, by_command in GOOD.items()}
    del results[host.name][command]
    item = of(assess(results), identifier, host.name)
    assert item.outcome is Outcome.NOT_RUN
    assert probe in item.reason


@pytest.mark.parametrize("identifier", CHECK_IDS)
def test_nothing_at_all_is_not_run(identifier: str) -> None:
    item = of(assess({host.name: {} for host in SITE.hosts}), identifier, first_host(identifier))
    assert item.outcome is Outcome.NOT_RUN
    assert item.evidence is None
    assert item.measurements == []


@pytest.mark.parametrize("identifier", [item.id for item in CHECKS if not item.attested])
def test_without_provenance_a_pass_is_only_rehearsed(identifier: str) -> None:
    results = {
        host: {command: result for command, result in by_command.items() if "apt-cache policy" not in command}
        for host, by_command in GOOD.items()
    }
    assert "apt-cache policy" in provenance_probe(["x"]).command
    item = of(assess(results), identifier, first_host(identifier))
    assert (item.outcome, item.evidence, item.label) == (Outcome.PASS, Evidence.SIMULATED, "REHEARSED")
    assert NAME in item.evidence_reason


def test_a_truncated_answer_of_a_host_is_no_pass() -> None:
    """Half of each text: whatever can be cut in the middle of a transfer."""
    for host, by_command in GOOD.items():
        for command, result in by_command.items():
            if ".jsonl" in command or "apt-cache" in command or "/proc/driver" in command:
                continue  # a shorter run is still a run, provenance is another axis, and a version is one line
            items = assess(change(GOOD, host, command, stdout=result.stdout[: len(result.stdout) // 2]))
            assert any(item.host == host and item.outcome is not Outcome.PASS for item in items), command

"""The dossier: complete, self-contained, escaped, verifiable; signed only when everything in it was really measured."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from benchmarks.acceptance import signing, suite
from benchmarks.acceptance.commands import app
from benchmarks.dossier import store
from benchmarks.dossier.html import render, verdict
from benchmarks.dossier.model import Dossier, Signatures, Waiver
from medllm.checks import CHECKS
from medllm.checks.base import Subject
from medllm.errors import UserError
from medllm.manifest import public_key_pem
from medllm.remote import Result
from medllm.site.model import Host
from medllm.verdict import Evidence, Outcome
from tests.unit.acceptance_inputs import (
    ROOT,
    SUBJECT,
    change,
    check,
    command_of,
    good_results,
    query_xml,
    site,
    thresholds,
)

SITE = site()
GOOD = good_results(SITE)
NONE = Signatures(signatures=[])
KEY = Ed25519PrivateKey.generate()


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def written(results: Mapping[str, Mapping[str, Result]] = GOOD, **selection: object) -> tuple[Path, Dossier]:
    """A dossier in its folder."""
    plan = suite.plan(SITE, thresholds(SITE), CHECKS, SUBJECT, **selection)  # type: ignore[arg-type]
    dossier, raw = suite.assess(plan, results, created=datetime.now(UTC), duration_s=2.5)
    folder = store.new_folder(SITE.name, dossier.created)
    store.write(folder, dossier, raw)
    return folder, dossier


def overheated(degrees: str = "92 C") -> dict[str, dict[str, Result]]:
    command = command_of(SITE, SITE.host("node1"), check("gpu_temperature"), "nvidia-smi -q -x")
    return change(GOOD, "node1", command, stdout=query_xml().replace("29 C", degrees, 1))


def simulated() -> dict[str, dict[str, Result]]:
    return {
        host: {command: result for command, result in found.items() if "apt-cache policy" not in command}
        for host, found in GOOD.items()
    }


def waiver(expires: timedelta = timedelta(days=7), **more: object) -> Waiver:
    now = datetime.now(UTC)
    fields = {"check": "gpu_temperature", "host": None, "reason": "the fan is on its way", "approver": "A. Person"}
    return Waiver.model_validate({**fields, "created": now - timedelta(days=30), "expires": now + expires, **more})


def test_the_schema_file_is_the_models() -> None:
    recorded = json.loads((ROOT / "benchmarks" / "dossier" / "dossier.schema.json").read_text())
    assert recorded == Dossier.model_json_schema(), "write it again: python -m benchmarks.dossier.schema"


def test_a_written_dossier_fits_its_schema() -> None:
    import jsonschema

    folder, dossier = written()
    data = json.loads((folder / store.JSON).read_text())
    jsonschema.validate(data, json.loads((ROOT / "benchmarks" / "dossier" / "dossier.schema.json").read_text()))
    assert store.read(folder) == dossier
    assert (store.root() / "latest").resolve() == folder.resolve()


def test_two_dossiers_of_one_second_do_not_meet() -> None:
    first, second = written()[0], written()[0]
    assert first != second
    assert (store.root() / "latest").resolve() == second.resolve()


def test_inventory_comes_from_the_probes() -> None:
    _, dossier = written()
    node = next(host for host in dossier.hosts if host.name == "node1")
    assert (len(node.gpus), node.gpus[0].serial, len(node.hcas)) == (8, "1650000000001", 4)
    assert node.driver == "580.95.05"


def test_signing_needs_everything_measured_and_passed() -> None:
    folder, _ = written()
    signing.sign(folder, KEY, "A. Person", "operations")
    signing.sign(folder, KEY, "B. Person", "medical physics")
    assert signing.faults(folder, store.read(folder)) == []
    assert signing.signature_faults(folder, KEY.public_key()) == []
    assert [entry.statement.signer for entry in store.read_signatures(folder).signatures] == ["A. Person", "B. Person"]


@pytest.mark.parametrize(
    ("results", "selection", "reason"),
    [
        (simulated(), {}, "simulated evidence, which nothing can waive"),
        (overheated(), {}, "1 FAIL without a valid waiver: gpu_temperature"),
        (overheated("N/A"), {}, "1 NOT_RUN without a valid waiver"),
        (overheated("999 C"), {}, "1 INCONCLUSIVE without a valid waiver"),
        (GOOD, {"tags": ["node"]}, "covers only a part"),
        (GOOD, {"hosts": ["node1"]}, "covers only a part"),
        ({host.name: {} for host in SITE.hosts}, {}, "nothing in it was measured"),
    ],
    ids=["simulated", "fail", "not run", "inconclusive", "tag", "host", "nothing"],
)
def test_signing_is_refused(results: dict[str, dict[str, Result]], selection: dict[str, object], reason: str) -> None:
    folder, _ = written(results, **selection)
    with pytest.raises(signing.Refused) as refused:
        signing.sign(folder, KEY, "A. Person", "operations")
    assert any(reason in str(line) for line in refused.value.args), refused.value.args
    assert not (folder / store.SIGNATURES).exists()


def test_a_waiver_covers_a_failure_until_its_day() -> None:
    folder, _ = written(overheated())
    signing.add_waiver(SITE.name, waiver(timedelta(seconds=-1)))
    with pytest.raises(signing.Refused):
        signing.sign(folder, KEY, "A. Person", "operations")
    signing.add_waiver(SITE.name, waiver(host="node2"))
    with pytest.raises(signing.Refused):
        signing.sign(folder, KEY, "A. Person", "operations")
    signing.add_waiver(SITE.name, waiver())
    signature = signing.sign(folder, KEY, "A. Person", "operations")
    assert [entry.check for entry in signature.statement.waivers] == ["gpu_temperature"]
    assert len(signing.read_waivers(SITE.name)) == 2


def test_a_waiver_never_covers_simulated_evidence_or_an_inconclusive_item() -> None:
    now = datetime.now(UTC)
    results = overheated()
    _, dossier = written(results)
    item = next(item for item in dossier.items if item.outcome == "FAIL")
    assert waiver().covers(item, now)
    assert not waiver().covers(item.model_copy(update={"evidence": Evidence.SIMULATED}), now)
    assert not waiver().covers(item.model_copy(update={"outcome": Outcome.INCONCLUSIVE}), now)


def test_alterations_are_found(own_state: Path) -> None:
    folder, dossier = written(overheated())
    signing.add_waiver(SITE.name, waiver())
    signing.sign(folder, KEY, "A. Person", "operations")
    path = folder / store.JSON
    original = path.read_text()

    def faults() -> list[str]:
        return signing.faults(folder, store.read(folder)) + signing.signature_faults(folder, KEY.public_key())

    assert faults() == []
    path.write_text(original.replace('"value": 92', '"value": 62'))
    assert any("does not follow from its measurements" in fault for fault in faults())
    path.write_text(original.replace('"outcome": "FAIL"', '"outcome": "PASS"'))
    assert any("does not follow" in fault or "is called FAIL" in fault for fault in faults())
    path.write_text(original.replace('"label": "PASS"', '"label": "REHEARSED"', 1))
    assert any("is called REHEARSED" in fault for fault in faults())
    assert any("another dossier" in fault for fault in faults())
    path.write_text(original)
    raw = folder / store.RAW / f"{dossier.artifacts[0].sha256}.txt"
    kept = raw.read_text()
    raw.write_text(kept + "x")
    assert any("was altered" in fault for fault in faults())
    raw.unlink()
    assert any("is missing" in fault for fault in faults())
    raw.write_text(kept)
    signatures = folder / store.SIGNATURES
    signatures.write_text(signatures.read_text().replace('"role": "operations"', '"role": "management"'))
    assert any("does not hold" in fault for fault in faults())


def test_another_key_and_no_signature_are_found() -> None:
    folder, _ = written()
    stranger = Ed25519PrivateKey.generate().public_key()
    assert signing.signature_faults(folder, stranger) == ["it is not signed"]
    assert signing.signature_faults(folder, None) == []
    signing.sign(folder, KEY, "A. Person", "operations")
    assert "by another key" in signing.signature_faults(folder, stranger)[0]


def forged() -> Path:
    """A rehearsal whose dossier.json was edited, consistently, into measured passes."""
    folder, dossier = written(simulated())
    data = json.loads((folder / store.JSON).read_text())
    for item in data["items"]:
        item |= {"evidence": "measured", "label": item["outcome"]}
    (folder / store.JSON).write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    assert signing.faults(folder, store.read(folder)) == []
    assert signing.obstacles(store.read(folder), [], dossier.created) == []
    return folder


def test_an_edited_dossier_is_not_signed_and_not_verified() -> None:
    folder = forged()
    with pytest.raises(signing.Refused, match="was altered after"):
        signing.sign(folder, KEY, "A. Person", "operations")
    assert CliRunner().invoke(app, ["verify", str(folder)]).exit_code == 1
    (folder / store.SEAL).unlink()
    with pytest.raises(signing.Refused, match="no seal"):
        signing.sign(folder, KEY, "A. Person", "operations")


def test_a_seal_by_another_machine_is_not_signed_here(own_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = forged()
    monkeypatch.setenv("XDG_STATE_HOME", str(own_state / "elsewhere"))
    store.write(folder, store.read(folder), {})
    monkeypatch.setenv("XDG_STATE_HOME", str(own_state / "state"))
    with pytest.raises(signing.Refused, match="another machine"):
        signing.sign(folder, KEY, "A. Person", "operations")


def test_a_signature_that_sign_would_have_refused_counts_for_nothing() -> None:
    good, _ = written()
    signature = signing.sign(good, KEY, "A. Person", "operations")
    folder, _ = written(simulated())
    payload = (folder / store.JSON).read_bytes()
    statement = signature.statement.model_copy(update={"dossier_sha256": store.sha256(payload)})
    value = base64.b64encode(KEY.sign(store.dumps(statement).encode())).decode()
    made = signature.model_copy(update={"statement": statement, "signature": value})
    (folder / store.SIGNATURES).write_text(store.dumps(Signatures(signatures=[made])))
    (found, *_) = signing.signature_faults(folder, KEY.public_key())
    assert "counts for nothing" in found
    assert "simulated" in found


def test_an_edited_page_is_found_and_written_anew() -> None:
    folder, _ = written()
    runner = CliRunner()
    assert runner.invoke(app, ["report"]).exit_code == 0
    (folder / store.HTML).write_text("<h1>Accepted</h1>")
    assert "dossier.html is not the page" in runner.invoke(app, ["verify"]).output
    assert runner.invoke(app, ["report"]).exit_code == 0
    assert runner.invoke(app, ["verify"]).exit_code == 0


def test_verify_says_that_anybody_may_have_signed() -> None:
    folder, _ = written()
    signing.sign(folder, KEY, "A. Person", "operations")
    assert "whose key signed was not checked" in CliRunner().invoke(app, ["verify"]).output


@pytest.mark.parametrize(("signer", "role"), [("", "operations"), ("A. Person", "  \n "), ("\udcff\udcff", "chief")])
def test_a_signer_or_role_without_content_is_refused(signer: str, role: str) -> None:
    folder, _ = written()
    with pytest.raises(UserError):
        signing.sign(folder, KEY, signer, role)
    assert not (folder / store.SIGNATURES).exists()


def test_a_dossier_of_another_version_is_refused(own_state: Path) -> None:
    folder, _ = written()
    path = folder / store.JSON
    path.write_text(path.read_text().replace("medllm-dossier-1", "medllm-dossier-2"))
    with pytest.raises(UserError, match="not a dossier of this version"):
        store.read(folder)
    with pytest.raises(UserError, match="there is no dossier"):
        store.read(own_state)


def test_h200_site_at_machines_without_vendor_keys_certifies_nothing() -> None:
    """The evidence does not come from the inventory: the declaration of real hardware changes nothing."""
    h200 = site("h200")
    h200 = h200.model_copy(update={"lock": h200.lock.model_copy(update={"vendor_keys": []})})
    plan = suite.plan(h200, thresholds(h200, "h200"), CHECKS, SUBJECT)
    dossier, _ = suite.assess(plan, good_results(h200), created=datetime.now(UTC), duration_s=1)
    assert {item.label for item in dossier.items if not check(item.check).attested} <= {"REHEARSED", "NOT_RUN", "FAIL"}
    assert any(item.label == "REHEARSED" for item in dossier.items)


class Page(HTMLParser):
    """What a page would load, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[tuple[str, str | None]] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [(tag, value) for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_loads_nothing_and_says_everything() -> None:
    _, dossier = written(overheated())
    text = render(dossier, NONE, {})
    page = Page(text)
    assert page.loads == []
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "form"}
    assert "url(" not in text
    assert "@import" not in text
    for item in CHECKS:
        assert item.title in page.words
    for wanted in (
        "Not accepted",
        "92 °C",
        "idle temperature < 80 °C",
        "node4",
        "gpu_overheat",
        "Signatures",
        "Waivers",
    ):
        assert wanted in page.words, wanted


def test_hostile_values_are_escaped() -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    command = command_of(SITE, SITE.host("node1"), check("gpu_count"), "nvidia-smi -L")
    results = change(GOOD, "node1", command, stdout="", stderr=evil, rc=1)
    plan = suite.plan(SITE, thresholds(SITE), CHECKS, Subject("medllm-sample", "medllm-tiny"))
    dossier, raw = suite.assess(plan, results, created=datetime.now(UTC), duration_s=1)
    dossier = dossier.model_copy(update={"waivers": [waiver(reason=evil, approver=evil)], "dataset": evil})
    page = Page(render(dossier, NONE, raw))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert evil in page.words


def test_verdicts() -> None:
    folder, dossier = written()
    assert verdict(dossier, NONE).title == "Ready to sign"
    signing.sign(folder, KEY, "A. Person", "operations")
    assert verdict(dossier, store.read_signatures(folder)).title == "Accepted"
    assert verdict(written(simulated())[1], NONE).title == "Rehearsed"
    assert verdict(written(overheated())[1], NONE).title == "Not accepted"
    assert verdict(written(tags=["node"])[1], NONE).title == "Passed in part"


@pytest.mark.slow
def test_a_thousand_nodes_make_a_page_of_a_bearable_size() -> None:
    template = SITE.host("node1")
    nodes = [
        template.model_copy(update={"name": f"n{number:04d}", "address": f"10.1.{number // 250}.{number % 250}"})
        for number in range(1024)
    ]
    hosts: tuple[Host, ...] = (SITE.mgmt, *nodes)
    large = SITE.model_copy(update={"hosts": hosts})
    node_checks = [check(name) for name in ("gpu_count", "nvlink", "hca_link", "lustre_readiness")]
    mapped = {host.name: GOOD["node1"] for host in nodes} | {"mgmt": {}}
    plan = suite.plan(large, thresholds(SITE), node_checks, SUBJECT)
    dossier, raw = suite.assess(plan, mapped, created=datetime.now(UTC), duration_s=1)
    assert len(dossier.items) == 1024 * len(node_checks)
    assert len(render(dossier, NONE, raw)) < 12_000_000


def test_commands_on_a_recorded_dossier(own_state: Path) -> None:
    runner = CliRunner()
    folder, _ = written()
    assert runner.invoke(app, ["report"]).exit_code == 0
    assert (folder / store.HTML).read_text().startswith("<!doctype html>")
    listed = runner.invoke(app, ["verify", "--json"])
    assert (listed.exit_code, json.loads(listed.stdout)["faults"]) == (0, [])
    signed = runner.invoke(app, ["sign", "--signer", "A. Person", "--role", "operations"])
    assert signed.exit_code == 0, signed.output
    key = own_state / "state" / "medllm-cluster" / "keys" / "acceptance.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert "A. Person" in (folder / store.HTML).read_text()
    public = own_state / "public.pem"
    public.write_bytes(public_key_pem(KEY.public_key()))
    other = runner.invoke(app, ["verify", "--public-key", str(public)])
    assert (other.exit_code, "another key" in other.output) == (1, True)
    simulated_folder, _ = written(simulated())
    refused = runner.invoke(app, ["sign", "--signer", "A. Person", "--role", "operations"])
    assert (refused.exit_code, "simulated" in refused.output) == (1, True)
    assert runner.invoke(app, ["report", str(simulated_folder)]).exit_code == 0
    rehearsed = json.loads(runner.invoke(app, ["report", str(simulated_folder), "--json"]).stdout)
    assert {item["label"] for item in rehearsed["items"]} == {"REHEARSED", "PASS"}
    failed, _ = written(overheated())
    report = runner.invoke(app, ["report", str(failed)])
    assert (report.exit_code, "gpu_temperature on node1" in report.stdout) == (1, True)


def test_waive_by_command() -> None:
    runner = CliRunner()
    base = ["waive", "gpu_temperature", "-i", str(ROOT / "inventory" / "lab"), "--approver", "A. Person"]
    day = f"{datetime.now(UTC) + timedelta(days=3):%Y-%m-%d}"
    done = runner.invoke(app, [*base, "--reason", "the fan is on its way", "--expires", day, "--host", "node1"])
    assert (done.exit_code, signing.read_waivers("lab")[0].host) == (0, "node1")
    for wrong in (
        ["--reason", "short", "--expires", day],
        ["--reason", "  short        ", "--expires", day],
        ["--reason", "the fan is on its way", "--expires", "2020-01-01"],
        ["--reason", "the fan is on its way", "--expires", "soon"],
        ["--reason", "the fan is on its way", "--expires", day, "--host", "node9"],
    ):
        assert isinstance(runner.invoke(app, [*base, *wrong]).exception, UserError)


def test_no_workplace_in_the_page() -> None:
    _, dossier = written()
    assert not re.search(r"/work/|/root/", render(dossier, NONE, {}))


@pytest.mark.parametrize("name", ["", " ", "..", "a/b", "a\nb", "\x1b[31m"])
def test_run_refuses_names_that_are_none_before_it_asks_a_machine(name: str) -> None:
    for option in ("--dataset", "--run"):
        done = CliRunner().invoke(app, ["run", "-i", str(ROOT / "inventory" / "lab"), option, name])
        assert isinstance(done.exception, UserError)
        assert option in str(done.exception)

"""Recovery on the machines, end to end: faults go in while training is under way, and the engine alone mends them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runbooks.drill import training
from runbooks.drill.look import NodeLook
from runbooks.drill.prove import prove
from runbooks.drill.told import STATE, Told
from runbooks.engine.model import Slot, State, StepStatus
from runbooks.engine.units import MARGIN_S
from tests.lab.recovery_lab import MENDED_S, SERVICE, SITE, Hands, hands

MEDLLM = Path(sys.executable).with_name("medllm")
ROOT = Path(__file__).parents[2]
# A whole recovery takes about a minute and a half; who does nothing for so long does nothing.
NOTHING_S = 90.0
SECRETS = "/etc/medllm/recover"
ENGINE = f"https://{SITE.mgmt.address}:{SITE.ports.recovery}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Hands]:
    with hands() as them:
        yield them


def drill(*words: str, timeout: float) -> dict[str, Any]:
    """`medllm recover drill` as a user runs it."""
    done = subprocess.run(
        [MEDLLM, "recover", "drill", *words, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if answer["good"] else 1), done.stderr
    return answer


def not_proved(answer: dict[str, Any]) -> list[str]:
    return [
        f"{run['drill']} {run['number']} on {run['node']}: {run['problem'] or proof['name'] + ': ' + proof['detail']}"
        for run in answer["runs"]
        for proof in run["proofs"] or [{"name": "", "detail": "", "ok": False}]
        if not proof["ok"]
    ]


def failed(seen: Any) -> list[str]:
    return [f"{proof.name}: {proof.detail}" for proof in prove(seen) if not proof.ok]


def test_a_drill_proves_that_the_engine_mends_a_lost_gpu(lab: Hands) -> None:
    answer = drill("gpu_fallen_off", timeout=800)
    assert not_proved(answer) == []
    [run] = answer["runs"]
    assert run["figures"]["recover_s"] < 300
    assert (run["figures"]["alert_to_action_s"] or 0) <= 30


@pytest.mark.timeout(1200)
def test_without_the_engine_training_stays_down_and_the_alert_fires(lab: Hands) -> None:
    """The negative control: what mends the cluster is the engine, and nothing else."""
    try:
        seen = lab.begin("gpu_fallen_off", "node2", first=lambda: lab.root(f"systemctl stop {SERVICE}"))

        def fired() -> bool:
            seen.watch.see(lab.look())
            return any(name in seen.alerts for name, _ in seen.watch.fired)

        lab.until(fired, 150, f"one of {', '.join(sorted(seen.alerts))}")
        time.sleep(NOTHING_S)
        now = lab.look()
        seen.watch.see(now)
        assert not now.training.job, "the job ended with its rank"
        assert (now.at - now.training.steps[-1][1]).total_seconds() > NOTHING_S
        assert seen.watch.outages == []
        assert boots(lab.nodes()) == boots(seen.nodes_before)
        assert lab.told(seen.fault_at) == ()
    finally:
        lab.root(f"systemctl start {SERVICE}")
    assert failed(lab.mended(seen)) == []


@pytest.mark.timeout(1200)
def test_a_persons_drain_is_never_undone(lab: Hands) -> None:
    """NHC #134: a health checker put a node back into service that an administrator had drained."""
    reason = "maintenance by Anna"

    def drain() -> None:
        lab.root(f"scontrol update nodename=node3 state=drain reason='{reason}'")

    seen = lab.begin("gpu_fallen_off", "node3", first=drain)

    # The run may have an incident of its own: the engine tries to let it go on without the node that it may not mend.
    def mine() -> list[Told]:
        return [each for each in lab.told(seen.fault_at) if each.node == "node3"]

    try:
        lab.until(lambda: any(each.waiting for each in mine()), 90, "the incident waits", pause=3)
        time.sleep(NOTHING_S)
        [told] = mine()
        # Where the engine had looked at Slurm before the person spoke, it learns of it from the drain, which refuses.
        assert not told.over, told
        assert {(step.slot, step.status) for step in told.steps} <= {(Slot.QUIESCE, StepStatus.FAILED)}, told
        now = lab.look()
        assert ("DRAIN" in now.slurm["node3"].states, now.slurm["node3"].reason) == (True, reason)
        assert boots(lab.nodes()) == boots(seen.nodes_before)
    finally:
        lab.root("scontrol update nodename=node3 state=resume")
    lab.mended(seen)
    [told] = mine()
    assert told.state is State.CLOSED
    assert boots(lab.nodes())["node3"] != seen.nodes_before["node3"].boot_id, "given back, it was mended"


def test_what_is_no_alertmanagers_word_is_refused_and_runs_nothing(lab: Hands) -> None:
    lab.until(lambda: all(each.over for each in lab.told()), MENDED_S, "no incident is open", pause=3)
    before, incidents = lab.step_files(), lab.told()
    counted = webhooks(lab)
    token = f"$(cat {SECRETS}/webhook.token)"
    assert post(lab, message("GpuMissing"), "") == 401
    assert post(lab, message("GpuMissing"), "wrong") == 401
    for malformed in ("no json", "[]", '{"version": "4"}', message("GpuMissing").replace("labels", "marks")):
        assert post(lab, malformed, token) == 400, malformed
    assert post(lab, message("NobodyKnowsMe"), token) == 422
    # Even a true word only makes the engine look, and it sees that nothing fires.
    assert post(lab, message("GpuMissing"), token) == 200
    now = webhooks(lab)
    assert now["unauthorized"] - counted["unauthorized"] == 2
    assert now["malformed"] - counted["malformed"] == 4
    assert now["unknown_alert"] - counted["unknown_alert"] == 1
    time.sleep(10)
    assert (lab.step_files(), lab.told()) == (before, incidents)


def message(alert: str) -> str:
    """What Alertmanager sends of one alert of node1 (its documentation on `webhook_config`)."""
    labels = {"alertname": alert, "node": "node1"}
    one = {"status": "firing", "labels": labels, "annotations": {}, "startsAt": "2026-11-23T00:00:00Z"}
    return json.dumps({"version": "4", "status": "firing", "receiver": "recovery", "alerts": [one]})


def post(lab: Hands, body: str, token: str) -> int:
    """The status of a POST to the engine's webhook; `token` is expanded by the shell."""
    header = f'-H "Authorization: Bearer {token}"' if token else ""
    command = (
        f"curl -s -o /dev/null -w '%{{http_code}}' --max-time 10 --cacert {SECRETS}/tls.pem {header} "
        f"-H 'Content-Type: application/json' --data-binary @- {ENGINE}/webhook"
    )
    return int(lab.mgmt.run(command, deadline_s=20, sudo=True, stdin=body).check().stdout)


def webhooks(lab: Hands) -> dict[str, float]:
    """The engine's own count of requests, by what became of them."""
    text = lab.root(f"curl -fsS --max-time 10 --cacert {SECRETS}/tls.pem {ENGINE}/metrics")
    found = re.findall(r'^medllm_recovery_webhooks_total\{result="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {result: float(count) for result, count in found}


def boots(nodes: Mapping[str, NodeLook]) -> dict[str, str]:
    return {name: node.boot_id for name, node in nodes.items()}


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_the_engine_may_be_killed_at_every_step(lab: Hands) -> None:
    """SIGKILL each time a step has left a new file: stored, begun, ended. Nothing is lost, nothing is done twice."""
    before = lab.step_files()
    seen = lab.begin("gpu_fallen_off", "node1")
    known, kills = set(before), 0
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        if new := {name for name in lab.step_files() - known if name.endswith(("step.json", "started", "result.json"))}:
            lab.root(f"systemctl kill --kill-who=main --signal=KILL {SERVICE} || true")
            known |= new
            kills += 1
        now = lab.look()
        seen.watch.see(now)
        if any(resume.at > seen.fault_at for resume in now.training.resumes) and training.makes_steps(now):
            break
        time.sleep(0.3)
    after = lab.mended(seen)
    assert failed(after) == []
    assert kills >= 6, "there were steps to kill it at"
    assert after.incident is not None
    for step in after.incident.steps:
        # systemd says "Started NAME - COMMAND." once for each start of a unit.
        starts = lab.root(f"journalctl --quiet --output=cat --unit={step.id}.service | grep -c '^Started ' || true")
        assert starts.strip() == "1", f"{step.id} was started {starts.strip()} times"


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_two_faults_at_once_stay_within_the_guard(lab: Hands) -> None:
    seen = lab.begin("gpu_fallen_off", "node2", "node3")
    after = lab.mended(seen, count=2, seconds=2 * MENDED_S)
    assert SITE.recovery.max_nodes_out == 1
    assert seen.watch.most_out == 1, seen.watch.outages
    first, second = sorted(after.incidents, key=lambda told: told.first_action or told.opened_at)
    assert {first.node, second.node} == {"node2", "node3"}
    returned = [step.ended_at for step in first.steps if step.slot is Slot.RETURN]
    assert returned
    assert returned[-1] is not None
    assert second.first_action is not None
    assert second.first_action >= returned[-1], "one after the other"
    new = {name for name, boot in boots(after.nodes_after).items() if boot != seen.nodes_before[name].boot_id}
    assert new == {"node2", "node3"}


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_a_hung_playbook_is_ended_in_time(lab: Hands) -> None:
    """Its unit is stopped with all that runs in it, so that nothing in it can notice its own deadline."""
    before = lab.step_files()
    seen = lab.begin("lustre_evicted", "node4")
    acting: list[str] = []

    def begun() -> bool:
        seen.watch.see(lab.look())
        acting.extend(name for name in lab.step_files() - before if name.endswith(f"-{Slot.ACT}/started"))
        return bool(acting)

    lab.until(begun, 120, "the remount begins", pause=0.2)
    step = acting[0].partition("/")[0]
    lab.root(f"systemctl kill --signal=STOP {step}.service")
    stopped = datetime.now(UTC)
    deadline_s = json.loads(lab.root(f"cat {STATE}/steps/{step}/step.json"))["work"]["deadline_s"]
    after = lab.mended(seen, seconds=MENDED_S + deadline_s)
    assert after.incident is not None
    hung = next(each for each in after.incident.steps if each.id == step)
    assert hung.ended_at is not None
    # systemd asks it to end, waits 5 s, and kills it; the engine sees that at its next tick.
    assert (hung.ended_at - stopped).total_seconds() < deadline_s + MARGIN_S + 15
    assert hung.status in {StepStatus.UNKNOWN, StepStatus.FAILED}, hung
    # The next attempt is a reboot; all else is as in any drill.
    assert set(failed(after)) <= {proof for proof in failed(after) if proof.startswith("boot_ids")}

"""Role recovery_engine on the lab: it lives, is told and watched; what is broken by hand is repaired exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from medllm.remote import Remote
from medllm.site import load_site

ROOT = Path(__file__).parents[2]
SITE = load_site(ROOT / "inventory/lab")
MGMT, NODE = SITE.mgmt.name, SITE.gpu_nodes[-1].name
SECRETS = "/etc/medllm/recover"
CURRENT = f"{SITE.paths.app}/ops/current"
DOOR = f"https://{SITE.mgmt.address}:{SITE.ports.recovery}"
CURL = f"curl -sS --max-time 5 --cacert {SECRETS}/tls.pem"


def on(host: str, command: str, *, deadline_s: float = 60) -> str:
    """What a command of root printed there."""
    with Remote(SITE.host(host)) as remote:
        return remote.run(command, deadline_s=deadline_s, sudo=True).check().stdout.strip()


def prometheus(expression: str) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"query": expression})
    address = f"http://{SITE.mgmt.address}:{SITE.ports.prometheus}/api/v1/query?{query}"
    with urllib.request.urlopen(address, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def ansible(*options: str, callback: str = "ansible.posix.json") -> str:
    environment = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": callback}
    mitogen = find_spec("ansible_mitogen")
    if mitogen and mitogen.origin:
        environment["ANSIBLE_STRATEGY"] = "mitogen_linear"
        environment["ANSIBLE_STRATEGY_PLUGINS"] = str(Path(mitogen.origin).parent / "plugins" / "strategy")
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "playbooks/recovery.yml", *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    return done.stdout + (done.stderr if callback != "ansible.posix.json" else "")


def changed(*options: str) -> dict[str, set[str]]:
    """The tasks that changed something, or would, by host."""
    said = ansible(*options)
    answer = json.loads(said[said.index("{") :])
    found: dict[str, set[str]] = {}
    for play in answer["plays"]:
        for task in play["tasks"]:
            for host, result in task["hosts"].items():
                if result.get("changed"):
                    found.setdefault(host, set()).add(task["task"]["name"].removeprefix("recovery_engine : "))
    return found


def accepted() -> float:
    return webhooks("accepted")


def webhooks(result: str) -> float:
    """How many requests became this, by the engine's own count."""
    lines = on(MGMT, f"{CURL} {DOOR}/metrics").splitlines()
    (line,) = [line for line in lines if line.startswith(f'medllm_recovery_webhooks_total{{result="{result}"}}')]
    return float(line.split()[-1])


def test_it_runs_and_goes_round() -> None:
    assert on(MGMT, "systemctl is-enabled medllm-recover && systemctl is-active medllm-recover") == "enabled\nactive"
    deadline = time.monotonic() + 60
    while not prometheus('up{job="recovery"} == 1 and time() - medllm_recovery_tick_timestamp_seconds < 30'):
        assert time.monotonic() < deadline, prometheus('{job="recovery"}')
        time.sleep(1)


def test_alertmanager_tells_it_within_seconds() -> None:
    before, now = accepted(), datetime.now(UTC)
    # A name that it knows and does nothing about.
    alert = {
        "labels": {"alertname": "RecoveryWaiting", "severity": "none", "fault_class": f"test-{now.timestamp():.0f}"},
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(seconds=20)).isoformat(),
    }
    request = urllib.request.Request(
        f"http://{SITE.mgmt.address}:{SITE.ports.alertmanager}/api/v2/alerts",
        data=json.dumps([alert]).encode(), headers={"Content-Type": "application/json"},
    )  # fmt: skip
    urllib.request.urlopen(request, timeout=10).close()
    deadline = time.monotonic() + 15
    while accepted() == before:
        assert time.monotonic() < deadline, on(MGMT, "journalctl -u prometheus-alertmanager -n 5 --no-pager -o cat")
        time.sleep(0.5)


@pytest.mark.parametrize("header", ["", "-H 'Authorization: Bearer 0000000000000000'"])
def test_nobody_without_the_token_is_heard(header: str) -> None:
    # Alertmanager's own messages are accepted meanwhile, so what is counted is the refusal.
    before = webhooks("unauthorized")
    answer = on(MGMT, f"{CURL} {header} -o /dev/null -w '%{{http_code}}' -d '{{}}' {DOOR}/webhook")
    assert answer == "401"
    assert webhooks("unauthorized") == before + 1


def test_only_those_who_need_a_secret_can_read_it() -> None:
    readable = f"for file in {SECRETS}/* /etc/prometheus/recovery/*; do test -r $file && echo $file; done; true"
    for user, files in {
        "nobody": "",
        "prometheus": "/etc/prometheus/recovery/ca.pem\n/etc/prometheus/recovery/webhook.token",
    }.items():
        # The names are root's to list.
        listed = on(MGMT, f"ls -d {SECRETS}/* /etc/prometheus/recovery/*").replace("\n", " ")
        tested = readable.replace(f"{SECRETS}/* /etc/prometheus/recovery/*", listed)
        assert on(MGMT, f"runuser -u {user} -- sh -c '{tested}'") == files
    assert on(MGMT, f"stat -c '%a %U' {SECRETS} /var/lib/medllm/recover").split("\n") == ["700 root"] * 2
    assert not on(
        MGMT, f"find {SITE.paths.app}/ops/ -name '*.token' -o -name '*.key' -o -name 'id_ed25519*' -o -name bmc.json"
    )


def test_it_has_little_of_root() -> None:
    """systemd's own judgement, from 0 (safe) to 10; a unit without any restriction has 9.6."""
    said = on(MGMT, "systemd-analyze security --no-pager medllm-recover | tail -n 1")
    assert float(said.split()[-3]) < 4, said


def test_the_engines_key_opens_a_host_for_commands_from_mgmt_alone() -> None:
    ssh = f"ssh -n -i {SECRETS}/id_ed25519 -o UserKnownHostsFile={SECRETS}/known_hosts -o BatchMode=yes"
    there = f"ops@{SITE.host(NODE).address}"
    assert on(MGMT, f"{ssh} {there} sudo -n id -u") == "0"
    # No tunnel: `restrict`.
    assert (
        on(MGMT, f"timeout 5 {ssh} -o ExitOnForwardFailure=yes -R 9999:localhost:22 {there} true || echo refused")
        == "refused"
    )
    # The key in other hands opens nothing: an address that is not mgmt's. On the node itself, it comes from the node.
    line = on(NODE, "grep ' medllm-recover$' ~ops/.ssh/authorized_keys")
    assert line.startswith(f'restrict,from="{SITE.mgmt.address}" ssh-ed25519 ')


@pytest.fixture
def secret_texts() -> Iterator[set[str]]:
    """The secrets themselves; meanwhile mgmt's copies differ, so that a run would show what it changes."""
    login = json.loads(Path(SITE.bmc.credentials_file).expanduser().read_text())
    texts = {login["password"], on(MGMT, f"cat {SECRETS}/webhook.token")}
    texts |= set(on(MGMT, f"grep -hv -- ---- {SECRETS}/id_ed25519 {SECRETS}/tls.key").split())
    on(MGMT, f"cp -p {SECRETS}/bmc.json /root/bmc.json && cp -p {SECRETS}/webhook.token /root/webhook.token")
    on(MGMT, f"echo another-password > {SECRETS}/bmc.json && echo broken-token > {SECRETS}/webhook.token")
    yield {*texts, "another-password", "broken-token"}
    on(MGMT, f"mv /root/bmc.json {SECRETS}/bmc.json && mv /root/webhook.token {SECRETS}/webhook.token")


def test_no_secret_is_in_a_log_or_a_difference(secret_texts: set[str]) -> None:
    said = ansible("--check", "--diff", "-vvv", "--limit", MGMT, callback="ansible.builtin.default")
    assert "Write the BMCs' login" in said
    assert not [text for text in secret_texts if text in said]


# (host, what is done to it, the tasks that must change there).
BREAKS = [
    (MGMT, f"rm {SECRETS}/bmc.json", {"Write the BMCs' login", "Run the engine"}),
    (
        MGMT,
        "echo '' >> /etc/prometheus/recovery/webhook.token",
        {"Make the engine's key, its webhook's token and its certificate"},
    ),
    (MGMT, f"sed -i '/{NODE} /d' {SECRETS}/known_hosts", set()),
    (
        MGMT,
        f"echo junk >> {CURRENT}/content/playbooks/recovery.yml",
        {"Ship playbooks, roles, pages and the declaration"},
    ),
    (MGMT, "systemctl disable --now --quiet medllm-recover", {"Run the engine"}),
    (MGMT, f"rm {CURRENT}", {"Point at what is in use"}),
    (
        NODE,
        "sed -i '/ medllm-recover$/d' ~ops/.ssh/authorized_keys",
        {"Let the engine's key in", "Let the engine know the host, and open it"},
    ),
]


def test_what_was_broken_by_hand_is_predicted_and_repaired_exactly() -> None:
    ansible()
    wanted: dict[str, set[str]] = {}
    for host, command, tasks in BREAKS:
        on(host, command)
        wanted.setdefault(host, set()).update(tasks)
    assert changed("--check") == wanted
    assert changed() == wanted
    assert changed() == {}
    assert on(MGMT, "systemctl is-active medllm-recover") == "active"


def test_a_certificate_that_ends_soon_or_is_for_another_is_made_anew() -> None:
    for options in (
        "-days 29 -addext subjectAltName=DNS:{0},IP:{1}",
        "-days 300 -addext subjectAltName=DNS:{0},IP:10.1.1.1",
    ):
        named = options.format(MGMT, SITE.mgmt.address)
        on(MGMT, f"openssl req -x509 -key {SECRETS}/tls.key -subj /CN=x {named} -out {SECRETS}/tls.pem")
        assert "Make the engine's key, its webhook's token and its certificate" in changed("--limit", MGMT)[MGMT]
        assert changed("--limit", MGMT) == {}
        assert on(MGMT, f"{CURL} {DOOR}/healthz -o /dev/null -w '%{{http_code}}'") == "200"
    # Prometheus takes the new one by itself.
    deadline = time.monotonic() + 60
    while not prometheus('up{job="recovery"} == 1'):
        assert time.monotonic() < deadline
        time.sleep(1)

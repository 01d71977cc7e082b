"""The program's life: applied, unchanged, drifted and repaired, changed, refused, broken off, taken away."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from medllm_k8s.drift import access_drift

from lab.kubernetes.local import LocalControlPlane
from lab.kubernetes.pki import Identity
from tests.kubernetes.program import NAMESPACE, Program, counts, own_processes, told

pytestmark = pytest.mark.timeout(1800)
SITE = "group_vars/all/site_kubernetes.yml"


def resources(program: Program) -> list[Any]:
    """What the state holds of each resource, without times."""
    listed = json.loads(program.state())["checkpoint"]["latest"]["resources"]
    return [{key: value for key, value in item.items() if key not in {"created", "modified"}} for item in listed]


def rights(program: Program) -> list[str]:
    kinds = "roles,rolebindings,clusterroles,clusterrolebindings"
    listed = program.kubectl("get", kinds, "--all-namespaces", "--output=json").stdout
    return access_drift(json.loads(listed)["items"], NAMESPACE)


@pytest.mark.gate
def test_a_second_up_changes_nothing(program: Program) -> None:
    assert set(counts(program.up())) == {"unchanged"}
    assert rights(program) == []


@pytest.mark.gate
def test_a_refresh_finds_the_state_true(program: Program) -> None:
    """What a server fills in (classes, times, owners) is no drift, else nobody would look at real drift any more."""
    shown = program.run("refresh", "--preview-only", "--expect-no-changes")
    assert set(counts(shown)) == {"unchanged"}


@pytest.mark.long
@pytest.mark.gate
def test_drift_is_shown_and_repaired(program: Program) -> None:
    add = '[{"op": "add", "path": "/rules/0/verbs/-", "value": "deletecollection"}]'
    program.kubectl("patch", "role", "medllm-data-scientist", "-n", NAMESPACE, "--type=json", "-p", add)
    program.kubectl("delete", "networkpolicy", "default-deny", "-n", NAMESPACE)
    quota = '{"spec": {"hard": {"requests.nvidia.com/gpu": "320"}}}'
    program.kubectl("patch", "resourcequota", "medllm", "-n", NAMESPACE, "-p", quota)
    assert rights(program) == ["Role medllm-data-scientist: deletecollection pods was added"]
    shown = program.run("preview", "--refresh", "--diff")
    assert "default-deny" in shown
    assert "320" in shown
    program.up("--refresh")
    assert program.object("networkpolicy", "default-deny")["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert program.object("resourcequota", "medllm")["spec"]["hard"]["requests.nvidia.com/gpu"] == "32"
    # The genuine plugin's refresh misses a verb in a list too: that is what the check of our own is for.
    program.kubectl("delete", "role", "medllm-data-scientist", "-n", NAMESPACE)
    program.up("--refresh")
    assert rights(program) == []
    assert set(counts(program.up())) == {"unchanged"}


@pytest.mark.long
def test_a_right_given_beside_the_program_is_found(program: Program) -> None:
    """Nothing that Pulumi made has changed: no refresh shows it."""
    program.kubectl(
        "create", "rolebinding", "favour", "-n", NAMESPACE, "--clusterrole=admin", "--group=medllm:data-scientist"
    )
    try:
        assert rights(program) == ["RoleBinding favour: binds medllm:data-scientist to ClusterRole admin"]
    finally:
        program.kubectl("delete", "rolebinding", "favour", "-n", NAMESPACE)


@pytest.mark.long
def test_a_changed_site_changes_what_it_says_and_no_more(program: Program) -> None:
    program.declare(SITE, lambda text: text.replace("pods: 40", "pods: 41"))
    try:
        done = counts(program.up())
        assert done.pop("updated") == 1
        assert set(done) == {"unchanged"}
        assert program.object("resourcequota", "medllm")["spec"]["hard"]["pods"] == "41"
    finally:
        program.declare(SITE, lambda text: text.replace("pods: 41", "pods: 40"))
        program.up()


@pytest.mark.long
def test_what_somebody_else_holds_is_not_taken_by_force(program: Program) -> None:
    """Server-side apply: a conflict is told with who holds the field; nothing is overwritten."""
    name = ["apply", "--server-side", "--field-manager=somebody"]
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "medllm", "namespace": NAMESPACE},
        "spec": {"hard": {"pods": "7"}},
    }  # fmt: skip
    program.kubectl(*name, "--force-conflicts", "-f", "-", text=json.dumps(quota))
    program.declare(SITE, lambda text: text.replace("pods: 40", "pods: 42"))
    try:
        said = program.up(status=None)
        assert "somebody" in said
        assert "conflict" in said.lower()
        assert program.object("resourcequota", "medllm")["spec"]["hard"]["pods"] == "7"
    finally:
        del quota["spec"]
        program.kubectl(*name, "-f", "-", text=json.dumps(quota))
        program.declare(SITE, lambda text: text.replace("pods: 42", "pods: 40"))
        program.up("--refresh")
    assert program.object("resourcequota", "medllm")["spec"]["hard"]["pods"] == "40"


@pytest.mark.long
def test_where_data_lie_is_not_changed_under_them(program: Program) -> None:
    """A volume's source can't be changed; replacing it is refused, for the volume is protected."""
    before = program.object("persistentvolume", f"{NAMESPACE}-lustre-pvc")["spec"]
    cluster = "group_vars/all/site_cluster.yml"
    program.declare(cluster, lambda text: text.replace("datasets: /mnt/lustre/datasets", "datasets: /mnt/lustre/other"))
    try:
        said = program.up(status=None)
        assert "protect" in said
        assert program.object("persistentvolume", f"{NAMESPACE}-lustre-pvc")["spec"] == before
    finally:
        program.declare(
            cluster, lambda text: text.replace("datasets: /mnt/lustre/other", "datasets: /mnt/lustre/datasets")
        )
    assert set(counts(program.up())) == {"unchanged"}


@pytest.mark.long
def test_protected_claims_refuse_to_go(program: Program) -> None:
    said = program.run("destroy", "--yes", "--skip-preview", status=None)
    assert "protect" in said
    for claim in ("lustre-pvc", "ceph-pvc", "encrypted-pvc"):
        assert program.object("persistentvolumeclaim", claim)["metadata"].get("deletionTimestamp") is None
    program.up("--refresh")


def refused(program: Program, *arguments: str, **changed: str) -> str:
    """The one line of a refused `up`; nothing changed, in the state or in the cluster."""
    before = resources(program)
    said = program.up(*arguments, status=None, **changed)
    assert "Traceback" not in said, said
    assert resources(program) == before
    lines = told(said)
    assert len(lines) == 1, said
    return lines[0]


@pytest.mark.long
def test_a_site_that_was_not_exported_is_refused(program: Program) -> None:
    program.export_file.rename(program.folder / "aside")
    try:
        line = refused(program)
    finally:
        (program.folder / "aside").rename(program.export_file)
    assert "the exported site does not exist" in line
    assert "medllm site export -i" in line


@pytest.mark.long
def test_an_export_older_than_the_inventory_is_refused(program: Program) -> None:
    path = program.inventory / SITE
    text = path.read_text()
    path.write_text(text.replace("pods: 40", "pods: 43"))
    try:
        line = refused(program)
    finally:
        path.write_text(text)
    assert "is not what" in line
    assert "medllm site export -i" in line


@pytest.mark.long
def test_an_export_that_was_edited_is_refused(program: Program) -> None:
    text = program.export_file.read_text()
    program.export_file.write_text(text.replace('"pods": 40', '"pods": 4000'))
    try:
        line = refused(program)
    finally:
        program.export_file.write_text(text)
    assert "its hash does not fit" in line


@pytest.mark.long
def test_another_sites_stack_is_refused(program: Program) -> None:
    settings = program.folder / "Pulumi.lab.yaml"
    text = settings.read_text()
    settings.write_text(text.replace("../inventory/lab", "../inventory/h200"))
    try:
        line = refused(program)
    finally:
        settings.write_text(text)
    assert "pulumi stack select h200" in line


@pytest.mark.long
def test_an_api_server_that_does_not_answer_is_told(program: Program, cluster: LocalControlPlane) -> None:
    cluster.stop("kube-apiserver")
    try:
        before = resources(program)
        said = program.run("preview", "--refresh", status=None)
        assert resources(program) == before
    finally:
        cluster.start("kube-apiserver")
    assert "Traceback" not in said
    assert any(cluster.server in line or "refused" in line for line in told(said)), said
    assert set(counts(program.up())) == {"unchanged"}


@pytest.mark.long
def test_an_expired_certificate_is_told(program: Program, cluster: LocalControlPlane, tmp_path: Path) -> None:
    old = cluster.issue(tmp_path / "old", Identity("kubernetes-admin", ("system:masters",)), -timedelta(days=1))
    program.declare(SITE, lambda text: text.replace("pods: 40", "pods: 44"))
    try:
        said = program.up(status=None, KUBECONFIG=str(old))
        assert program.object("resourcequota", "medllm")["spec"]["hard"]["pods"] == "40"
    finally:
        program.declare(SITE, lambda text: text.replace("pods: 44", "pods: 40"))
    assert "Traceback" not in said
    assert "the client certificate expired on" in said
    program.up()


@pytest.mark.long
def test_a_mistyped_kubeconfig_replaces_nothing(program: Program) -> None:
    """Nor does the state then hold on to it, once `up --refresh` is told to ask the program."""
    program.up(KUBECONFIG="/nope")
    assert set(counts(program.up("--refresh", "--run-program"))) <= {"updated", "unchanged"}
    assert set(counts(program.up())) == {"unchanged"}


@pytest.mark.long
def test_without_the_passphrase_nothing_is_done(program: Program) -> None:
    before = resources(program)
    said = program.up(status=None, PULUMI_CONFIG_PASSPHRASE_FILE="/dev/null", PULUMI_CONFIG_PASSPHRASE="")
    assert "passphrase" in said.lower()
    assert resources(program) == before


@pytest.mark.long
def test_taken_away_the_data_stay_and_a_broken_up_is_gone_on_with(program: Program) -> None:
    program.run("state", "unprotect", "--all", "--yes")
    program.run("destroy", "--yes", "--skip-preview")
    volumes = json.loads(program.kubectl("get", "pv", "--output=json").stdout)["items"]
    assert {volume["metadata"]["name"] for volume in volumes} >= {f"{NAMESPACE}-lustre-pvc", f"{NAMESPACE}-ceph-pvc"}
    assert {volume["spec"]["persistentVolumeReclaimPolicy"] for volume in volumes} == {"Retain"}
    program.kubectl("delete", "pv", "--all")
    process = subprocess.Popen(
        ["pulumi", "up", "--yes", "--skip-preview", "--non-interactive"], cwd=program.folder, env=program.variables(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "namespace created" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    deadline = time.monotonic() + 30
    while own_processes(program.root) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert own_processes(program.root) == []
    program.up()
    assert set(counts(program.up())) == {"unchanged"}
    assert rights(program) == []

"""The lab's control plane: who may do what, what is refused before anybody is asked, and how it ends and comes back."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest

from lab.host import LabError
from lab.kubernetes import pki, probe
from lab.kubernetes.kubelet.client import ApiError, Client, Json
from lab.kubernetes.local import LocalControlPlane, free_ports

REPOSITORY = Path(__file__).parents[2]
PODS = "/api/v1/namespaces/{}/pods"


def pod(name: str, **spec: object) -> Json:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "example.test/a:1"}], **spec}}


def answer(cluster: LocalControlPlane, path: str, token: str | None = None) -> int:
    """The HTTP status for one who shows no certificate."""
    request = urllib.request.Request(cluster.server + path)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(cluster.authority))) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code


def eventually(check: object, seconds: float = 60) -> None:
    assert callable(check)
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.1)


@pytest.mark.gate
def test_it_answers_with_what_upstream_makes(cluster: LocalControlPlane, admin: Client) -> None:
    assert admin.get("/version")["gitVersion"].startswith("v1.36.")
    names = {item["metadata"]["name"] for item in admin.get("/api/v1/namespaces")["items"]}
    assert {"default", "kube-system", "kube-public", "kube-node-lease"} <= names
    assert probe.not_ready(cluster.server, cluster.authority) is None


def test_one_without_a_certificate_sees_only_that_it_is_ready(cluster: LocalControlPlane) -> None:
    assert answer(cluster, "/readyz") == 200
    assert answer(cluster, "/api/v1/namespaces") == 403
    assert answer(cluster, "/api/v1/secrets") == 403
    assert answer(cluster, "/api/v1/namespaces", token="made.up.token") == 401


@pytest.mark.parametrize("person", ["data-scientist", "operator", "auditor", "stranger"])
@pytest.mark.gate
def test_nobody_is_granted_anything_before_the_program_does(
    cluster: LocalControlPlane, namespace: str, person: str
) -> None:
    client = Client(cluster.kubeconfig(person))
    for path in (PODS.format(namespace), "/api/v1/nodes", f"/api/v1/namespaces/{namespace}/secrets"):
        with pytest.raises(ApiError) as refused:
            client.get(path)
        assert refused.value.code == 403
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    who = client.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)["status"]["userInfo"]
    groups = set() if person == "stranger" else {f"medllm:{person}"}
    assert set(who["groups"]) == groups | {"system:authenticated"}


def test_a_node_is_itself_and_no_other(cluster: LocalControlPlane, admin: Client) -> None:
    node = Client(cluster.node_kubeconfigs("node-a")[0])
    body: Json = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}
    try:
        node.create("/api/v1/nodes", body)
        with pytest.raises(ApiError, match="node-b"):
            node.create("/api/v1/nodes", {**body, "metadata": {"name": "node-b"}})
        with pytest.raises(ApiError, match="is not allowed to modify labels"):
            node.patch("/api/v1/nodes/node-a", {"metadata": {"labels": {"node-restriction.kubernetes.io/x": "1"}}})
        with pytest.raises(ApiError, match="is not allowed to modify taints"):
            node.patch("/api/v1/nodes/node-a", {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}})
        with pytest.raises(ApiError) as refused:
            node.get("/api/v1/secrets")
        assert refused.value.code == 403
    finally:
        admin.delete("/api/v1/nodes/node-a", {})


def test_a_nodes_second_identity_follows_names_and_nothing_else(cluster: LocalControlPlane) -> None:
    names = Client(cluster.node_kubeconfigs("node-a")[1])
    assert names.get("/apis/discovery.k8s.io/v1/endpointslices")["kind"] == "EndpointSliceList"
    for path in ("/api/v1/secrets", "/api/v1/configmaps", "/api/v1/pods"):
        with pytest.raises(ApiError) as refused:
            names.get(path)
        assert refused.value.code == 403


def test_an_expired_or_foreign_certificate_is_nobodys(cluster: LocalControlPlane, tmp_path: Path) -> None:
    admin = pki.Identity("kubernetes-admin", ("system:masters",))
    expired = cluster.issue(tmp_path / "expired", admin, -timedelta(days=1))
    stranger = pki.authority(tmp_path, pki.CA)
    foreign = tmp_path / "foreign"
    pki.write_kubeconfig(foreign, cluster.server, stranger, stranger.client(admin))
    with pytest.raises(ApiError) as refused:
        Client(expired).get("/api/v1/namespaces")
    assert refused.value.code == 401
    # Its authority is another one, so it is the server that is not believed.
    with pytest.raises(Exception, match="certificate"):
        Client(foreign).get("/api/v1/namespaces")


def test_nobody_speaks_an_old_protocol(cluster: LocalControlPlane) -> None:
    context = ssl.create_default_context(cafile=str(cluster.authority))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    ports = [urllib.parse.urlparse(cluster.server).port, cluster.plane.etcd_port, cluster.plane.etcd_peer_port]
    for port in ports:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            pytest.raises(ssl.SSLError, match=r"version|alert"),
            context.wrap_socket(plain, server_hostname="127.0.0.1"),
        ):
            pass


@pytest.mark.parametrize("pair", [None, "person"])
def test_the_store_speaks_to_the_api_server_only(cluster: LocalControlPlane, pair: str | None, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(cluster.plane.certificate(pki.ETCD_CA)))
    if pair:
        client = pki.authority(cluster.plane.pki, pki.CA).client(pki.Identity("admin", ("system:masters",)))
        (tmp_path / "pair.pem").write_bytes(client.certificate + client.key)
        context.load_cert_chain(tmp_path / "pair.pem")
    url = f"https://127.0.0.1:{cluster.plane.etcd_port}/v3/kv/range"
    with pytest.raises(OSError, match=r".") as refused:
        urllib.request.urlopen(urllib.request.Request(url, b"{}"), context=context, timeout=5)
    # It breaks off in the handshake or after it, and says which in many ways; but it does listen.
    assert "refused" not in str(refused.value)


def test_it_can_be_stopped_and_comes_back_with_what_it_knew(
    cluster: LocalControlPlane, admin: Client, namespace: str
) -> None:
    admin.create(f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": "kept"}, "data": {"a": "1"}})
    cluster.stop("kube-apiserver")
    try:
        assert "refused" in str(probe.not_ready(cluster.server, cluster.authority))
    finally:
        cluster.start("kube-apiserver")
    assert admin.get(f"/api/v1/namespaces/{namespace}/configmaps/kept")["data"] == {"a": "1"}


def test_controllers_and_scheduler_do_their_work(admin: Client, namespace: str) -> None:
    """A Job's pod is made by one, and found unschedulable by the other: there is no node."""
    job = {"metadata": {"name": "work"}, "spec": {"template": {"spec": pod("", restartPolicy="Never")["spec"]}}}
    admin.create(f"/apis/batch/v1/namespaces/{namespace}/jobs", job)

    def conditions() -> list[str]:
        pods = admin.get(PODS.format(namespace))["items"]
        return [each["reason"] for item in pods for each in item["status"].get("conditions", []) if "reason" in each]

    eventually(lambda: conditions() == ["Unschedulable"])


def test_tokens_of_service_accounts_are_checked(cluster: LocalControlPlane, admin: Client, namespace: str) -> None:
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    admin.create(account, {"metadata": {"name": "worker"}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    token = admin.create(f"{account}/worker/token", request)["status"]["token"]
    assert answer(cluster, PODS.format(namespace), token=token) == 403
    head, payload, signature = token.split(".")
    assert answer(cluster, PODS.format(namespace), token=f"{head}.{payload}.{signature[::-1]}") == 401
    admin.delete(f"{account}/worker", {})
    eventually(lambda: answer(cluster, PODS.format(namespace), token=token) == 401)


def test_a_process_that_can_not_start_says_why(cluster: LocalControlPlane, tmp_path: Path) -> None:
    plane = LocalControlPlane({"etcd": cluster.binaries["etcd"], "kube-apiserver": Path("/bin/ls")}, tmp_path)
    with pytest.raises(LabError, match=r"kube-apiserver ended with 2: .*unrecognized option"), plane:
        pass
    assert plane.processes() == {}


def test_nothing_outlives_the_process_that_started_it(cluster: LocalControlPlane, tmp_path: Path) -> None:
    """Killed without a chance to clean up, as a run of tests that a person breaks off."""
    program = (
        "import sys, time; from pathlib import Path; from lab.kubernetes.local import LocalControlPlane as Plane\n"
        "with Plane({'etcd': Path(sys.argv[1])}, Path(sys.argv[2])) as plane:\n"
        "    print(plane.processes()['etcd'], flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(cluster.binaries["etcd"]), str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{child}/exe").exists(), 20)


def test_ports_are_free_and_differ() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))

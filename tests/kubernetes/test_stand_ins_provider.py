"""The Kubernetes stand-in against a real API server, called as Pulumi's engine calls a plugin."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from lab.kubernetes.local import LocalControlPlane
from lab.pulumi.provider import Provider
from lab.pulumi.provider_api import Api, ApiError
from lab.pulumi.provider_kubeconfig import load
from lab.pulumi.provider_values import UNKNOWN, Json, Secret, encode, plain
from lab.pulumi.serve import new_server
from tests.kubernetes.pulumi_engine import Engine, PartlyError

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def api(cluster: LocalControlPlane) -> Api:
    return Api(load(str(cluster.kubeconfig())))


@dataclass(frozen=True)
class Served:
    provider: Provider
    stub: provider_pb2_grpc.ResourceProviderStub


@pytest.fixture
def served(cluster: LocalControlPlane) -> Iterator[Served]:
    """A configured provider behind gRPC."""
    provider, server = Provider(), new_server()
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = provider_pb2_grpc.ResourceProviderStub(channel)
        variables = {"kubernetes:config:kubeconfig": str(cluster.kubeconfig())}
        stub.Configure(provider_pb2.ConfigureRequest(variables=variables))
        yield Served(provider, stub)
    server.stop(None)


def _config(namespace: str, name: str = "config", **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def _role(namespace: str, *verbs: str) -> Json:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": list(verbs)}]
    metadata = {"name": "role", "namespace": namespace}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules}


def _quota(namespace: str, **hard: str) -> Json:
    metadata = {"name": "quota", "namespace": namespace, "annotations": {"pulumi.com/skipAwait": "true"}}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}}


def _foreign(api: Api, item: Json, manager: str, **more: Json) -> None:
    """Change a live object as another program does."""
    changed = {key: item[key] for key in ("apiVersion", "kind")} | {
        "metadata": {key: item["metadata"][key] for key in ("name", "namespace") if key in item["metadata"]}
    }
    api.apply({**changed, **more}, manager, force=True, dry_run=False)


def _edit(api: Api, item: Json, operations: list[Json], manager: str = "kubectl-edit") -> None:
    metadata = item["metadata"]
    url = api.of(item).url(metadata.get("namespace", ""), metadata["name"])
    api.request("PATCH", url, {"fieldManager": manager}, operations, "application/json-patch+json")


def test_the_life_of_a_resource(served: Served, api: Api, namespace: str) -> None:
    role = Engine(served.stub, "rbac.authorization.k8s.io/v1:Role")
    wanted = _role(namespace, "get")
    assert role.create(wanted, preview=True)["metadata"]["name"] == "role"
    with pytest.raises(ApiError, match="not found"):
        api.get(wanted)
    role.create(wanted)
    assert role.id == f"{namespace}/role"
    assert api.get(wanted)["rules"] == wanted["rules"]
    assert role.diff(wanted).changes == provider_pb2.DiffResponse.DIFF_NONE

    more = _role(namespace, "get", "list")
    found = role.diff(more)
    assert found.changes == provider_pb2.DiffResponse.DIFF_SOME
    assert list(found.detailedDiff) == ["rules[0].verbs[1]"]
    assert not found.replaces
    role.update(more, preview=True)
    assert api.get(wanted)["rules"][0]["verbs"] == ["get"]
    role.update(more)
    assert api.get(wanted)["rules"][0]["verbs"] == ["get", "list"]
    assert role.diff(more).changes == provider_pb2.DiffResponse.DIFF_NONE
    managers = {(e["manager"], e["operation"]) for e in api.get(wanted)["metadata"]["managedFields"]}
    assert managers == {(role.state["__fieldManager"], "Apply")}

    role.delete()
    with pytest.raises(ApiError, match="not found"):
        api.get(wanted)
    role.delete()  # what is gone already is no error
    assert not role.refresh()


def test_a_removed_field_goes_from_the_live_object(served: Served, api: Api, namespace: str) -> None:
    quota = Engine(served.stub, "core/v1:ResourceQuota")
    quota.create(_quota(namespace, pods="1", services="2"))
    quota.update(_quota(namespace, pods="1"))
    assert api.get(_quota(namespace))["spec"]["hard"] == {"pods": "1"}


def test_an_existing_object_is_not_taken_over(served: Served, api: Api, namespace: str) -> None:
    wanted = _config(namespace, a="1")
    api.create(_config(namespace, a="theirs"), dry_run=False)
    config = Engine(served.stub, "core/v1:ConfigMap")
    assert plain(config.create(wanted, preview=True))["data"] == {"a": "1"}, "a preview cannot tell"
    with pytest.raises(grpc.RpcError, match="already exists"):
        config.create(wanted)
    assert api.get(wanted)["data"] == {"a": "theirs"}


def test_a_missing_namespace_is_said_after_some_tries(served: Served) -> None:
    config = Engine(served.stub, "core/v1:ConfigMap")
    started = time.monotonic()
    assert config.create(_config("nowhere", a="1"), preview=True)
    with pytest.raises(grpc.RpcError, match='namespaces "nowhere" not found'):
        config.create(_config("nowhere", a="1"))
    assert 5 < time.monotonic() - started < 20


def test_an_object_waits_for_its_namespace(served: Served, api: Api) -> None:
    late = f"late-{uuid.uuid4().hex[:8]}"
    config = Engine(served.stub, "core/v1:ConfigMap")
    with futures.ThreadPoolExecutor() as pool:
        running = pool.submit(config.create, _config(late, a="1"))
        time.sleep(1)
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": late}}, dry_run=False)
        running.result(20)
    assert config.id == f"{late}/config"


def test_a_kind_that_nobody_serves_is_said(served: Served, namespace: str) -> None:
    other = Engine(served.stub, "example.org/v1:Thing")
    wanted = {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "x", "namespace": namespace}}
    assert other.create(wanted, preview=True)
    with pytest.raises(grpc.RpcError, match=r'no matches for kind "Thing" in version "example\.org/v1"'):
        other.create(wanted)


def test_config_map_data_and_secret_data_replace(served: Served, namespace: str) -> None:
    config = Engine(served.stub, "core/v1:ConfigMap")
    config.create(_config(namespace, a="1"))
    found = config.diff(_config(namespace, a="2"))
    assert list(found.replaces) == ["data.a"]
    assert found.deleteBeforeReplace
    # The preview of a replacement meets the old object, and must not fail for it.
    assert Engine(served.stub, "core/v1:ConfigMap").create(_config(namespace, a="2"), preview=True)
    unnamed = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace}, "data": {"a": "1"}}
    auto = Engine(served.stub, "core/v1:ConfigMap", name="auto")
    auto.create(unnamed)
    assert auto.id.startswith(f"{namespace}/auto-")
    found = auto.diff({**unnamed, "data": {"a": "2"}})
    assert list(found.replaces) == ["data.a"]
    assert not found.deleteBeforeReplace, "the new one gets a new name"


def test_an_immutable_field_outside_the_table_is_refused_and_the_state_says_so(served: Served, namespace: str) -> None:
    service = Engine(served.stub, "core/v1:PersistentVolumeClaim")
    wanted = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": namespace, "annotations": {"pulumi.com/skipAwait": "true"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeMode": "Filesystem",
                 "resources": {"requests": {"storage": "1024Mi"}}},
    }  # fmt: skip
    service.create(wanted)
    assert service.inputs["spec"]["resources"]["requests"] == {"storage": "1Gi"}
    changed = {**wanted, "spec": {**wanted["spec"], "volumeMode": "Block"}}  # type: ignore[dict-item]
    found = service.diff(changed)
    assert list(found.detailedDiff) == ["spec.volumeMode"]
    assert not found.replaces
    with pytest.raises(PartlyError, match="immutable"):
        service.update(changed)
    assert service.state["spec"]["volumeMode"] == "Filesystem", "the live object is what the state keeps"
    moved = {**wanted, "spec": {**wanted["spec"], "storageClassName": "other"}}  # type: ignore[dict-item]
    assert list(service.diff(moved).replaces) == ["spec.storageClassName"]


def test_kubectls_drift_is_seen_by_a_refresh_and_repaired(served: Served, api: Api, namespace: str) -> None:
    quota = Engine(served.stub, "core/v1:ResourceQuota")
    wanted = _quota(namespace, pods="4")
    quota.create(wanted)
    _edit(api, wanted, [{"op": "replace", "path": "/spec/hard/pods", "value": "9"}])
    assert quota.diff(wanted).changes == provider_pb2.DiffResponse.DIFF_NONE, "not looked at without a refresh"
    assert quota.refresh()
    found = quota.diff(wanted)
    assert list(found.detailedDiff) == ["spec.hard.pods"]
    quota.update(wanted)
    assert api.get(wanted)["spec"]["hard"]["pods"] == "4"


def test_the_preview_of_a_repair_of_kubectls_drift_conflicts_unless_forced(
    served: Served, api: Api, namespace: str
) -> None:
    # As in the genuine plugin: only the real update takes over what kubectl wrote.
    quota = Engine(served.stub, "core/v1:ResourceQuota")
    wanted = _quota(namespace, pods="4")
    quota.create(wanted)
    quota.update(_quota(namespace, pods="5"))
    _edit(api, wanted, [{"op": "replace", "path": "/spec/hard/pods", "value": "9"}])
    quota.refresh()
    with pytest.raises(PartlyError, match='conflict with "kubectl-edit"'):
        quota.update(wanted, preview=True)
    forced = _quota(namespace, pods="4")
    forced["metadata"]["annotations"]["pulumi.com/patchForce"] = "true"
    assert quota.update(forced, preview=True)["spec"]["hard"] == {"pods": "4"}
    quota.update(wanted)
    assert api.get(wanted)["spec"]["hard"]["pods"] == "4"


def test_a_field_of_another_program_conflicts_unless_forced(served: Served, api: Api, namespace: str) -> None:
    quota = Engine(served.stub, "core/v1:ResourceQuota")
    wanted = _quota(namespace, pods="4")
    quota.create(wanted)
    quota.update(_quota(namespace, pods="5"))
    _foreign(api, wanted, "autoscaler", spec={"hard": {"pods": "7"}})
    quota.refresh()
    with pytest.raises(PartlyError, match=r'field conflict detected.*(?s:.)*conflict with "autoscaler"'):
        quota.update(wanted)
    assert api.get(wanted)["spec"]["hard"]["pods"] == "7"
    assert quota.state["spec"]["hard"]["pods"] == "7"
    with pytest.raises(PartlyError, match="field conflict detected"):
        quota.update(wanted, preview=True)
    wanted["metadata"]["annotations"]["pulumi.com/patchForce"] = "true"
    quota.update(wanted)
    assert api.get(wanted)["spec"]["hard"]["pods"] == "4"


def test_an_ignored_field_stays_with_its_owner(served: Served, api: Api, namespace: str) -> None:
    quota = Engine(served.stub, "core/v1:ResourceQuota")
    wanted = _quota(namespace, pods="4", services="1")
    quota.create(wanted)
    quota.update(wanted)
    _foreign(api, wanted, "autoscaler", spec={"hard": {"pods": "7"}})
    quota.refresh()
    ignored = ("spec.hard.pods",)
    assert quota.diff(wanted, ignored).changes == provider_pb2.DiffResponse.DIFF_NONE
    quota.update(_quota(namespace, pods="4", services="2"), ignored=ignored)
    assert api.get(wanted)["spec"]["hard"] == {"pods": "7", "services": "2"}


def test_a_refresh_misses_a_verb_appended_to_a_rule(served: Served, api: Api, namespace: str) -> None:
    # The genuine plugin's blind spot: whoever needs to see it compares the live rules themselves.
    role = Engine(served.stub, "rbac.authorization.k8s.io/v1:Role")
    role.create(_role(namespace, "get"))
    _edit(api, _role(namespace), [{"op": "add", "path": "/rules/0/verbs/-", "value": "delete"}])
    role.refresh()
    assert role.diff(_role(namespace, "get")).changes == provider_pb2.DiffResponse.DIFF_NONE


def test_deleting_a_patch_gives_up_its_fields_and_keeps_the_object(served: Served, api: Api) -> None:
    name = f"node-{uuid.uuid4().hex[:8]}"
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kept": "yes"}}}
    api.create(node, dry_run=False)
    patch = Engine(served.stub, "core/v1:NodePatch")
    wanted = {**node, "metadata": {"name": name, "labels": {"accelerator": "nvidia-h200"}}}
    patch.create(wanted)
    assert patch.id == name
    assert patch.diff(wanted).changes == provider_pb2.DiffResponse.DIFF_NONE
    assert api.get(node)["metadata"]["labels"] == {"kept": "yes", "accelerator": "nvidia-h200"}
    changed = {**node, "metadata": {"name": name, "labels": {"accelerator": "nvidia-a100"}}}
    assert not patch.diff(changed).replaces
    patch.update(changed)
    assert patch.refresh()
    patch.delete()
    live = api.get(node)
    assert live["metadata"]["labels"] == {"kept": "yes"}
    assert patch.state["__fieldManager"] not in {entry["manager"] for entry in live["metadata"]["managedFields"]}


def test_a_patch_must_name_its_object(served: Served) -> None:
    news = encode({"apiVersion": "v1", "kind": "Node", "metadata": {}})
    urn = "urn:pulumi:lab::medllm::kubernetes:core/v1:NodePatch::it"
    answer = served.stub.Check(provider_pb2.CheckRequest(urn=urn, news=news, randomSeed=b"x"))
    assert ["metadata.name" in failure.reason for failure in answer.failures] == [True]


def test_a_secret_is_secret_in_the_state_whatever_the_program_marked(served: Served, api: Api, namespace: str) -> None:
    secret = Engine(served.stub, "core/v1:Secret")
    wanted = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": namespace},
        "stringData": {"key": "geheim"},
    }  # fmt: skip
    secret.create(wanted)
    assert isinstance(secret.inputs["data"], Secret)
    assert "stringData" not in secret.inputs
    assert isinstance(secret.state["data"], Secret)
    assert isinstance(secret.state["__inputs"]["data"], Secret)
    assert secret.refresh()
    assert isinstance(secret.state["data"], Secret)
    assert isinstance(secret.inputs["data"], Secret)
    assert secret.diff(wanted).changes == provider_pb2.DiffResponse.DIFF_NONE
    assert list(secret.diff({**wanted, "stringData": {"key": "neu"}}).replaces) == ["data.key"]
    adopted = Engine(served.stub, "core/v1:Secret", id=f"{namespace}/s")
    assert adopted.refresh()
    assert isinstance(adopted.state["data"], Secret)
    assert isinstance(adopted.inputs["data"], Secret)


def test_an_error_does_not_quote_a_secret(served: Served, namespace: str) -> None:
    config = Engine(served.stub, "core/v1:ConfigMap")
    wanted = {**_config(namespace), "data": {"bad key": Secret("geheim-1")}}
    wanted["metadata"] = {"name": Secret("Geheim_2"), "namespace": namespace}
    with pytest.raises(grpc.RpcError) as caught:
        config.create(wanted)
    assert "[secret]" in caught.value.details()
    assert "Geheim_2" not in caught.value.details()
    assert "geheim-1" not in caught.value.details()


def test_an_import_takes_the_live_object_for_its_inputs(served: Served, api: Api, namespace: str) -> None:
    api.create(_role(namespace, "get"), dry_run=False)
    role = Engine(served.stub, "rbac.authorization.k8s.io/v1:Role", id=f"{namespace}/role")
    assert role.refresh()
    assert role.inputs == _role(namespace, "get")
    assert role.diff(_role(namespace, "get")).changes == provider_pb2.DiffResponse.DIFF_NONE
    role.update(_role(namespace, "list"))
    assert api.get(_role(namespace))["rules"][0]["verbs"] == ["list"]
    missing = Engine(served.stub, "core/v1:ConfigMap", id=f"{namespace}/nothing")
    assert not missing.refresh()


def test_unknown_values_are_previewed_as_they_are(served: Served, namespace: str) -> None:
    config = Engine(served.stub, "core/v1:ConfigMap")
    wanted = {**_config(namespace), "data": {"a": UNKNOWN}}
    assert config.create(wanted, preview=True)["data"] == {"a": UNKNOWN}
    unnamed = Engine(served.stub, "core/v1:ConfigMap")
    inputs = unnamed.check({"apiVersion": "v1", "kind": "ConfigMap", "metadata": UNKNOWN})
    assert inputs["metadata"] is UNKNOWN


def test_a_claim_without_a_volume_times_out_and_is_in_the_state(served: Served, namespace: str) -> None:
    claim = Engine(served.stub, "core/v1:PersistentVolumeClaim")
    wanted = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": namespace, "annotations": {"pulumi.com/timeoutSeconds": "1"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
                 "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip
    with pytest.raises(PartlyError, match=r"'c' timed out waiting to be Ready\nthe claim is Pending"):
        claim.create(wanted, timeout=0)
    assert claim.id == f"{namespace}/c"
    assert claim.state["__inputs"]["spec"]["storageClassName"] == ""
    claim.delete()


def test_a_claim_that_waits_for_its_first_consumer_is_ready(served: Served, api: Api, namespace: str) -> None:
    name = f"late-{uuid.uuid4().hex[:8]}"
    api.create(
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
         "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"},
        dry_run=False,
    )  # fmt: skip
    claim = Engine(served.stub, "core/v1:PersistentVolumeClaim")
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": name, "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": "c", "namespace": namespace}
    claim.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
    assert claim.state["status"]["phase"] == "Pending"
    api.delete({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass"}, name, "Background")


def _job(namespace: str, **annotations: str) -> Json:
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "none"}]}
    metadata = {"name": "job", "namespace": namespace, "annotations": annotations}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": {"spec": pod}}}


def test_a_job_is_awaited_until_it_is_complete_unless_skipped(served: Served, api: Api, namespace: str) -> None:
    job = Engine(served.stub, "batch/v1:Job")
    with pytest.raises(PartlyError, match="the Job is not complete"):
        job.create(_job(namespace), timeout=1)
    with pytest.raises(PartlyError, match="failed to initialize"):
        job.refresh()
    found = job.diff({**_job(namespace), "spec": {**_job(namespace)["spec"], "parallelism": 2}})
    assert list(found.replaces) == ["spec.parallelism"]
    again = job.diff(_job(namespace, **{"pulumi.com/replaceUnready": "true"}))
    assert 'metadata.annotations["pulumi.com/replaceUnready"]' in again.replaces
    api.delete(_job(namespace), "job", "Background")
    skipped = Engine(served.stub, "batch/v1:Job")
    _eventually(lambda: _gone(api, _job(namespace)))
    skipped.create(_job(namespace, **{"pulumi.com/skipAwait": "true"}))
    assert skipped.refresh()


def test_a_job_that_waits_for_its_uid_is_made_at_once_and_away_before_the_next(
    served: Served, api: Api, namespace: str
) -> None:
    """A skipped wait would not wait for the deletion either (pulumi/pulumi-kubernetes#3154)."""
    job = Engine(served.stub, "batch/v1:Job")
    job.create(_job(namespace, **{"pulumi.com/waitFor": "jsonpath={.metadata.uid}"}))
    assert job.refresh()
    job.delete()
    assert _gone(api, _job(namespace))


def _gone(api: Api, item: Json) -> bool:
    try:
        api.get(item)
    except ApiError as error:
        return error.status == 404
    return False


def _eventually(probe: Any) -> None:
    end = time.monotonic() + 20
    while not probe():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_cancelled_wait_ends_and_keeps_what_was_made(served: Served, namespace: str) -> None:
    job = Engine(served.stub, "batch/v1:Job")
    threading.Timer(1, lambda: served.stub.Cancel(Empty())).start()
    started = time.monotonic()
    with pytest.raises(PartlyError, match="was cancelled for 'job'"):
        job.create(_job(namespace), timeout=60)
    assert time.monotonic() - started < 10
    assert job.id == f"{namespace}/job"


def test_a_namespace_goes_with_what_is_in_it(served: Served, api: Api) -> None:
    name = f"short-{uuid.uuid4().hex[:8]}"
    item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    space = Engine(served.stub, "core/v1:Namespace")
    space.create(item)
    api.create(_config(name, a="1"), dry_run=False)
    space.delete()
    assert _gone(api, item)


def test_a_finalizer_holds_a_deletion_back_and_is_named(served: Served, api: Api, namespace: str) -> None:
    wanted = _config(namespace, a="1")
    wanted["metadata"]["finalizers"] = ["example.org/hold"]
    config = Engine(served.stub, "core/v1:ConfigMap")
    config.create(wanted)
    with pytest.raises(grpc.RpcError, match=r"timed out waiting for deletion of ConfigMap 'config' .*example.org/hold"):
        config.delete(timeout=1)
    _edit(api, wanted, [{"op": "remove", "path": "/metadata/finalizers"}])
    config.delete()


def test_a_default_namespace_is_set_and_taken_from_what_has_none(served: Served) -> None:
    config = Engine(served.stub, "core/v1:ConfigMap")
    checked = config.check({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
    assert checked["metadata"]["namespace"] == "default"
    space = Engine(served.stub, "core/v1:Namespace")
    checked = space.check({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "namespace": "b"}})
    assert checked["metadata"] == {"name": "a"}


def test_another_cluster_replaces_the_provider_and_another_user_does_not(
    served: Served, cluster: LocalControlPlane
) -> None:
    def changed(old: Path | str, new: Path | str) -> Any:
        olds, news = encode({"kubeconfig": str(old)}), encode({"kubeconfig": str(new)})
        return served.stub.DiffConfig(provider_pb2.DiffRequest(olds=olds, news=news))

    text = cluster.kubeconfig().read_text()
    assert changed(text, text).changes == provider_pb2.DiffResponse.DIFF_NONE
    assert not changed(text, cluster.kubeconfig()).replaces
    assert list(changed(text, text.replace("127.0.0.1", "10.0.0.1")).replaces) == ["kubeconfig"]

"""The lab's kubelet: what a container's process gets from its manifest, its pod and its node."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.kubernetes.kubelet import quantity
from lab.kubernetes.kubelet.backoff import BackOff
from lab.kubernetes.kubelet.client import Client
from lab.kubernetes.kubelet.config import ConfigError, load
from lab.kubernetes.kubelet.containers import ImageError, Surroundings, build, check_image, message_of
from lab.kubernetes.kubelet.environment import CreateError, PodFacts, arguments, expand, field, resource, variables
from lab.kubernetes.kubelet.security import CAPABILITIES, identity

Json = dict[str, Any]

PASSWD = "root:x:0:0:root:/root:/bin/sh\ntrainer:x:1500:1600:Trainer:/home/trainer:/bin/sh\n"
GROUP = "root:x:0:\ntrainer:x:1600:\nrender:x:44:other,trainer\n"
CONFIG: Json = {
    "node_name": "node1", "address": "10.0.0.1", "version": "v1.36.1", "kubeconfig": "/k", "names_kubeconfig": "/n",
    "state_directory": "/s", "log_directory": "/l", "gpu_resource": "nvidia.com/gpu",
    "capacity": {"cpu": "8", "memory": "16Gi", "ephemeral-storage": "10Gi", "pods": "110", "nvidia.com/gpu": "8"},
    "images": {"registry.internal/medllm:1": "host"},
}  # fmt: skip


def pod(**spec: object) -> Json:
    return {
        "metadata": {
            "name": "train-0", "namespace": "medllm", "uid": "u-1", "labels": {"app": "train"},
            "annotations": {"batch.kubernetes.io/job-completion-index": "3"},
        },
        "spec": {"containers": [{"name": "main"}], **spec},
    }  # fmt: skip


def facts(**spec: object) -> PodFacts:
    return PodFacts(pod(**spec), "node1", "10.0.0.1", CONFIG["capacity"])


def objects(kind: str, name: str) -> Mapping[str, bytes] | None:
    return {("configmaps", "site"): {"A": b"1", "B": b"2"}, ("secrets", "key"): {"token": b"s3"}}.get((kind, name))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "1/2"),
        ("4Gi", str(4 * 2**30)),
        ("1e3", "1000"),
        ("0.1", "1/10"),
        (".5", "1/2"),
        ("2k", "2000"),
        ("-1", "-1"),
    ],
)
def test_a_quantity_is_read_exactly(text: str, value: str) -> None:
    assert str(quantity.parse(text)) == value


@pytest.mark.parametrize("text", ["", "1 Gi", "Gi", "1gi", "1e", "0x10", "1Gi\n"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity.parse(text)


@settings(deadline=None)
@given(st.integers(0, 10**12), st.sampled_from(["", "1", "1m", "1k", "1Mi"]))
def test_a_resource_in_units_of_a_divisor_is_rounded_up(value: int, divisor: str) -> None:
    unit = quantity.parse(divisor or "1")
    units = quantity.divided(quantity.parse(value), divisor)
    assert (units - 1) * unit < value <= units * unit or value == units == 0


def test_variables_come_from_everywhere_in_order_and_refer_to_those_before() -> None:
    container = {
        "name": "main",
        "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "1500m"}},
        "envFrom": [
            {"configMapRef": {"name": "site"}, "prefix": "S_"}, {"secretRef": {"name": "none", "optional": True}},
        ],
        "env": [
            {"name": "RANK", "valueFrom": {"fieldRef": {
                "fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}},
            {"name": "WHERE", "value": "$(RANK)@$(NODE) $$(RANK) $(S_A) $"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "AGAIN", "value": "$(NODE)/$(RANK)"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "key", "key": "token"}}},
            {"name": "S_B", "value": "mine"},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
            {"name": "ALL_CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "ABSENT", "valueFrom": {"configMapKeyRef": {"name": "site", "key": "C", "optional": True}}},
        ],
    }  # fmt: skip
    assert variables(container, facts(), objects) == {
        "S_A": "1", "S_B": "mine", "RANK": "3", "WHERE": "3@$(NODE) $(RANK) 1 $", "NODE": "node1", "AGAIN": "node1/3",
        "TOKEN": "s3", "MEMORY": "1024", "CPU": "2", "ALL_CPU": "8",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"configMapKeyRef": {"name": "none", "key": "A"}}, 'configmap "none" not found'),
        ({"configMapKeyRef": {"name": "site", "key": "C"}}, "couldn't find key C in ConfigMap medllm/site"),
        ({"secretKeyRef": {"name": "key", "key": "C"}}, "couldn't find key C in Secret medllm/key"),
        ({"fieldRef": {"fieldPath": "spec.priority"}}, "unsupported fieldPath: spec.priority"),
        ({"resourceFieldRef": {"resource": "cpu"}}, "unsupported container resource: cpu"),
        ({"resourceFieldRef": {"resource": "limits.cpu", "containerName": "x"}}, "container x not found"),
        ({"fileKeyRef": {}}, "unsupported source of a variable: fileKeyRef"),
    ],
)
def test_a_variable_without_its_source_keeps_the_container_from_being_made(source: Json, message: str) -> None:
    container = {"name": "main", "env": [{"name": "X", "valueFrom": source}]}
    with pytest.raises(CreateError) as caught:
        variables(container, facts(), objects)
    assert (str(caught.value), caught.value.reason) == (message, "CreateContainerConfigError")


def test_labels_as_a_whole_are_quoted_lines() -> None:
    given_facts = facts()
    given_facts.pod["metadata"]["labels"] = {"b": 'say "x"\\', "a": "1"}
    assert field("metadata.labels", given_facts) == 'a="1"\nb="say \\"x\\"\\\\"'
    assert field("metadata.labels['none']", given_facts) == ""


def test_a_resource_of_another_container_is_found_by_its_name() -> None:
    given_facts = facts(containers=[{"name": "main"}, {"name": "other", "resources": {"requests": {"cpu": "2"}}}])
    assert resource({"containerName": "other", "resource": "requests.cpu", "divisor": "1m"}, {}, given_facts) == "2000"


def test_a_command_is_expanded_and_must_be_there() -> None:
    assert arguments({"command": ["sh", "-c"], "args": ["echo $(A) $(B)"]}, {"A": "1"}) == ["sh", "-c", "echo 1 $(B)"]
    with pytest.raises(CreateError, match="no command specified") as caught:
        arguments({"name": "main"}, {})
    assert caught.value.reason == "CreateContainerError"


@settings(deadline=None)
@given(st.text(alphabet="$()AB x", max_size=20))
def test_expansion_without_references_only_halves_dollar_signs(text: str) -> None:
    assert expand(text.replace("$", "$$"), {"A": "never"}) == text


@pytest.fixture
def accounts(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "passwd").write_text(PASSWD)
    (tmp_path / "group").write_text(GROUP)
    return tmp_path / "passwd", tmp_path / "group"


def test_a_user_has_the_groups_of_the_node_the_pod_and_the_volumes(accounts: tuple[Path, Path]) -> None:
    context = {"runAsUser": 1500, "fsGroup": 3000, "supplementalGroups": [4000]}
    who = identity(pod(securityContext=context), {"name": "main"}, *accounts)
    assert (who.uid, who.gid, who.groups, who.home) == (1500, 1600, (44, 1600, 3000, 4000), "/home/trainer")
    strict = {**context, "supplementalGroupsPolicy": "Strict"}
    assert identity(pod(securityContext=strict), {"name": "main"}, *accounts).groups == (1600, 3000, 4000)
    own = {"name": "main", "securityContext": {"runAsUser": 77, "runAsGroup": 78}}
    who = identity(pod(securityContext={"runAsUser": 1500}), own, *accounts)
    assert (who.uid, who.gid, who.groups, who.home) == (77, 78, (78,), "/")


@pytest.mark.parametrize(
    ("context", "cause"),
    [({"runAsNonRoot": True}, "image will run as root"), ({"runAsNonRoot": True, "runAsUser": 0}, "breaks non-root")],
)
def test_root_is_refused_where_it_must_not_be(context: Json, cause: str, accounts: tuple[Path, Path]) -> None:
    with pytest.raises(CreateError, match=cause):
        identity(pod(securityContext=context), {"name": "main"}, *accounts)


@pytest.mark.parametrize(
    ("context", "kept", "lost"),
    [
        ({}, {"CHOWN", "NET_RAW"}, {"SYS_ADMIN", "SYS_BOOT", "IPC_LOCK"}),
        ({"capabilities": {"drop": ["ALL"]}}, set(), set(CAPABILITIES)),
        ({"capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]}}, {"IPC_LOCK"}, {"CHOWN", "SYS_ADMIN"}),
        ({"capabilities": {"add": ["ALL"], "drop": ["SYS_ADMIN"]}}, {"SYS_BOOT"}, {"SYS_ADMIN"}),
        ({"capabilities": {"drop": ["CAP_CHOWN"]}}, {"KILL"}, {"CHOWN"}),
        ({"privileged": True}, set(CAPABILITIES), set()),
    ],
)
def test_capabilities_are_those_of_a_runtime_and_what_was_asked(context: Json, kept: set[str], lost: set[str]) -> None:
    who = identity(pod(), {"name": "main", "securityContext": context})
    dropped = {CAPABILITIES[number] for number in who.dropped}
    assert lost <= dropped
    assert not kept & dropped


def test_an_image_is_there_only_where_the_configuration_says_so() -> None:
    check_image({"image": "registry.internal/medllm:1"}, CONFIG["images"])
    for image in ("registry.internal/medllm:2", "registry.internal/medllm", ""):
        with pytest.raises(ImageError) as caught:
            check_image({"image": image, "imagePullPolicy": "Always"}, CONFIG["images"])
        assert caught.value.reason == "ErrImagePull"
    with pytest.raises(ImageError) as caught:
        check_image({"image": "x", "imagePullPolicy": "Never"}, CONFIG["images"])
    assert caught.value.reason == "ErrImageNeverPull"


def surroundings(tmp_path: Path, gpus: list[int], **spec: object) -> Surroundings:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    config = load(tmp_path / "config.json")
    return Surroundings(config, facts(**spec), {}, gpus, tmp_path / "hosts", tmp_path / "0.log", ("10.0.0.9", 6443))


def test_a_process_knows_its_pod_and_its_gpus(tmp_path: Path) -> None:
    container = {
        "name": "main", "command": ["train"], "workingDir": "/app", "env": [
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}, {"name": "PATH", "value": "/opt/bin:$(HOME)"},
        ],
    }  # fmt: skip
    launch = build(container, surroundings(tmp_path, [2, 5], hostname="train-3", subdomain="s"), objects, tmp_path)
    assert launch.environment == {
        "PATH": "/opt/bin:$(HOME)", "HOME": "/root", "HOSTNAME": "train-3", "KUBERNETES_SERVICE_HOST": "10.0.0.9",
        "KUBERNETES_SERVICE_PORT": "6443", "NVIDIA_VISIBLE_DEVICES": "2,5", "CUDA_VISIBLE_DEVICES": "2,5",
    }  # fmt: skip
    assert (launch.hostname, launch.directory, launch.argv) == ("train-3", "/app", ["train"])
    assert {mount.target for mount in launch.mounts} == {"/etc/hosts", "/dev/termination-log"}


def test_a_process_without_gpus_gets_no_word_of_them(tmp_path: Path) -> None:
    launch = build({"name": "main", "command": ["x"]}, surroundings(tmp_path, []), objects, tmp_path)
    assert not {"NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"} & set(launch.environment)
    assert launch.devices == []


def test_last_words_are_the_message_or_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text("x" * 5000 + "the end")
    container = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    (tmp_path / "termination").touch()
    assert message_of({}, tmp_path, 1, log) == ""
    assert message_of(container, tmp_path, 0, log) == ""
    assert message_of(container, tmp_path, 1, log).endswith("the end")
    assert len(message_of(container, tmp_path, 1, log)) == 2048
    (tmp_path / "termination").write_text("why")
    assert message_of(container, tmp_path, 1, log) == "why"
    assert message_of(container, tmp_path / "none", 1, tmp_path / "none") == ""


def test_waits_grow_to_five_minutes_and_are_forgiven_after_a_long_run() -> None:
    waits = BackOff()
    assert [waits.failed() for _ in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]
    assert [waits.failed(599), waits.failed(600), waits.failed()] == [300, 0, 10]


def test_a_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(CONFIG))
    config = load(tmp_path / "c.json")
    assert (list(config.gpus), config.state_directory) == (list(range(8)), Path("/s"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"node_name": ""}, "node_name: not a text"),
        ({"address": "node1"}, "address: 'node1' does not appear to be an IPv4 or IPv6 address"),
        ({"capacity": {"cpu": "8"}}, "capacity: memory is missing"),
        ({"capacity": {**CONFIG["capacity"], "cpu": "many"}}, "capacity.cpu: 'many' is no quantity"),
        ({"capacity": {**CONFIG["capacity"], "cpu": 8}}, "capacity: not a mapping of texts"),
        ({"images": {"a": "docker"}}, "images.a: 'docker' is unknown"),
        ({"state_directory": "state"}, "state_directory: not an absolute path"),
        ({"extra": 1}, "extra: there is no such key"),
        ({"version": None}, "version: not a text"),
    ],
)
def test_a_wrong_configuration_is_one_line_with_its_place_and_a_fix(tmp_path: Path, change: Json, message: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(CONFIG | change))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "{}"])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ConfigError, match="Fix: "):
        load(tmp_path / "c.json")


@pytest.mark.parametrize(
    "text", ["server: yaml", "{}", json.dumps({"contexts": [], "current-context": "x", "clusters": [], "users": []})]
)
def test_a_kubeconfig_of_no_use_is_refused_with_the_fix(tmp_path: Path, text: str) -> None:
    (tmp_path / "k").write_text(text)
    with pytest.raises(ValueError, match="Fix: give a kubeconfig in JSON with a client certificate"):
        Client(tmp_path / "k")


def test_a_kubeconfig_with_a_broken_certificate_is_refused(tmp_path: Path) -> None:
    junk = base64.b64encode(b"no certificate").decode()
    cluster = {"server": "https://127.0.0.1:1", "certificate-authority-data": junk}
    user = {"client-certificate-data": junk, "client-key-data": junk}
    data = {
        "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x",
    }  # fmt: skip
    (tmp_path / "k").write_text(json.dumps(data))
    with pytest.raises((ValueError, OSError)):
        Client(tmp_path / "k")

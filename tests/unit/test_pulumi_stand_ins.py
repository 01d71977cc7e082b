"""The stand-ins' rules: values on the wire, one form for what means the same, what a change does to a resource."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes
import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from lab.pulumi import PLUGIN_VERSION
from lab.pulumi.provider_apply import _take_over, _without_ignored
from lab.pulumi.provider_diff import (
    Change,
    differences,
    parse_path,
    path_text,
    replaced_for,
    without_ignored,
)
from lab.pulumi.provider_inputs import (
    AUTONAMED,
    canonical_quantity,
    name_if_unnamed,
    normalised,
    pruned,
)
from lab.pulumi.provider_settings import refused, settings_from
from lab.pulumi.provider_state import identity, next_state, object_id, old_state, split_id
from lab.pulumi.provider_values import (
    SECRET,
    SIGNATURE,
    UNKNOWN,
    Json,
    Secret,
    decode,
    encode,
    has_unknown,
    mark_secrets,
    plain,
    without_secrets,
)

_SCALARS = st.none() | st.booleans() | st.integers(-(2**52), 2**52) | st.text(max_size=20)
# A backslash before a quote cannot be written in the engine's paths.
_NAMES = st.text(min_size=1, max_size=8).filter(lambda text: "\\" not in text)
_PARTS: st.SearchStrategy[str | int] = _NAMES | st.integers(0, 99)
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def test_inside_the_package_named_pulumi_the_sdk_is_still_the_sdk() -> None:
    assert Path(pulumi.__file__).parent.parent.name == "site-packages"


def test_the_stand_in_answers_for_the_version_that_the_sdk_asks_for() -> None:
    asked = json.loads((Path(pulumi_kubernetes.__file__).parent / "pulumi-plugin.json").read_text())
    assert asked == {"resource": True, "name": "kubernetes", "version": PLUGIN_VERSION}


@given(st.dictionaries(st.text(max_size=8).filter(lambda key: key != SIGNATURE), _TREES, max_size=4))
def test_plain_values_survive_the_wire_but_for_null_members(values: Json) -> None:
    def without_nulls(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_nulls(item) for key, item in value.items() if item is not None}
        return [without_nulls(item) for item in value] if isinstance(value, list) else value

    assert decode(encode(values)) == without_nulls(values)


def test_secrets_and_unknown_values_survive_the_wire_and_show_nothing() -> None:
    values = {"a": Secret({"b": "hidden"}), "c": [UNKNOWN, 3], "d": 0.5}
    back = decode(encode(values))
    assert back == values
    assert has_unknown(back)
    assert plain(back)["a"] == {"b": "hidden"}
    assert "hidden" not in repr(back)
    assert encode(values).fields["a"].struct_value.fields[SIGNATURE].string_value == SECRET


def test_an_asset_is_refused() -> None:
    struct = Struct()
    struct.update({"file": {SIGNATURE: "c44067f5952c0a294b673a41bacd8c17", "text": "x"}})
    with pytest.raises(ValueError, match="assets"):
        decode(struct)


def test_all_data_of_a_secret_is_marked_even_when_the_program_did_not() -> None:
    values = {"kind": "Secret", "data": {"key": "aGk="}, "stringData": {"other": "x"}}
    mark_secrets(values, {})
    assert isinstance(values["data"], Secret)
    assert isinstance(values["stringData"], Secret)


def test_secretness_follows_the_value_and_covers_a_list_with_one_secret() -> None:
    values = {"spec": {"token": "t", "open": "o", "list": ["a", "b"]}}
    mark_secrets(values, {"spec": {"token": Secret("t"), "open": "o", "list": ["a", Secret("b")]}})
    assert values == {"spec": {"token": Secret("t"), "open": "o", "list": Secret(["a", "b"])}}


def test_an_error_that_quotes_a_secret_is_cleared_of_it() -> None:
    given_inputs = {"data": Secret({"a": 'pass"word', "b": "pass"}), "open": "public"}
    text = 'Invalid value: "pass\\"word" and pass"word and pass, public'
    assert without_secrets(text, given_inputs) == 'Invalid value: "[secret]" and [secret] and [secret], public'


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("0.5", "500m"), (0.5, "500m"), (2, "2"), ("1000m", "1"), ("1024Mi", "1Gi"), ("1536Mi", "1536Mi"),
        ("0.5Gi", "512Mi"), ("1000Mi", "1000Mi"), ("1000M", "1G"), ("1e3", "1k"), ("100Ki", "100Ki"), ("0", "0"),
        ("-1.5", "-1500m"), ("480Gi", "480Gi"), ("1.5k", "1500"), ("0.1n", "1n"), ("12E", "12E"), ("1Ki", "1Ki"),
        ("0.5Ki", "512"),
    ],
)  # fmt: skip
def test_quantities_take_the_form_of_the_api_server(written: Any, canonical: str) -> None:
    assert canonical_quantity(written) == canonical
    assert canonical_quantity(canonical) == canonical


@pytest.mark.parametrize("value", ["", "many", "1 Gi", "Gi", True, "NaN", "1Xi", {"a": 1}])
def test_what_is_no_quantity_stays_for_the_api_server_to_refuse(value: Any) -> None:
    assert canonical_quantity(value) == value


def test_inputs_are_normalised_where_their_kind_has_quantities_and_nowhere_else() -> None:
    job = {
        "kind": "Job",
        "spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": 0.5}}}],
                                       "volumes": [{"emptyDir": {"medium": "Memory", "sizeLimit": "2048Mi"}}]}}},
    }  # fmt: skip
    spec = normalised(job)["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"] == {"cpu": "500m"}
    assert spec["volumes"][0]["emptyDir"]["sizeLimit"] == "2Gi"
    config = {"kind": "ConfigMap", "data": {"limits": "0.5"}, "spec": {"limits": {"cpu": "0.5"}}}
    assert normalised(config) == config
    quota = {"kind": "ResourceQuota", "spec": {"hard": {"requests.nvidia.com/gpu": 32, "limits.memory": "1024Gi"}}}
    assert normalised(quota)["spec"]["hard"] == {"requests.nvidia.com/gpu": "32", "limits.memory": "1Ti"}


def test_string_data_becomes_data_and_read_only_metadata_goes() -> None:
    secret = {
        "apiVersion": "v1", "kind": "Secret", "data": {"a": "YQ=="}, "stringData": {"b": "geheim"},
        "metadata": {"name": "x", "uid": "1", "resourceVersion": "2"},
    }  # fmt: skip
    result = normalised(secret)
    assert result["data"] == {"a": "YQ==", "b": base64.b64encode(b"geheim").decode()}
    assert "stringData" not in result
    assert result["metadata"] == {"name": "x"}
    assert secret["stringData"] == {"b": "geheim"}, "the program's own inputs are not touched"


def test_what_the_server_leaves_out_when_it_is_empty_is_left_out_and_nothing_else() -> None:
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {}, "annotations": {"readOnly": ""}},
        "spec": {"hostNetwork": False, "tolerations": [], "subdomain": "", "securityContext": {},
                 "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": False},
                                 "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": False}]}],
                 "terminationGracePeriodSeconds": 0},
    }  # fmt: skip
    assert normalised(pod) == {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": {"readOnly": ""}},
        "spec": {"securityContext": {}, "terminationGracePeriodSeconds": 0,
                 "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": False},
                                 "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
    }  # fmt: skip
    config = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"namespace": "", "labels": ""}}
    assert normalised(config) == config
    custom = {"apiVersion": "example.org/v1", "kind": "Thing", "spec": {"readOnly": False, "list": []}}
    assert normalised(custom) == custom
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {"storageClassName": ""}}
    assert normalised(claim) == claim


def test_inputs_with_an_unknown_value_are_left_as_they_are() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "stringData": {"b": UNKNOWN}}
    assert normalised(secret) == secret


def test_pruning_keeps_what_was_asked_for_and_misses_an_appended_verb() -> None:
    live = {"rules": [{"verbs": ["get", "list", "delete"]}, {"verbs": ["*"]}], "status": {}}
    assert pruned(live, {"rules": [{"verbs": ["get", "list"]}]}) == {"rules": [{"verbs": ["get", "list"]}]}


@pytest.mark.parametrize(
    ("urn", "version", "kind", "patch"),
    [
        ("urn:pulumi:lab::medllm::kubernetes:core/v1:Namespace::n", "v1", "Namespace", False),
        ("urn:pulumi:lab::medllm::medllm:k8s:Access$kubernetes:rbac.authorization.k8s.io/v1:Role::a::b",
         "rbac.authorization.k8s.io/v1", "Role", False),
        ("urn:pulumi:lab::medllm::kubernetes:core/v1:NodePatch::node1", "v1", "Node", True),
    ],
)  # fmt: skip
def test_a_urn_says_which_kind_it_is(urn: str, version: str, kind: str, patch: bool) -> None:
    found = identity(urn)
    assert (found.api_version, found.kind, found.patch) == (version, kind, patch)


@pytest.mark.parametrize(
    "urn", ["", "urn:pulumi:a::b::aws:s3/bucket:Bucket::x", "urn:pulumi:a::b::kubernetes:yaml:Config::x"]
)
def test_a_urn_of_another_provider_is_refused(urn: str) -> None:
    with pytest.raises(ValueError, match="unrecognized"):
        identity(urn)


def test_a_state_holds_inputs_and_manager_and_gives_them_back() -> None:
    live = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "n", "namespace": "ns"}, "data": {"a": "YQ=="}}
    state = next_state({"kind": "Secret", "data": {"a": "YQ=="}}, live, {}, "pulumi-kubernetes-1")
    assert state["data"] == Secret({"a": "YQ=="})
    assert state["__inputs"]["data"] == Secret({"a": "YQ=="})
    assert old_state(state) == ({"kind": "Secret", "data": {"a": "YQ=="}}, live, "pulumi-kubernetes-1")
    assert split_id(object_id(live)) == ("ns", "n")
    assert split_id("node1") == ("", "node1")


def test_an_unnamed_object_gets_a_name_and_keeps_it() -> None:
    first: Json = {"kind": "ConfigMap"}
    name_if_unnamed(first, {}, "config", b"seed", None)
    assert first["metadata"]["name"].startswith("config-")
    assert first["metadata"]["annotations"] == {AUTONAMED: "true"}
    again: Json = {"kind": "ConfigMap", "metadata": {}}
    name_if_unnamed(again, first, "config", b"other", None)
    assert again["metadata"] == first["metadata"]
    proposed: Json = {}
    name_if_unnamed(proposed, {}, "config", b"", "from-the-engine")
    assert proposed["metadata"]["name"] == "from-the-engine"
    with pytest.raises(ValueError, match=r"metadata\.name"):
        name_if_unnamed({}, {}, "config", b"", "")


@given(_NAMES, st.lists(_PARTS, max_size=4))
def test_property_paths_are_read_as_they_are_written(first: str, parts: list[str | int]) -> None:
    assert parse_path(path_text((first, *parts))) == (first, *parts)


@pytest.mark.parametrize("text", ["", ".", "a..b", "a[", 'a["b', "a[]"])
def test_a_broken_property_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="property path"):
        parse_path(text)


def _found(live: Json, new: Json, old: Json | None = None, **flags: bool) -> dict[str, tuple[Change, bool]]:
    forcing = replaced_for(
        new, mutable_config_maps=flags.get("config_maps", False), mutable_secrets=flags.get("secrets", False)
    )
    return {path_text(item.path): (item.change, item.replaces) for item in differences(live, new, old or live, forcing)}


def test_what_did_not_change_makes_no_difference() -> None:
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}}
    assert _found(item, dict(item)) == {}


def test_config_map_data_replaces_unless_the_flag_says_mutable() -> None:
    old = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "1"}}
    new = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "2"}}
    assert _found(old, new) == {"data.x": (Change.UPDATE, True)}
    assert _found(old, new, config_maps=True) == {"data.x": (Change.UPDATE, False)}
    new["immutable"] = True  # type: ignore[assignment]
    assert _found(old, new, config_maps=True)["data.x"] == (Change.UPDATE, True)


def test_secret_type_replaces_even_when_mutable() -> None:
    old = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"a": "YQ=="}}
    new = {**old, "type": "kubernetes.io/tls", "data": {"a": "Yg=="}}
    found = _found(old, new, secrets=True)
    assert found == {"type": (Change.UPDATE, True), "data.a": (Change.UPDATE, False)}


@pytest.mark.parametrize(
    ("version", "kind", "old", "new", "replaces"),
    [
        ("batch/v1", "Job", {"template": {"spec": {"containers": [{"image": "a"}]}}},
         {"template": {"spec": {"containers": [{"image": "b"}]}}}, True),
        ("batch/v1", "Job", {"backoffLimit": 1}, {"backoffLimit": 2}, False),
        ("batch/v1", "Job", {}, {"completions": 4}, True),
        ("v1", "PersistentVolumeClaim", {"storageClassName": "a"}, {"storageClassName": "b"}, True),
        ("v1", "PersistentVolumeClaim", {"resources": {"requests": {"storage": "1Gi"}}},
         {"resources": {"requests": {"storage": "2Gi"}}}, False),
        ("v1", "Service", {"clusterIP": "None"}, {"clusterIP": "10.0.0.1"}, True),
        ("v1", "Pod", {"containers": [{"image": "a", "tty": True}]},
         {"containers": [{"image": "b", "tty": True}]}, True),
        ("v1", "Pod", {"tolerations": []}, {"tolerations": [{"key": "a"}]}, False),
        ("apps/v1", "Deployment", {"replicas": 1}, {"replicas": 2}, False),
        ("apps/v1", "StatefulSet", {"selector": {"matchLabels": {"a": "1"}}},
         {"selector": {"matchLabels": {"a": "2"}}}, True),
        ("v1", "PersistentVolume", {"local": {"path": "/a"}}, {"local": {"path": "/b"}}, True),
    ],
)  # fmt: skip
def test_a_change_replaces_for_the_fields_of_the_genuine_table(
    version: str, kind: str, old: Json, new: Json, replaces: bool
) -> None:
    head = {"apiVersion": version, "kind": kind}
    found = _found({**head, "spec": old}, {**head, "spec": new})
    assert found
    assert any(item[1] for item in found.values()) is replaces


def test_adding_the_whole_spec_replaces_when_a_forcing_field_is_in_it() -> None:
    head = {"apiVersion": "batch/v1", "kind": "Job"}
    assert _found(head, {**head, "spec": {"template": {}}}) == {"spec": (Change.ADD, True)}
    assert _found(head, {**head, "spec": {"suspend": True}}) == {"spec": (Change.ADD, False)}


def test_a_new_name_or_namespace_replaces() -> None:
    old = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
    assert _found(old, {**old, "metadata": {"name": "b"}}) == {"metadata.name": (Change.UPDATE, True)}


def test_an_empty_value_that_the_server_left_out_is_no_difference_and_a_new_one_is() -> None:
    live = {"apiVersion": "v1", "kind": "Pod", "spec": {}}
    new = {**live, "spec": {"hostNetwork": False}}
    assert _found(live, new, new) == {}
    assert _found(live, new, live) == {"spec.hostNetwork": (Change.ADD, True)}


def test_unknown_values_and_ignored_paths() -> None:
    live = {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 1}], "selector": {"a": "b"}}}
    new = {**live, "spec": {"ports": [{"port": UNKNOWN}, {"port": 2}]}}
    found = differences(live, new, live, ())
    assert [(path_text(item.path), item.change) for item in found] == [
        ("spec.ports[0].port", Change.UPDATE), ("spec.ports[1]", Change.ADD), ("spec.selector", Change.DELETE),
    ]  # fmt: skip
    assert [path_text(item.path) for item in without_ignored(found, ["spec.ports[*].port"])] == [
        "spec.ports[1]", "spec.selector",
    ]  # fmt: skip
    assert without_ignored(found, ["spec"]) == []


class _Recorder:
    """Takes the place of the API server for one call."""

    def __init__(self) -> None:
        self.operations: list[Json] = []

    def patch_json(self, item: Json, operations: list[Json]) -> Json:
        self.operations = operations
        return item


def _entry(manager: str, operation: str, fields: Json, **more: str) -> Json:
    return {"manager": manager, "operation": operation, "fieldsV1": fields, **more}


def test_kubectls_fields_are_taken_over_and_those_of_others_are_not() -> None:
    entries = [
        _entry("kubectl-edit", "Update", {"f:data": {"f:a": {}}}),
        _entry("kube-controller-manager", "Update", {"f:status": {}}),
        _entry("pulumi-kubernetes-1", "Apply", {"f:data": {"f:b": {}}}),
        _entry("kubectl", "Update", {"f:status": {}}, subresource="status"),
    ]
    api = _Recorder()
    live = {"metadata": {"managedFields": entries, "resourceVersion": "7"}}
    _take_over(api, live, "pulumi-kubernetes-1")  # type: ignore[arg-type]
    assert [operation["path"] for operation in api.operations] == [
        "/metadata/managedFields", "/metadata/resourceVersion",
    ]  # fmt: skip
    assert api.operations[0]["value"] == [
        entries[1], entries[3], _entry("pulumi-kubernetes-1", "Apply", {"f:data": {"f:a": {}, "f:b": {}}}),
    ]  # fmt: skip
    untouched = _Recorder()
    _take_over(untouched, {"metadata": {"managedFields": entries[1:]}}, "pulumi-kubernetes-1")  # type: ignore[arg-type]
    assert untouched.operations == []


def test_an_ignored_field_keeps_its_live_value_or_is_left_to_its_owner() -> None:
    live = {
        "spec": {"replicas": 5, "paused": True},
        "metadata": {"managedFields": [
            _entry("autoscaler", "Update", {"f:spec": {"f:replicas": {}}}),
            _entry("ours", "Apply", {"f:spec": {"f:paused": {}}}),
        ]},
    }  # fmt: skip
    inputs = {"spec": {"replicas": 1, "paused": False, "x": [1]}}
    result = _without_ignored(inputs, live, "ours", ["spec.replicas", "spec.paused", "spec.x[0]"])
    assert result == {"spec": {"paused": True, "x": [1]}}
    assert inputs["spec"]["replicas"] == 1


def test_settings_come_from_the_configuration_then_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_K8S_ENABLE_SECRET_MUTABLE", "true")
    monkeypatch.setenv("PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE", "true")
    given_values = {"kubeconfig": "", "namespace": "n", "enableConfigMapMutable": "false"}
    found = settings_from({f"kubernetes:config:{key}": value for key, value in given_values.items()})
    assert (found.kubeconfig, found.namespace) == (None, "n")
    assert found.mutable_secrets
    assert not found.mutable_config_maps


def test_a_setting_that_the_stand_in_lacks_is_refused_with_the_fix() -> None:
    found = dict(refused({"enableServerSideApply": "false", "renderYamlToDirectory": "out", "context": "c"}))
    assert set(found) == {"enableServerSideApply", "renderYamlToDirectory"}
    assert all("Fix: " in reason for reason in found.values())
    assert refused({"enableServerSideApply": True, "renderYamlToDirectory": ""}) == []

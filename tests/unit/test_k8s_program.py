"""What the Pulumi program declares, for each site: recorded by mocks, no cluster asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest
from kubernetes_validate import validate
from medllm_k8s.access import CLUSTER_WIDE, NAMESPACED
from medllm_k8s.config import Settings, read_settings
from medllm_k8s.drift import access_drift
from medllm_k8s.names import accelerator, registry
from medllm_k8s.program import declare

from medllm.site import Site, load_site, site_json

ROOT = Path(__file__).parents[2]
SITES = ("lab", "h200", "a100_roce", "t8")
Json = dict[str, Any]


class Recorder(pulumi.runtime.Mocks):
    """Remembers what is declared; answers as a cluster that takes all of it."""

    def __init__(self) -> None:
        self.declared: list[tuple[str, str, Json]] = []

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, Json]:
        if not args.resource_id:  # What is only read has one.
            self.declared.append((args.typ, args.name, dict(args.inputs)))
        return args.name, dict(args.inputs)

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[Json, list[tuple[str, str]]]:
        return {}, []


def on_kubernetes(site: Site) -> Site:
    """The site with all nodes given to Kubernetes."""
    hosts = tuple(
        host.model_copy(update={"scheduler": "kubernetes"}) if "gpu_nodes" in host.groups else host
        for host in site.hosts
    )
    return site.model_copy(update={"hosts": hosts})


def declared(name: str, change: Callable[[Site], Site] = on_kubernetes) -> list[Json]:
    """The objects of a site as Kubernetes would get them."""
    site = change(load_site(ROOT / "inventory" / name))
    recorder = Recorder()
    pulumi.runtime.set_mocks(recorder, project="medllm", stack=name)

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def apply() -> None:
        declare(Settings(site), pulumi.Output.from_input("uid"))

    apply()
    return [inputs for kind, _, inputs in recorder.declared if kind.startswith("kubernetes:")]


@pytest.fixture(scope="module", params=SITES)
def objects(request: pytest.FixtureRequest) -> list[Json]:
    return declared(request.param)


def of(objects: list[Json], kind: str) -> list[Json]:
    return [each for each in objects if each["kind"] == kind]


def test_each_object_is_valid_by_the_apis_own_schema(objects: list[Json]) -> None:
    judged = [each for each in objects if not each["kind"].endswith("Patch")]
    assert len(judged) > 20
    for each in judged:
        validate(each, "1.36", strict=True)


def test_the_namespace_is_fenced_before_anything_is_in_it(objects: list[Json]) -> None:
    [namespace] = of(objects, "Namespace")
    labels = namespace["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    assert re.fullmatch(r"v1\.\d+", labels["pod-security.kubernetes.io/enforce-version"])
    denied = next(each for each in of(objects, "NetworkPolicy") if each["metadata"]["name"] == "default-deny")
    assert denied["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in denied["spec"]
    assert "egress" not in denied["spec"]


def test_data_outlive_the_stack(objects: list[Json]) -> None:
    volumes = of(objects, "PersistentVolume")
    assert {each["spec"]["persistentVolumeReclaimPolicy"] for each in volumes} == {"Retain"}
    assert all("hostPath" not in each["spec"] for each in volumes)
    claims = {each["metadata"]["name"]: each["spec"] for each in of(objects, "PersistentVolumeClaim")}
    assert set(claims) == {"lustre-pvc", "ceph-pvc", "encrypted-pvc", "cache-pvc", "app-pvc"}
    assert claims["encrypted-pvc"]["storageClassName"] == "encrypted-rbd"
    assert claims["lustre-pvc"]["storageClassName"] == ""
    assert {each["spec"]["claimRef"]["name"] for each in volumes} <= set(claims)


def test_only_prometheus_and_the_ranks_reach_the_ranks() -> None:
    site = load_site(ROOT / "inventory" / "h200")
    policies = {each["metadata"]["name"]: each["spec"] for each in of(declared("h200"), "NetworkPolicy")}
    assert set(policies) == {"default-deny", "dns", "ranks", "metrics"}
    [rule] = policies["metrics"]["ingress"]
    assert rule["from"] == [{"ipBlock": {"cidr": f"{site.mgmt.address}/32"}}]
    assert rule["ports"] == [{"port": site.ports.trainer, "protocol": "TCP"}]
    [names] = policies["dns"]["egress"]
    assert names["to"][1] == {"ipBlock": {"cidr": "169.254.0.0/16", "except": ["169.254.169.254/32"]}}
    assert names["ports"] == [{"port": 53, "protocol": word} for word in ("UDP", "TCP")]


def test_kubernetes_own_nodes_are_labelled_and_taints_are_left_alone() -> None:
    patches = of(declared("h200"), "Node")
    assert {each["metadata"]["name"] for each in patches} == {"node1", "node2", "node3", "node4"}
    for patch in patches:
        assert "spec" not in patch
        assert patch["metadata"]["labels"]["medllm.io/scheduler"] == "kubernetes"
        assert patch["metadata"]["labels"]["accelerator"] == "nvidia-h200"


def test_slurms_nodes_are_not_touched() -> None:
    """They need no kubelet: to patch a node that the cluster does not have would make one."""
    assert of(declared("h200", lambda site: site), "Node") == []


def test_without_a_node_of_kubernetes_no_job_is_declared() -> None:
    assert of(declared("lab", lambda site: site), "Job") == []
    assert len(of(declared("lab"), "Job")) == 1


def test_nobody_gets_a_star_nor_reads_secrets_nor_enters_pods() -> None:
    for rules in (*NAMESPACED.values(), *CLUSTER_WIDE.values()):
        for rule in rules:
            assert "*" not in (rule.group, *rule.resources, *rule.verbs)
            assert not {"bind", "escalate", "impersonate", "use", "deletecollection"} & set(rule.verbs)
            assert not {"pods/exec", "pods/attach", "pods/portforward", "serviceaccounts/token"} & set(rule.resources)
            if "secrets" in rule.resources:
                assert not {"get", "list", "watch", "patch", "update"} & set(rule.verbs)


@pytest.mark.parametrize(("model", "label"), [("NVIDIA H200", "nvidia-h200"), ("NVIDIA A100-SXM4-80GB", "nvidia-a100")])
def test_the_accelerators_label_is_the_one_that_was_asked_for(model: str, label: str) -> None:
    assert accelerator(model) == label


def test_a_model_of_another_form_has_no_label() -> None:
    with pytest.raises(ValueError, match="no model of the form"):
        accelerator("H200")


def test_the_registry_is_what_stands_before_the_first_slash() -> None:
    assert registry("registry.internal:5000/a/b:1") == "registry.internal:5000"


def cluster_roles(site: str = "h200") -> list[Json]:
    """The declared roles as a cluster lists them."""
    kinds = {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    return [each for each in declared(site) if each["kind"] in kinds]


def test_declared_rights_are_no_drift() -> None:
    assert access_drift(cluster_roles(), "medllm-training") == []


def test_rights_added_taken_away_and_given_beside_are_drift() -> None:
    listed = cluster_roles()
    role = next(each for each in listed if each["kind"] == "Role" and each["metadata"]["name"] == "medllm-auditor")
    role["rules"][0]["verbs"].append("delete")
    role["rules"].pop()
    listed.append(
        {
            "kind": "ClusterRoleBinding", "metadata": {"name": "favour"},
            "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "Group", "name": "medllm:auditor"}],
        }
    )  # fmt: skip
    listed = [each for each in listed if each["metadata"]["name"] != "medllm-operator" or each["kind"] != "ClusterRole"]
    lines = access_drift(listed, "medllm-training")
    assert "ClusterRoleBinding favour: binds medllm:auditor to ClusterRole cluster-admin" in lines
    assert "ClusterRole medllm-operator: is gone" in lines
    assert "Role medllm-auditor: delete pods was added" in lines
    assert "Role medllm-auditor: get roles.rbac.authorization.k8s.io was taken away" in lines


class Config:
    """A stack's configuration."""

    def __init__(self, **values: str) -> None:
        self.values = values

    def get(self, name: str) -> str | None:
        return self.values.get(name)

    def get_secret(self, name: str) -> pulumi.Output[str] | None:
        return pulumi.Output.secret(self.values[name]) if name in self.values else None


@pytest.fixture
def stack(tmp_path: Path) -> tuple[Config, Path]:
    (tmp_path / "inventory").symlink_to(ROOT / "inventory")
    (tmp_path / "site.json").write_text(site_json(load_site(ROOT / "inventory" / "lab")))
    return Config(inventory="inventory/lab", site="site.json"), tmp_path


def test_the_site_is_read(stack: tuple[Config, Path]) -> None:
    settings = read_settings(stack[0], "lab", stack[1])  # type: ignore[arg-type]
    assert settings.site.name == "lab"
    assert settings.registry_auth is None


def test_a_password_in_plain_text_is_refused(stack: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stack[0].values["registryAuth"] = '{"auths": {"registry.internal": {"auth": "cHc="}}}'
    with pytest.raises(pulumi.RunError, match=r"pulumi config set --secret registryAuth") as caught:
        read_settings(stack[0], "lab", stack[1])  # type: ignore[arg-type]
    assert "cHc=" not in str(caught.value)
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", '["medllm:registryAuth"]')
    assert read_settings(stack[0], "lab", stack[1]).registry_auth is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["inventory", "site"])
def test_a_stack_without_a_setting_is_refused(stack: tuple[Config, Path], name: str) -> None:
    del stack[0].values[name]
    with pytest.raises(pulumi.RunError, match=rf"has no medllm:{name}\. Fix: write it into Pulumi\.lab\.yaml"):
        read_settings(stack[0], "lab", stack[1])  # type: ignore[arg-type]


def test_a_stack_of_another_name_is_refused(stack: tuple[Config, Path]) -> None:
    with pytest.raises(pulumi.RunError, match="pulumi stack select lab"):
        read_settings(stack[0], "h200", stack[1])  # type: ignore[arg-type]


def test_a_site_of_another_time_is_refused(stack: tuple[Config, Path]) -> None:
    site = load_site(ROOT / "inventory" / "lab")
    older = site.model_copy(update={"kernel_minimum": "5.16"})
    (stack[1] / "site.json").write_text(site_json(older))
    with pytest.raises(pulumi.RunError, match=r"is not what .* declares now"):
        read_settings(stack[0], "lab", stack[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1, "site": {}, "sha256": ""}'])
def test_what_is_no_export_is_refused_in_one_line(stack: tuple[Config, Path], text: str) -> None:
    (stack[1] / "site.json").write_text(text)
    with pytest.raises(pulumi.RunError, match="medllm site export") as caught:
        read_settings(stack[0], "lab", stack[1])  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)

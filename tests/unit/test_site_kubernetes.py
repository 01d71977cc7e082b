"""What a site may declare for Kubernetes: what would never start, or lie unencrypted, is refused with its place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medllm.errors import UserError
from medllm.site import load_site

REPOSITORY = Path(__file__).parents[2]
FILE = "group_vars/all/site_kubernetes.yml"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """A copy of the entry of H200 machines, all four of them Kubernetes' own."""
    shutil.copytree(REPOSITORY / "inventory", tmp_path / "inventory")
    made = tmp_path / "inventory" / "h200"
    edit(made / "hosts.yml", "scheduler: slurm", "scheduler: kubernetes")
    return made


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path.name}: the test edits nothing"
    path.write_text(text.replace(old, new))


def test_nodes_of_kubernetes_are_those_that_say_so(inventory: Path) -> None:
    assert [host.name for host in load_site(inventory).kubernetes_nodes] == ["node1", "node2", "node3", "node4"]
    edit(inventory / "hosts.yml", "scheduler: kubernetes", "scheduler: slurm")
    assert load_site(inventory).kubernetes_nodes == ()


@pytest.mark.parametrize(
    ("old", "new", "key", "rule"),
    [
        ("gpus: 40", "gpus: 31", "site_kubernetes.quota.gpus", "on 4 nodes asks for 32: it would never start"),
        ("cpu: 512", "cpu: 383", "site_kubernetes.quota.cpu", "asks for 384"),
        ("memory_gib: 2304", "memory_gib: 1919", "site_kubernetes.quota.memory_gib", "asks for 1920"),
        ("pods: 200", "pods: 3", "site_kubernetes.quota.pods", "asks for 4"),
        ("cpu: 96", "cpu: 4096", "site_kubernetes.job.cpu", "does not fit on a node"),
        ("memory_gib: 480", "memory_gib: 512", "site_kubernetes.job.memory_gib", "which has 511 to give"),
        ("shm_gib: 64", "shm_gib: 480", "site_kubernetes.job.shm_gib", "leaves none for the ranks"),
        ("master_port: 29500", "master_port: 8085", "site_kubernetes.job.master_port", "is a service's"),
        ("medllm:32b-v1.0", "medllm:latest", "site_kubernetes.image", "another image tomorrow"),
        ("encrypted-rbd", "node", "site_kubernetes.volumes.dicom_input.storage_class", "lie encrypted"),
        ("namespace: medllm-training", "namespace: kube-system", "site_kubernetes.namespace", "Kubernetes' own"),
        ("namespace: medllm-training", "namespace: default", "site_kubernetes.namespace", "Kubernetes' own"),
    ],
)
def test_what_cannot_work_is_refused_with_its_place(inventory: Path, old: str, new: str, key: str, rule: str) -> None:
    edit(inventory / FILE, old, new)
    with pytest.raises(UserError) as caught:
        load_site(inventory)
    found = {problem.key: problem for problem in caught.value.problems}
    assert key in found, str(caught.value)
    assert rule in found[key].rule
    assert found[key].file == inventory / FILE
    assert found[key].line
    assert found[key].fix


def test_an_image_may_be_pinned_by_its_digest(inventory: Path) -> None:
    edit(inventory / FILE, "medllm:32b-v1.0", f"medllm:32b-v1.0@sha256:{'0a' * 32}")
    assert load_site(inventory).kubernetes.image.endswith("0a")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("registry.internal/medllm:32b-v1.0", "registry.internal/medllm:1@sha256:0a"),
        ("registry.internal/medllm:32b-v1.0", "medllm:32b-v1.0"),
        ("registry.internal/medllm:32b-v1.0", "registry.internal/medllm"),
        ("registry.internal/medllm:32b-v1.0", "registry.internal/medllm:1 --privileged"),
        ("namespace: medllm-training", "namespace: Medllm_Training"),
        ("gpu_resource: nvidia.com/gpu", "gpu_resource: gpu"),
        ("user_id: 1000", "user_id: 0"),
        ("name: medllm-32b-train", f"name: {'a' * 60}"),
        ("storage_class: cephfs", "storage_class: Ceph FS"),
        ("grace_s: 600", "grace_s: 0"),
    ],
)
def test_what_has_no_such_form_is_refused(inventory: Path, old: str, new: str) -> None:
    edit(inventory / FILE, old, new)
    with pytest.raises(UserError) as caught:
        load_site(inventory)
    assert [problem.file for problem in caught.value.problems] == [inventory / FILE]

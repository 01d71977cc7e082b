"""The simulated silicon: what faults change comes back, and each clears on what it declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import hardware
from lab.faults import FAULTS, Target, inject
from lab.hardware import POWER_CYCLE_MARKER, Json
from lab.layout import BY_NAME, NODES
from medllm.errors import UserError
from medllm.site import load_site

REPOSITORY = Path(__file__).parents[2]
SILICON = {name: fault for name, fault in FAULTS.items() if not fault.machine}


def _put(silicon: Json, name: str, gpu: int) -> None:
    fault = FAULTS[name]
    target = Target(silicon, gpu if fault.needs_gpu else None)
    hardware.put_fault(silicon, name, target.label, fault.clears_on, fault.changes(target))


def _stored(directory: Path, silicon: Json) -> Path:
    path = directory / "hardware.json"
    hardware.write(path, silicon)
    return path


def test_the_lab_is_what_its_inventory_declares() -> None:
    site = load_site(REPOSITORY / "inventory" / "lab")
    assert {host.name: host.address for host in site.hosts} == {node.name: node.address for node in NODES}
    silicon = hardware.healthy("node1")
    assert len(silicon["gpus"]) == site.gpu.per_node
    for gpu in silicon["gpus"]:
        assert (gpu["model"], gpu["memory_mib"], len(gpu["nvlinks"])) == (
            site.gpu.model, site.gpu.memory_mib, site.gpu.nvlinks,
        )  # fmt: skip
    assert [hca["name"] for hca in silicon["hcas"]] == list(site.fabric.hcas)
    assert {port["rate_gbps"] for hca in silicon["hcas"] for port in hca["ports"]} == {site.fabric.rate_gbps}


def test_no_two_parts_of_the_cluster_share_an_identity() -> None:
    machines = [hardware.healthy(node.name) for node in NODES]
    gpus = [gpu for machine in machines for gpu in machine["gpus"]]
    assert len({gpu["uuid"] for gpu in gpus}) == len({gpu["serial"] for gpu in gpus}) == len(gpus)
    hcas = [hca for machine in machines for hca in machine["hcas"]]
    assert len({hca["guid"] for hca in hcas}) == len(hcas)
    assert hardware.healthy("node1") == machines[1]


KINDS = ["reset", "remount", "power_limit", "reboot", "power_cycle", "never"]
events = st.lists(st.tuples(st.sampled_from(sorted(SILICON)), st.integers(0, 7)), max_size=12)


@settings(max_examples=100, deadline=None)
@given(events, st.permutations(KINDS))
def test_whatever_broke_in_whatever_order_comes_back_whole(broken: list[tuple[str, int]], order: list[str]) -> None:
    silicon = hardware.healthy("node1")
    for name, gpu in broken:
        _put(silicon, name, gpu)
    for kind in order:
        hardware.clear_faults(silicon, lambda fault, kind=kind: fault["clears_on"] == kind)
    healed = hardware.healthy("node1")
    assert silicon == healed


def test_a_fault_put_in_twice_is_one_fault() -> None:
    silicon = hardware.healthy("node1")
    _put(silicon, "xid48", 2)
    _put(silicon, "xid48", 2)
    assert len(silicon["faults"]) == 1
    assert silicon["gpus"][2]["ecc"]["dbe_volatile"] == 1


@pytest.mark.parametrize(("power_cut", "left"), [(False, ["power_cycle", "never"]), (True, ["never"])])
def test_a_boot_clears_what_a_boot_can(tmp_path: Path, power_cut: bool, left: list[str]) -> None:
    silicon = hardware.healthy("node1")
    for kind in KINDS:
        hardware.put_fault(silicon, f"a {kind}", "", kind, {})
    silicon["gpus"][2]["power_limit_w"] = 250
    path = _stored(tmp_path, silicon)
    if power_cut:
        path.with_name(POWER_CYCLE_MARKER).touch()
    hardware.boot(path)
    assert [fault["clears_on"] for fault in hardware.read(path)["faults"]] == left
    assert hardware.read(path)["gpus"] == hardware.healthy("node1")["gpus"]
    assert not path.with_name(POWER_CYCLE_MARKER).exists()


def test_a_failed_edit_leaves_the_old_file(tmp_path: Path) -> None:
    path = _stored(tmp_path, hardware.healthy("node1"))

    def broken() -> None:
        with hardware.edit(path) as silicon:
            silicon["gpus"].clear()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        broken()
    assert hardware.read(path) == hardware.healthy("node1")


@pytest.mark.parametrize("name", sorted(SILICON))
def test_a_fault_changes_the_silicon_or_says_what_it_does_else(name: str) -> None:
    silicon = hardware.healthy("node1")
    fault = FAULTS[name]
    changes = fault.changes(Target(silicon, 0 if fault.needs_gpu else None))
    assert changes or fault.kills
    for path, value in changes.items():
        assert hardware._at(silicon, path) != value, f"{path} is {value} on a healthy machine"


@pytest.mark.parametrize(
    ("node", "name", "gpu", "rule"),
    [
        ("node1", "xid97", 0, "there is no fault 'xid97'"),
        ("node1", "xid79", None, "xid79 hits one GPU"),
        ("node1", "hang", 2, "hang hits the whole node"),
        ("node1", "xid79", 8, "node1 has no GPU 8"),
        ("mgmt", "xid79", 0, "mgmt has no such hardware"),
    ],
)
def test_a_wrong_fault_is_refused_before_anything_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str, name: str, gpu: Any, rule: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "medllm-cluster" / "lab" / "nodes" / node
    path.mkdir(parents=True)
    stored = _stored(path, hardware.healthy(node))
    with pytest.raises(UserError) as caught:
        inject(BY_NAME[node], name, gpu)
    assert caught.value.problems[0].rule == rule
    assert hardware.read(stored) == hardware.healthy(node)

"""Parsers behind the Ansible plugins: topology, dpkg, systemd. Each refuses what it doesn't know, with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from medllm.parsers.packages import differences, parse_dpkg_query
from medllm.parsers.topology import parse_topo, topology_facts
from medllm.parsers.units import parse_systemctl_show

TOPOLOGY = Path(__file__).parent.parent / "data" / "topology"
H200 = (TOPOLOGY / "hgx-h200-tabs.txt").read_text()
A100 = (TOPOLOGY / "hgx-a100-old-names-blanks.txt").read_text()


def test_topology_with_nic_numbers_and_legend() -> None:
    facts = topology_facts(parse_topo(H200))
    assert [gpu["name"] for gpu in facts["gpus"]] == [f"GPU{index}" for index in range(8)]
    assert facts["gpus"][0]["nvlinks"] == {f"GPU{index}": 18 for index in range(1, 8)}
    assert facts["gpus"][0]["cpu_affinity"] == "0-47,96-143"
    assert facts["gpus"][7]["numa_affinity"] == "1"
    assert facts["nics"] == ["mlx5_0", "mlx5_3", "mlx5_4", "mlx5_bond_0"]
    assert [gpu["nearest_nics"] for gpu in facts["gpus"]][::2] == [["mlx5_0"], ["mlx5_3"], ["mlx5_4"], ["mlx5_bond_0"]]
    assert (facts["nvlinks_min"], facts["nvlinks_max"], facts["all_to_all"]) == (18, 18, True)


def test_topology_of_an_old_driver_pasted_with_blanks() -> None:
    facts = topology_facts(parse_topo(A100))
    assert (facts["nvlinks_min"], facts["nics"]) == (12, ["mlx5_0", "mlx5_1"])
    assert facts["gpus"][3]["cpu_affinity"] == "48-95,144-191"


def test_topology_in_a_terminal_has_underlined_headers() -> None:
    first, rest = H200.split("\n", 1)
    assert parse_topo(f"\x1b[4m{first}\x1b[0m\n{rest}") == parse_topo(H200)


def test_a_pair_that_lost_its_nvlinks_is_reported() -> None:
    lines = H200.splitlines()
    lines[1] = lines[1].replace("NV18", "SYS", 1)
    lines[2] = lines[2].replace("NV18", "SYS", 1)
    facts = topology_facts(parse_topo("\n".join(lines)))
    assert facts["gpus"][0]["nvlinks"]["GPU1"] == 0
    assert not facts["all_to_all"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no line with 'CPU Affinity'"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "no line with"),
        (H200.replace("NIC3: mlx5_bond_0", ""), "legend does not name NIC3"),
        (H200.replace("GPU7\tNV18", "GPU7\tPH0-115"), "not the row of GPU7"),
        (H200.replace("GPU1\tNV18\t X ", "GPU1\tNV17\t X "), "the path from GPU0 to GPU1 is NV18, back it is NV17"),
        (H200.replace("GPU2\tNV18\tNV18\t X ", "GPU2\tNV18\tNV18\tNV18"), "itself is not X"),
        ("\n".join(H200.splitlines()[:6]), "ends before the row of GPU5"),
        (H200.replace("\tGPU1\tGPU2", "\tGPU1\tGPU1", 1), "no GPUs in"),
    ],
)
def test_topology_refuses_what_is_no_matrix(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_topo(text)


def test_dpkg_states() -> None:
    found = parse_dpkg_query("a\thi \t1.0-1\nb\tii \t2\nc\trc \t3\nd\tun \t\ne\tiU \t4\n")
    assert [(p.installed, p.held) for p in found.values()] == [
        (True, True),
        (True, False),
        (False, False),
        (False, False),
        (False, False),
    ]
    wanted = {"a": "1.0-1", "b": "2", "c": "3", "e": None, "f": "5"}
    assert differences(wanted, found, hold=True) == [
        ("b", "2", "2 held"),
        ("c", "absent", "3 held"),
        ("e", "absent", "installed held"),
        ("f", "absent", "5 held"),
    ]
    assert differences({"a": None}, found, hold=True) == []
    assert differences({"a": "1.1-1"}, found, hold=True) == [("a", "1.0-1 held", "1.1-1 held")]


@pytest.mark.parametrize("line", ["bash", "bash\tii", "bash\tinstalled\t5", "dpkg-query: error"])
def test_dpkg_refuses_other_lines(line: str) -> None:
    with pytest.raises(ValueError, match="not a line of dpkg-query"):
        parse_dpkg_query(line)


def test_unit_states() -> None:
    text = (
        "ExecMainStartTimestamp=Sun 2026-11-22 22:26:01.250000 UTC\n"
        "Id=x.service\nLoadState=loaded\nActiveState=active\n"
        "StateChangeTimestamp=Sun 2026-11-22 22:26:02.000000 UTC\nUnitFileState=enabled\nNeedDaemonReload=no\n"
    )
    unit = parse_systemctl_show(text)
    assert (unit.active, unit.enabled, unit.loaded, unit.needs_daemon_reload) == (True, True, True, False)
    assert unit.state_changed is not None
    assert unit.started is not None
    assert unit.state_changed - unit.started == 0.75


def test_a_timer_starts_when_it_becomes_active() -> None:
    text = "Id=x.timer\nExecMainStartTimestamp=\nActiveEnterTimestamp=Sun 2026-11-22 22:26:01.000000 UTC\n"
    assert parse_systemctl_show(text).started == 1795386361.0


def test_an_absent_unit_is_neither_loaded_nor_running() -> None:
    unit = parse_systemctl_show("Id=x.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n")
    assert (unit.loaded, unit.active, unit.enabled, unit.started) == (False, False, False, None)


@pytest.mark.parametrize("text", ["", "Id=\n", "garbage", "Id=x\nStateChangeTimestamp=yesterday"])
def test_unit_refuses_other_answers(text: str) -> None:
    with pytest.raises(ValueError, match="systemctl show"):
        parse_systemctl_show(text)

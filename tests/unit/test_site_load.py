"""The declaration: good sites load, bad ones are refused with file, line, key, rule and fix."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from cli.site_commands import check
from medllm.errors import UserError
from medllm.site import load_site, load_site_json, site_json

REPOSITORY = Path(__file__).parents[2]
SITES = ("lab", "h200", "a100_roce", "t8")


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """A copy of the lab's inventory beside its catalogues, free to be broken."""
    shutil.copytree(REPOSITORY / "inventory", tmp_path / "inventory")
    return tmp_path / "inventory" / "lab"


def edit(inventory: Path, name: str, old: str, new: str) -> Path:
    path = inventory / "group_vars" / "all" / name if name.startswith("site_") else inventory / name
    text = path.read_text()
    assert old in text, f"{old!r} is not in {name}: the test edits nothing"
    path.write_text(text.replace(old, new, 1))
    return path


def refused(inventory: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_site(inventory)
    return str(caught.value)


@pytest.mark.parametrize("name", SITES)
def test_each_shipped_site_is_valid(name: str) -> None:
    site = load_site(REPOSITORY / "inventory" / name)
    assert len(site.gpu_nodes) >= 1
    assert site.sha256


@pytest.mark.parametrize("name", SITES)
def test_ansible_sees_the_same_values_as_the_site_model(name: str) -> None:
    """One truth: what pydantic validated is what Ansible will use, key by key and type by type."""
    directory = REPOSITORY / "inventory" / name
    command = [Path(sys.executable).parent / "ansible-inventory", "-i", directory, "--host", "mgmt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=REPOSITORY)
    seen = {key.removeprefix("site_"): v for key, v in json.loads(done.stdout).items() if key.startswith("site_")}
    exported = json.loads(site_json(load_site(directory)))["site"]
    declared = {key: value for key, value in exported.items() if key not in {"hosts", "lock"}}
    assert seen == declared


def test_export_is_canonical_and_comes_back_the_same(tmp_path: Path) -> None:
    site = load_site(REPOSITORY / "inventory" / "lab")
    text = site_json(site)
    (tmp_path / "site.json").write_text(text)
    again = load_site_json(tmp_path / "site.json")
    assert again.sha256 == site.sha256
    assert site_json(again) == text
    assert "id_ed25519" not in text


def test_an_export_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    text = site_json(load_site(REPOSITORY / "inventory" / "lab"))
    (tmp_path / "site.json").write_text(text.replace('"per_node": 8', '"per_node": 4'))
    with pytest.raises(UserError, match="hash does not fit"):
        load_site_json(tmp_path / "site.json")


def test_a_duplicate_key_names_file_and_line(inventory: Path) -> None:
    path = edit(inventory, "site_fabric.yml", "  rate_gbps: 200\n", "  rate_gbps: 200\n  rate_gbps: 200\n")
    message = refused(inventory)
    assert f"{path}:6" in message
    assert "duplicate key" in message


def test_an_unknown_key_suggests_the_near_one(inventory: Path) -> None:
    edit(inventory, "site_fabric.yml", "  ib_timeout:", "  ib_timeuot:")
    message = refused(inventory)
    assert "site_fabric.ib_timeuot" in message
    assert "did you mean 'ib_timeout'" in message


def test_seven_gpus_do_not_fit_the_profile(inventory: Path) -> None:
    path = edit(inventory, "site_hardware.yml", "per_node: 8", "per_node: 7")
    message = refused(inventory)
    assert f"{path}:5: site_gpu.per_node: 7 does not fit profile m-32b" in message
    assert "Fix: write 8" in message


def test_a_duplicate_host_is_refused(inventory: Path) -> None:
    edit(inventory, "hosts.yml", "        node2:\n", "        node1:\n")
    assert "duplicate key" in refused(inventory)


def test_one_address_for_two_hosts_is_refused(inventory: Path) -> None:
    edit(inventory, "hosts.yml", "10.89.77.12", "10.89.77.11")
    assert "10.89.77.11" in refused(inventory)


# Mount options of the documents that fail the mount; source: field notes, Lustre (lustre-release obd_mount.c).
@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ("rsize=1048576", "NFS option"),
        ("wsize=1048576", "NFS option"),
        ("max_read_ahead_mb=1024", "site_lustre.params"),
        ("max_read_ahead_per_file_mb=256", "site_lustre.params"),
        ("noauto_da_alloc", "ext4 option"),
        ("stripe_count=4", "site_lustre.layouts"),
        ("stripe_size=4M", "site_lustre.layouts"),
    ],
)
def test_a_mount_option_that_lustre_refuses_is_caught_and_says_where_it_belongs(
    inventory: Path, option: str, fix: str
) -> None:
    path = edit(inventory, "site_storage.yml", "mount_options: [flock", f"mount_options: [{option}, flock")
    message = refused(inventory)
    assert f"{path}:6" in message
    assert fix in message


def test_an_unknown_versions_tuple_lists_the_known_ones(inventory: Path) -> None:
    edit(inventory, "site_cluster.yml", "site_versions: debian12-lab-2026.11", "site_versions: debian12-lab-2019.01")
    message = refused(inventory)
    assert "no versions lock 'debian12-lab-2019.01'" in message
    assert "debian12-lab-2026.11" in message


def test_a_template_in_the_declaration_is_refused(inventory: Path) -> None:
    edit(inventory, "site_cluster.yml", "site_name: lab", "site_name: \"{{ lookup('env', 'HOME') }}\"")
    assert "is a template" in refused(inventory)


def test_a_site_key_of_one_group_would_hide_the_declaration_and_is_refused(inventory: Path) -> None:
    (inventory / "group_vars" / "gpu_nodes.yml").write_text("---\nsite_memory_gib: 8\n")
    assert "the declaration is one for the whole site" in refused(inventory)


# Driver and Fabric Manager must match exactly: gpu-driver-container#735 (590 resolved against 580).
def test_a_lock_whose_fabric_manager_differs_from_the_driver_is_refused(inventory: Path) -> None:
    lock = inventory.parent / "versions" / "debian12-lab-2026.11.yml"
    lock.write_text(lock.read_text().replace("nvidia-fabricmanager: 580.95.05-1", "nvidia-fabricmanager: 590.44.01-1"))
    message = refused(inventory)
    assert "is not of driver 580.95.05" in message
    assert str(lock) in message


# torch 2.13 wheels are CUDA 13.0 (driver >= 580); DeepSpeed < 0.19.4 corrupts gradients (PR 8154).
@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("deepspeed: 0.19.8", "deepspeed: 0.12.3", "PR 8154"),
        ("580.95.05", "570.95.05", "needs driver >= 580"),
        ('nccl: "2.28"', 'nccl: "2.17"', "asked 2.18"),
    ],
)
def test_known_bad_tuples_are_refused_with_their_source(inventory: Path, old: str, new: str, rule: str) -> None:
    lock = inventory.parent / "versions" / "debian12-lab-2026.11.yml"
    lock.write_text(lock.read_text().replace(old, new))
    assert rule in refused(inventory)


def test_check_prints_the_problem_and_exits_2(inventory: Path) -> None:
    edit(inventory, "site_hardware.yml", "per_node: 8", "per_node: 7")
    medllm = Path(sys.executable).parent / "medllm"
    done = subprocess.run([medllm, "site", "check", "-i", inventory], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "does not fit profile" in done.stderr
    assert "Traceback" not in done.stderr
    as_json = subprocess.run(
        [medllm, "site", "check", "-i", inventory, "--json"], capture_output=True, text=True, check=False
    )
    assert json.loads(as_json.stdout)["problems"][0]["key"] == "site_gpu.per_node"


def test_aliases_of_aliases_are_refused_before_they_fill_the_memory(inventory: Path) -> None:
    lines = ["site_a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"site_{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in pairwise("abcdefghij")]
    (inventory / "group_vars" / "all" / "site_more.yml").write_text("\n".join(lines))
    assert "more than 100000 values" in refused(inventory)


def test_a_pipe_in_the_inventory_is_refused_and_not_waited_for(inventory: Path) -> None:
    os.mkfifo(inventory / "group_vars" / "all" / "site_pipe.yml")
    assert "site_pipe.yml: this is not a plain file" in refused(inventory)


def test_an_open_quote_in_the_ssh_arguments_names_its_line(inventory: Path) -> None:
    path = inventory / "hosts.yml"
    lines = path.read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if "ansible_host:" in line)
    indent = lines[place][: lines[place].index("ansible_host")]
    lines.insert(place, f"""{indent}ansible_ssh_common_args: "-o UserKnownHostsFile='x\"""")
    path.write_text("\n".join(lines) + "\n")
    text = refused(inventory)
    assert f"hosts.yml:{place + 1}: " in text
    assert "No closing quotation" in text


def test_site_check_refuses_an_impossible_threshold(inventory: Path) -> None:
    (catalogue,) = (inventory.parent / "thresholds").glob("*.yml")
    catalogue.write_text(catalogue.read_text() + "more: 1\n")
    with pytest.raises(UserError, match="more"):
        check(inventory)

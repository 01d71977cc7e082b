"""The lab's InfiniBand and Lustre tools against the layouts of the real ones."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from medllm.parsers.ibstat import parse_ibstat
from medllm.parsers.lustre import parse_getname, parse_servers
from tests.unit.vendor_node import Node

DATA = Path(__file__).parents[1] / "data" / "vendor"
DEVICE = "10.89.77.10@tcp:/medllm"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_ibstat_has_the_layout_of_the_real_one(node: Node) -> None:
    text = node.run("ibstat", "mlx5_0").stdout
    ours = [re.sub(r"(: .*|:| 'mlx5_0')$", "", line) for line in text.splitlines()]
    assert ours == (DATA / "ibstat.labels").read_text().splitlines()
    assert {port.rate_gbps for hca in parse_ibstat(node.run("ibstat").stdout) for port in hca.ports} == {200}


def test_a_port_that_is_down_says_so_in_every_tool(node: Node) -> None:
    hardware = node.read()
    hardware["hcas"][1]["ports"][0].update(state="Down", physical="Polling")
    hardware["hcas"][1]["ports"][0]["counters"]["link_downed"] = 7
    node.write(hardware)
    assert "\t\tState: Down\n\t\tPhysical state: Polling\n\t\tRate: 10\n" in node.run("ibstat", "mlx5_1").stdout
    assert "\t\t\tstate:\t\t\tPORT_DOWN (1)\n" in node.run("ibv_devinfo", "-d", "mlx5_1").stdout
    assert "LinkDownedCounter:...............7\n" in node.run("perfquery", "-C", "mlx5_1").stdout


def test_sysfs_follows_the_silicon(node: Node) -> None:
    (node.root / "run/lab/sysclass").mkdir(parents=True)  # as if mounted: a test need not be root
    port = node.root / "sys/class/infiniband/mlx5_2/ports/1"
    assert node.run("hca-sysfs").returncode == 0
    assert (port / "rate").read_text() == "200 Gb/sec (4X HDR)\n"
    assert (port / "state").read_text() == "4: ACTIVE\n"
    hardware = node.read()
    hardware["hcas"][2]["ports"][0].update(state="Down", physical="Polling")
    hardware["hcas"][2]["ports"][0]["counters"]["symbol_error"] = 500
    node.write(hardware)
    assert node.run("hca-sysfs").returncode == 0
    assert (port / "state").read_text() == "1: DOWN\n"
    assert (port / "counters/symbol_error").read_text() == "500\n"


def test_an_unknown_adapter_is_an_error(node: Node) -> None:
    ran = node.run("ibstat", "mlx5_9")
    assert (ran.returncode, "stat of IB device 'mlx5_9' failed" in ran.stderr) == (255, True)
    assert node.run("ibv_devinfo", "-d", "mlx5_9").returncode == 255


def test_ibv_devinfo_has_the_tabs_of_the_real_one(node: Node) -> None:
    text = node.run("ibv_devinfo", "-d", "mlx5_0").stdout
    assert re.sub(r":(\t+)[^\t\n]+$", r":\1V", text, flags=re.MULTILINE) == (DATA / "ibv_devinfo.shape").read_text()


def mount(node: Node, options: str, fake: bool = True) -> tuple[int, str]:
    """`mount.lustre`; with -f, since a test need not be root: it checks all and mounts nothing."""
    (node.root / "mnt/lustre").mkdir(parents=True, exist_ok=True)
    ran = node.run("mount.lustre", DEVICE, "/mnt/lustre", *(["-f"] if fake else []), "-o", options)
    return ran.returncode, ran.stderr


def test_without_the_module_the_mount_fails_with_enodev(node: Node) -> None:
    status, said = mount(node, "rw,flock")
    assert (status, "Are the lustre modules loaded?" in said) == (errno.ENODEV, True)


@pytest.mark.parametrize(
    "option",
    [
        *("rsize=1048576", "wsize=1048576", "max_read_ahead_mb=1024", "stripe_count=4", "noauto_da_alloc"),
        *("noalways_ping", "acl", "xattr_cache", "network", "flock=yes"),
    ],
)
def test_options_that_a_client_does_not_know_fail_the_mount(node: Node, option: str) -> None:
    load_lustre(node)
    assert mount(node, f"rw,flock,{option}") == (errno.EINVAL, (DATA / "mount.lustre-unknown-option.txt").read_text())


def test_options_of_a_client_and_of_mount_pass(node: Node) -> None:
    load_lustre(node)
    every = "rw,flock,noatime,nodiratime,_netdev,lazystatfs,user_xattr,nochecksum,lruresize,always_ping,network=tcp,ro"
    assert mount(node, f"{every},x-systemd.automount,exclude=medllm-OST0001") == (0, "")


def test_an_unreachable_server_fails_with_eio(node: Node) -> None:
    load_lustre(node)
    hardware = node.read()
    hardware["lustre"]["reachable"] = False
    node.write(hardware)
    assert mount(node, "flock") == (
        errno.EIO,
        f"mount.lustre: mount {DEVICE} at /mnt/lustre failed: Input/output error\nIs the MGS running?\n",
    )


def load_lustre(node: Node) -> None:
    """Both modules; the stand-in of modprobe would load lnet for lustre by itself."""
    assert node.modprobe("lnet").returncode == 0
    assert node.modprobe("lustre").returncode == 0


@pytest.fixture
def mounted(node: Node) -> Node:
    """A node that has the file system mounted: `/` stands for the mount point, since it is one in any test."""
    load_lustre(node)
    (node.root / "run/lab/lustre-backing").mkdir(parents=True)
    code = (
        "import os; from lab.vendor.labsim import lustre; real = os.path.ismount;"
        "lustre.remember_mount('10.89.77.10@tcp:/medllm', '/', 'flock')"
    )
    assert node.python(code).returncode == 0
    return node


def run_mounted(node: Node, command: str, *arguments: str) -> tuple[int, str, str]:
    """Run a tool that sees `/` below the test's root as a mount point."""
    code = (
        "import os, sys; os.path.ismount = lambda path: True;"
        f"from lab.vendor.labsim.lustre_tools import {command} as f; sys.exit(f(sys.argv[1:]))"
    )
    ran = node.python(code, *arguments)
    return ran.returncode, ran.stdout, ran.stderr


def test_parameters_live_as_long_as_the_mount(mounted: Node) -> None:
    status, said, _ = run_mounted(mounted, "lctl", "set_param", "llite.*.max_read_ahead_mb=1024")
    assert (status, said.endswith(".max_read_ahead_mb=1024\n")) == (0, True)
    assert run_mounted(mounted, "lctl", "get_param", "-n", "llite.*.max_read_ahead_mb")[1] == "1024\n"
    assert len(run_mounted(mounted, "lctl", "get_param", "osc.*.max_rpcs_in_flight")[1].splitlines()) == 2
    # Unmounted: nothing is left of it.
    ran = mounted.run("lctl", "get_param", "llite.*.max_read_ahead_mb")
    if not os.path.ismount(mounted.root):
        assert (ran.returncode, "No such file or directory" in ran.stderr) == (errno.ENOENT, True)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["set_param", "llite.*.nonsense=1"], errno.ENOENT, "param_path 'llite/*/nonsense': No such file"),
        (["set_param", "llite.*.max_read_ahead_mb=lots"], errno.EINVAL, "Invalid argument"),
        (["set_param", "-P", "llite.*.max_read_ahead_mb=1"], errno.EPERM, "MGS"),
    ],
)
def test_wrong_parameters_are_refused(mounted: Node, arguments: list[str], status: int, words: str) -> None:
    got, _, said = run_mounted(mounted, "lctl", *arguments)
    assert (got, words in said) == (status, True)


def test_df_has_the_columns_of_the_real_one(mounted: Node) -> None:
    status, text, _ = run_mounted(mounted, "lfs", "df")
    real = (DATA / "lfs-df.txt").read_text().splitlines()
    assert status == 0
    assert text.splitlines()[0] == real[0]

    def shape(line: str) -> list[int]:
        return [found.end() for found in re.finditer(r"\S+(?= )", line)][:5]

    for ours, other in zip(text.splitlines()[1:3], real[1:], strict=True):
        assert shape(ours) == shape(other)


def test_an_evicted_client_fails_everywhere(mounted: Node) -> None:
    assert parse_servers(run_mounted(mounted, "lfs", "check", "servers")[1])
    hardware = mounted.read()
    hardware["lustre"]["evicted"] = True
    mounted.write(hardware)
    assert run_mounted(mounted, "lfs", "df")[0] == errno.EIO
    assert run_mounted(mounted, "lfs", "check", "servers")[0] == errno.EIO
    assert "state: EVICTED" in run_mounted(mounted, "lctl", "get_param", "osc.*.import")[1]


def test_a_new_mount_ends_an_eviction_and_nothing_else(node: Node) -> None:
    hardware = node.read()
    for name, clears_on, path in (("evicted", "remount", "lustre.evicted"), ("cable", "never", "lustre.reachable")):
        hardware["faults"].append(
            {"name": name, "target": "", "clears_on": clears_on, "since": "", "restore": {path: name == "cable"}}
        )
    hardware["lustre"]["evicted"] = True
    node.write(hardware)
    assert node.python("from lab.vendor.labsim import hardware; hardware.clear_by_remount()").returncode == 0
    assert (node.read()["lustre"]["evicted"], [fault["name"] for fault in node.read()["faults"]]) == (False, ["cable"])


def test_layouts_are_inherited_and_bad_ones_refused(mounted: Node, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "deep"
    folder.mkdir(parents=True)
    if run_mounted(mounted, "lfs", "setstripe", "-c", "-1", "-S", "4M", str(folder.parent))[0] == errno.ENOTSUP:
        pytest.skip("this file system keeps no user.* attributes")
    assert run_mounted(mounted, "lfs", "getstripe", "-d", "--stripe-count", str(folder))[1] == "-1\n"
    assert run_mounted(mounted, "lfs", "getstripe", "-d", "--stripe-size", str(folder))[1] == "4194304\n"
    assert run_mounted(mounted, "lfs", "setstripe", "-S", "1000", str(folder))[0] == errno.EINVAL


def test_the_mount_is_named_as_our_parser_reads_it(mounted: Node) -> None:
    assert parse_getname(run_mounted(mounted, "lfs", "getname")[1]) == {"/": "medllm"}

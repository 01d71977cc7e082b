"""What makes a container a machine: boot, kernel settings, modules, kernel log, faults, power by its BMC.

On a sixth node of its own, on a spare address, so that no work on the other five is disturbed.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import faults, hardware, nodes, power, redfish
from lab.build import node_image
from lab.host import LabError
from lab.layout import NODES, Node, hardware_file, keys_dir

SCRATCH = Node("node9", 30)
LOGIN = ("administrator", "only-for-this-test")


@pytest.fixture(scope="module")
def machine() -> Iterator[Node]:
    shutil.copytree(keys_dir(NODES[1]), keys_dir(SCRATCH), dirs_exist_ok=True)
    hardware_file(SCRATCH).parent.mkdir(parents=True, exist_ok=True)
    hardware.write(hardware_file(SCRATCH), hardware.healthy(SCRATCH.name))
    nodes.remove([SCRATCH])
    nodes.ensure(SCRATCH, node_image(), nodes.Power("absent", ""))
    _until(lambda: _inside("systemctl", "is-system-running", check=False) == "running")
    yield SCRATCH
    nodes.remove([SCRATCH])
    shutil.rmtree(keys_dir(SCRATCH))
    shutil.rmtree(hardware_file(SCRATCH).parent)


@pytest.fixture(autouse=True)
def healthy_afterwards(machine: Node) -> Iterator[None]:
    yield
    with hardware.edit(hardware_file(machine)) as current:
        hardware.clear_faults(current, lambda fault: True)
    power.thaw(machine)
    power.on(machine)
    _until(lambda: _inside("systemctl", "is-system-running", check=False) == "running")


def _inside(*command: str, check: bool = True) -> str:
    return nodes.execute(SCRATCH, *command, check=check).strip()


def _until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except LabError:
            pass  # it boots
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.2)


def _boot_id() -> str:
    return _inside("cat", "/proc/sys/kernel/random/boot_id")


def _fault_names() -> list[str]:
    return [str(fault["name"]) for fault in hardware.read(hardware_file(SCRATCH))["faults"]]


def _reboot() -> None:
    before = _boot_id()
    _inside("systemctl", "reboot", check=False)
    _until(lambda: _boot_id() != before)
    _until(lambda: _inside("systemctl", "is-system-running", check=False) == "running")


def test_a_reboot_has_a_new_id_and_keeps_the_disk(machine: Node) -> None:
    _inside("touch", "/root/kept")
    _reboot()
    assert _inside("ls", "/root/kept") == "/root/kept"
    journal = _inside("journalctl", "--list-boots", "--no-pager")
    assert len(journal.splitlines()) >= 2, journal


@pytest.mark.parametrize("name", ["vm/swappiness", "vm/max_map_count", "kernel/numa_balancing", "fs/file-max"])
def test_a_kernel_setting_never_reaches_the_host(machine: Node, name: str) -> None:
    host = Path("/proc/sys") / name
    before = host.read_text() if host.exists() else None
    _inside("sh", "-c", f"echo 77 > /proc/sys/{name}")
    assert _inside("sysctl", "-n", name.replace("/", ".")) == "77"
    assert (host.read_text() if host.exists() else None) == before
    assert nodes.execute(NODES[0], "cat", f"/proc/sys/{name}").strip() != "77"


def test_huge_pages_answer_as_the_kernel_does(machine: Node) -> None:
    host = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    _inside("sh", "-c", f"echo never > {path}")
    _until(lambda: _inside("cat", path) == "always madvise [never]", 5)
    _inside("sh", "-c", f"echo nonsense > {path}")
    _until(lambda: _inside("cat", path) == "always madvise [never]", 5)
    assert Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text() == host


def test_the_host_s_disks_and_clock_are_not_there(machine: Node) -> None:
    devices = set(_inside("ls", "/dev").split())
    assert not {name for name in devices if re.match(r"(vd|sd|nvme\d|kvm|vsock|rtc|mem$)", name)}
    assert "kmsg" in devices


def test_a_module_that_no_package_brought_is_not_found(machine: Node) -> None:
    done = _inside("sh", "-c", "modprobe nvidia 2>&1; echo $?")
    assert re.fullmatch(r"modprobe: FATAL: Module nvidia not found in directory /lib/modules/\S+\n1", done)


def test_a_module_loads_unloads_and_comes_back_at_boot(machine: Node) -> None:
    script = "mkdir -p /usr/lib/lab/modules; printf '#!/bin/sh\\n' > /usr/lib/lab/modules/toy; "
    _inside("sh", "-c", script + "chmod +x /usr/lib/lab/modules/toy; echo toy > /etc/modules-load.d/toy.conf")
    _inside("modprobe", "toy")
    assert re.search(r"^toy ", _inside("lsmod"), re.MULTILINE)
    _inside("modprobe", "-r", "toy")
    assert not re.search(r"^toy ", _inside("lsmod"), re.MULTILINE)
    assert "not currently loaded" in _inside("sh", "-c", "rmmod toy 2>&1; true")
    _reboot()
    assert re.search(r"^toy ", _inside("lsmod"), re.MULTILINE)
    _inside("rm", "/etc/modules-load.d/toy.conf", "/usr/lib/lab/modules/toy")


def test_a_lost_gpu_is_logged_and_kills_who_holds_it(machine: Node) -> None:
    # O_PATH: there is no driver behind the device, which any other open would ask.
    hold = "import os, time; os.open('/dev/nvidia{}', os.O_PATH); time.sleep(600)"
    start = ("systemd-run", "--quiet", "--collect")
    for gpu in (3, 4):
        _inside("sh", "-c", f"test -e /dev/nvidia{gpu} || mknod /dev/nvidia{gpu} c 195 {gpu}")
        _inside(*start, f"--unit=holds-{gpu}", "python3", "-c", hold.format(gpu))
    for unit, gpus in (("rank-of-3", "2,3"), ("rank-of-5", "5,6")):
        _inside(*start, f"--unit={unit}", "-E", "SLURM_PROCID=0", "-E", f"SLURM_STEP_GPUS={gpus}", "sleep", "601")
    time.sleep(1)  # both have opened their device
    died = faults.inject(machine, "xid79", 3)
    assert sorted(line.split()[1] for line in died) == ["python3", "sleep"]
    alive = {unit: _inside("systemctl", "is-active", unit, check=False) for unit in ("holds-4", "rank-of-5")}
    assert alive == {"holds-4": "active", "rank-of-5": "active"}
    _inside("systemctl", "stop", *alive)
    kernel = _inside("journalctl", "-k", "-b", "-o", "cat", "--no-pager")
    assert re.search(r"NVRM: Xid \(PCI:0000:5d:00\): 79, pid=\d+, name=\w+, GPU has fallen off the bus\.", kernel)
    assert "NVRM: GPU 0000:5d:00.0: GPU has fallen off the bus." in kernel
    assert hardware.read(hardware_file(machine))["gpus"][3]["present"] is False


def test_each_fault_clears_on_what_it_says(machine: Node) -> None:
    for name, gpu in (("xid79", 3), ("xid48", 2), ("lustre_evicted", None), ("overheat", 1)):
        faults.inject(machine, name, gpu)
    assert _fault_names() == ["xid79", "xid48", "lustre_evicted", "overheat"]
    _reboot()
    assert _fault_names() == ["overheat"]
    with hardware.edit(hardware_file(machine)) as current:
        hardware.put_fault(current, "board", "", "power_cycle", {"nvswitches": 0})
    _reboot()
    assert _fault_names() == ["overheat", "board"]
    power.off(machine)
    power.on(machine)
    _until(lambda: _fault_names() == ["overheat"])
    with hardware.edit(hardware_file(machine)) as current:
        hardware.clear_faults(current, lambda fault: True)
        assert current == hardware.healthy(machine.name)


def test_a_dead_fabric_manager_is_logged_and_healed(machine: Node) -> None:
    unit = "/run/systemd/system/nvidia-fabricmanager.service"
    _inside("sh", "-c", f"printf '[Service]\\nExecStart=/bin/sleep 600\\n' > {unit}; systemctl daemon-reload")
    _inside("systemctl", "start", "nvidia-fabricmanager.service")
    died = faults.inject(machine, "fabric_manager_dead", None)
    assert [line.split()[1] for line in died] == ["sleep"]
    assert _inside("systemctl", "is-failed", "nvidia-fabricmanager.service") == "failed"
    assert "SXid (PCI:0000:0d:00.0): 20034, Fatal" in _inside("journalctl", "-k", "-b", "--no-pager")
    assert faults.heal(machine) == ["fabric_manager_dead"]
    assert _inside("systemctl", "is-active", "nvidia-fabricmanager.service") == "active"
    _inside("systemctl", "stop", "nvidia-fabricmanager.service")


def test_an_evicted_client_cannot_write_until_it_is_healed(machine: Node) -> None:
    write = "date > /mnt/toy/.lab-test && rm /mnt/toy/.lab-test"
    _inside("sh", "-c", "mkdir -p /mnt/toy && mount --bind /run/lab/lustre-backing /mnt/toy")
    _inside("sh", "-c", write)
    faults.inject(machine, "lustre_evicted", None)
    with pytest.raises(LabError, match="Read-only"):
        _inside("sh", "-c", write)
    assert "This client was evicted by medllm-MDT0000" in _inside("journalctl", "-k", "-b", "--no-pager")
    assert faults.heal(machine) == ["lustre_evicted"]
    _inside("sh", "-c", write)
    _inside("umount", "/mnt/toy")


def test_a_hung_machine_answers_ping_and_not_ssh(machine: Node) -> None:
    faults.inject(machine, "hang", None)
    nodes.execute(NODES[0], "ping", "-c1", "-W2", machine.address)
    answer = subprocess.run(nodes.ssh_command(machine, "true"), timeout=20, check=False, capture_output=True)
    assert answer.returncode == 255
    assert power.is_on(machine)
    assert faults.heal(machine) == ["hang"]
    assert power.state(machine) == "running"


def test_a_dark_machine_stays_dark_until_it_gets_power(machine: Node) -> None:
    faults.inject(machine, "gone", None)
    time.sleep(3)
    assert power.state(machine) == "exited"
    with pytest.raises(LabError, match="exited"):
        faults.inject(machine, "overheat", 0)


class Client:
    """A Redfish client: TLS checked against the lab's certificate, basic authentication."""

    def __init__(self, port: int, name: str) -> None:
        self.root = f"https://localhost:{port}/redfish/v1"
        self.name = name
        self.context = ssl.create_default_context(cafile=str(redfish.directory() / "cert.pem"))
        self.context.check_hostname = False  # the certificate names the gateway; this server listens on loopback

    def call(self, path: str, body: object = None) -> tuple[int, dict[str, object]]:
        request = urllib.request.Request(self.root + path)
        request.add_header("Authorization", "Basic " + base64.b64encode(":".join(LOGIN).encode()).decode())
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data, timeout=60, context=self.context) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def power_state(self) -> object:
        return self.call(f"/Systems/{self.name}")[1]["PowerState"]

    def reset(self, kind: str) -> int:
        return self.call(f"/Systems/{self.name}/Actions/ComputerSystem.Reset", {"ResetType": kind})[0]


def test_the_bmc_cycles_the_power_of_a_hung_machine(machine: Node) -> None:
    server = redfish.Bmc(("127.0.0.1", 0), [machine], LOGIN)
    server.use_tls(redfish.directory() / "cert.pem", redfish.directory() / "key.pem")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        bmc = Client(server.server_address[1], machine.name)
        before = _boot_id()
        faults.inject(machine, "hang", None)
        assert bmc.power_state() == "On"
        assert bmc.reset("ForceRestart") == 204
        _until(lambda: _boot_id() != before)
        _until(lambda: _fault_names() == [])
        assert bmc.reset("ForceOff") == 204
        assert bmc.power_state() == "Off"
        assert bmc.reset("On") == 204
        assert bmc.power_state() == "On"
        assert bmc.reset("Nonsense") == 400
    finally:
        server.shutdown()
        server.server_close()


def test_the_running_bmc_service_knows_the_five(machine: Node) -> None:
    context = ssl.create_default_context(cafile=str(redfish.directory() / "cert.pem"))
    request = urllib.request.Request("https://10.89.77.1:8443/redfish/v1/Systems")
    request.add_header("Authorization", "Basic " + base64.b64encode(":".join(redfish.credentials()).encode()).decode())
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        members = [entry["@odata.id"].rpartition("/")[2] for entry in json.load(answer)["Members"]]
    assert members == [node.name for node in NODES]

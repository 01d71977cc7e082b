"""The lab's life on its host: up, up again, after the host's reboot, down, purge; what is left behind is nothing.

A second lab in namespaces of its own (network, mounts), with directories of its own: the running one is not touched.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.host import RUN, podman
from lab.layout import lab_dir, vendor_dir

pytestmark = pytest.mark.long
ADDRESSES = Path("/run/containers/networks")
MEDLLM = Path(sys.executable).parent / "medllm"


class SecondLab:
    """Runs commands inside the namespaces, with XDG directories under `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = home / "state" / "medllm-cluster" / "lab"
        self.keeper = subprocess.Popen(["unshare", "--mount", "--net", "sleep", "infinity"])
        time.sleep(0.5)
        for path in (RUN, ADDRESSES):
            self.call("mount", "-t", "tmpfs", "tmpfs", path)
        self.call("ip", "link", "set", "lo", "up")

    def call(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", f"--target={self.keeper.pid}", "--mount", "--net"]
        environment = {"XDG_STATE_HOME": str(self.home / "state"), "XDG_CACHE_HOME": str(self.home / "cache")}
        done = subprocess.run(
            [*inside, *command], env={**os.environ, **environment}, check=False, text=True, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}"
        return done

    def medllm(self, *arguments: str, check: bool = True) -> str:
        return self.call(MEDLLM, "lab", *arguments, check=check).stdout

    def states(self) -> set[str]:
        answer = self.medllm("status", "--json", check=False)
        return {entry["state"] for entry in json.loads(answer)["nodes"]}

    def processes(self) -> list[int]:
        """Processes of this lab's containers and of what watches them."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes()
                mounts = (entry / "mountinfo").read_bytes()
            except OSError:
                continue
            inside = (
                bytes(self.home) in mounts and (entry / "ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink()
            )
            watches = bytes(self.home) in command and b"conmon" in command
            service = b"lab.redfish" in command and (entry / "ns/net").readlink() == self._network()
            if (inside or watches or service) and int(entry.name) != self.keeper.pid:
                found.append(int(entry.name))
        return found

    def _network(self) -> Path:
        return Path(f"/proc/{self.keeper.pid}/ns/net").readlink()

    def close(self) -> None:
        self.medllm("down", "--purge", check=False)
        self.keeper.kill()
        self.keeper.wait()


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondLab]:
    home = tmp_path_factory.mktemp("second")
    lab = SecondLab(home)
    archive = home / "images.tar"
    images = podman("images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=medllm-lab-*").stdout
    podman("save", "--quiet", "--multi-image-archive", "--output", archive, *images.split(), timeout=300)
    cache = home / "cache" / "medllm-cluster"
    cache.mkdir(parents=True)
    # What needs an archive's network is there already; this network has none.
    subprocess.run(["cp", "-a", vendor_dir(), cache], check=True)
    lab.state.mkdir(parents=True)
    key = lab_dir() / "vendor-key"
    if key.exists():  # not after a purge, as long as the repository that it signed is still good
        subprocess.run(["cp", "-a", key, lab.state], check=True)
    load = "from lab.host import *; write_podman_configuration(); podman('load', '-i', sys.argv[1], timeout=300)"
    lab.call(sys.executable, "-c", f"import sys; {load}", archive)
    archive.unlink()
    yield lab
    lab.close()


def _left(second: SecondLab) -> dict[str, str]:
    """What a lab that is down left: links, mounts, processes, run-time files."""
    links = [line for line in second.call("ip", "-brief", "link").stdout.splitlines() if not line.startswith("lo ")]
    mounts = [line for line in second.call("cat", "/proc/self/mounts").stdout.splitlines() if str(second.home) in line]
    found = {"links": str(links), "mounts": str(mounts), "processes": str(second.processes())}
    found["run"] = second.call("ls", RUN, check=False).stdout
    return {name: text for name, text in found.items() if text not in ("", "[]")}


def test_up_makes_five_and_again_changes_nothing(second: SecondLab) -> None:
    first = second.medllm("up")
    assert re.search(r"nodes: mgmt made, node1 made, node2 made, node3 made, node4 made", first)
    assert second.states() == {"running"}
    again = second.medllm("up")
    assert re.search(r"nodes: mgmt kept, node1 kept, node2 kept, node3 kept, node4 kept", again)


def test_another_lab_on_the_same_machine_is_refused(second: SecondLab, tmp_path: Path) -> None:
    code = "from lab.host import *; from lab.nodes import make_network; lab_dir().mkdir(parents=True); "
    code += "write_podman_configuration(); make_network()"
    environment = [f"XDG_STATE_HOME={tmp_path}", f"XDG_CACHE_HOME={tmp_path}"]
    done = second.call("env", *environment, sys.executable, "-c", code, check=False)
    assert "has the address 10.89.77.1 already" in done.stdout


def test_a_reset_node_is_new_and_its_neighbours_are_not(second: SecondLab) -> None:
    second.medllm("shell", "node1", "--", "sudo", "touch", "/root/old")
    second.medllm("shell", "node2", "--", "sudo", "touch", "/root/old")
    second.medllm("fault", "overheat", "node1", "0")
    second.medllm("reset", "node1")
    assert "No such file" in second.medllm("shell", "node1", "--", "sudo", "ls", "/root/old", check=False)
    assert "/root/old" in second.medllm("shell", "node2", "--", "sudo", "ls", "/root/old")
    status = json.loads(second.medllm("status", "--json"))
    assert all(not entry["faults"] for entry in status["nodes"])


def test_up_after_the_host_was_switched_off(second: SecondLab) -> None:
    # As after a power cut: every process is gone, files that named them are there.
    for pid in second.processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    (second.state / "boot_id").write_text("another boot")
    for link in re.findall(r"^(\w+)@?\S* ", second.call("ip", "-brief", "link").stdout, re.MULTILINE):
        if link != "lo":
            second.call("ip", "link", "delete", link, check=False)
    second.call("touch", "-d", "2020-01-01", ADDRESSES / "ipam.db")
    second.medllm("up")
    assert second.states() == {"running"}


def test_down_leaves_nothing_running_and_purge_no_state(second: SecondLab) -> None:
    second.medllm("down")
    assert _left(second) == {}
    assert second.states() == {"absent"}
    assert (second.state / "ssh" / "id_ed25519").exists()
    second.medllm("down", "--purge")
    assert [path.name for path in second.state.iterdir()] == ["lock"]

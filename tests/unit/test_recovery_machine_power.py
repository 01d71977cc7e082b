"""`machine_power`: a start counts when the boot id has changed; a machine that is deaf or silent meets its BMC."""

from __future__ import annotations

import importlib.util
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from medllm.redfish import RedfishError
from medllm.remote import Result
from tests.unit.test_bringup_plugins import ROOT

_SPEC = importlib.util.spec_from_file_location("machine_power", ROOT / "plugins/action/machine_power.py")
assert _SPEC
assert _SPEC.loader
machine_power: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["machine_power"] = machine_power
_SPEC.loader.exec_module(machine_power)

VARIABLES = {
    "inventory_hostname": "node2",
    "ansible_host": "10.0.0.2",
    "ansible_user": "ops",
    "ansible_ssh_private_key_file": "/k/id",
    "ansible_ssh_common_args": "-o UserKnownHostsFile=/k/known -o StrictHostKeyChecking=yes",
    "bmc_url": "https://10.0.1.2/redfish/v1/Systems/1",
}


class Machine:
    """A machine that answers `boot` over SSH (None: silent), and how it takes to being rebooted."""

    def __init__(self) -> None:
        self.boot: str | None = "old"
        self.power = "On"
        self.did: list[str] = []
        self.deaf = False
        self.ready = True
        self.old_answers = 0

    def run(self, command: str, *, deadline_s: float, sudo: bool = False) -> Result:
        if command == machine_power.BOOT_ID:
            if self.old_answers:
                self.old_answers -= 1
                return self.result(0, "old\n")
            return self.result(0, f"{self.boot}\n") if self.boot else self.result(None)
        if command == "systemctl reboot":
            self.did.append("ssh")
            if not self.deaf:
                self.boot = "new"
            return self.result(None)
        return self.result(0 if self.ready else 1, "/mnt/lustre is not mounted\n")

    def result(self, rc: int | None, text: str = "") -> Result:
        return Result("node2", "", rc, text, "", datetime.now(UTC), 0.0, None if rc is not None else "no answer")

    def reset(self, kinds: tuple[str, ...]) -> str:
        self.did.append(kinds[0])
        self.boot = "new"
        return kinds[0]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()

    class Remote:
        def __init__(self, host: Any, **_: Any) -> None:
            assert (host.address, host.user, host.known_hosts_file) == ("10.0.0.2", "ops", "/k/known")

        def __enter__(self) -> Machine:
            return machine

        def __exit__(self, *_: object) -> None:
            pass

    bmc = SimpleNamespace(power=lambda: machine.power, reset=lambda kinds: machine.reset(kinds))
    monkeypatch.setattr(machine_power, "Remote", Remote)
    monkeypatch.setattr(machine_power, "Bmc", lambda *_: bmc)
    monkeypatch.setattr(machine_power, "POLL_S", 0.01)
    return machine


def start(how: str, *, bmc_url: str = VARIABLES["bmc_url"], **options: Any) -> dict[str, Any]:
    given = {
        "how": how, "credentials_file": "/k/bmc.json", "ca_file": None, "ready": "true", "ssh_s": 1.0, "down_s": 0.2,
        "boot_s": 1.0, "ready_s": 0.1, "boot_id": "", **options,
    }  # fmt: skip
    answer: dict[str, Any] = machine_power._Machine(machine_power.host_of(VARIABLES), bmc_url, given).start()
    return answer


def test_a_machine_that_answers_is_asked_itself(machine: Machine) -> None:
    answer = start("reboot")
    assert machine.did == ["ssh"]
    assert (answer["by"], answer["boot_id_before"], answer["boot_id_after"]) == ("ssh", "old", "new")


@pytest.mark.parametrize(
    ("how", "power", "did"),
    [
        ("reboot", "On", ["ForceRestart"]),
        ("cycle", "On", ["PowerCycle"]),
        ("on", "On", ["PowerCycle"]),
        ("reboot", "Off", ["On"]),
        ("cycle", "Off", ["On"]),
        ("on", "Off", ["On"]),
    ],
)
def test_a_silent_machine_meets_its_bmc(machine: Machine, how: str, power: str, did: list[str]) -> None:
    machine.boot, machine.power = None, power
    answer = start(how, boot_id="old")
    assert (machine.did, answer["boot_id_before"]) == (did, "old")


def test_a_reboot_that_does_not_happen_is_forced(machine: Machine) -> None:
    machine.deaf = True
    assert start("reboot")["by"] == "ssh, then bmc ForceRestart"


def test_the_old_system_that_still_answers_is_not_taken_for_the_new_one(machine: Machine) -> None:
    machine.old_answers = 3
    answer = start("cycle")
    assert (answer["boot_id_before"], answer["boot_id_after"]) == ("old", "new")


def test_a_machine_that_does_not_boot_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.boot = None
    monkeypatch.setattr(machine, "reset", lambda kinds: machine.did.append(kinds[0]))
    with pytest.raises(machine_power.NotStartedError, match="has not booted within"):
        start("cycle", boot_s=0.1)


def test_a_machine_without_its_storage_is_not_ready(machine: Machine) -> None:
    machine.ready = False
    with pytest.raises(machine_power.NotStartedError, match="later: /mnt/lustre is not mounted"):
        start("reboot")


def test_no_bmc_and_a_bmc_that_refuses(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.boot = None
    with pytest.raises(machine_power.NotStartedError, match="declare its bmc_url"):
        start("reboot", bmc_url="")

    def refuse(*_: Any) -> None:
        raise RedfishError("the BMC answers 401")

    monkeypatch.setattr(machine_power, "Bmc", refuse)
    with pytest.raises(RedfishError, match="401"):
        start("reboot")

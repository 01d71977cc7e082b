"""Start a machine anew, or switch it on, and wait until it has booted: over SSH where it answers, else by its BMC.

Runs on the controller: the machine may be gone. Every wait has a deadline of its own, whatever the other side does.
A reboot counts only when the boot id has changed.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from medllm.redfish import CYCLE, RESTART, SWITCH_ON, Bmc, RedfishError
from medllm.remote import Remote
from medllm.site.model import Host

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
POLL_S = 1.0


class ActionModule(ActionBase):
    """`machine_power: {how, credentials_file, ca_file, …}`; see plugins/modules/machine_power.py."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {
                "how": {"type": "str", "required": True, "choices": ["reboot", "cycle", "on"]},
                "credentials_file": {"type": "str", "required": True},
                "ca_file": {"type": "str"},
                "ready": {"type": "str", "default": "true"},
                "ssh_s": {"type": "float", "default": 5.0},
                "down_s": {"type": "float", "default": 90.0},
                "boot_s": {"type": "float", "default": 600.0},
                "ready_s": {"type": "float", "default": 120.0},
                "boot_id": {"type": "str", "default": ""},
            }
        )
        result["changed"] = True
        if self._task.check_mode:
            return result
        host = host_of(task_vars or {})
        try:
            return {**result, **_Machine(host, str((task_vars or {}).get("bmc_url") or ""), options).start()}
        except (RedfishError, NotStartedError) as error:
            return {**result, "failed": True, "msg": f"{host.name}: {error}"}


def host_of(variables: dict[str, Any]) -> Host:
    """The machine as the inventory declares it to SSH. Templates were resolved by Ansible."""
    options = dict(
        word.partition("=")[::2] for word in shlex.split(str(variables.get("ansible_ssh_common_args") or ""))
    )
    name = str(variables["inventory_hostname"])
    return Host.model_construct(
        name=name,
        address=str(variables.get("ansible_host") or name),
        groups=(),
        user=str(variables.get("ansible_user") or "root"),
        port=int(variables.get("ansible_port") or 22),
        private_key_file=variables.get("ansible_ssh_private_key_file"),
        known_hosts_file=options.get("UserKnownHostsFile"),
    )


class NotStartedError(Exception):
    """What did not happen in time."""


class _Machine:
    def __init__(self, host: Host, bmc_url: str, options: dict[str, Any]) -> None:
        self.host, self.bmc_url, self.options = host, bmc_url, options
        self.begin = time.monotonic()
        self.by: list[str] = []

    def start(self) -> dict[str, Any]:
        """Start it and wait. Returns boot ids before and after, by what means, and the seconds it took."""
        before = str(self.options["boot_id"])
        # One whose power may be off is not asked: that would cost seconds and tell nothing.
        found = self._boot_id(self.options["ssh_s"]) if self.options["how"] != "on" else ""
        before = found or before
        if found and self.options["how"] == "reboot":
            with Remote(self.host) as remote:
                remote.run("systemctl reboot", deadline_s=10, sudo=True)
            self.by.append("ssh")
        else:
            self._by_bmc()
        after = self._booted(before)
        booted = time.monotonic() - self.begin
        self._ready()
        return {
            "boot_id_before": before,
            "boot_id_after": after,
            "by": ", then ".join(self.by),
            "boot_seconds": round(booted, 1),
            "seconds": round(time.monotonic() - self.begin, 1),
        }

    def _boot_id(self, deadline_s: float) -> str:
        with Remote(self.host, connect_deadline_s=deadline_s) as remote:
            result = remote.run(BOOT_ID, deadline_s=deadline_s)
        return result.stdout.strip() if result.ok else ""

    def _by_bmc(self) -> None:
        if not self.bmc_url:
            raise NotStartedError("it does not answer over SSH and has no BMC. Fix: declare its bmc_url in hosts.yml")
        ca_file = self.options["ca_file"]
        bmc = Bmc(self.bmc_url, Path(self.options["credentials_file"]), Path(ca_file) if ca_file else None)
        # A machine that its BMC calls on, though nobody reaches it, is hung: it needs its power cut.
        kinds = SWITCH_ON if bmc.power() == "Off" else RESTART if self.options["how"] == "reboot" else CYCLE
        self.by.append(f"bmc {bmc.reset(kinds)}")

    def _booted(self, before: str) -> str:
        """The new boot id. A reboot that does not happen (a stop job may wait for dead storage) is forced."""
        begin = time.monotonic()
        while (waited := time.monotonic() - begin) < self.options["boot_s"]:
            found = self._boot_id(4.0)
            if found and found != before:
                return found
            if found and self.by == ["ssh"] and waited > self.options["down_s"]:
                self._by_bmc()
            time.sleep(POLL_S)
        raise NotStartedError(f"it has not booted within {self.options['boot_s']:g} s (no new boot id over SSH)")

    def _ready(self) -> None:
        end = time.monotonic() + self.options["ready_s"]
        while True:
            with Remote(self.host, connect_deadline_s=5) as remote:
                result = remote.run(self.options["ready"], deadline_s=10, sudo=True)
            if result.ok:
                return
            if time.monotonic() > end:
                said = result.stderr.strip() or result.stdout.strip() or result.error or "no reason given"
                last = said.splitlines()[-1]
                raise NotStartedError(f"it booted, and is not ready {self.options['ready_s']:g} s later: {last}")
            time.sleep(POLL_S)

"""Documentation of the action plugin `machine_power` (plugins/action/machine_power.py), for `ansible-doc`."""

DOCUMENTATION = r"""
module: machine_power
short_description: Start a machine anew, or switch it on, and wait until it has booted
description:
  - Runs on the controller; the machine itself may be gone. Over SSH where it answers, else through Redfish, with the
    first fitting reset type that the BMC lists.
  - A start counts only when the boot id has changed and O(ready) succeeds on the machine.
  - Returns C(boot_id_before), C(boot_id_after), C(by), C(boot_seconds), C(seconds).
options:
  how:
    description:
      - C(reboot) asks the operating system, and the BMC (ForceRestart) when it does not answer or does not go down.
      - C(cycle) cuts the power (PowerCycle; else ForceOff and On; else ForceRestart).
      - C(on) switches on a machine whose power is off, and cuts the power of one that is on.
    type: str
    required: true
    choices: [reboot, cycle, "on"]
  credentials_file:
    description: 'Login of the BMCs on the controller, as {"username", "password"}.'
    type: str
    required: true
  ca_file: {description: What the BMCs' certificates are checked with; the system's authorities by default., type: str}
  ready: {description: Shell text that succeeds on the machine (as root) when it is usable., type: str, default: "true"}
  ssh_s: {description: Seconds that SSH may take before the BMC is asked., type: float, default: 5}
  down_s: {description: Seconds to go down before the BMC is asked., type: float, default: 90}
  boot_s: {description: Seconds that the boot may take., type: float, default: 600}
  ready_s: {description: Seconds after the boot until O(ready) must have succeeded., type: float, default: 120}
  boot_id: {description: The boot id before, where the machine can no longer be asked., type: str, default: ""}
author: [medllm-cluster]
"""

EXAMPLES = r"""
- name: Start the machine anew
  machine_power:
    how: reboot
    credentials_file: /etc/medllm/recover/bmc.json
    ca_file: /etc/medllm/recover/bmc-ca.pem
    ready: systemctl is-active slurmd.service
"""

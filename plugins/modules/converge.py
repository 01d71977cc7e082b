"""Documentation of the action plugin `converge` (plugins/action/converge.py), for `ansible-doc`."""

DOCUMENTATION = r"""
module: converge
short_description: Bring one piece of state to where it must be, predictable in check mode
description:
  - Runs O(probe) on the node, in check mode too. The state is right when it exits 0 and, if O(expect) is given,
    prints exactly that.
  - Otherwise reports a change, runs O(apply), and runs O(probe) again for up to 5 s; a difference that remains fails
    the task.
options:
  probe: {description: Read-only shell text., type: str, required: true}
  expect: {description: What the probe must print (outer blanks don't count)., type: str}
  apply: {description: Shell text that makes it so., type: str, required: true}
  force:
    description: Apply although the probe agrees, because a file that it reads has just changed.
    type: bool
    default: false
author: [medllm-cluster]
"""

EXAMPLES = r"""
- name: Set the kernel settings that run now
  converge:
    probe: sysctl -n vm.swappiness
    expect: "10"
    apply: sysctl -p /etc/sysctl.d/60-medllm.conf
"""

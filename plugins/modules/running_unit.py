"""Documentation of the action plugin `running_unit` (plugins/action/running_unit.py), for `ansible-doc`."""

DOCUMENTATION = r"""
module: running_unit
short_description: Keep a systemd unit enabled, active, and younger than the files it reads
description:
  - Replaces the pair of a service task and a restart handler. Staleness is judged on the node by time, so a run that
    broke off between a changed file and its handler is repaired by the next one.
options:
  name: {description: The unit., type: str, required: true}
  files:
    description: Files the unit reads; a change after its start makes it stale.
    type: list
    elements: str
    default: []
  changed: {description: A file changed in this run (or would, in check mode)., type: bool, default: false}
  reload: {description: Reload it instead of restarting it., type: bool, default: false}
  guard: {description: Shell text that must succeed before a running unit is restarted., type: str}
author: [medllm-cluster]
"""

EXAMPLES = r"""
- name: Run containerd with its configuration
  running_unit:
    name: containerd.service
    files: [/etc/containerd/config.toml]
    changed: "{{ containerd_config is changed }}"
"""

"""Documentation of the action plugin `written_files` (plugins/action/written_files.py), for `ansible-doc`."""

DOCUMENTATION = r"""
module: written_files
short_description: Write small text files, with the directories above them, in one step
description:
  - The node is asked once for all files; only those that differ in content, mode or owner are sent, each put in place
    by a rename. Owner and group are root; a directory that is missing is made with mode 0755.
options:
  files:
    description: Path on the node to content; usually C(lookup('ansible.builtin.template', …)).
    type: dict
    required: true
  mode: {description: Mode of all files of the step., type: str, default: "0644"}
author: [medllm-cluster]
"""

EXAMPLES = r"""
- name: Write the configuration
  written_files:
    files:
      /etc/sysctl.d/60-medllm.conf: "{{ lookup('ansible.builtin.template', 'etc/sysctl.d/60-medllm.conf.j2') }}"
  register: base_files

- name: Run the unit
  running_unit:
    name: x.service
    changed: "{{ '/etc/systemd/system/x.service' in base_files.changed_files }}"
"""

RETURN = r"""
changed_files:
  description: Paths that were written, or would be.
  returned: success
  type: list
  elements: str
"""

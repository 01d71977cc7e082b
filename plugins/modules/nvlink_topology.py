"""Documentation of the action plugin `nvlink_topology` (plugins/action/nvlink_topology.py), for `ansible-doc`."""

DOCUMENTATION = r"""
module: nvlink_topology
short_description: Report the NVLink topology of a node as structured facts
description:
  - Runs C(nvidia-smi topo -m) on the node and parses it on the controller; changes nothing.
options: {}
author: [medllm-cluster]
"""

EXAMPLES = r"""
- name: Read the NVLink topology
  nvlink_topology:

- name: Require NVLink between all GPUs
  ansible.builtin.assert:
    that: ansible_facts.nvlink_topology.all_to_all
"""

RETURN = r"""
ansible_facts:
  description: The topology, as C(nvlink_topology).
  returned: success
  type: dict
  contains:
    nvlink_topology:
      description:
        - C(gpus), a list with C(name), C(index), C(cpu_affinity), C(numa_affinity), C(nvlinks) (other GPU to number of
          bonded links) and C(nearest_nics).
        - C(nics), the adapters; C(nvlinks_min) and C(nvlinks_max) over all pairs; C(all_to_all), whether each pair has
          at least one NVLink.
      type: dict
"""

"""Documentation of the action plugin `locked_packages` (plugins/action/locked_packages.py), for `ansible-doc`."""

DOCUMENTATION = r"""
module: locked_packages
short_description: Install Debian packages at exactly the locked versions, and hold them
description:
  - One dpkg-query tells what differs, in check mode too. apt runs only then, with all packages of the task together,
    up or down.
  - The package lists are read again only when apt can't install from those it has.
options:
  packages:
    description: A mapping from name to exact version, or a list of names whose version is free.
    type: raw
    required: true
  hold: {description: Keep apt from moving them., type: bool, default: true}
author: [medllm-cluster]
"""

EXAMPLES = r"""
- name: Install the driver
  locked_packages:
    packages: "{{ site_lock.nvidia_driver.packages }}"
"""

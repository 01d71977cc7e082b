"""Documentation of the action plugin `signing_keys` (plugins/action/signing_keys.py), for `ansible-doc`."""

DOCUMENTATION = r"""
module: signing_keys
short_description: Put the signing keys of apt repositories in place, none of them unseen
description:
  - Each repository's keys become C(/etc/apt/keyrings/<name>.asc), armored, owner root, mode 0644.
  - A key is fetched by the node and judged on the controller, so that the node needs no C(gpg). If one of the step is
    not as declared, the task fails, in check mode too, and none is written.
options:
  repositories:
    description:
      - C(name), and either C(key_url) with C(key_fingerprints) or C(key_file).
      - C(key_fingerprints) are 40 capital hex digits each. Every key of the fetched file must be among them; one of
        them may be missing in it, so that the vendor's next key can be declared before it is published.
      - C(key_file) is a file of the controller, armored or binary, and trusted as it is.
    type: list
    elements: dict
    required: true
author: [medllm-cluster]
"""

EXAMPLES = r"""
- name: Trust the vendors' keys
  signing_keys:
    repositories:
      - name: cuda
        key_url: https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64/3bf863cc.pub
        key_fingerprints: [EB693B3035CD5710E231E123A4B469963BF863CC]
      - {name: mirror, key_file: /etc/medllm/keys/mirror.asc}
"""

RETURN = r"""
changed_files:
  description: Paths that were written, or would be.
  returned: success
  type: list
  elements: str
"""

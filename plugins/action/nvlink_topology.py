"""Report the NVLink topology of a node as structured facts, from `nvidia-smi topo -m` parsed on the controller."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from medllm.parsers.topology import parse_topo, topology_facts


class ActionModule(ActionBase):
    """`nvlink_topology:`; see plugins/modules/nvlink_topology.py for what it returns."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        self.validate_argument_spec({})
        # As standard input: with an empty one SSH would ask for a terminal, and the header would be underlined.
        ran = self._low_level_execute_command("LC_ALL=C /bin/sh", in_data=b"nvidia-smi topo -m </dev/null\n")
        if ran["rc"] != 0:
            said = (ran["stderr"] + ran["stdout"]).strip()
            return {**result, "failed": True, "msg": f"nvidia-smi topo -m failed ({ran['rc']}): {said}"}
        try:
            facts = topology_facts(parse_topo(ran["stdout"]))
        except ValueError as error:
            return {**result, "failed": True, "msg": f"nvidia-smi topo -m answered something else: {error}"}
        return {**result, "changed": False, "ansible_facts": {"nvlink_topology": facts}}

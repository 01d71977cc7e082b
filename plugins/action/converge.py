"""Bring one piece of a node's state to where it must be, with a probe that also answers in check mode.

`ansible.builtin.command` says "skipped" in check mode and "changed" otherwise. This action asks first (`probe`,
read-only, run in check mode too), acts only on a difference (`apply`), and asks again: a step without effect after
some seconds fails. Both are shell text, run on the node without shipping any Python there.
"""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase

# What another process carries out (systemd, a kernel thread) shows a moment after the command that asked for it.
_SETTLE_S = 5.0
_POLL_S = 0.5


class ActionModule(ActionBase):
    """`converge: {probe, expect?, apply, force?}`; see plugins/modules/converge.py for the options."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {
                "probe": {"type": "str", "required": True},
                "expect": {"type": "str"},
                "apply": {"type": "str", "required": True},
                "force": {"type": "bool", "default": False},
            }
        )
        before = self._shell(options["probe"])
        expected = options["expect"]
        result["changed"] = bool(options["force"] or not _holds(before, expected))
        if not result["changed"]:
            return result
        result["diff"] = {"before": _told(before), "after": f"{expected.strip() if expected else 'as declared'}\n"}
        if self._task.check_mode:
            return result
        applied = self._shell(options["apply"])
        result.update({key: applied[key] for key in ("rc", "stdout", "stderr")})
        if applied["rc"] != 0:
            return {**result, "failed": True, "msg": f"apply failed: {_told(applied).strip()}"}
        deadline = time.monotonic() + _SETTLE_S
        while not _holds(after := self._shell(options["probe"]), expected) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if not _holds(after, expected):
            return {
                **result,
                "failed": True,
                "msg": f"apply succeeded, yet the probe still differs: {_told(after).strip() or 'no output'}",
            }
        return result

    def _shell(self, script: str) -> dict[str, Any]:
        # As standard input: with an empty one SSH would ask for a terminal, which mixes errors into the output.
        ran: dict[str, Any] = self._low_level_execute_command(
            'LC_ALL=C /bin/sh -c "$(cat)" </dev/null', in_data=script.encode()
        )
        return ran


def _holds(ran: dict[str, Any], expected: str | None) -> bool:
    return ran["rc"] == 0 and (expected is None or ran["stdout"].strip() == expected.strip())


def _told(ran: dict[str, Any]) -> str:
    """What a command said, for the diff and for messages: standard output, else standard error."""
    return (ran["stdout"].strip() or ran["stderr"].strip() or f"exit code {ran['rc']}") + "\n"

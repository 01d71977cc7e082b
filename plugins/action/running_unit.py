"""Keep a systemd unit enabled, active and younger than the files it reads: restarted when, and only when, it is stale.

A handler is lost when a run breaks off between the change of a file and its end. This step compares times on the node,
so the next run still sees that the unit reads an old file. `changed` carries a change that check mode only predicts.
"""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase

from medllm.parsers.units import PROPERTIES, Unit, parse_systemctl_show

_STALE = "reads files that changed after its start"


class ActionModule(ActionBase):
    """`running_unit: {name, files?, changed?, reload?, guard?}`; see plugins/modules/running_unit.py."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {
                "name": {"type": "str", "required": True},
                "files": {"type": "list", "elements": "str", "default": []},
                "changed": {"type": "bool", "default": False},
                "reload": {"type": "bool", "default": False},
                "guard": {"type": "str"},
            }
        )
        faults, unit = self._faults(options)
        if options["changed"] and _STALE not in faults:
            faults.append(_STALE)
        result["changed"] = bool(faults)
        if not faults:
            return result
        result["diff"] = {"before": "".join(f"{options['name']} {fault}\n" for fault in faults), "after": "running\n"}
        if self._task.check_mode:
            return result
        ran = self._shell(_script(options, unit, stale=_STALE in faults))
        if ran["rc"] != 0:
            said = ran["stderr"].strip() or ran["stdout"].strip()
            log = self._shell(f"journalctl -u {shlex.quote(options['name'])} -n 20 --no-pager -o cat")["stdout"]
            return {**result, "failed": True, "msg": f"{options['name']}: {said}\n{log}".strip()}
        left, _ = self._faults(options)
        if left:
            return {**result, "failed": True, "msg": f"{options['name']} still {', '.join(left)}"}
        return result

    def _faults(self, options: dict[str, Any]) -> tuple[list[str], Unit]:
        """What is wrong with the unit now, in words, and the unit."""
        name = shlex.quote(options["name"])
        files = shlex.join(options["files"])
        times = f"stat -L -c %.9Z {files} 2>/dev/null" if options["files"] else "true"
        show = f"systemctl show --no-pager --timestamp=us+utc -p {','.join(PROPERTIES)} {name}"
        ran = self._shell(f"{show} && echo -- && {{ {times} || true; }}")
        if ran["rc"] != 0:
            raise ValueError(f"systemctl show {options['name']} failed: {ran['stderr'].strip()}")
        shown, _, stamps = ran["stdout"].partition("--\n")
        unit = parse_systemctl_show(shown.strip())
        if not unit.loaded:
            return ["is not there"], unit
        read = unit.state_changed if options["reload"] else unit.started
        faults = [] if unit.enabled else ["is not enabled"]
        if not unit.active:
            faults.append("is not running")
        elif any(float(stamp) > (read or 0.0) for stamp in stamps.split()):
            faults.append(_STALE)
        if unit.needs_daemon_reload:
            faults.append("has a changed unit file")
        return faults, unit

    def _shell(self, script: str) -> dict[str, Any]:
        # As standard input: with an empty one SSH would ask for a terminal, which mixes errors into the output.
        ran: dict[str, Any] = self._low_level_execute_command(
            'LC_ALL=C /bin/sh -c "$(cat)" </dev/null', in_data=script.encode()
        )
        return ran


def _script(options: dict[str, Any], unit: Unit, *, stale: bool) -> str:
    """Enable; start what stands still; restart (or reload) what runs on old files, after the guard agreed."""
    name = shlex.quote(options["name"])
    lines = ["set -e", "systemctl daemon-reload", f"systemctl -q enable {name}"]
    if not unit.active:
        lines += [f"systemctl reset-failed {name} 2>/dev/null || true", f"systemctl start {name}"]
    elif stale:
        lines += [f"( {options['guard']}\n)"] if options["guard"] else []
        lines.append(f"systemctl {'reload-or-restart' if options['reload'] else 'restart'} {name}")
    return "\n".join(lines)

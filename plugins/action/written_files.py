"""Write files as declared: content, mode, owner root, and the directories above them.

`ansible.builtin.template` costs a node four or five round trips and a Python a file, also when nothing changes. Here
the node answers for all files of a step at once, and only files that differ are sent, each put in place by a rename.
"""

from __future__ import annotations

import base64
import shlex
from typing import Any

from ansible.plugins.action import ActionBase

_ABSENT = "absent"


class ActionModule(ActionBase):
    """`written_files: {files, mode?}`; see plugins/modules/written_files.py for the options."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {"files": {"type": "dict", "required": True}, "mode": {"type": "str", "default": "0644"}}
        )
        mode = options["mode"].lstrip("0")
        files = {str(path): str(content) for path, content in options["files"].items()}
        before = self._read(files)
        wrong = [path for path, content in files.items() if before[path] != (f"{mode} root root", content)]
        result["changed"] = bool(wrong)
        result["changed_files"] = wrong
        if not wrong:
            return result
        result["diff"] = [_diff(path, before[path], (f"{mode} root root", files[path])) for path in wrong]
        if self._task.check_mode:
            return result
        ran = self._shell("\n".join(["set -eu", "umask 022", *(_put(path, files[path], mode) for path in wrong)]))
        if ran["rc"] != 0:
            return {**result, "failed": True, "msg": ran["stderr"].strip() or ran["stdout"].strip()}
        return result

    def _read(self, files: dict[str, str]) -> dict[str, tuple[str, str]]:
        """`(mode owner group, content)` of each path; another kind of file than a regular one counts as absent."""
        ask = "\n".join(
            f"if [ -f {path} ] && [ ! -L {path} ]; then stat -c '%a %U %G' {path}; base64 -w0 {path}; echo; "
            f"else echo {_ABSENT}; echo; fi"
            for path in map(shlex.quote, files)
        )
        ran = self._shell(f"set -eu\n{ask}")
        lines = ran["stdout"].splitlines()
        if ran["rc"] != 0 or len(lines) != 2 * len(files):
            raise ValueError(f"can't read {', '.join(files)}: {ran['stderr'].strip()}")
        contents = [base64.b64decode(line).decode(errors="replace") for line in lines[1::2]]
        return dict(zip(files, zip(lines[::2], contents, strict=True), strict=True))

    def _shell(self, script: str) -> dict[str, Any]:
        # As standard input: with an empty one SSH would ask for a terminal, which mixes errors into the output.
        ran: dict[str, Any] = self._low_level_execute_command(
            'LC_ALL=C /bin/sh -c "$(cat)" </dev/null', in_data=script.encode()
        )
        return ran


def _put(path: str, content: str, mode: str) -> str:
    """Shell text that makes one file, whole or not at all."""
    name, temporary = shlex.quote(path), shlex.quote(f"{path}.medllm-new")
    encoded = base64.b64encode(content.encode()).decode()
    return (
        f'mkdir -p "$(dirname {name})"\necho {encoded} | base64 -d > {temporary}\n'
        f"chown root:root {temporary}\nchmod {mode} {temporary}\nmv -fT {temporary} {name}"
    )


def _diff(path: str, before: tuple[str, str], after: tuple[str, str]) -> dict[str, str]:
    """One file's difference; its attributes are in the header."""
    return {
        "before_header": f"{path} ({before[0]})",
        "after_header": f"{path} ({after[0]})",
        "before": before[1],
        "after": after[1],
    }

"""Install packages at exactly the locked versions and hold them, as one step that can be predicted.

One `dpkg-query` answers for all packages, also in check mode and on a node that has no repository yet. apt is started
only when something differs, and dpkg is asked again afterwards: a metapackage that resolved to another version fails.
"""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase

from medllm.parsers.packages import FORMAT, Package, differences, parse_dpkg_query

# Configuration files that a role or a human changed stay; questions are never asked; apt waits for another apt.
_APT = (
    "DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 "
    "-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
)


class ActionModule(ActionBase):
    """`locked_packages: {packages, hold?}`; see plugins/modules/locked_packages.py for the options."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {"packages": {"type": "raw", "required": True}, "hold": {"type": "bool", "default": True}}
        )
        wanted = _wanted(options["packages"])
        hold = options["hold"]
        found = self._found(wanted)
        changes = differences(wanted, found, hold=hold)
        result["changed"] = bool(changes)
        if not changes:
            return result
        result["diff"] = {
            "before": "".join(f"{name} {actual}\n" for name, actual, _ in changes),
            "after": "".join(f"{name} {needed}\n" for name, _, needed in changes),
        }
        if self._task.check_mode:
            return result
        ran = self._shell(_script(wanted, found, [name for name, _, _ in changes], hold=hold))
        left = differences(wanted, self._found(wanted), hold=hold)
        if ran["rc"] != 0 or left:
            told = "; ".join(f"{name} is {actual}, must be {needed}" for name, actual, needed in left)
            said = (ran["stderr"].strip() or ran["stdout"].strip())[-2000:]
            return {**result, "failed": True, "msg": f"{told or 'packages are right, but apt failed'}\n{said}".strip()}
        return result

    def _found(self, wanted: dict[str, str | None]) -> dict[str, Package]:
        # The exit code is 1 when dpkg knows one of the packages not at all: that is an answer, not an error.
        ran = self._shell(f"dpkg-query -W -f {shlex.quote(FORMAT)} {shlex.join(wanted)}")
        if ran["rc"] not in (0, 1):
            raise ValueError(f"dpkg-query failed: {ran['stderr'].strip()}")
        return parse_dpkg_query(ran["stdout"])

    def _shell(self, script: str) -> dict[str, Any]:
        # As standard input: with an empty one SSH would ask for a terminal, which mixes errors into the output.
        ran: dict[str, Any] = self._low_level_execute_command(
            'LC_ALL=C /bin/sh -c "$(cat)" </dev/null', in_data=script.encode()
        )
        return ran


def _wanted(packages: Any) -> dict[str, str | None]:
    """A mapping name → exact version, or a list of names at any version, as one mapping."""
    if isinstance(packages, dict):
        return {str(name): str(version) for name, version in packages.items()}
    return {str(name): None for name in packages}


def _script(wanted: dict[str, str | None], found: dict[str, Package], names: list[str], *, hold: bool) -> str:
    """What brings `names` to the wanted versions and holds.

    All the wanted packages of the step go to apt together, so that one that depends on another is solved with the
    locked version of that other. The package lists are read again only when that fails: apt doesn't know the version
    yet, or the repository was published anew since.
    """
    lines = ["set -e"]
    if any(_wrong_version(name, wanted[name], found) for name in names):
        request = shlex.join(f"{name}={version}" if version else name for name, version in wanted.items())
        install = f"{_APT} install --no-install-recommends --allow-change-held-packages --allow-downgrades {request}"
        lines.append(f"{install} || {{ {_APT} update; {install}; }}")
    selection = "hold" if hold else "install"
    lines.append(f"printf '%s {selection}\\n' {shlex.join(names)} | dpkg --set-selections")
    return "\n".join(lines)


def _wrong_version(name: str, version: str | None, found: dict[str, Package]) -> bool:
    package = found.get(name)
    return package is None or not package.installed or version not in (None, package.version)

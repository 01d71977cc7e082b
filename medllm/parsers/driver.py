"""The loaded NVIDIA kernel module and the installed packages."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NVRM = re.compile(
    r"^NVRM version: NVIDIA UNIX (?:Open Kernel Module for \S+|\S+ Kernel Module)\s+(\d+\.\d+(?:\.\d+)?)\b"
)


def parse_module_version(text: str) -> str:
    """Driver version of the loaded module, from /proc/driver/nvidia/version."""
    first = text.splitlines()[0] if text.strip() else ""
    found = _NVRM.match(first)
    if not found:
        raise ValueError(f"/proc/driver/nvidia/version, line 1: {first!r} names no NVIDIA kernel module")
    return found[1]


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    version: str
    status: str

    @property
    def installed(self) -> bool:
        """Unpacked and configured."""
        return self.status == "installed"


def parse_packages(text: str) -> dict[str, Package]:
    """Read `dpkg-query -W -f='${Package}\\t${Version}\\t${db:Status-Status}\\n'`, by package name."""
    packages = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split("\t")
        if len(parts) != 3 or not parts[0] or not parts[2]:
            raise ValueError(f"dpkg-query, line {number}: {line!r} is not `package<tab>version<tab>status`")
        packages[parts[0]] = Package(*parts)
    if not packages:
        raise ValueError("dpkg-query, line 1: the output is empty")
    return packages

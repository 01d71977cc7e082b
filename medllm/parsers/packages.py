"""Parser of `dpkg-query -W` with the format below: which packages are installed, at which version, held or not."""

from __future__ import annotations

from dataclasses import dataclass

# dpkg-query(1): Status-Abbrev is desired action, state, error flag: "ii " installed, "hi " installed and held.
FORMAT = r"${Package}\t${db:Status-Abbrev}\t${Version}\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One package that dpkg knows."""

    name: str
    version: str
    installed: bool
    held: bool


def parse_dpkg_query(text: str) -> dict[str, Package]:
    """Packages by name. Raises ValueError, with the line, when a line isn't of `FORMAT`."""
    packages = {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) != 3 or len(fields[1].strip()) not in (2, 3):
            raise ValueError(f"not a line of dpkg-query -f '{FORMAT}': {line!r}")
        name, status, version = fields
        flags = status.strip()
        packages[name] = Package(name=name, version=version, installed=flags[1:] == "i", held=flags[0] == "h")
    return packages


def differences(wanted: dict[str, str | None], found: dict[str, Package], *, hold: bool) -> list[tuple[str, str, str]]:
    """`(package, is, must be)` for each package that isn't as wanted; a version of None means any version."""
    told = []
    for name, version in wanted.items():
        package = found.get(name)
        present = package is not None and package.installed
        actual = f"{package.version}{' held' if package.held else ''}" if present and package else "absent"
        right_version = present and package is not None and version in (None, package.version)
        right_hold = present and package is not None and package.held == hold
        if not (right_version and right_hold):
            kept = package.version if package and present else "installed"
            told.append((name, actual, f"{version or kept}{' held' if hold else ''}"))
    return told

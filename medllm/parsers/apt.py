"""Where an installed package came from: `apt-cache policy`, source lists in both formats."""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERSION = re.compile(r"^ (\*\*\*|   ) (\S+) (-?\d+)$")
# A flat repository (NVIDIA's own is one) has neither suite nor architecture: `500 URL  Packages`.
_ORIGIN = re.compile(r"^ {8,}-?\d+ (\S+)(?: (?:(\S+) \S+)? Packages)?$")
_ONE_LINE = re.compile(r"^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+\S+)*)$")
_STATUS = "/var/lib/dpkg/status"


@dataclass(frozen=True, slots=True)
class Origin:
    """One place that offers a version: the repository's address and its `suite/component`; "" for a flat one."""

    url: str
    suite: str


def parse_policy(text: str) -> tuple[str, tuple[Origin, ...]]:
    """Installed version and the repositories that offer exactly it, from `apt-cache policy PACKAGE` (LC_ALL=C)."""
    installed: str | None = None
    origins: list[Origin] = []
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if found := _VERSION.match(line):
            inside = found[1] == "***"
            installed = found[2] if inside else installed
        elif found := _ORIGIN.match(line):
            if inside and found[1] != _STATUS:
                origins.append(Origin(found[1].rstrip("/"), found[2] or ""))
        elif line.startswith("        "):
            raise ValueError(f"apt-cache policy, line {number}: {line.strip()!r} is no origin")
    if installed is None:
        raise ValueError("apt-cache policy, line 1: no installed version")
    return installed, tuple(origins)


@dataclass(frozen=True, slots=True)
class Source:
    """One repository of the source lists.

    `signed_by` holds key files (absolute paths), fingerprints, or one embedded key block; empty: any trusted key.
    """

    url: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: tuple[str, ...]
    unchecked: bool

    def offers(self, origin: Origin) -> bool:
        """Whether apt's origin is this source."""
        if self.url.rstrip("/") != origin.url:
            return False
        if not origin.suite:
            return "/" in self.suites
        suite, _, component = origin.suite.rpartition("/")
        return suite in self.suites and component in self.components


def parse_sources(text: str, *, deb822: bool) -> tuple[Source, ...]:
    """The enabled binary repositories of one file: `*.sources` (deb822) or `*.list`.

    Raises:
        ValueError: a line that is neither.
    """
    return tuple(_deb822(text) if deb822 else _one_line(text))


def _one_line(text: str) -> list[Source]:
    sources = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if not content or content.startswith("deb-src"):
            continue
        found = _ONE_LINE.match(content)
        if not found:
            raise ValueError(f"sources.list, line {number}: {content!r} is no repository")
        options = dict(option.partition("=")[::2] for option in (found[1] or "").split())
        sources.append(
            Source(
                found[2],
                (found[3].rstrip("/") or "/",),
                tuple(found[4].split()),
                tuple(item for item in options.get("signed-by", "").split(",") if item),
                _unchecked(options),
            )
        )
    return sources


def _deb822(text: str) -> list[Source]:
    sources = []
    for stanza in re.split(r"\n[ \t]*\n", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in {" ", "\t"} and name:
                # "." stands for an empty line in a folded value, as in an embedded key block.
                fields[name] += "\n" + ("" if line.strip() == "." else line.strip())
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
            elif line.strip():
                raise ValueError(f"sources: {line!r} is no field")
        if not fields or fields.get("enabled", "yes").lower() in {"no", "false", "0"}:
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        if not fields.get("uris") or not fields.get("suites"):
            raise ValueError("sources: a stanza without URIs or Suites")
        key = fields.get("signed-by", "")
        signed_by = (key.strip(),) if "BEGIN PGP" in key else tuple(key.split())
        sources += [
            Source(
                uri,
                tuple(suite.rstrip("/") or "/" for suite in fields["suites"].split()),
                tuple(fields.get("components", "").split()),
                signed_by,
                _unchecked(fields),
            )
            for uri in fields["uris"].split()
        ]
    return sources


def _unchecked(options: dict[str, str]) -> bool:
    """Options by which apt takes packages whose signature does not hold."""
    names = ("trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure")
    return any(options.get(name, "no").lower() not in {"no", "false", "0"} for name in names)

"""Brings files and units to a machine of the lab, when they differ from what it has; and takes them away again.

Everything lies in one directory of the machine, linked units included, so that nothing can be left over.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import nodes
from lab.host import LabError, podman
from lab.layout import Node
from medllm.files import write_atomic

ROOT = Path("/opt/lab/kubernetes")
_DIGEST = "digest"
_COPY_S, _SYSTEMD_S = 180.0, 150.0
_PROGRAMS = "bin"
# Where `systemctl enable` puts its links.
_UNITS = Path("/etc/systemd/system")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one machine is to have below `ROOT`: `files` by relative path, `units` in the order in which they start, and
    `programs` of this machine by the name that `program_name` gives."""

    files: Mapping[str, bytes]
    units: Mapping[str, str]
    programs: Mapping[str, Path]

    @property
    def digest(self) -> str:
        """Changes with anything in it; a program's name stands for its content."""
        total = hashlib.sha256()
        parts = [*sorted(self.files.items()), *((name, text.encode()) for name, text in self.units.items())]
        for name, data in [*parts, *((name, b"") for name in sorted(self.programs))]:
            for part in (name.encode(), data):
                total.update(len(part).to_bytes(8, "big") + part)
        return total.hexdigest()


def program_name(path: Path) -> str:
    """A name that tells builds of a program apart: a running one is never written over."""
    with path.open("rb") as stream:
        return f"{path.name}-{hashlib.file_digest(stream, 'sha256').hexdigest()[:12]}"


def program_place(name: str) -> Path:
    """Where a program of that name is on the machine."""
    return ROOT / _PROGRAMS / name


def bring(node: Node, bundle: Bundle) -> str:
    """Make the machine have exactly this, and its units run. Returns what was done: `kept`, `brought`.

    Raises:
        LabError: a step failed; the next call does it all again.
    """
    known = nodes.execute(node, "cat", str(ROOT / _DIGEST), check=False).strip()
    if known == bundle.digest:
        nodes.execute(node, "systemctl", "start", *bundle.units, timeout=_SYSTEMD_S)
        return "kept"
    stale = sorted({name.partition("/")[0] for name in bundle.files} | {"units", _DIGEST})
    nodes.execute(node, "rm", "-rf", *(str(ROOT / name) for name in stale))
    nodes.execute(node, "install", "-d", "-m", "0700", str(ROOT), str(ROOT / _PROGRAMS))
    _copy_programs(node, bundle.programs)
    copy_files(node, {**bundle.files, **{f"units/{name}": text.encode() for name, text in bundle.units.items()}})
    # A unit that is a link to its file is enabled by the file's path; once that is done, it has to be read again.
    nodes.execute(node, "systemctl", "--quiet", "enable", *(str(ROOT / "units" / name) for name in bundle.units))
    nodes.execute(node, "systemctl", "daemon-reload", timeout=60)
    nodes.execute(node, "systemctl", "restart", *bundle.units, timeout=_SYSTEMD_S)
    _forget_programs(node, bundle.programs)
    # Last, so that whatever is interrupted before is done again.
    nodes.execute(node, "sh", "-c", f"printf %s {bundle.digest} > {ROOT / _DIGEST}")
    return "brought"


def remove(node: Node, units: list[str], *directories: Path) -> None:
    """Stop and forget the units, and delete what is below `ROOT` and the other directories.

    Raises:
        LabError: a unit does not end or something is still mounted there (then nothing is deleted), or a step failed.
    """
    # Those that are not there are no failure, whatever an interrupted call has left.
    nodes.execute(node, "systemctl", "stop", *units, timeout=_SYSTEMD_S, check=False)
    states = nodes.execute(node, "systemctl", "is-active", *units, check=False).split()
    if going := [unit for unit, state in zip(units, states, strict=True) if state not in {"inactive", "failed"}]:
        raise LabError(f"{node.name}: can't be stopped: {', '.join(going)}")
    gone = [ROOT, *directories]
    mounted = [place for place in _mounts(node) if any(place.is_relative_to(directory) for directory in gone)]
    if mounted:
        raise LabError(f"{node.name}: still mounted: {', '.join(map(str, mounted))}")
    links = [_UNITS / place / unit for unit in units for place in ("", "multi-user.target.wants")]
    nodes.execute(node, "rm", "-rf", *map(str, [*links, *gone]), timeout=60)
    nodes.execute(node, "systemctl", "daemon-reload", timeout=60)
    nodes.execute(node, "systemctl", "reset-failed", *units, check=False)


def _mounts(node: Node) -> list[Path]:
    """The machine's mount points. A space in one is written as \\040 (proc(5)); none of ours has one."""
    return [Path(line.split()[4]) for line in nodes.execute(node, "cat", "/proc/self/mountinfo").splitlines()]


def _copy_programs(node: Node, programs: Mapping[str, Path]) -> None:
    for name, path in programs.items():
        place, half = program_place(name), ROOT / _PROGRAMS / ".half"
        if nodes.execute(node, "sh", "-c", f"test -x {place} && echo there", check=False).strip() != "there":
            podman("cp", path.resolve(), f"{node.name}:{half}", timeout=_COPY_S)
            nodes.execute(node, "chmod", "0755", str(half))
            nodes.execute(node, "mv", str(half), str(place))


def _forget_programs(node: Node, programs: Mapping[str, Path]) -> None:
    keep = [word for name in programs for word in ("!", "-name", name)]
    nodes.execute(node, "find", str(ROOT / _PROGRAMS), "-type", "f", *keep, "-delete")


def copy_files(node: Node, files: Mapping[str, bytes]) -> None:
    """Put files below the machine's `ROOT`, which is made when it is not there. Raises: LabError."""
    nodes.execute(node, "install", "-d", "-m", "0700", str(ROOT))
    with tempfile.TemporaryDirectory(prefix="medllm-lab-") as name:
        for relative, data in files.items():
            # Keys are among them, and nobody but root reads any of it.
            write_atomic(Path(name) / relative, data, mode=0o600)
        podman("cp", f"{name}/.", f"{node.name}:{ROOT}", timeout=_COPY_S)

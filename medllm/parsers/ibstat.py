"""`ibstat`: the host's InfiniBand and RoCE ports (infiniband-diags 39 to 58, from public captures)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CA = re.compile(r"^CA '([^']+)'$")
_FIELD = re.compile(r"^\s+([A-Za-z ]+): ?(.*)$")
_PORT = re.compile(r"^\s+Port (\d+):$")


@dataclass(frozen=True, slots=True)
class Port:
    """One port; rate in Gb/s as signalled."""

    number: int
    state: str
    physical: str
    rate_gbps: float
    link_layer: str

    @property
    def up(self) -> bool:
        """Usable: the link is trained and the subnet manager (or Ethernet) has made it active."""
        return self.state == "Active" and self.physical == "LinkUp"


@dataclass(frozen=True, slots=True)
class Hca:
    name: str
    model: str
    firmware: str
    guid: str
    ports: tuple[Port, ...]


def parse_ibstat(text: str) -> tuple[Hca, ...]:
    """Read all adapters. Raises ValueError on an unknown line, a port without its fields, or no adapter at all."""
    hcas: list[tuple[str, int, dict[str, str], list[tuple[int, int, dict[str, str]]]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if found := _CA.match(line):
            hcas.append((found[1], number, {}, []))
        elif hcas and (found := _PORT.match(line)):
            hcas[-1][3].append((int(found[1]), number, {}))
        elif hcas and (found := _FIELD.match(line)):
            fields = hcas[-1][3][-1][2] if hcas[-1][3] else hcas[-1][2]
            fields[found[1]] = found[2].strip()
        else:
            raise ValueError(f"ibstat, line {number}: {line.strip()!r} is neither an adapter nor a field of one")
    if not hcas:
        raise ValueError("ibstat, line 1: the output names no adapter")
    return tuple(
        Hca(
            name,
            _field(fields, "CA type", number),
            _field(fields, "Firmware version", number),
            _field(fields, "Node GUID", number),
            tuple(_port(*port) for port in ports),
        )
        for name, number, fields, ports in hcas
    )


def _port(number: int, line: int, fields: dict[str, str]) -> Port:
    rate = _field(fields, "Rate", line)
    try:
        gbps = float(rate)
    except ValueError:
        raise ValueError(f"ibstat, line {line}: rate {rate!r} is not a number of Gb/s") from None
    return Port(
        number,
        _field(fields, "State", line),
        _field(fields, "Physical state", line),
        gbps,
        _field(fields, "Link layer", line),
    )


def _field(fields: dict[str, str], name: str, line: int) -> str:
    try:
        return fields[name]
    except KeyError:
        raise ValueError(f"ibstat, line {line}: the field {name!r} is missing") from None

"""Is every declared HCA port up at its rate?"""

from __future__ import annotations

from medllm.checks.base import Check, Probe, Reading, Subject, View
from medllm.parsers.ibstat import parse_ibstat
from medllm.site.model import Host, Site

IBSTAT = Probe("ibstat", "ibstat")
_LAYER = {"infiniband": "InfiniBand", "roce": "Ethernet"}


def _probes(_site: Site, _host: Host, _subject: Subject) -> tuple[Probe, ...]:
    return (IBSTAT,)


def _read(view: View) -> list[Reading]:
    hcas = {hca.name: hca for hca in parse_ibstat(view.text(IBSTAT.name))}
    layer = _LAYER[view.site.fabric.kind]
    readings = []
    for name in view.site.fabric.hcas:
        hca = hcas.get(name)
        if hca is None or not hca.ports:
            readings.append(Reading(name, 0, refuted="the adapter is not there"))
            continue
        for port in hca.ports:
            place = f"{name}/{port.number}"
            if port.link_layer != layer:
                refuted = f"the link layer is {port.link_layer}, {layer} is declared"
                readings.append(Reading(place, 0, refuted=refuted))
            else:
                state = f"{port.state}, {port.physical}, {port.rate_gbps:g} Gb/s"
                readings.append(Reading(place, port.rate_gbps if port.up else 0, state))
    return readings


CHECK = Check(
    id="hca_link",
    title="Fabric ports are up",
    proves="Every declared port is Active and LinkUp at the declared rate.",
    group="hardware",
    tags=frozenset({"node", "fabric"}),
    where="gpu_nodes",
    probes=_probes,
    read=_read,
    clears=("ib_link_down", "ib_link_degraded"),
    binaries=("ibstat",),
)

"""Does Prometheus scrape every exporter, right now?"""

from __future__ import annotations

from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View
from medllm.parsers.prometheus import parse_targets
from medllm.site.model import Host, Site

TARGETS = "targets"


def _probes(site: Site, _host: Host, _subject: Subject) -> tuple[Probe, ...]:
    url = f"http://127.0.0.1:{site.ports.prometheus}/api/v1/targets?state=active"
    return (Probe(TARGETS, f"date -u +%Y-%m-%dT%H:%M:%SZ; curl -fsS --max-time 8 '{url}'", deadline_s=10),)


def _read(view: View) -> list[Reading]:
    site = view.site
    wanted = [(host, site.ports.node_exporter) for host in site.hosts]
    wanted += [(host, site.ports.dcgm_exporter) for host in site.gpu_nodes]
    # Prometheus serves what it last saw, however old; two missed scrapes may happen, five are no picture of now.
    limit = 5 * site.prometheus.scrape_interval_s + 5
    targets = {(target.host, target.port): target for target in parse_targets(view.text(TARGETS))}
    missing, waiting, stale = [], [], []
    for host, port in wanted:
        place = f"{host.name}:{port}"
        target = targets.get((host.name, port)) or targets.get((host.address, port))
        if target is None:
            missing.append(f"{place} is not scraped")
        elif target.health == "unknown":
            waiting.append(place)
        elif target.age_s > limit:
            stale.append(f"{place} was scraped {target.age_s:.0f} s ago")
        elif target.health != "up":
            missing.append(f"{place} {target.health} ({target.error})")
    if stale:
        raise NotRun(f"stale: {'; '.join(stale[:4])}")
    shown = "; ".join(missing[:4]) + ("; …" if len(missing) > 4 else "")
    if waiting and not missing:
        return [Reading("", 0, unsure=f"not scraped yet: {', '.join(waiting[:4])}")]
    return [Reading("", len(missing), shown or f"{len(wanted)} targets up")]


CHECK = Check(
    id="prometheus_targets",
    title="Prometheus collects",
    proves="The exporters of all machines are scraped with success, and not long ago.",
    group="software",
    tags=frozenset({"cluster", "monitoring"}),
    where="mgmt",
    probes=_probes,
    read=_read,
    clears=("monitoring_down", "exporter_down"),
    binaries=("prometheus",),
)

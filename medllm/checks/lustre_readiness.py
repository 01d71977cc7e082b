"""Can the parallel file system be used: is it mounted, do its servers answer, does written data come back?"""

from __future__ import annotations

import shlex

from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View, last_line
from medllm.parsers.lustre import parse_getname, parse_read_back, parse_servers
from medllm.site.model import Host, Site

MOUNTED, SERVERS, READ_BACK = "lfs getname", "lfs check servers", "write and read back"

# 4 MiB of noise, flushed to the servers; the client's cached pages are dropped before it is read again.
_READ_BACK = """
f={mount}/.medllm-readiness-$(hostname)-$$
trap 'rm -f "$f"' EXIT
s=$(date +%s%N)
w=$(head -c 4194304 /dev/urandom | tee "$f" | sha256sum | cut -d' ' -f1) && sync "$f" &&
dd if="$f" iflag=nocache count=0 status=none &&
r=$(sha256sum < "$f" | cut -d' ' -f1) || exit 1
n=$(( $(date +%s%N) - s ))
printf 'written=%s read=%s seconds=%d.%09d\\n' "$w" "$r" $((n / 1000000000)) $((n % 1000000000))
""".strip()


def _probes(site: Site, _host: Host, _subject: Subject) -> tuple[Probe, ...]:
    mount = shlex.quote(site.lustre.mount_point)
    deadline = site.lustre.readiness_deadline_s
    # Writing without a mount would prove the local disk, so nothing is written then.
    return (
        Probe(MOUNTED, f"lfs getname {mount}", deadline, sudo=True),
        Probe(SERVERS, "lfs check servers", deadline, sudo=True),
        Probe(
            READ_BACK,
            f"lfs getname {mount} >/dev/null || {{ echo 'not mounted' >&2; exit 3; }}\n"
            + _READ_BACK.format(mount=mount),
            deadline,
            sudo=True,
            timed=True,
        ),
    )


def _read(view: View) -> list[Reading]:
    site = view.site
    deadline = site.lustre.readiness_deadline_s
    # A file system that does not answer in time is an answer: it is not usable.
    for name in (MOUNTED, SERVERS, READ_BACK):
        late = view.results.get(name)
        if late is not None and late.error and late.error.startswith("timed out"):
            return [Reading(site.lustre.mount_point, deadline, refuted=f"{name}: no answer in {deadline} s")]
    answer = view.result(MOUNTED)
    if answer.rc == 127:
        raise NotRun("lfs is not installed")
    if answer.rc != 0:
        return [Reading(site.lustre.mount_point, 0, refuted=f"not mounted: {last_line(answer.stderr)}")]
    mounted = parse_getname(answer.stdout)
    if mounted.get(site.lustre.mount_point) != site.lustre.fsname:
        found = ", ".join(f"{name} on {place}" for place, name in mounted.items())
        refuted = f"{site.lustre.fsname} is not mounted there, but {found}"
        return [Reading(site.lustre.mount_point, 0, refuted=refuted)]
    servers = view.result(SERVERS)
    states = parse_servers(servers.stdout + servers.stderr)
    for kind in ("MDT", "OST"):
        if not any(f"-{kind}" in name for name in states):
            raise NotRun(f"lfs check servers names no {kind}")
    dead = sorted(f"{name} {state}" for name, state in states.items() if state != "active")
    if dead:
        return [Reading(site.lustre.mount_point, 0, refuted="servers: " + ", ".join(dead))]
    written = view.result(READ_BACK)
    if written.rc != 0:
        return [Reading(site.lustre.mount_point, 0, refuted=f"a write failed: {last_line(written.stderr)}")]
    result = parse_read_back(written.stdout)
    altered = None if result.written == result.read else "what was read back is not what was written"
    return [Reading(site.lustre.mount_point, result.seconds, f"4 MiB, {len(states)} targets active", altered)]


CHECK = Check(
    id="lustre_readiness",
    title="Parallel file system is usable",
    proves="Lustre is mounted at its place, all its targets answer, and flushed data is read back unaltered.",
    group="hardware",
    tags=frozenset({"node", "storage"}),
    where="gpu_nodes",
    probes=_probes,
    read=_read,
    clears=("lustre_evicted", "lustre_unavailable"),
    binaries=("lfs",),
)

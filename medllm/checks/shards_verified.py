"""Is the data set on the parallel file system, to the byte, what its curator signed?"""

from __future__ import annotations

import shlex

from medllm.checks import dataset
from medllm.checks.base import Check, Probe, Reading, Subject, View
from medllm.manifest import MANIFEST_NAME, SIGNATURE_NAME
from medllm.parsers.sums import parse_sha256sums
from medllm.site.model import Host, Site

SUMS = "sha256sum"


def _probes(site: Site, host: Host, subject: Subject) -> tuple[Probe, ...]:
    place = shlex.quote(dataset.directory(site, subject))
    command = (
        f"cd {place} && find . ! -type d ! -path ./{MANIFEST_NAME} ! -path ./{SIGNATURE_NAME} -print0 | sort -z | "
        "xargs -0 -r -n 16 -P 4 sha256sum"
    )
    return (*dataset.probes(site, host, subject), Probe(SUMS, command, deadline_s=600, sudo=True))


def _read(view: View) -> list[Reading]:
    manifest = dataset.manifest(view)
    if isinstance(manifest, Reading):
        return [manifest]
    found = parse_sha256sums(view.text(SUMS))
    signed = {path: file.sha256 for path, file in manifest.files.items()}
    differ = [
        f"{path} {'is altered' if path in found else 'is missing'}"
        for path in signed
        if found.get(path) != signed[path]
    ]
    differ += [f"{path} is not listed" for path in found if path not in signed]
    shown = "; ".join(differ[:4]) + ("; …" if len(differ) > 4 else "")
    detail = shown or f"{len(signed)} files, manifest {manifest.sha256[:12]}"
    return [Reading(view.subject.dataset, len(differ), detail)]


CHECK = Check(
    id="shards_verified",
    title="Shards are what was signed",
    proves="Every file of the data set on the parallel file system has the SHA-256 of the signed manifest.",
    group="data",
    tags=frozenset({"data"}),
    where="mgmt",
    probes=_probes,
    read=_read,
    clears=("data_altered",),
    binaries=("sha256sum", "lfs"),
)

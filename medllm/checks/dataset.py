"""What the data checks share: the signed manifest of the data set, verified here with the published key."""

from __future__ import annotations

import posixpath
import shlex
import tempfile
from pathlib import Path

from medllm.checks.base import Probe, Reading, Subject, View
from medllm.errors import UserError
from medllm.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest, load_public_key, read_manifest
from medllm.site.model import Host, Site

KEY = "data.pub"


def directory(site: Site, subject: Subject) -> str:
    """Where the data set lies on the parallel file system."""
    return posixpath.join(site.paths.datasets, subject.dataset)


def probes(site: Site, _host: Host, subject: Subject) -> tuple[Probe, ...]:
    """The manifest, its signature and the public key."""
    place = directory(site, subject)
    return (
        Probe(MANIFEST_NAME, f"cat {shlex.quote(posixpath.join(place, MANIFEST_NAME))}", deadline_s=20, sudo=True),
        Probe(SIGNATURE_NAME, f"cat {shlex.quote(posixpath.join(place, SIGNATURE_NAME))}", deadline_s=20, sudo=True),
        Probe(KEY, f"cat {shlex.quote(posixpath.join(site.paths.app, 'keys', KEY))}", deadline_s=20, sudo=True),
    )


def manifest(view: View) -> Manifest | Reading:
    """The verified manifest, or a reading that says why it is refuted. Raises NotRun when a part is not there."""
    parts = {name: view.text(name) for name in (MANIFEST_NAME, SIGNATURE_NAME, KEY)}
    with tempfile.TemporaryDirectory(prefix="medllm-accept-") as temporary:
        place = Path(temporary)
        for name, content in parts.items():
            (place / name).write_bytes(content.encode())
        try:
            return read_manifest(place, load_public_key(place / KEY))
        except UserError as error:
            return Reading(view.subject.dataset, 0, refuted=error.problems[0].rule)

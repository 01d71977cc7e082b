"""The container image that acceptance starts: Debian's static busybox as a docker archive, made by hand."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

TAG = "medllm.local/smoke:1"
PACKAGE = "busybox-static"
APPLETS = ("cat", "echo", "env", "false", "ls", "sed", "sh", "sleep", "test", "true", "[")


def write(target: Path, work: Path) -> None:
    """Write the archive for `ctr images import`. Downloads the busybox package (not installed) into `work`."""
    layer = _layer(_busybox(work))
    diff_id = "sha256:" + hashlib.sha256(layer).hexdigest()
    configuration = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": "2026-11-01T00:00:00Z", "created_by": PACKAGE}],
        }
    ).encode()
    config_name = hashlib.sha256(configuration).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [TAG], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(target, "w") as archive:
        for name, data in ((config_name, configuration), ("layer.tar", layer), ("manifest.json", manifest)):
            _add(archive, name, data, 0o644)


def _busybox(work: Path) -> bytes:
    """The static binary out of Debian's package."""
    folder = work / "busybox"
    folder.mkdir(parents=True)
    # apt's own sandbox user must be able to write there; the parents are closed to it otherwise.
    subprocess.run(
        ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", PACKAGE],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (package,) = folder.glob(f"{PACKAGE}_*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
    return (folder / "root/bin/busybox").read_bytes()


def _layer(busybox: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "usr", "usr/bin"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(entry)
        _add(layer, "bin/busybox", busybox, 0o755)
        _add(layer, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644)
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(entry)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))

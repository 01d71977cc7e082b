"""A real S3 server on this machine, for the tests of what speaks to one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ID, SECRET = "lab", "not-so-secret"
CREDENTIALS = f"[default]\naws_access_key_id = {ID}\naws_secret_access_key = {SECRET}\n"


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SeaweedFS on this machine."""
    directory = tmp_path_factory.mktemp("s3")
    identity = {"name": "lab", "credentials": [{"accessKey": ID, "secretKey": SECRET}], "actions": ["Admin"]}
    (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (directory / "data").mkdir()
    ports = {name: _port() for name in ("master.port", "volume.port", "filer.port", "s3.port")}
    grpc = {f"{name}.grpc": _port() for name in ports}
    command = [
        str(Path(sys.executable).with_name("weed")), "server", "-ip=127.0.0.1", f"-dir={directory / 'data'}", "-filer",
        "-s3", f"-s3.config={directory / 's3.json'}", "-volume.max=8", "-master.volumeSizeLimitMB=64",
        # Services on fixed ports, of which a machine holds one each; and it would tell its maker how it is used.
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        *(f"-{name}={port}" for name, port in (ports | grpc).items()),
    ]  # fmt: skip
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
    try:
        address = f"http://127.0.0.1:{ports['s3.port']}"
        for _ in range(240):
            try:
                urllib.request.urlopen(address, timeout=2)
                break
            except urllib.error.HTTPError:
                break  # it answers, and refuses whoever has no key
            except OSError:
                assert server.poll() is None, (directory / "log").read_text()
                time.sleep(0.25)
        yield address
    finally:
        server.terminate()
        server.wait(30)

"""The lab and its host: one at a time, deadlines, how nodes reach an archive, which image a source gives, the BMC."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import build, cluster, host, redfish
from lab.layout import NODES
from medllm.errors import UserError

LOGIN = ("administrator", "only-for-this-test")


def test_a_second_command_is_refused_while_one_changes_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with host.lab_lock():
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "lab", "up"], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 2
    assert "another `medllm lab` command is changing the lab" in done.stderr
    with host.lab_lock():
        pass


def test_missing_packages_are_named_with_the_line_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.os, "geteuid", lambda: 0)
    monkeypatch.setattr(host, "missing", lambda: ["podman", "runc"])
    with pytest.raises(UserError) as caught:
        host.check_host()
    assert "podman, runc" in caught.value.problems[0].rule
    assert "apt-get install --yes --no-install-recommends podman runc" in caught.value.problems[0].fix


def test_a_command_that_hangs_or_fails_is_an_error_with_its_words() -> None:
    with pytest.raises(host.LabError, match="did not end within 1 s"):
        host.run(["sleep", "30"], timeout=1)
    with pytest.raises(host.LabError, match=r"failed \(3\): no luck"):
        host.run(["sh", "-c", "echo no luck >&2; exit 3"], timeout=10)


def test_an_unknown_node_is_refused() -> None:
    with pytest.raises(UserError, match="no node 'node7'"):
        cluster.pick(["node1", "node7"])
    assert [node.name for node in cluster.pick([])] == [node.name for node in NODES]


def test_addresses_are_unique_and_on_the_network() -> None:
    assert len({node.mac for node in NODES}) == len({node.address for node in NODES}) == len(NODES) == 5
    # Locally administered unicast addresses (IEEE 802): bit 1 set, bit 0 clear in the first octet.
    assert all(int(node.mac[:2], 16) & 3 == 2 for node in NODES)


def test_the_node_s_scripts_are_clean() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.fail("shellcheck is not installed: run `make system`")
    scripts = [
        path for path in build.IMAGE_SOURCES.rglob("*")
        if path.is_file() and path.read_bytes().startswith((b"#!/bin/bash", b"#!/bin/sh"))
    ]  # fmt: skip
    assert {path.name for path in scripts} >= {"init", "modprobe", "modules-load"}
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_what_runs_on_the_node_needs_nothing_but_its_python() -> None:
    code = "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]\nimport runpy\n"
    for path in (build.SHARED_MODULE, Path(build.__file__).with_name("on_node.py")):
        done = subprocess.run(
            [sys.executable, "-I", "-c", f"{code}runpy.run_path({str(path)!r})"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.fixture
def bmc() -> Iterator[int]:
    """A BMC for all nodes without TLS; tests of power and TLS are with the lab's."""
    server = redfish.Bmc(("127.0.0.1", 0), NODES, LOGIN)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def _call(
    port: int, method: str, path: str, body: str | None = None, login: tuple[str, str] | None = LOGIN
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {}
    if login is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    data = json.loads(answer.read())
    connection.close()
    return answer.status, data["error"]["code"].rpartition(".")[2] if "error" in data else data.get("Name", "")


RESET = "/redfish/v1/Systems/node1/Actions/ComputerSystem.Reset"


@pytest.mark.parametrize(
    ("method", "path", "body", "login", "expected"),
    [
        ("GET", "/redfish/v1/", None, None, (200, "Root Service")),
        ("GET", "/redfish/v1/Systems", None, LOGIN, (200, "Computer System Collection")),
        ("GET", "/redfish/v1/Systems", None, None, (401, "NoValidSession")),
        ("GET", "/redfish/v1/Systems", None, ("administrator", "wrong"), (401, "NoValidSession")),
        ("GET", "/redfish/v1/Systems/node7", None, LOGIN, (404, "ResourceMissingAtURI")),
        ("GET", "/redfish/v1/Chassis", None, LOGIN, (404, "ResourceMissingAtURI")),
        ("POST", RESET, '{"ResetType": "ForceOff"}', None, (401, "NoValidSession")),
        ("POST", RESET, '{"ResetType": "Explode"}', LOGIN, (400, "ActionParameterValueNotInList")),
        ("POST", RESET, '{"ResetType": ["On"]}', LOGIN, (400, "ActionParameterValueNotInList")),
        ("POST", RESET, "{}", LOGIN, (400, "ActionParameterMissing")),
        ("POST", RESET, "[]", LOGIN, (400, "ActionParameterMissing")),
        ("POST", RESET, "{", LOGIN, (400, "MalformedJSON")),
        ("POST", "/redfish/v1/Systems/node1", "{}", LOGIN, (404, "ResourceMissingAtURI")),
        ("POST", "/redfish/v1/Systems/node7/Actions/ComputerSystem.Reset", "{}", LOGIN, (404, "ResourceMissingAtURI")),
    ],
)  # fmt: skip
def test_the_bmc_refuses_what_a_bmc_refuses(
    bmc: int, method: str, path: str, body: str | None, login: tuple[str, str] | None, expected: tuple[int, str]
) -> None:
    assert _call(bmc, method, path, body, login) == expected


def test_an_image_s_name_follows_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "image"
    shutil.copytree(build.IMAGE_SOURCES, sources)
    monkeypatch.setattr(build, "IMAGE_SOURCES", sources)
    monkeypatch.setattr(build, "_exists", lambda image: True)
    first = build.node_image()
    assert build.node_image() == first
    script = sources / "files" / "usr" / "lib" / "lab" / "init"
    script.write_text(script.read_text() + "\n")
    second = build.node_image()
    packages = sources / "packages.toml"
    packages.write_text(packages.read_text() + "\n")
    assert len({first, second, build.node_image()}) == 3

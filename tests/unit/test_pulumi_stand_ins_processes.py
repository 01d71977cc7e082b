"""The stand-ins as the engine meets them: executables that speak gRPC, end with it, and name what is wrong."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, provider_pb2, provider_pb2_grpc

from lab.pulumi import PLUGIN_VERSION, install
from lab.pulumi.install import LANGUAGE_HOST, PROVIDER, is_stand_in, pulumi_home
from lab.pulumi.language_host import plugins_of
from lab.pulumi.provider_await import limit_seconds, progress, skips_await, waited_field
from lab.pulumi.provider_kubeconfig import KubeconfigError, load
from lab.pulumi.provider_values import Json, Secret, encode

_URN = "urn:pulumi:lab::medllm::kubernetes:core/v1:ConfigMap::config"
_START_SECONDS = 30


@contextlib.contextmanager
def _plugin(kind: str, folder: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], grpc.Channel]]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "lab.pulumi", kind, "127.0.0.1:1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield process, channel
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.mark.parametrize("kind", ["provider", "language"])
@pytest.mark.parametrize("end", ["stdin", "SIGINT", "SIGTERM"])
def test_a_plugin_ends_with_the_engine(kind: str, end: str, tmp_path: Path) -> None:
    with _plugin(kind, tmp_path) as (process, _):
        if end == "stdin":
            assert process.stdin is not None
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, end))
        assert process.wait(5) == 0


def test_a_folder_named_pulumi_beside_the_caller_does_not_hide_the_sdk(tmp_path: Path) -> None:
    (tmp_path / "pulumi").mkdir()
    (tmp_path / "pulumi" / "__init__.py").write_text("raise SystemExit('the wrong pulumi')\n")
    with _plugin("provider", tmp_path, PYTHONPATH=str(tmp_path)) as (_, channel):
        found = provider_pb2_grpc.ResourceProviderStub(channel).GetPluginInfo(Empty(), timeout=10)
        assert found.version == PLUGIN_VERSION


@pytest.mark.parametrize("arguments", [[], ["other"], ["provider", "a:1", "b:2"]])
def test_wrong_arguments_are_wrong_usage(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-I", "-m", "lab.pulumi", *arguments], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: ")


def test_the_host_names_the_plugins_of_the_installed_packages(tmp_path: Path) -> None:
    with _plugin("language", tmp_path) as (_, channel):
        host = language_pb2_grpc.LanguageRuntimeStub(channel)
        info = language_pb2.ProgramInfo(root_directory=str(tmp_path), program_directory=str(tmp_path), entry_point=".")
        packages = host.GetRequiredPackages(language_pb2.GetRequiredPackagesRequest(info=info), timeout=10).packages
        assert [(p.name, p.kind, p.version) for p in packages] == [("kubernetes", "resource", PLUGIN_VERSION)]
        about = host.About(language_pb2.AboutRequest(info=info), timeout=10)
        assert about.executable == sys.executable


def test_a_named_virtual_environment_is_used_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    packages = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    for name, text in {"pulumi_x": '{"resource": true, "name": "x", "version": "1.0.0"}', "pulumi_y": "{}"}.items():
        (packages / name).mkdir(parents=True)
        (packages / name / "pulumi-plugin.json").write_text(text)
    assert [found["name"] for found in plugins_of([packages])] == ["x"]
    info = language_pb2.ProgramInfo(root_directory=str(tmp_path), program_directory=str(tmp_path), entry_point=".")
    info.options.update({"virtualenv": "venv"})
    with _plugin("language", tmp_path) as (_, channel):
        host = language_pb2_grpc.LanguageRuntimeStub(channel)
        request = language_pb2.GetRequiredPackagesRequest(info=info)
        assert [found.name for found in host.GetRequiredPackages(request, timeout=10).packages] == ["x"]
        answer = host.Run(language_pb2.RunRequest(info=info, pwd=str(tmp_path)), timeout=10)
        assert "cannot start" in answer.error
        assert "venv/bin/python" in answer.error


def test_a_program_dies_with_its_host(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    (tmp_path / "fake").write_text(
        f"#!{sys.executable}\nimport os, runpy, sys\n"
        f"open({str(marker)!r}, 'w').write(str(os.getpid()))\nsys.argv = sys.argv[3:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    environment = tmp_path / "venv" / "bin"
    environment.mkdir(parents=True)
    (tmp_path / "fake").rename(environment / "python")
    (environment / "python").chmod(0o755)
    (tmp_path / "__main__.py").write_text("import time\ntime.sleep(600)\n")
    info = language_pb2.ProgramInfo(root_directory=str(tmp_path), program_directory=str(tmp_path), entry_point=".")
    info.options.update({"virtualenv": "venv"})
    with _plugin("language", tmp_path) as (process, channel):
        # No engine answers: the SDK waits for one, as it would for a slow one.
        running = language_pb2_grpc.LanguageRuntimeStub(channel).Run.future(
            language_pb2.RunRequest(info=info, pwd=str(tmp_path), monitor_address="127.0.0.1:1")
        )
        pid = int(_eventually(lambda: marker.read_text() if marker.exists() else "", "the program starts"))
        process.kill()
        process.wait()
        _eventually(lambda: "gone" if not _alive(pid) else "", "the program ends")
        running.cancel()


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _eventually(probe: Any, what: str) -> str:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        found = probe()
        if found:
            return str(found)
        time.sleep(0.05)
    raise AssertionError(f"not within {_START_SECONDS} s: {what}")


class _Api(http.server.BaseHTTPRequestHandler):
    """An HTTP server that answers every request with one status and text."""

    answer: tuple[int, bytes] = (200, b"{}")

    def do_GET(self) -> None:
        status, body = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def _server(status: int, body: bytes) -> Iterator[str]:
    handler = type("Handler", (_Api,), {"answer": (status, body)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _kubeconfig(server: str, user: Json | None = None) -> str:
    return json.dumps(
        {
            "current-context": "lab",
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
            "clusters": [{"name": "lab", "cluster": {"server": server}}],
            "users": [{"name": "me", "user": user or {}}],
        }
    )


def _create_error(text: str, folder: Path, *, preview: bool = False, **environment: str) -> str:
    """What Create says with this kubeconfig."""
    with _plugin("provider", folder, **environment) as (_, channel):
        provider = provider_pb2_grpc.ResourceProviderStub(channel)
        variables = {"kubernetes:config:kubeconfig": text} if text else {}
        provider.Configure(provider_pb2.ConfigureRequest(variables=variables), timeout=30)
        inputs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": Secret({"k": "geheim"})}
        request = provider_pb2.CreateRequest(urn=_URN, properties=encode(inputs), preview=preview)
        try:
            answer = provider.Create(request, timeout=30)
        except grpc.RpcError as error:
            return str(error.details())
        assert answer.properties == request.properties
        return ""


def _certificate(valid_to: datetime) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "me")])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(valid_to - timedelta(days=2)).not_valid_after(valid_to).sign(key, hashes.SHA256())
    )  # fmt: skip
    return base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()


def test_an_unreachable_server_is_one_line_with_the_fix_and_a_preview_goes_on(tmp_path: Path) -> None:
    config = _kubeconfig("https://127.0.0.1:1")
    text = _create_error(config, tmp_path)
    assert text == (
        "configured Kubernetes cluster is unreachable: https://127.0.0.1:1: Connection refused. "
        "Fix: start the cluster, or correct the server in the kubeconfig"
    )
    assert _create_error(config, tmp_path, preview=True) == ""


def test_expired_and_wrong_credentials_are_told_apart(tmp_path: Path) -> None:
    body = json.dumps({"kind": "Status", "message": "Unauthorized", "code": 401}).encode()
    with _server(401, body) as server:
        expired = {"client-certificate-data": _certificate(datetime(2026, 1, 2, 3, 4, tzinfo=UTC))}
        text = _create_error(_kubeconfig(server, expired), tmp_path)
        assert "answered 401 Unauthorized: the client certificate expired on 2026-01-02 03:04 UTC. Fix: " in text
        text = _create_error(_kubeconfig(server, {"token": "geheim"}), tmp_path)
        assert "the kubeconfig's credentials are not valid there. Fix: " in text
        assert "geheim" not in text
        assert "\n" not in text


def test_a_server_that_is_no_api_server_is_said_to_be_none(tmp_path: Path) -> None:
    with _server(200, b"<html>") as server:
        assert f"{server} answered 200 and no JSON. Fix: " in _create_error(_kubeconfig(server), tmp_path)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "there is no kubeconfig at"),
        ("/nowhere/config", "/nowhere/config: No such file or directory"),
        ("a: [\n", "the kubeconfig in kubernetes:kubeconfig line 2 is not YAML"),
        ("- a\n", "is not a kubeconfig"),
        ("clusters: []\n", "names no current context"),
        ("current-context: x\ncontexts: []\n", "no context 'x'"),
        (_kubeconfig(""), "gives no server"),
        (_kubeconfig("https://h", {"exec": {"command": "login"}}), "not `exec`"),
        (_kubeconfig("https://h", {"client-certificate-data": "%%%"}), "client-certificate-data of the kubeconfig"),
        (_kubeconfig("https://h", {"client-key": "/nowhere/key"}), "/nowhere/key: No such file"),
    ],
)
def test_a_broken_kubeconfig_is_one_line_with_the_fix(
    text: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(KubeconfigError) as caught:
        load(text or None)
    assert part in str(caught.value)
    assert "Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kubeconfigs_are_found_and_merged_as_kubectl_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").write_text(_kubeconfig("https://one/", {"tokenFile": "token"}))
    (tmp_path / "two").write_text(_kubeconfig("https://two").replace('"lab"', '"other"'))
    (tmp_path / "token").write_text("t0ken\n")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'missing'}:{tmp_path / 'one'}:{tmp_path / 'two'}")
    first = load(None)
    assert (first.server, first.token, first.namespace) == ("https://one", "t0ken", "default")
    assert load(None, context="other", namespace="n").server == "https://two"
    assert load(str(tmp_path / "two")).server == "https://two"
    assert load(None, cluster="other").server == "https://two"
    assert "t0ken" not in repr(first)


def _live(kind: str, spec: Json | None = None, status: Json | None = None, **more: Any) -> Json:
    return {
        "kind": kind,
        "metadata": {"name": "a", "generation": 2},
        "spec": spec or {},
        "status": status or {},
        **more,
    }


_DONE = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
_COMPLETE = {"conditions": [{"type": "Complete", "status": "True"}]}
_FAILED = {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "twice"}]}


@pytest.mark.parametrize(
    ("live", "ready", "failed"),
    [
        (_live("Namespace"), True, False),
        (_live("Deployment", {"replicas": 2}, _DONE), True, False),
        (_live("Deployment", {"replicas": 2}, {**_DONE, "observedGeneration": 1}), False, False),
        (_live("Deployment", {"replicas": 2}, {**_DONE, "replicas": 3}), False, False),
        (_live("Deployment", {"replicas": 2}, {**_DONE, "availableReplicas": 1}), False, False),
        (_live("StatefulSet", {"replicas": 1}, {"observedGeneration": 2, "readyReplicas": 1, "currentRevision": "a",
                                                 "updateRevision": "a"}), True, False),
        (_live("StatefulSet", {"replicas": 1}, {"observedGeneration": 2, "readyReplicas": 1, "currentRevision": "a",
                                                 "updateRevision": "b"}), False, False),
        (_live("DaemonSet", {}, {"observedGeneration": 2, "desiredNumberScheduled": 1, "numberAvailable": 1,
                                 "updatedNumberScheduled": 1}), True, False),
        (_live("Job", {}, _COMPLETE), True, False),
        (_live("Job", {}, {}), False, False),
        (_live("Job", {}, _FAILED), False, True),
        (_live("Pod", {}, {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}), True, False),
        (_live("Pod", {}, {"phase": "Pending"}), False, False),
        (_live("Pod", {}, {"phase": "Failed"}), False, True),
        (_live("PersistentVolume", {}, {"phase": "Available"}), True, False),
        (_live("PersistentVolume", {}, {"phase": "Failed"}), False, False),
        (_live("PersistentVolumeClaim", {}, {"phase": "Bound"}), True, False),
        (_live("PersistentVolumeClaim", {}, {"phase": "Pending"}), False, False),
        (_live("Service", {"clusterIP": "None", "selector": {"a": "b"}}), True, False),
        (_live("Service", {"clusterIP": "10.0.0.1"}), True, False),
        (_live("Service", {"type": "LoadBalancer"}), False, False),
        (_live("ResourceQuota", {"hard": {"pods": "1"}}, {"hard": {"pods": "1"}}), True, False),
        (_live("ResourceQuota", {"hard": {"pods": "1"}}), False, False),
        (_live("Secret", type="Opaque"), True, False),
        (_live("Secret", type="kubernetes.io/service-account-token"), False, False),
    ],
)  # fmt: skip
def test_a_resource_is_ready_by_its_kinds_rule(live: Json, ready: bool, failed: bool) -> None:
    state = progress(None, live)  # type: ignore[arg-type]  # these need not ask the server
    assert (state.ready, state.failed) == (ready, failed)
    assert ready or state.missing


def test_how_long_is_waited_and_whether_at_all() -> None:
    inputs: Json = {"kind": "Job", "metadata": {"annotations": {"pulumi.com/timeoutSeconds": "7"}}}
    assert limit_seconds(inputs, 0) == 7
    assert limit_seconds(inputs, 3) == 3
    assert limit_seconds({"kind": "Job"}, 0) == 600
    assert limit_seconds({"kind": "PersistentVolumeClaim"}, 0) == 300
    inputs["metadata"]["annotations"]["pulumi.com/timeoutSeconds"] = "soon"
    assert limit_seconds(inputs, 0) == 600
    assert not skips_await(inputs)
    assert skips_await({"metadata": {"annotations": {"pulumi.com/skipAwait": "true"}}})


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("jsonpath={.metadata.uid}", (["metadata", "uid"], None)),
        ("jsonpath={.status.phase}=Bound", (["status", "phase"], "Bound")),
    ],
)
def test_a_field_may_be_waited_for_instead(text: str, field: tuple[list[str], str | None]) -> None:
    assert waited_field({"metadata": {"annotations": {"pulumi.com/waitFor": text}}}) == field
    assert waited_field({"metadata": {}}) is None


@pytest.mark.parametrize("text", ["condition=Ready", "jsonpath={.a[0]}", "jsonpath={.a}=", '["jsonpath={.a}"]', "", 1])
def test_what_the_stand_in_can_not_wait_for_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="genuine plugin"):
        waited_field({"metadata": {"annotations": {"pulumi.com/waitFor": text}}})


def _program(path: Path, text: str = "#!/bin/sh\n# genuine\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing_genuine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("PULUMI_HOME", raising=False)
    return _program(tmp_path / "built" / "pulumi")


def test_the_stand_ins_are_laid_out_and_start(nothing_genuine: Path, tmp_path: Path) -> None:
    target = tmp_path / "lab dir"
    programs = install.install(target, nothing_genuine)
    again = install.install(target, nothing_genuine)
    assert programs == again == target / "bin"
    assert (programs / "pulumi").samefile(nothing_genuine)
    assert not (programs / "pulumi").is_symlink(), "pulumi looks beside its own real path"
    plugin = pulumi_home(target) / "plugins" / f"resource-kubernetes-v{PLUGIN_VERSION}" / PROVIDER
    for program in (programs / LANGUAGE_HOST, plugin):
        assert is_stand_in(program)
        done = subprocess.run([program, "127.0.0.1:1"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
        assert done.returncode == 0
        assert int(done.stdout) > 0
    assert sorted(path.name for path in plugin.parent.parent.iterdir()) == [plugin.parent.name]


def test_genuine_plugins_are_preferred(nothing_genuine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "lab"
    install.install(target, nothing_genuine)
    host = _program(nothing_genuine.with_name(LANGUAGE_HOST))
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "own"))
    genuine = _program(tmp_path / "own" / "plugins" / f"resource-kubernetes-v{PLUGIN_VERSION}" / PROVIDER)
    programs = install.install(target, nothing_genuine)
    assert (programs / LANGUAGE_HOST).samefile(host)
    assert (pulumi_home(target) / "plugins" / genuine.parent.name / PROVIDER).samefile(genuine)
    host.unlink()
    genuine.unlink()
    install.install(target, nothing_genuine)
    assert is_stand_in(programs / LANGUAGE_HOST)
    assert is_stand_in(pulumi_home(target) / "plugins" / genuine.parent.name / PROVIDER)


def test_a_stand_in_elsewhere_is_not_taken_for_a_genuine_one(
    nothing_genuine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = install.install(tmp_path / "first", nothing_genuine)
    monkeypatch.setenv("PATH", f"{first}:/usr/bin:/bin")
    monkeypatch.setenv("PULUMI_HOME", str(pulumi_home(tmp_path / "first")))
    second = install.install(tmp_path / "second", first / "pulumi")
    assert not (second / LANGUAGE_HOST).samefile(first / LANGUAGE_HOST)
    plugin = pulumi_home(tmp_path / "second") / "plugins" / f"resource-kubernetes-v{PLUGIN_VERSION}"
    assert not plugin.is_symlink()

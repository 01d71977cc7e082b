"""Stand-in for `pulumi-language-python`: starts the program in a child process and says which plugins it needs."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

from lab.pulumi.language_program import ALREADY_SHOWN
from lab.pulumi.serve import new_server, serve

_PROGRAM_RUNNER = Path(__file__).with_name("language_program.py")


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """Runs one program at a time for the engine at `engine` (host:port)."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._cancelled = False

    def GetPluginInfo(self, request: Any, context: Any) -> plugin_pb2.PluginInfo:  # noqa: N802
        return plugin_pb2.PluginInfo(version=version("pulumi"))

    def About(self, request: Any, context: Any) -> language_pb2.AboutResponse:  # noqa: N802
        return language_pb2.AboutResponse(
            executable=_interpreter(request.info), version=".".join(map(str, sys.version_info[:3]))
        )

    def GetRequiredPackages(  # noqa: N802
        self, request: Any, context: Any
    ) -> language_pb2.GetRequiredPackagesResponse:
        packages = [
            plugin_pb2.PackageDependency(
                name=found["name"], kind="resource", version=found.get("version", ""), server=found.get("server", "")
            )
            for found in plugins_of(_site_packages(request.info))
        ]
        return language_pb2.GetRequiredPackagesResponse(packages=packages)

    def Run(self, request: Any, context: Any) -> language_pb2.RunResponse:  # noqa: N802
        program = Path(request.info.program_directory, request.info.entry_point or ".")
        command = [_interpreter(request.info), "-u", "-P", str(_PROGRAM_RUNNER)]
        with self._lock:
            if self._cancelled:
                return language_pb2.RunResponse(bail=True)
            try:
                self._child = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=request.pwd)
            except OSError as error:
                return language_pb2.RunResponse(error=f"cannot start {command[0]}: {error.strerror}")
            child = self._child
        assert child.stdin is not None
        try:
            # By the pipe: the environment and the arguments of a process can be read by others, secrets must not.
            child.stdin.write(json.dumps(self._work(request, program)).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once: its status says so below
        status = child.wait()
        # Only now: the end of its stdin is how the program learns that its host died.
        child.stdin.close()
        if status == 0:
            return language_pb2.RunResponse()
        if status == ALREADY_SHOWN or self._cancelled:
            return language_pb2.RunResponse(bail=True)
        if status < 0:
            return language_pb2.RunResponse(error=f"Program was ended by signal {-status}")
        return language_pb2.RunResponse(error=f"Program exited with non-zero exit code: {status}")

    def Cancel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.stop()
        return Empty()

    def stop(self) -> None:
        """End the program, if one runs."""
        with self._lock:
            self._cancelled = True
            child = self._child
        if child is not None and child.poll() is None:
            child.kill()

    def _work(self, request: Any, program: Path) -> dict[str, Any]:
        return {
            "program": str(program),
            "arguments": list(request.args),
            "project": request.project,
            "stack": request.stack,
            "organization": request.organization or "organization",
            "root_directory": request.info.root_directory,
            "monitor": request.monitor_address,
            "engine": self._engine,
            "parallel": request.parallel,
            "dry_run": request.dryRun,
            "config": dict(request.config),
            "secret_keys": list(request.configSecretKeys),
        }


def plugins_of(site_packages: list[Path]) -> list[dict[str, str]]:
    """The resource plugins that the packages installed there ask for: each `pulumi_*/pulumi-plugin.json`."""
    found: dict[str, dict[str, str]] = {}
    for folder in site_packages:
        for path in sorted(folder.glob("pulumi_*/pulumi-plugin.json")):
            data = json.loads(path.read_text())
            if data.get("resource") and data.get("name"):
                found.setdefault(data["name"], data)
    return [found[name] for name in sorted(found)]


def run_host(engine: str) -> None:
    """Serve until the engine ends."""
    host = LanguageHost(engine)
    server = new_server()
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
    serve(server, host.stop)


def _virtual_environment(info: Any) -> Path | None:
    """`runtime.options.virtualenv` of Pulumi.yaml, relative to the project."""
    named = info.options.fields["virtualenv"].string_value if "virtualenv" in info.options.fields else ""
    return Path(info.root_directory, named) if named else None


def _interpreter(info: Any) -> str:
    environment = _virtual_environment(info)
    return str(environment / "bin" / "python") if environment else sys.executable


def _site_packages(info: Any) -> list[Path]:
    environment = _virtual_environment(info)
    if environment:
        return sorted(environment.glob("lib/python*/site-packages"))
    return [Path(sysconfig.get_path("purelib"))]

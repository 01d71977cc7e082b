"""nvidia-container-toolkit: `nvidia-ctk`, and the OCI runtime `nvidia-container-runtime` that wraps runc.

As version 1.18: `runtime configure` for containerd writes the drop-in /etc/containerd/conf.d/99-nvidia.toml and adds
`imports` to the main file (tests/e2e of the toolkit; `--drop-in-config`). CDI layout: the CDI specification 0.5.0.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from lab.hardware import Json

from . import driver, hardware, toml_text
from .hardware import rooted

RUNTIME = "/usr/bin/nvidia-container-runtime"
CRI = "io.containerd.grpc.v1.cri"
DROP_IN_DIRECTORY = "/etc/containerd/conf.d"
# What a container gets beside the devices. The tool inside is a shell script: a minimal image has no Python.
MOUNTS = {
    "/usr/lib/lab/container/nvidia-smi": "/usr/bin/nvidia-smi",
    "/proc/driver/nvidia": "/run/lab-driver/nvidia",
}


def ctk(arguments: list[str]) -> int:
    """`nvidia-ctk runtime configure …` and `nvidia-ctk cdi generate|list`."""
    parser = argparse.ArgumentParser(prog="nvidia-ctk", allow_abbrev=False)
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    commands = parser.add_subparsers(dest="command")
    configure = commands.add_parser("runtime").add_subparsers(dest="action", required=True).add_parser("configure")
    configure.add_argument("--runtime", choices=["containerd"], required=True)
    configure.add_argument("--config", default="/etc/containerd/config.toml")
    configure.add_argument("--drop-in-config", default=f"{DROP_IN_DIRECTORY}/99-nvidia.toml")
    configure.add_argument("--set-as-default", "--nvidia-set-as-default", action="store_true")
    configure.add_argument("--cdi.enabled", "--enable-cdi", dest="cdi", action="store_true")
    configure.add_argument("--config-source", default="command,file")
    configure.add_argument("--dry-run", action="store_true")
    cdi = commands.add_parser("cdi").add_subparsers(dest="action", required=True)
    generate = cdi.add_parser("generate")
    generate.add_argument("--output", default="")
    generate.add_argument("--format", choices=["yaml", "json"], default="yaml")
    cdi.add_parser("list")
    options = parser.parse_args(arguments)
    if options.version:
        print(f"NVIDIA Container Toolkit CLI version {hardware.package_version('nvidia-container-toolkit')}")
        return 0
    if options.command == "runtime":
        return _configure(options)
    if options.command == "cdi":
        return _generate(options) if options.action == "generate" else _list()
    parser.print_help()
    return 0


def _log(message: str, level: str = "info") -> None:
    if level == "info" and "--quiet" in sys.argv:
        return
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f'time="{stamp}" level={level} msg="{message}"', file=sys.stderr)


def _configure(options: argparse.Namespace) -> int:
    main_file, drop_in = rooted(options.config), rooted(options.drop_in_config)
    document: dict[str, Any] = {}
    if main_file.exists():
        _log(f"Loading config from {options.config}")
        try:
            document = tomllib.loads(main_file.read_text())
        except tomllib.TOMLDecodeError as error:
            _log(f"unable to load config for runtime containerd: {error}", "error")
            return 1
    version = int(document.get("version", 2))
    _log(f"Using config version {version}")
    plugin = CRI if version < 3 else "io.containerd.cri.v1.runtime"
    text = toml_text.dumps(_drop_in(document, plugin, version, options.set_as_default, options.cdi))
    if options.dry_run:
        print(text, end="")
        return 0
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text(text)
    _log(f"Wrote updated config to {options.drop_in_config}")
    pattern = f"{drop_in_directory(options.drop_in_config)}/*.toml"
    if pattern not in document.get("imports", []):
        document["imports"] = [*document.get("imports", []), pattern]
        document.setdefault("version", 2)
        main_file.parent.mkdir(parents=True, exist_ok=True)
        main_file.write_text(toml_text.dumps(document))
        _log(f"Wrote updated config to {options.config}")
    _log("It is recommended that containerd daemon be restarted.")
    return 0


def drop_in_directory(path: str) -> str:
    """The directory that the main file must import."""
    return str(Path(path).parent)


def _drop_in(document: dict[str, Any], plugin: str, version: int, default: bool, cdi: bool) -> dict[str, Any]:
    """The nvidia runtime as a copy of runc's settings with another binary, as the toolkit derives it."""
    existing = document.get("plugins", {}).get(plugin, {}).get("containerd", {}).get("runtimes", {}).get("runc", {})
    runtime: dict[str, Any] = {
        "privileged_without_host_devices": False,
        "runtime_engine": "",
        "runtime_root": "",
        "runtime_type": "io.containerd.runc.v2",
        **existing,
    }
    runtime["options"] = {**existing.get("options", {}), "BinaryName": RUNTIME}
    containerd: dict[str, Any] = {"runtimes": {"nvidia": runtime}}
    if default:
        containerd = {"default_runtime_name": "nvidia", **containerd}
    settings: dict[str, Any] = {"enable_cdi": True} if cdi else {}
    return {"version": version, "plugins": {plugin: {**settings, "containerd": containerd}}}


def device_nodes() -> list[str]:
    """The device files that every GPU container gets, beside its GPUs'."""
    names = ("/dev/nvidia-modeset", "/dev/nvidia-uvm", "/dev/nvidiactl")
    return [name for name in names if rooted(name).exists()]


def specification() -> Json:
    """The CDI specification of this node: one device a GPU by index and by UUID, and `all`."""
    gpus = [gpu for gpu in driver.gpus() if not gpu.lost]
    devices: list[Json] = []
    for key in ("index", "uuid"):
        devices += [
            {"name": str(gpu.data[key]), "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{gpu.index}"}]}}
            for gpu in gpus
        ]
    nodes = [{"path": f"/dev/nvidia{gpu.index}"} for gpu in gpus]
    devices.append({"name": "all", "containerEdits": {"deviceNodes": nodes}})
    mounts = [
        {"hostPath": source, "containerPath": target, "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]}
        for source, target in MOUNTS.items()
    ]
    return {
        "cdiVersion": "0.5.0",
        "containerEdits": {
            "deviceNodes": [{"path": path} for path in device_nodes()],
            "env": ["NVIDIA_CTK_LIBCUDA_DIR=/usr/lib/x86_64-linux-gnu", "NVIDIA_VISIBLE_DEVICES=void"],
            "mounts": mounts,
        },
        "devices": devices,
        "kind": "nvidia.com/gpu",
    }


def _generate(options: argparse.Namespace) -> int:
    try:
        driver.require_driver()
    except driver.DriverError as error:
        _log(
            "failed to generate CDI spec: failed to create device CDI specs: failed to initialize NVML: "
            + str(error).strip(),
            "error",
        )
        return 1
    document = specification()
    text = json.dumps(document, indent=2) + "\n" if options.format == "json" else "---\n" + yaml_text(document)
    if not options.output:
        print(text, end="")
        return 0
    target = rooted(options.output)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    _log(f"Generated CDI spec with version {document['cdiVersion']}")
    return 0


def _list() -> int:
    files = sorted(rooted("/etc/cdi").glob("nvidia*.yaml"))
    names = [f"nvidia.com/gpu={device['name']}" for device in specification()["devices"]] if files else []
    _log(f"Found {len(names)} CDI devices")
    print(*names, sep="\n")
    return 0


def yaml_text(value: object, depth: int = 0) -> str:
    """Block YAML of dictionaries, lists and strings, with lists at their key's own indent, as the toolkit writes it."""
    pad = "  " * depth
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            if isinstance(item, dict | list):
                lines.append(f"{pad}{key}:\n{yaml_text(item, depth + isinstance(item, dict))}")
            else:
                lines.append(f"{pad}{key}: {_scalar(item)}\n")
        return "".join(lines)
    if isinstance(value, list):
        return "".join(f"{pad}- {yaml_text(item, depth + 1).lstrip()}" for item in value)
    return f"{pad}{_scalar(value)}\n"


def _scalar(value: object) -> str:
    text = str(value)
    return f'"{text}"' if text.replace(".", "", 1).isdigit() else text


def runtime(arguments: list[str]) -> int:
    """`nvidia-container-runtime`: add the devices to the bundle of a `create`, then become runc."""
    if "create" in arguments:
        bundle = Path(_option(arguments, "--bundle", "-b") or ".")
        configuration = bundle / "config.json"
        container = json.loads(configuration.read_text())
        wanted = _visible_devices(container)
        if wanted:
            missing = inject(container, wanted)
            if missing:
                print(
                    f"nvidia-container-runtime: failed to inject devices: unknown device(s): {missing}", file=sys.stderr
                )
                return 1
            configuration.write_text(json.dumps(container))
    return os.execvp("runc", ["runc", *arguments])


def _option(arguments: list[str], *names: str) -> str:
    for number, word in enumerate(arguments):
        if word in names:
            return arguments[number + 1]
        for name in names:
            if word.startswith(f"{name}="):
                return word.split("=", 1)[1]
    return ""


def _visible_devices(container: Json) -> list[str]:
    for line in container.get("process", {}).get("env", []):
        name, _, value = line.partition("=")
        if name == "NVIDIA_VISIBLE_DEVICES" and value not in ("", "void", "none"):
            return [word.removeprefix("nvidia.com/gpu=") for word in value.split(",")]
    return []


def inject(container: Json, wanted: list[str]) -> str:
    """Edit an OCI configuration as the CDI specification says; the names that no device has, if any."""
    document = specification()
    known = {device["name"]: device["containerEdits"]["deviceNodes"] for device in document["devices"]}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        return ",".join(unknown)
    paths = [node["path"] for node in document["containerEdits"]["deviceNodes"]]
    paths += [node["path"] for name in wanted for node in known[name]]
    linux = container.setdefault("linux", {})
    devices = linux.setdefault("devices", [])
    rules = linux.setdefault("resources", {}).setdefault("devices", [])
    for path in dict.fromkeys(paths):
        status = rooted(path).stat()
        numbers = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
        devices.append(
            {"path": path, "type": "c", "fileMode": stat.S_IMODE(status.st_mode), "uid": 0, "gid": 0, **numbers}
        )
        rules.append({"allow": True, "type": "c", "access": "rwm", **numbers})
    for mount in document["containerEdits"]["mounts"]:
        container.setdefault("mounts", []).append(
            {
                "destination": mount["containerPath"],
                "source": mount["hostPath"],
                "type": "bind",
                "options": mount["options"],
            }
        )
    return ""

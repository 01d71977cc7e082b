"""Lays out a Pulumi home with the plugins: genuine ones where this machine has them, else the stand-ins."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from lab.pulumi import PLUGIN_VERSION
from medllm.files import staged_directory, write_atomic

LANGUAGE_HOST = "pulumi-language-python"
PROVIDER = "pulumi-resource-kubernetes"
_PLUGIN_FOLDER = f"resource-kubernetes-v{PLUGIN_VERSION}"
_MARK = b"-m lab.pulumi "


def install(directory: Path, pulumi: Path) -> Path:
    """Put `pulumi` and the language host into `directory/bin`, the Kubernetes plugin into `directory/home`.

    A genuine language host beside `pulumi`, or beside the `pulumi` of PATH, is taken instead of the stand-in; so is a
    genuine plugin of the same version in the user's own Pulumi home. Calling it again brings the layout up to date.

    Args:
        pulumi: the command line of the SDK's version.

    Returns:
        the folder for PATH; `pulumi_home(directory)` is for PULUMI_HOME.

    Raises:
        OSError: a file cannot be written.
    """
    programs = directory / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    # Pulumi looks for its language hosts beside its own real path, so a symbolic link would not do.
    _same_file(pulumi.resolve(), programs / "pulumi")
    host = _genuine_host(pulumi)
    if host is None:
        write_atomic(programs / LANGUAGE_HOST, _script("language"), mode=0o755)
    else:
        for path in (host, host.with_name(f"{LANGUAGE_HOST}-exec")):
            if path.is_file():
                _same_file(path, programs / path.name)
    plugin = pulumi_home(directory) / "plugins" / _PLUGIN_FOLDER
    genuine = _genuine_plugin(directory)
    if plugin.is_symlink():
        plugin.unlink()
    if genuine is None:
        with staged_directory(plugin) as made:
            write_atomic(made / PROVIDER, _script("provider"), mode=0o755)
    else:
        shutil.rmtree(plugin, ignore_errors=True)
        plugin.parent.mkdir(parents=True, exist_ok=True)
        plugin.symlink_to(genuine)
    return programs


def pulumi_home(directory: Path) -> Path:
    """PULUMI_HOME of what `install(directory, …)` made."""
    return directory / "home"


def is_stand_in(program: Path) -> bool:
    """Whether an executable is one of this package's."""
    try:
        with program.open("rb") as stream:
            return _MARK in stream.read(4096)
    except OSError:
        return False


def _script(plugin: str) -> str:
    # -I: nothing of the caller's folder or PYTHONPATH comes before the installed packages.
    return (
        f"#!/bin/sh\n# The lab's stand-in for a Pulumi plugin: lab/pulumi/README.md.\n"
        f'exec {shlex.quote(sys.executable)} -I -m lab.pulumi {plugin} "$@"\n'
    )


def _genuine_host(pulumi: Path) -> Path | None:
    on_path = shutil.which("pulumi")
    for program in (pulumi, Path(on_path) if on_path else None):
        if program is not None:
            host = program.resolve().with_name(LANGUAGE_HOST)
            if host.is_file() and not is_stand_in(host):
                return host
    return None


def _genuine_plugin(directory: Path) -> Path | None:
    own = pulumi_home(directory).resolve()
    for home in (os.environ.get("PULUMI_HOME"), "~/.pulumi"):
        if home and Path(home).expanduser().resolve() != own:
            plugin = Path(home).expanduser() / "plugins" / _PLUGIN_FOLDER
            program = plugin / PROVIDER
            if program.is_file() and not is_stand_in(program):
                return plugin.resolve()
    return None


def _same_file(source: Path, target: Path) -> None:
    """Make `target` the same file, or a copy where the file systems differ."""
    if target.exists() and (target.samefile(source) or _same_copy(source, target)):
        return
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        shutil.copy2(source, temporary)
    temporary.replace(target)


def _same_copy(source: Path, target: Path) -> bool:
    one, other = source.stat(), target.stat()
    return one.st_size == other.st_size and one.st_mtime_ns == other.st_mtime_ns

"""Make a .deb from a recipe, and a signed apt repository from .debs."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

from lab.vendor.packages import LIBRARY, LIBRARY_SOURCES, SHARED_SOURCES, SIMULATORS, Package

# Every file of a package gets this time, so that the same sources give the same bytes (2026-11-01).
EPOCH = 1793491200

COMMAND = """#!/usr/bin/python3 -B
# {path}: simulator; what it prints is in /usr/lib/lab/labsim/{module}.py.
import sys

sys.path.insert(0, "/usr/lib/lab")
from labsim.{module} import {function}

sys.exit({function}(sys.argv[1:]))
"""

MODULE = """#!/usr/bin/python3 -B
# Kernel module {module}: the lab's modprobe runs this with load or unload.
import sys

sys.path.insert(0, "/usr/lib/lab")
from labsim.kmod import main

sys.exit(main("{module}", sys.argv[1]))
"""

POSTINST = """#!/bin/sh
set -e
if [ "$1" = configure ]; then
{body}
fi
"""

# As dh_installsystemd writes it for --no-enable --no-start: the unit is known and masked nowhere; roles enable it.
RELOAD = """  if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
  fi"""
START = """  if [ -d /run/systemd/system ]; then
    systemctl enable --quiet --now {units}
  fi"""
USER = """  getent passwd {user} >/dev/null ||
    useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin {user}"""


def build(package: Package, work: Path, pool: Path) -> Path:
    """Write the .deb of `package` into `pool`; `work` is scratch space."""
    tree = work / package.file_name.removesuffix(".deb")
    static = SIMULATORS / package.name
    if static.is_dir():
        shutil.copytree(static, tree, ignore=shutil.ignore_patterns("__pycache__"))
    if package.name == LIBRARY:
        library = tree / "usr/lib/lab"
        shutil.copytree(LIBRARY_SOURCES, library / "labsim", ignore=shutil.ignore_patterns("__pycache__"))
        (library / "lab").mkdir()
        for source in SHARED_SOURCES:
            shutil.copy(source, library / "lab")
    _fill(package, tree)
    _control(package, tree)
    for path in [tree, *tree.rglob("*")]:
        executable = path.is_dir() or path.read_bytes().startswith(b"#!")
        path.chmod(0o755 if executable else 0o644)
        os.utime(path, (EPOCH, EPOCH))
    target = pool / package.file_name
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, target],
        check=True, stdout=subprocess.DEVNULL, env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)},
    )  # fmt: skip
    return target


def _fill(package: Package, tree: Path) -> None:
    for path, entry in package.recipe.commands.items():
        module, function = entry.split(":")
        _write(tree / path.lstrip("/"), COMMAND.format(path=path, module=module, function=function))
    for module in package.recipe.modules:
        _write(tree / "usr/lib/lab/modules" / module, MODULE.format(module=module))
    _write(tree / "usr/lib/lab/versions" / package.name, f"{package.upstream}\n")


def _control(package: Package, tree: Path) -> None:
    recipe = package.recipe
    depends = [dependency.format(version=package.version) for dependency in recipe.depends]
    if package.name != LIBRARY:
        depends.append(LIBRARY)
    fields = {
        "Package": package.name,
        "Version": package.version,
        "Architecture": "amd64",
        "Maintainer": "medllm-cluster lab <lab@medllm.local>",
        "Section": "lab",
        "Priority": "optional",
        "Depends": ", ".join(depends),
        "Conflicts": ", ".join(recipe.conflicts),
        "Description": f"{recipe.summary} (simulator)\n Prints simulated hardware; it is not the vendor's software.",
    }
    debian = tree / "DEBIAN"
    _write(debian / "control", "".join(f"{key}: {value}\n" for key, value in fields.items() if value))
    if recipe.conffiles:
        _write(debian / "conffiles", "".join(f"{path}\n" for path in recipe.conffiles))
    body = [USER.format(user=recipe.system_user)] if recipe.system_user else []
    if (tree / "lib/systemd/system").is_dir():
        body.append(RELOAD)
    if recipe.started_units:
        body.append(START.format(units=" ".join(recipe.started_units)))
    if body:
        _write(debian / "postinst", POSTINST.format(body="\n".join(body)))
    files = sorted(path for path in tree.rglob("*") if path.is_file() and debian not in path.parents)
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(tree)}\n"
        for path in files
    ]
    _write(debian / "md5sums", "".join(sums))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def index(root: Path, key_home: Path) -> None:
    """Write Packages, Release, InRelease and `vendor.asc` of the repository at `root` (pool/ is filled already)."""
    binary = root / "dists/stable/main/binary-amd64"
    binary.mkdir(parents=True)
    listing = subprocess.run(["apt-ftparchive", "packages", "pool"], cwd=root, check=True, capture_output=True).stdout
    (binary / "Packages").write_bytes(listing)
    options = {
        "Origin": "medllm-lab",
        "Label": "medllm-lab vendor",
        "Suite": "stable",
        "Codename": "stable",
        "Architectures": "amd64",
        "Components": "main",
    }
    flags = [f"-oAPT::FTPArchive::Release::{key}={value}" for key, value in options.items()]
    release = subprocess.run(
        ["apt-ftparchive", *flags, "release", "dists/stable"], cwd=root, check=True, capture_output=True
    ).stdout
    (root / "dists/stable/Release").write_bytes(release)
    gpg = _signing_key(key_home)
    stable = root / "dists/stable"
    subprocess.run([*gpg, "--yes", "--clearsign", "--output", stable / "InRelease", stable / "Release"], check=True)
    (root / "vendor.asc").write_bytes(
        subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout
    )


def _signing_key(home: Path) -> list[str]:
    """The gpg command bound to the lab's own key, made on first use."""
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(stat.S_IRWXU)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    secret = subprocess.run(
        [*gpg, "--list-secret-keys", "--with-colons"], check=True, capture_output=True, text=True
    ).stdout
    if "sec:" not in secret:
        uid = "medllm-cluster lab vendor repository <lab@medllm.local>"
        subprocess.run([*gpg, "--quick-generate-key", uid, "ed25519", "sign", "never"], check=True)
    return gpg

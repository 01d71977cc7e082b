"""Build the vendor repository when its sources changed; a few seconds."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lab.vendor import debian, smoke_image
from lab.vendor.packages import LOCK, SHARED_SOURCES, packages
from medllm.errors import user_error
from medllm.files import state_dir, write_atomic

TOOLS = {"apt-ftparchive": "apt-utils", "dpkg-deb": "dpkg", "gpg": "gnupg"}


def key_home() -> Path:
    """Where the lab's signing key lives: made once, so that a rebuilt repository stays trusted by running nodes."""
    return state_dir() / "lab" / "vendor-key"


def published_key() -> Path:
    """The public half, for whoever must know it without asking the repository: `key_file` of the lab's site."""
    return state_dir() / "lab" / "vendor.asc"


def fingerprint() -> str:
    """Hash of all that the repository is built from: this package's files and the versions lock."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    sources = sorted(path for path in here.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    for path in [*sources, *SHARED_SOURCES, LOCK]:
        digest.update(
            f"{path.relative_to(here.parents[1])}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return digest.hexdigest()[:16]


def build_repository(destination_root: Path) -> Path:
    """The directory `<destination_root>/<hash>` with `vendor/` (apt) and `images/`; `current` points at it after.

    Raises:
        UserError: a tool that the build needs is not installed.
    """
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise user_error(f"{tool} is missing on this machine", f"apt-get install {package}")
    target = destination_root / fingerprint()
    if not target.is_dir():
        destination_root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination_root, prefix=".build-") as scratch:
            built = Path(scratch) / "out"
            _build(built, Path(scratch) / "work")
            # The web server on mgmt runs as another user.
            subprocess.run(["chmod", "-R", "a+rX", built], check=True)
            built.rename(target)
    link = destination_root / ".current"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    link.replace(destination_root / "current")
    _forget_old(destination_root, target)
    write_atomic(published_key(), (target / "vendor" / "vendor.asc").read_bytes())
    return target


def _forget_old(root: Path, current: Path) -> None:
    """Keep the current build and the two newest others: a node may still be reading from one."""
    builds = [path for path in root.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] != "."]
    others = sorted((path for path in builds if path != current), key=lambda path: path.stat().st_mtime)
    for path in others[:-2]:
        shutil.rmtree(path)


def _build(out: Path, work: Path) -> None:
    pool = out / "vendor" / "pool"
    pool.mkdir(parents=True)
    for package in packages():
        debian.build(package, work, pool)
    debian.index(out / "vendor", key_home())
    images = out / "images"
    images.mkdir()
    smoke_image.write(images / "smoke.tar", work)
    os.sync()

"""`python -m lab.host_packages`: install what the lab and the gate need of the system and do not find there.

promtool is taken out of Debian's prometheus package without installing it: that would start a server on this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from medllm.errors import UserError, user_error
from medllm.files import cache_dir

PACKAGES = (
    "aardvark-dns", "apt-utils", "dpkg", "git", "gnupg", "iproute2", "iptables", "mmdebstrap", "netavark",
    "openssh-client", "openssl", "podman", "runc", "shellcheck", "uidmap",
)  # fmt: skip


def missing(packages: tuple[str, ...] = PACKAGES) -> list[str]:
    """Of these packages, those that dpkg does not have installed."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    installed = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in packages if name not in installed]


def install() -> None:
    """Install the missing packages by apt and put promtool into the cache.

    Raises:
        UserError: not a Debian-like system, or apt failed.
    """
    if shutil.which("apt-get") is None:
        raise user_error("this is no Debian or Ubuntu: apt-get is missing", "use Debian 12/13 or Ubuntu 24.04")
    if names := missing():
        print(f"installing: {' '.join(names)}", flush=True)
        _apt("update", "-q")
        _apt("install", "-y", "-q", "--no-install-recommends", *names)
    promtool = cache_dir() / "tools" / "bin" / "promtool"
    if not promtool.exists():
        _extract_promtool(promtool)


def _extract_promtool(destination: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        # apt's own sandbox user must be able to write there.
        Path(work).chmod(0o777)
        if subprocess.run(["apt-get", "download", "-q", "prometheus"], cwd=work, check=False).returncode:
            _apt("update", "-q")
            subprocess.run(["apt-get", "download", "-q", "prometheus"], cwd=work, check=True)
        (package,) = Path(work).glob("prometheus_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, f"{work}/x"], check=True)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(f"{work}/x/usr/bin/promtool", destination)


def _apt(*arguments: str) -> None:
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    command = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *arguments]
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
        raise user_error(f"`{' '.join(command)}` failed", "run it by hand and see what it says")


if __name__ == "__main__":
    try:
        install()
    except UserError as error:
        sys.exit(f"error: {error}")

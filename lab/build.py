"""The image of a node: a Debian base made by mmdebstrap, and a thin layer with the lab's own files.

Both are tagged by a hash of what they are made of, so an image is built once and a changed source gives a new one.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import tomllib
from pathlib import Path

from lab.host import podman, run
from lab.layout import OPERATOR

IMAGE_SOURCES = Path(__file__).with_name("image")
# Shared by the host's fault commands and the node's boot: one implementation, copied into the image.
SHARED_MODULE = Path(__file__).with_name("hardware.py")
_DEBIAN_KEYRING = "debian-archive-keyring"
_DEFAULT_SOURCES = """\
deb http://deb.debian.org/debian {release} main
deb http://deb.debian.org/debian {release}-updates main
deb http://deb.debian.org/debian-security {release}-security main
"""
# How this machine reaches an archive (proxies, relaxed dates of a frozen mirror); nodes go the same way.
_HOST_OPTIONS = ("Acquire::http", "Acquire::https", "Acquire::Check-")


def node_image() -> str:
    """Name of the nodes' image; builds what is missing of it.

    Raises:
        LabError: a build failed.
    """
    sources, options = host_sources(), host_options()
    packages = (IMAGE_SOURCES / "packages.toml").read_bytes()
    base = f"localhost/medllm-lab-base:{_hash(packages, sources[1].encode(), options.encode())}"
    files = sorted(path for path in IMAGE_SOURCES.rglob("*") if path.is_file() and path.name != "packages.toml")
    parts = [part for path in files for part in (str(path.relative_to(IMAGE_SOURCES)).encode(), path.read_bytes())]
    image = f"localhost/medllm-lab-node:{_hash(base.encode(), SHARED_MODULE.read_bytes(), *parts)}"
    if _exists(image):
        return image
    if not _exists(base):
        _build_base(base, sources, options)
    with tempfile.TemporaryDirectory(prefix="medllm-lab-") as name:
        context = Path(name)
        shutil.copytree(IMAGE_SOURCES, context, dirs_exist_ok=True)
        shutil.copy2(SHARED_MODULE, context / "files" / "usr" / "lib" / "lab" / "hardware.py")
        podman(
            "build", "--quiet", "--network=none", "--build-arg", f"BASE={base}", "--build-arg", f"OPERATOR={OPERATOR}",
            "--tag", image, str(context), timeout=300,
        )  # fmt: skip
    return image


def host_sources() -> tuple[str, str]:
    """(file name, text) of this machine's own Debian sources of the image's release, or of Debian's public archive."""
    release = _packages()["release"]
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.[sl][oi][us]*"))):
        if path.suffix in {".list", ".sources"} and path.is_file():
            text = path.read_text()
            if _DEBIAN_KEYRING in text and str(release) in text:
                return path.name, text
    return "debian.list", _DEFAULT_SOURCES.format(release=release)


def host_options() -> str:
    """This machine's apt options that say how an archive is reached, as apt.conf text."""
    dump = run(["apt-config", "dump"], timeout=30).stdout
    return "".join(f"{line}\n" for line in dump.splitlines() if line.startswith(_HOST_OPTIONS))


def _build_base(tag: str, sources: tuple[str, str], options: str) -> None:
    """A minimal Debian with what a provider installs, and the packages that roles install in apt's cache."""
    packages = _packages()
    with tempfile.TemporaryDirectory(prefix="medllm-lab-") as name:
        work = Path(name)
        (work / sources[0]).write_text(sources[1])
        configuration = work / "90lab"
        # Roles state what they need; recommended packages are not in the cache and would need an archive.
        configuration.write_text(f'Acquire::Languages "none";\nAPT::Install-Recommends "false";\n{options}')
        archive = work / "base.tar"
        download = f"apt-get install --yes --download-only {' '.join(packages['downloaded'])}"
        run(
            [
                "mmdebstrap", "--quiet", "--variant=minbase", "--skip=cleanup/apt",
                f"--include={','.join(packages['installed'])}", f"--aptopt={configuration}",
                "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
                "--customize-hook=chroot \"$1\" apt-get clean", f"--customize-hook=chroot \"$1\" {download}",
                *_certificate_hooks(), str(packages["release"]), archive, work / sources[0],
            ],
            timeout=900,
        )  # fmt: skip
        podman("import", "--quiet", archive, tag, timeout=300)


def _certificate_hooks() -> list[str]:
    """Authorities that this machine's administrator added: a mirror behind TLS may need them on the nodes too."""
    added = Path("/usr/local/share/ca-certificates")
    if not added.is_dir() or not any(added.glob("*.crt")):
        return []
    return [f"--customize-hook=copy-in {added} /usr/local/share", '--customize-hook=chroot "$1" update-ca-certificates']


def _packages() -> dict[str, list[str] | str]:
    return tomllib.loads((IMAGE_SOURCES / "packages.toml").read_text())


def _exists(image: str) -> bool:
    return podman("image", "exists", image, check=False).returncode == 0


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def remove_old_images(keep: str) -> None:
    """Drop node images that no source makes any more; the base of `keep` stays, for the next small change."""
    listed = podman("images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=medllm-lab-node").stdout
    for image in listed.split():
        if image != keep:
            podman("rmi", image, check=False)

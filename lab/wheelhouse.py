"""The offline wheelhouse: every package of our environments at its locked hash, for a site without Internet.

Layout, as the roles `trainer_env` and `recovery_engine` expect it: `uv`, `medllm_cluster-*.whl`; `requirements.txt`
(with hashes) and `wheels/` of the trainer; the same two of the operators' commands below `ops/`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from medllm.errors import user_error
from medllm.files import cache_dir, write_atomic

# The nodes' own Python (Debian 12, glibc 2.36), whatever runs here. pip takes each platform's name to the letter.
NODE_PYTHON = "3.11"
_NODE_MARKERS = {
    "python_version": NODE_PYTHON, "python_full_version": f"{NODE_PYTHON}.2", "sys_platform": "linux",
    "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}  # fmt: skip
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)] + [
    f"manylinux{year}_x86_64" for year in (2014, 2010, 1)
]
# The extras that are built on mgmt, each with its place.
_EXTRAS = {"train": ".", "ops": "ops"}
# 2024-01-01: zip timestamps, so that building the same source gives the same wheel.
_EPOCH = "1704067200"


def build_wheelhouse(repository: Path, destination: Path) -> Path:
    """Bring `destination` up to date with `uv.lock` and the sources; an extra is downloaded only when its lock changed.

    Raises:
        UserError: a download or a build failed; its own message is passed on.
    """
    uv = Path(sys.executable).parent / "uv"
    for extra, place in _EXTRAS.items():
        _bring_extra(uv, repository, extra, destination / place)
    shutil.copy2(uv, destination / "uv.new")
    (destination / "uv.new").replace(destination / "uv")
    _build_own_wheel(uv, repository, destination)
    return destination


def _bring_extra(uv: Path, repository: Path, extra: str, destination: Path) -> None:
    requirements = _run(
        [uv, "export", "--frozen", "--extra", extra, "--no-dev", "--no-emit-project", "--no-header", "--no-annotate"],
        cwd=repository,
    )
    destination.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(requirements.encode()).hexdigest()
    stamp = destination / "lock.sha256"
    if not stamp.is_file() or stamp.read_text() != digest:
        stamp.unlink(missing_ok=True)
        _fetch(repository, destination, requirements)
        write_atomic(stamp, digest)


def _fetch(repository: Path, destination: Path, requirements: str) -> None:
    """Wheels by hash; a package that has none is built here from its hashed source, and pinned to what was built."""
    source_only = _source_only(repository)
    lines = [line for line in map(_for_nodes, _join_continuations(requirements)) if line]
    binary = [line for line in lines if line.split("==")[0] not in source_only]
    source = [line for line in lines if line.split("==")[0] in source_only]
    with tempfile.TemporaryDirectory(dir=destination, prefix=".fetch-") as name:
        work = Path(name)
        wheels = work / "wheels"
        (work / "binary.txt").write_text("\n".join(binary) + "\n")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        options = ["--require-hashes", "--no-deps", "--no-cache-dir"]
        platforms = [argument for platform in _PLATFORMS for argument in ("--platform", platform)]
        _run(
            [
                *pip, "download", *options, "--only-binary=:all:", "--python-version", NODE_PYTHON,
                "--implementation", "cp", *platforms, "-d", wheels, "-r", work / "binary.txt",
            ],
        )  # fmt: skip
        built: list[str] = []
        for line in source:
            (work / "source.txt").write_text(line + "\n")
            before = set(wheels.iterdir())
            # DeepSpeed compiles its CUDA operators on first use; none are built here.
            _run([*pip, "wheel", *options, "-w", wheels, "-r", work / "source.txt"], DS_BUILD_OPS="0")
            (wheel,) = set(wheels.iterdir()) - before
            built.append(f"{line.split(' ')[0]} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")
        shutil.rmtree(destination / "wheels", ignore_errors=True)
        wheels.replace(destination / "wheels")
        write_atomic(destination / "requirements.txt", "\n".join([*binary, *built]) + "\n")


def _source_only(repository: Path) -> set[str]:
    lock = tomllib.loads((repository / "uv.lock").read_text())
    return {package["name"] for package in lock["package"] if "wheels" not in package}


def _join_continuations(requirements: str) -> list[str]:
    joined = requirements.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in joined if line.strip() and not line.lstrip().startswith("#")]


def _for_nodes(line: str) -> str:
    """A requirement without its marker; nothing when the marker excludes the nodes. pip judges markers by the Python
    that runs it, which may be another than theirs.
    """
    text, separator, hashes = line.partition(" --hash=")
    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate(_NODE_MARKERS):
        return ""
    return f"{requirement.name}{requirement.specifier}{separator}{hashes}"


def _build_own_wheel(uv: Path, repository: Path, destination: Path) -> None:
    with tempfile.TemporaryDirectory(dir=destination, prefix=".own-") as work:
        _run([uv, "build", "--wheel", "--quiet", "-o", work, "."], cwd=repository, SOURCE_DATE_EPOCH=_EPOCH)
        (wheel,) = Path(work).glob("medllm_cluster-*.whl")
        for old in destination.glob("medllm_cluster-*.whl"):
            if old.name != wheel.name:
                old.unlink()
        wheel.replace(destination / wheel.name)


def _run(command: list[str | Path], cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, text=True, capture_output=True,
        timeout=1800, check=False,
    )  # fmt: skip
    if done.returncode:
        raise user_error(
            f"`{Path(command[0]).name} {command[1]} …` failed: {done.stderr.strip()[-2000:]}",
            "see that the package registry can be reached, then run it again",
        )
    return done.stdout


if __name__ == "__main__":
    print(build_wheelhouse(Path(__file__).parents[1], cache_dir() / "wheelhouse"))

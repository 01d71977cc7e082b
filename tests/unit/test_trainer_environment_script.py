"""The steps that build the trainer's environment, on a wheelhouse of two tiny wheels; no network."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMON = (ROOT / "playbooks/files/offline-env").read_text()
SCRIPT = COMMON + (ROOT / "roles/trainer_env/files/trainer-env").read_text()


def wheel(directory: Path, name: str, text: str) -> Path:
    """A wheel with one module of that name."""
    path = directory / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py" if name != "medllm_cluster" else "trainer/__init__.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(zipfile.ZipInfo(member, (2024, 1, 1, 0, 0, 0)), content)
        archive.writestr(
            zipfile.ZipInfo(f"{info}/RECORD"), "".join(f"{member},,\n" for member in [*files, f"{info}/RECORD"])
        )
    return path


class Environment:
    """A root and a wheelhouse; `step` runs one step as the role does."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "trainer"
        self.wheelhouse = directory / "wheelhouse"
        (self.wheelhouse / "wheels").mkdir(parents=True)
        self.root.mkdir()
        uv = Path(sys.executable).parent / "uv"
        found = str(uv) if uv.is_file() else shutil.which("uv")
        assert found
        # Not a link: as /srv/medllm/wheelhouse holds it.
        shutil.copy(found, self.wheelhouse / "uv")
        self.require(wheel(self.wheelhouse / "wheels", "torch", "__version__ = '2.13.0+cu130'\n"))
        self.own("VERSION = 1\n")

    def require(self, package: Path) -> None:
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        (self.wheelhouse / "requirements.txt").write_text(f"torch==1.0 --hash=sha256:{digest}\n")

    def own(self, text: str) -> None:
        wheel(self.wheelhouse, "medllm_cluster", text)

    def step(self, name: str) -> subprocess.CompletedProcess[str]:
        version = subprocess.check_output(
            ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True
        ).strip()
        settings = {
            "wheelhouse": self.wheelhouse, "packages": self.wheelhouse, "root": self.root, "commands": "python",
            "python_version": version, "torch": "2.13.0", "deepspeed": "0.19.8", "accelerator": "cpu",
        }  # fmt: skip
        text = "".join(f"{key}='{value}'\n" for key, value in settings.items())
        return subprocess.run(
            ["/bin/sh", "-c", f"set -- {name}\n{text}{SCRIPT}"], capture_output=True, text=True, timeout=120,
            env={key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PYTHON"))},
        )  # fmt: skip

    def has(self, name: str) -> bool:
        return self.step(f"has_{name}").returncode == 0

    def make(self, name: str) -> None:
        assert not self.has(name)
        done = self.step(f"make_{name}")
        assert done.returncode == 0, done.stderr
        assert self.has(name), f"make_{name} without effect"

    def python(self, code: str) -> str:
        return subprocess.check_output([self.root / "current/python", "-c", code], text=True, timeout=60).strip()

    def entries(self, prefix: str) -> set[str]:
        return {path.name for path in self.root.glob(f"{prefix}-*")}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    made = Environment(tmp_path)
    for name in ("deps", "app", "current"):
        made.make(name)
    return made


def test_the_wrapper_sees_the_packages_and_our_code(environment: Environment) -> None:
    assert environment.python("import torch, trainer; print(torch.__version__, trainer.VERSION)") == "2.13.0+cu130 1"
    assert environment.has("only_recent")


def test_packages_are_byte_compiled(environment: Environment) -> None:
    """The nodes see the environment read-only: what is not compiled here is compiled again at each start."""
    assert list(environment.root.glob("deps-*/lib/python3*/site-packages/__pycache__/torch.*.pyc"))
    assert list(environment.root.glob("app-*/trainer/__pycache__/__init__.*.pyc"))


def test_our_own_change_replaces_the_app_alone_and_the_last_two_are_kept(environment: Environment) -> None:
    deps, first = environment.entries("deps"), environment.entries("app")
    for version in (2, 3):
        environment.own(f"VERSION = {version}\n")
        assert environment.has("deps")
        environment.make("app")
        environment.make("current")
        assert environment.python("import trainer; print(trainer.VERSION)") == str(version)
    assert len(environment.entries("app")) == 3
    environment.make("only_recent")
    assert environment.entries("deps") == deps
    assert len(environment.entries("app")) == len(environment.entries("run")) == 2
    assert not first & environment.entries("app")
    assert environment.python("import trainer; print(trainer.VERSION)") == "3"


def test_a_return_to_the_version_before_deletes_neither(environment: Environment) -> None:
    for version in (2, 1):
        environment.own(f"VERSION = {version}\n")
        if not environment.has("app"):
            environment.make("app")
        environment.make("current")
    assert environment.has("only_recent")
    assert environment.python("import trainer; print(trainer.VERSION)") == "1"


def test_new_requirements_make_a_new_environment(environment: Environment) -> None:
    (before,) = environment.entries("deps")
    environment.require(wheel(environment.wheelhouse / "wheels", "torch", "__version__ = '2.13.1'\n"))
    environment.make("deps")
    environment.make("current")
    assert environment.python("import torch; print(torch.__version__)") == "2.13.1"
    assert before in environment.entries("deps")


def test_a_changed_file_of_ours_is_noticed_and_repaired(environment: Environment) -> None:
    (app,) = environment.entries("app")
    (environment.root / app / "trainer/__init__.py").write_text("VERSION = 'tampered'\n")
    environment.make("app")
    assert environment.python("import trainer; print(trainer.VERSION)") == "1"


def test_a_wheel_of_another_hash_is_refused_and_nothing_half_made_is_used(environment: Environment) -> None:
    package = wheel(environment.wheelhouse / "wheels", "torch", "__version__ = 'evil'\n")
    requirements = environment.wheelhouse / "requirements.txt"
    requirements.write_text("torch==1.0 --hash=sha256:" + "0" * 64 + "\n")
    assert package.is_file()
    done = environment.step("make_deps")
    assert done.returncode != 0
    assert "hash" in done.stderr.lower()
    assert not environment.has("deps")
    assert environment.python("import torch; print(torch.__version__)") == "2.13.0+cu130"


def test_another_python_than_the_locks_is_refused(environment: Environment) -> None:
    script = f"set -- make_deps\nwheelhouse='{environment.wheelhouse}' packages='{environment.wheelhouse}' "
    script += f"root='{environment.root}' python_version=2.7 commands=python "
    script += f"torch=2.13.0 deepspeed=0.19.8 accelerator=cpu\n{SCRIPT}"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "not 2.7" in done.stderr


@pytest.mark.parametrize("count", [0, 2])
def test_no_wheel_or_two_of_ours_are_refused(environment: Environment, count: int) -> None:
    (own,) = environment.wheelhouse.glob("medllm_cluster-*.whl")
    own.unlink() if count == 0 else shutil.copy(own, own.with_name("medllm_cluster-2.0-py3-none-any.whl"))
    done = environment.step("make_app")
    assert done.returncode != 0
    assert "exactly one" in done.stderr

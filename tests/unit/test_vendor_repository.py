"""The vendor repository as apt sees it: what it holds, that it is signed, that the same sources give the same bytes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lab.vendor import build, debian, smoke_image
from lab.vendor.packages import LIBRARY, LOCK, OTHER_DRIVER, RECIPES, SIMULATORS, packages
from medllm.errors import UserError
from medllm.parsers.openpgp import trusted_keys

pytestmark = pytest.mark.skipif(
    shutil.which("apt-ftparchive") is None or shutil.which("gpgv") is None, reason="apt-utils or gpgv is missing"
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The apt part, built into a temporary directory with a key of its own."""
    root = tmp_path_factory.mktemp("repository")
    pool = root / "vendor" / "pool"
    pool.mkdir(parents=True)
    for package in packages():
        debian.build(package, root / "work", pool)
    # gpg's agent needs a short path for its socket.
    home = Path(subprocess.run(["mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    try:
        debian.index(root / "vendor", home)
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=False)
        shutil.rmtree(home, ignore_errors=True)
    return root / "vendor"


def stanzas(repository: Path) -> list[dict[str, str]]:
    """The packages of the index, by their fields."""
    text = (repository / "dists/stable/main/binary-amd64/Packages").read_text()
    return [dict(re.findall(r"^(\S+): (.*)$", part, re.MULTILINE)) for part in text.strip().split("\n\n")]


def test_the_index_holds_the_lock_and_the_other_driver(repository: Path) -> None:
    document = YAML(typ="safe").load(LOCK.read_text())
    sections = [section for section in document.values() if isinstance(section, dict) and "packages" in section]
    locked = {(name, str(version)) for section in sections for name, version in section["packages"].items()}
    found = {(item["Package"], item["Version"]) for item in stanzas(repository)}
    driver = document["nvidia_driver"]["version"]
    others = {(n, v.replace(driver, OTHER_DRIVER)) for n, v in locked if v.startswith(driver)}
    assert len(others) == 4
    assert found - {(LIBRARY, "1.0")} == locked | others


def test_release_and_index_agree_and_are_signed_by_the_published_key(repository: Path) -> None:
    keyring, armored = repository.parent / "vendor.gpg", repository.parent / "vendor.asc"
    # As nodes get it.
    armored.write_text(trusted_keys((repository / "vendor.asc").read_bytes(), None))
    subprocess.run(["gpg", "--batch", "--yes", "--dearmor", "-o", keyring, armored], check=True)
    inline = repository / "dists/stable/InRelease"
    verify = ["gpgv", "--keyring", str(keyring), str(inline)]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
    listing = (repository / "dists/stable/main/binary-amd64/Packages").read_bytes()
    assert hashlib.sha256(listing).hexdigest() in inline.read_text()
    inline.with_name("Altered").write_text(inline.read_text().replace("Suite: stable", "Suite: unstable"))
    altered = [*verify[:-1], str(inline.with_name("Altered"))]
    assert subprocess.run(altered, capture_output=True, check=False).returncode != 0


def test_driver_packages_depend_on_their_exact_version(repository: Path) -> None:
    for item in stanzas(repository):
        if item["Package"] == "nvidia-driver-cuda":
            assert f"nvidia-persistenced (= {item['Version']})" in item["Depends"]
            assert f"nvidia-kernel-open-dkms (= {item['Version']})" in item["Depends"]
        if item["Package"] != LIBRARY:
            assert LIBRARY in item["Depends"]


def test_packages_carry_checksums_and_own_their_files_alone(repository: Path) -> None:
    owners: dict[str, str] = {}
    for deb in sorted((repository / "pool").glob("*.deb")):
        listing = subprocess.run(["dpkg-deb", "-c", deb], check=True, capture_output=True, text=True).stdout
        files = [line.split(None, 5)[5] for line in listing.splitlines() if not line.startswith("d")]
        name = deb.name.split("_")[0]
        for path in files:
            assert owners.setdefault(path, name) == name, f"{path} is in {owners[path]} and {name}"
        control = subprocess.run(["dpkg-deb", "-I", deb, "md5sums"], check=True, capture_output=True, text=True).stdout
        assert len(control.splitlines()) == len(files)


def test_the_same_sources_give_the_same_package(tmp_path: Path) -> None:
    package = next(item for item in packages() if item.name == "nvidia-driver-cuda")
    sums = set()
    for turn in ("one", "two"):
        (tmp_path / turn).mkdir()
        sums.add(hashlib.sha256(debian.build(package, tmp_path / turn, tmp_path / turn).read_bytes()).hexdigest())
    assert len(sums) == 1


def test_a_lock_with_an_unknown_package_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "lock.yml"
    lock.write_text(LOCK.read_text().replace("mlnx-tools:", "mlnx-toys:"))
    with pytest.raises(ValueError, match="mlnx-toys"):
        list(packages(lock))


def test_each_folder_of_files_belongs_to_a_recipe() -> None:
    assert {path.name for path in SIMULATORS.iterdir()} <= set(RECIPES)


def test_units_are_neither_enabled_nor_started_by_their_packages(repository: Path) -> None:
    for deb in (repository / "pool").glob("*.deb"):
        if deb.name.startswith(LIBRARY):  # the silicon's own
            continue
        script = subprocess.run(["dpkg-deb", "-I", deb, "postinst"], check=False, capture_output=True, text=True).stdout
        assert "systemctl" not in script.replace("systemctl --system daemon-reload", ""), deb.name


def test_a_missing_tool_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install apt-utils"):
        build.build_repository(tmp_path / "out")


def test_the_smoke_image_is_a_docker_archive_whose_hashes_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_image, "_busybox", lambda _work: b"#!binary")
    smoke_image.write(tmp_path / "smoke.tar", tmp_path)
    with tarfile.open(tmp_path / "smoke.tar") as archive:
        members = {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]
    (manifest,) = json.loads(members["manifest.json"])
    assert manifest["RepoTags"] == ["medllm.local/smoke:1"]
    configuration = members[manifest["Config"]]
    assert manifest["Config"] == hashlib.sha256(configuration).hexdigest() + ".json"
    layer = hashlib.sha256(members["layer.tar"]).hexdigest()
    assert json.loads(configuration)["rootfs"]["diff_ids"] == [f"sha256:{layer}"]

"""Recipes of the vendor packages: what each depends on, its commands, modules, units and conffiles.

Names and versions come from the versions lock; a package of the lock without a recipe, or the reverse, is refused.
Dependencies follow the real packages where one exists (`=` where the vendor writes `=`); files below
`simulators/<package>/` are packed as they are, `labsim/` is the library that all commands call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML

LOCK = Path(__file__).parents[2] / "inventory" / "versions" / "debian12-lab-2026.11.yml"
SIMULATORS = Path(__file__).parent / "simulators"
LIBRARY_SOURCES = Path(__file__).parent / "labsim"
# Of the host's own code, what the library needs: how hardware.json is read, edited and healed.
SHARED_SOURCES = (Path(__file__).parents[1] / "__init__.py", Path(__file__).parents[1] / "hardware.py")
LIBRARY = "lab-hardware"
LIBRARY_VERSION = "1.0"
# Another driver of the same branch, to try upgrades and mismatches with.
OTHER_DRIVER = "580.82.07"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One package. `commands` maps a path on the node to `module:function` of labsim; `{version}` is the package's."""

    summary: str
    depends: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    commands: dict[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    conffiles: tuple[str, ...] = ()
    system_user: str = ""
    # Only for the silicon itself: a vendor's units are for roles to enable.
    started_units: tuple[str, ...] = ()


@dataclass(frozen=True)
class Package:
    """A recipe at a version."""

    name: str
    version: str
    recipe: Recipe

    @property
    def upstream(self) -> str:
        """Version without epoch and revision."""
        return self.version.split(":")[-1].rsplit("-", 1)[0]

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.version.split(':')[-1]}_amd64.deb"


RECIPES = {
    LIBRARY: Recipe(
        summary="what the lab's hardware simulators share",
        depends=("python3",),
        commands={"/usr/lib/lab/hca-sysfs": "hca_sysfs:main"},
        started_units=("lab-hca.service", "lab-hca.path"),
    ),
    "nvidia-kernel-open-dkms": Recipe(
        summary="NVIDIA driver: open kernel modules",
        conflicts=("nvidia-kernel-dkms",),
        modules=("nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm", "nvidia-peermem"),
    ),
    "nvidia-driver-cuda": Recipe(
        summary="NVIDIA driver: CUDA libraries and nvidia-smi",
        depends=(
            "nvidia-kernel-open-dkms (= {version}) | nvidia-kernel-dkms (= {version})",
            "nvidia-persistenced (= {version})",
        ),
        commands={"/usr/bin/nvidia-smi": "smi:main"},
    ),
    "nvidia-persistenced": Recipe(
        summary="NVIDIA driver: persistence daemon",
        depends=("passwd",),
        commands={"/usr/bin/nvidia-persistenced": "daemons:persistenced"},
        system_user="nvidia-persistenced",
    ),
    "nvidia-fabricmanager": Recipe(
        summary="NVSwitch Fabric Manager",
        commands={"/usr/bin/nv-fabricmanager": "daemons:fabricmanager"},
        conffiles=("/usr/share/nvidia/nvswitch/fabricmanager.cfg",),
    ),
    "datacenter-gpu-manager-4-core": Recipe(
        summary="NVIDIA Data Center GPU Manager",
        conflicts=("datacenter-gpu-manager",),
        commands={"/usr/bin/dcgmi": "dcgm:dcgmi", "/usr/bin/nv-hostengine": "dcgm:hostengine"},
        system_user="nvidia-dcgm",
    ),
    "datacenter-gpu-manager-exporter": Recipe(
        summary="Prometheus exporter of DCGM",
        depends=("datacenter-gpu-manager-4-core (>= 1:4.4)",),
        commands={"/usr/bin/dcgm-exporter": "dcgm_exporter:main"},
        conffiles=("/etc/dcgm-exporter/default-counters.csv",),
    ),
    "nvidia-container-toolkit": Recipe(
        summary="NVIDIA container runtime and its configuration tool",
        commands={"/usr/bin/nvidia-ctk": "container:ctk", "/usr/bin/nvidia-container-runtime": "container:runtime"},
        conffiles=("/etc/nvidia-container-runtime/config.toml",),
    ),
    "infiniband-diags": Recipe(
        summary="InfiniBand diagnostics",
        commands={"/usr/sbin/ibstat": "infiniband:ibstat", "/usr/sbin/perfquery": "infiniband:perfquery"},
    ),
    "ibverbs-utils": Recipe(
        summary="examples of the verbs library",
        commands={"/usr/bin/ibv_devinfo": "infiniband:ibv_devinfo", "/usr/bin/ibv_devices": "infiniband:ibv_devices"},
    ),
    "mlnx-tools": Recipe(
        summary="settings of ConnectX adapters",
        commands={"/usr/bin/mlnx_qos": "infiniband:mlnx_qos"},
    ),
    "lustre-client-modules-dkms": Recipe(
        summary="Lustre client: kernel modules",
        modules=("lnet", "lustre"),
    ),
    "lustre-client-utils": Recipe(
        summary="Lustre client: mount helper and tools",
        depends=("mount",),
        commands={
            "/sbin/mount.lustre": "lustre_mount:main",
            "/usr/bin/lfs": "lustre_tools:lfs",
            "/usr/sbin/lctl": "lustre_tools:lctl",
            "/usr/sbin/lnetctl": "lustre_tools:lnetctl",
        },
    ),
}


def packages(lock: Path = LOCK) -> Iterator[Package]:
    """Every package of the repository, the lock's versions first, then the other driver's.

    Raises:
        ValueError: the lock names a package without a recipe, or a recipe has no version in the lock.
    """
    document = YAML(typ="safe").load(lock.read_text())
    sections = [section for section in document.values() if isinstance(section, dict) and "packages" in section]
    versions: dict[str, str] = {name: str(v) for section in sections for name, v in section["packages"].items()}
    if set(versions) | {LIBRARY} != set(RECIPES):
        raise ValueError(
            f"{lock}: packages without recipe or recipes without version: {set(versions) ^ set(RECIPES) - {LIBRARY}}"
        )
    yield Package(LIBRARY, LIBRARY_VERSION, RECIPES[LIBRARY])
    for name, version in versions.items():
        yield Package(name, version, RECIPES[name])
    driver = document["nvidia_driver"]["version"]
    for name, version in versions.items():
        if version.startswith(f"{driver}-"):
            yield Package(name, version.replace(driver, OTHER_DRIVER), RECIPES[name])

"""Do the loaded driver, the installed packages and the NVSwitch fabric agree with the versions lock?

Three ways, since each alone has been green on a dead node: a new package beside an old loaded module, a Fabric Manager
of another version, a service that is active while the fabric is not (gpu-operator#2781).
"""

from __future__ import annotations

import shlex

from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View
from medllm.checks.gpu import NODE, QUERY, device, query
from medllm.parsers.driver import parse_module_version, parse_packages
from medllm.site.model import Host, Site

MODULE = Probe("loaded module", "cat /proc/driver/nvidia/version")
PACKAGES = "installed packages"


def _locked(site: Site) -> dict[str, str]:
    return {**site.lock.nvidia_driver.packages, **site.lock.nvidia_fabricmanager.packages}


def _probes(site: Site, _host: Host, _subject: Subject) -> tuple[Probe, ...]:
    names = " ".join(shlex.quote(name) for name in sorted(_locked(site)))
    # dpkg-query exits with 1 when one of them is not known; the others are still printed.
    command = f"dpkg-query -W -f='${{Package}}\\t${{Version}}\\t${{db:Status-Status}}\\n' {names}; test $? -le 1"
    return (MODULE, Probe(PACKAGES, command), QUERY)


def _read(view: View) -> list[Reading]:
    wanted = view.site.lock.nvidia_driver.version
    loaded = parse_module_version(view.text(MODULE.name))
    installed = parse_packages(view.text(PACKAGES))
    log = query(view)
    if not log.gpus:
        raise NotRun("no GPU answers, so the fabric's state is unknown")
    differences = []
    if loaded != wanted:
        differences.append(f"module {loaded} is loaded, {wanted} is locked")
    if log.driver_version != loaded:
        differences.append(f"nvidia-smi speaks for driver {log.driver_version}, {loaded} is loaded")
    for name, version in sorted(_locked(view.site).items()):
        package = installed.get(name)
        if package is None or not package.installed:
            differences.append(f"{name} is not installed")
        elif package.version != version:
            differences.append(f"{name} {package.version} is installed, {version} is locked")
    for gpu in log.gpus:
        if gpu.fabric_state is None or (gpu.fabric_state == "Completed" and gpu.fabric_status is None):
            # N/A is what a GPU without NVSwitch says; on a declared fabric it is no answer.
            raise NotRun(f"{device(gpu)} gives no fabric state")
        # Before the state is Completed there is no status yet.
        if (gpu.fabric_state, gpu.fabric_status) != ("Completed", "Success"):
            differences.append(f"{device(gpu)}: fabric {gpu.fabric_state} / {gpu.fabric_status or 'N/A'}")
    shown = "; ".join(differences[:4]) + ("; …" if len(differences) > 4 else "")
    return [Reading("", len(differences), shown or f"{wanted}, fabric Completed / Success on {len(log.gpus)} GPUs")]


CHECK = Check(
    id="driver_fabricmanager_match",
    title="Driver and Fabric Manager match",
    proves="Loaded module, installed packages and fabric state are those of the versions lock.",
    group="software",
    tags=NODE,
    where="gpu_nodes",
    probes=_probes,
    read=_read,
    clears=("fabric_manager_dead", "driver_skew"),
    binaries=("nvidia-smi",),
)

"""Kubernetes on the lab's machines: control plane on mgmt, a kubelet on each GPU node; up, down, status."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lab import cluster, hardware, nodes
from lab.host import LabError
from lab.kubernetes import build, deploy, environment, kubelet, pki, probe, units, users
from lab.kubernetes.arguments import COMPONENTS, ControlPlane
from lab.kubernetes.kubelet.client import ApiError, Client, Unreachable
from lab.layout import BY_NAME, NODES, Node, hardware_file, lab_dir
from medllm.errors import user_error
from medllm.files import state_dir
from medllm.site import Site, load_site

MGMT = BY_NAME["mgmt"]
GPU_NODES = tuple(node for node in NODES if node.is_gpu_node)
PLANE = ControlPlane(deploy.ROOT, MGMT.address)
READY_S = 120.0
_SITE = Path(__file__).parents[2] / "inventory" / "lab"
_KUBELET_STATE, _POD_LOGS = Path("/var/lib/lab-kubelet"), Path("/var/log/pods")
# What the node's own shared-device plugin would offer: any number of pods may open the same HCAs. The value is that of
# the example of Mellanox/k8s-rdma-shared-dev-plugin (`rdmaHcaMax`).
_RDMA_SHARES = 1000
_CONFIGURATION = "kubelet.json"
_PODS, _EPHEMERAL_STORAGE = 110, "20Gi"


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node as the API server knows it. `ready` is its condition's status: True, False, Unknown, or absent."""

    name: str
    kubelet: str
    ready: str


@dataclass(frozen=True, slots=True)
class Status:
    """`components`: systemd's word for each unit, or absent. `obstacle`: why the API server is not ready."""

    server: str
    components: dict[str, str]
    obstacle: str | None
    nodes: list[NodeState]

    @property
    def good(self) -> bool:
        active = all(state == "active" for state in self.components.values())
        # The API server believes in a node for a while after its kubelet has ended.
        living = all((node.kubelet, node.ready) == ("active", "True") for node in self.nodes)
        return active and self.obstacle is None and living


def home() -> Path:
    """Certificates, kubeconfigs, Pulumi's home, on this machine."""
    return lab_dir() / "kubernetes"


def prepared(person: str = users.ADMIN) -> environment.Environment:
    """What a shell of that person needs.

    Raises:
        UserError: Kubernetes was never brought up here.
    """
    return environment.read(home(), kubeconfig(person), _passphrase_file())


def _passphrase_file() -> Path:
    """Not the lab's: the state of a clone's stacks, which it opens, outlives labs."""
    return state_dir() / "keys" / "pulumi.passphrase"


def up(report: Callable[[str], None]) -> None:
    """Bring the control plane and the kubelets to their declaration, and wait until all nodes are ready.

    Raises:
        UserError: the lab is not up, or a tool can't be built here.
        LabError: a step failed.
    """
    _require_running()
    site = load_site(_SITE)
    binaries = build.ensure([*COMPONENTS, "pulumi", "kubectl"], report)
    signer = _credentials()
    environment.prepare(home(), kubeconfig(), _passphrase_file(), binaries)
    with _journal_of(MGMT, *map(units.unit_name, COMPONENTS)):
        report(f"control plane {deploy.bring(MGMT, _control_plane(binaries))}")
        probe.wait("the API server", lambda: probe.not_ready(PLANE.server, authority()), READY_S)
        probe.wait("the controller manager", lambda: probe.no_accounts(kubeconfig()), READY_S)
    client = Client(kubeconfig())
    version = client.get("/version")["gitVersion"]
    bundles = [_kubelet(node, site, signer, version) for node in GPU_NODES]
    with ThreadPoolExecutor(len(GPU_NODES)) as pool:
        done = list(pool.map(deploy.bring, GPU_NODES, bundles))
    report("kubelets " + ", ".join(f"{node.name} {what}" for node, what in zip(GPU_NODES, done, strict=True)))
    for node in GPU_NODES:
        with _journal_of(node, units.KUBELET):
            probe.wait(node.name, partial(_not_ready, client, node), READY_S)
    report(f"API server {PLANE.server}, {len(GPU_NODES)} nodes ready")


def down(report: Callable[[str], None], *, purge: bool) -> None:
    """Take Kubernetes and its pods off the machines; with `purge` also identities and Pulumi's home.

    Raises:
        LabError: a machine that is switched off could not be cleaned, or a step failed.
    """
    states = _machine_states()
    for node in (*GPU_NODES, MGMT):
        if states[node.name] == "running":
            _clean(node)
            report(f"{node.name} clean")
    if purge:
        shutil.rmtree(home(), ignore_errors=True)
    dark = [name for name, state in states.items() if state not in {"running", "absent"}]
    if dark:
        raise LabError(f"{', '.join(dark)} can't be cleaned, not running: `medllm lab up`, then do it again")


def status() -> Status:
    """What runs, as systemd and the API server tell."""
    states = _machine_states()
    components = {
        name: _unit_state(MGMT, units.unit_name(name)) if states[MGMT.name] == "running" else "absent"
        for name in COMPONENTS
    }
    there = kubeconfig().exists()
    obstacle = probe.not_ready(PLANE.server, authority()) if there else "it was never made here"
    ready = _conditions(Client(kubeconfig())) if obstacle is None else {}
    found = [
        NodeState(
            node.name,
            _unit_state(node, units.KUBELET) if states[node.name] == "running" else "absent",
            ready.get(node.name, "absent"),
        )
        for node in GPU_NODES
    ]
    return Status(PLANE.server, components, obstacle, found)


def kubeconfig(person: str = users.ADMIN) -> Path:
    return users.person_file(home(), person)


def authority() -> Path:
    """The certificate that the API server's own is checked with."""
    return home() / "pki" / f"{pki.CA}.crt"


def kubelet_configuration(node: Node, silicon: Mapping[str, Any], site: Site, version: str) -> dict[str, Any]:
    """What a node's kubelet offers: the GPUs and HCAs of its silicon, the processors and memory that are declared.

    `version` is the API server's.
    """
    capacity = {
        "cpu": str(site.cpu.logical),
        "memory": f"{site.memory_gib}Gi",
        "ephemeral-storage": _EPHEMERAL_STORAGE,
        "pods": str(_PODS),
        site.kubernetes.gpu_resource: str(len(silicon["gpus"])),
    }
    if silicon["hcas"]:
        capacity[site.kubernetes.rdma_resource] = str(_RDMA_SHARES)
    return {
        "node_name": node.name,
        "address": node.address,
        "version": version,
        "kubeconfig": str(deploy.ROOT / "identity" / "kubelet.kubeconfig"),
        "names_kubeconfig": str(deploy.ROOT / "identity" / "names.kubeconfig"),
        "state_directory": str(_KUBELET_STATE),
        "log_directory": str(_POD_LOGS),
        "capacity": capacity,
        "gpu_resource": site.kubernetes.gpu_resource,
        # The lab's registry: what an image would hold is installed on its nodes. Any other can't be pulled.
        "images": {site.kubernetes.image: "host"},
    }


def _credentials() -> pki.Authority:
    signer = pki.prepare(home() / "pki", pki.server_names(PLANE.address, PLANE.service_range))
    users.write_controllers(home() / "pki", PLANE.server, signer)
    users.write_people(home(), PLANE.server, signer)
    return signer


def _control_plane(binaries: Mapping[str, Path]) -> deploy.Bundle:
    """The authorities' own keys stay on this machine: nothing on mgmt signs certificates."""
    names = {deploy.program_name(binaries[name]): name for name in COMPONENTS}
    places = {component: deploy.program_place(name) for name, component in names.items()}
    keys = {f"{pki.CA}.key", f"{pki.ETCD_CA}.key"}
    files = {f"pki/{path.name}": path.read_bytes() for path in (home() / "pki").iterdir() if path.name not in keys}
    programs = {name: binaries[component] for name, component in names.items()}
    return deploy.Bundle(files, units.control_plane_units(PLANE, places), programs)


def _kubelet(node: Node, site: Site, signer: pki.Authority, version: str) -> deploy.Bundle:
    identity = home() / "nodes" / node.name
    users.write_node(identity, node.name, PLANE.server, signer)
    files = {f"identity/{path.name}": path.read_bytes() for path in identity.iterdir()}
    files |= _kubelet_files(node, site, version)
    return deploy.Bundle(files, {units.KUBELET: units.kubelet_unit(deploy.ROOT)}, {})


def _kubelet_files(node: Node, site: Site, version: str) -> dict[str, bytes]:
    """The kubelet's package and its configuration."""
    configuration = kubelet_configuration(node, hardware.read(hardware_file(node)), site, version)
    files = {f"kubelet/{path.name}": path.read_bytes() for path in Path(kubelet.__path__[0]).glob("*.py")}
    return {**files, _CONFIGURATION: (json.dumps(configuration, indent=2) + "\n").encode()}


def _require_running() -> None:
    """Raises: UserError: the lab is not up, or a machine of it is switched off."""
    cluster.require_up()
    if off := [name for name, state in _machine_states().items() if state != "running"]:
        raise user_error(f"not running: {', '.join(off)}", "medllm lab up")


def _machine_states() -> dict[str, str]:
    return {entry["name"]: entry["state"] for entry in cluster.status()}


def _unit_state(node: Node, unit: str) -> str:
    """Systemd's word for the unit, or absent."""
    known = nodes.execute(node, "systemctl", "show", "--property=LoadState,ActiveState", unit)
    facts = dict(line.partition("=")[::2] for line in known.splitlines())
    return "absent" if facts.get("LoadState") == "not-found" else facts.get("ActiveState", "absent")


def _conditions(client: Client) -> dict[str, str]:
    """Node → status of its condition Ready."""
    try:
        items = client.get("/api/v1/nodes")["items"]
    except (ApiError, Unreachable):
        return {}
    return {item["metadata"]["name"]: _ready(item) for item in items}


def _ready(node: Mapping[str, Any]) -> str:
    conditions = (node.get("status") or {}).get("conditions") or []
    return next((str(each["status"]) for each in conditions if each["type"] == "Ready"), "absent")


def _not_ready(client: Client, node: Node) -> str | None:
    state = _conditions(client).get(node.name, "absent")
    return None if state == "True" else f"its condition Ready is {state}"


@contextmanager
def _journal_of(node: Node, *names: str) -> Iterator[None]:
    """A failure of the lab in the block carries what these units said last."""
    try:
        yield
    except LabError as error:
        chosen = [f"--unit={name}" for name in names]
        said = nodes.execute(node, "journalctl", "--no-pager", "--output=cat", "--lines=15", *chosen, check=False)
        raise LabError(f"{error}\n{said.strip()}") from None


def _clean(node: Node) -> None:
    if not node.is_gpu_node:
        deploy.remove(node, [units.unit_name(name) for name in reversed([*COMPONENTS])])
        return
    # In this order, or the kubelet would start the pods again.
    nodes.execute(node, "systemctl", "stop", units.KUBELET, timeout=60, check=False)
    if nodes.execute(node, "sh", "-c", f"test -e {_KUBELET_STATE} && echo there", check=False).strip():
        # What is there may be of an `up` that was broken off.
        deploy.copy_files(node, _kubelet_files(node, load_site(_SITE), "unknown"))
        stop = ["python3", "-m", "kubelet", f"--config={deploy.ROOT / _CONFIGURATION}", "--stop-pods"]
        nodes.execute(node, "env", f"PYTHONPATH={deploy.ROOT}", *stop, timeout=60)
    deploy.remove(node, [units.KUBELET], _KUBELET_STATE, _POD_LOGS)

"""The lab as a whole: up, down, reset, status."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from lab import hardware, nodes, redfish
from lab.build import node_image, remove_old_images
from lab.host import RUN, check_host, podman, storage_dir, write_podman_configuration
from lab.keys import write_keys
from lab.layout import (
    BY_NAME,
    GATEWAY,
    NETWORK,
    NODES,
    REDFISH_PORT,
    Node,
    hardware_file,
    lab_dir,
    shared_dir,
    vendor_dir,
)
from lab.vendor import build_repository
from medllm.errors import user_error

READY_SECONDS = 120


def up(console: Console, names: Iterable[str] = ()) -> None:
    """Bring the lab to its declaration: packages, image, keys, network, nodes; then wait until all answer.

    Raises:
        UserError: this machine lacks something.
        LabError: a step failed.
    """
    chosen = pick(names)
    check_host()
    lab_dir().mkdir(parents=True, exist_ok=True)
    write_podman_configuration()
    with _step(console, "keys and hardware") as note:
        write_keys()
        nodes.prepare_storage()
        note(f"{len(NODES)} machines")
    with _step(console, "vendor repository") as note:
        note(_vendor())
    with _step(console, "image") as note:
        image = node_image()
        note(image.rpartition("/")[2])
    with _step(console, "nodes") as note:
        nodes.make_network()
        before = nodes.powers()
        done = {node.name: nodes.ensure(node, image, before[node.name]) for node in chosen}
        note(", ".join(f"{name} {what}" for name, what in done.items()))
    with _step(console, "SSH and systemd") as note:
        deadline = time.monotonic() + READY_SECONDS
        with ThreadPoolExecutor(len(NODES)) as pool:
            list(pool.map(lambda node: nodes.wait_ready(node, deadline), chosen))
        note("all answer")
    with _step(console, "BMCs") as note:
        note(f"Redfish on https://{GATEWAY}:{REDFISH_PORT} {redfish.start()}")
    remove_old_images(image)


def down(console: Console, *, purge: bool) -> None:
    """Remove containers and network; with `purge` also the state. The images stay in the cache."""
    redfish.stop()
    if storage_dir().exists() and (lab_dir() / "containers.conf").exists():
        with _step(console, "nodes and network") as note:
            nodes.remove(NODES)
            podman("network", "rm", "--force", NETWORK, check=False)
            note("removed")
    shutil.rmtree(RUN, ignore_errors=True)
    if purge:
        with _step(console, "state") as note:
            _empty(lab_dir(), keep={"lock"})
            note("deleted")


def reset(console: Console, names: Iterable[str]) -> None:
    """Give nodes back as a provider hands them over: new containers, healthy silicon. All nodes: empty storage too."""
    chosen = pick(names)
    require_up()
    with _step(console, "old nodes") as note:
        nodes.remove(chosen)
        for node in chosen:
            hardware.write(hardware_file(node), hardware.healthy(node.name))
        if len(chosen) == len(NODES):
            for name in ("opt-medllm", "lustre"):
                _empty(shared_dir(name))
        note("removed: " + ", ".join(node.name for node in chosen))
    up(console, [node.name for node in chosen])


def status() -> list[dict[str, Any]]:
    """One entry a node: name, address, state of the container, power (On, Off), its faults."""
    powers = nodes.powers() if _is_made() else {node.name: nodes.Power("absent", "") for node in NODES}
    entries = []
    for node in NODES:
        power = powers[node.name]
        silicon = hardware.read(hardware_file(node)) if hardware_file(node).exists() else {"faults": []}
        faults = [{key: fault[key] for key in ("name", "target", "clears_on", "since")} for fault in silicon["faults"]]
        entries.append(
            {
                "name": node.name, "address": node.address, "state": power.state,
                "power": "On" if power.on else "Off", "faults": faults,
            }
        )  # fmt: skip
    return entries


def require_up() -> None:
    """Refuse what needs nodes where there are none.

    Raises:
        UserError: the lab was never made here, or is down.
    """
    if not _is_made():
        raise user_error("the lab is not up", "medllm lab up")


def _is_made() -> bool:
    """Whether podman has a lab to tell of; asking it without one would make its run-time files."""
    return RUN.exists() and (lab_dir() / "containers.conf").exists()


def pick(names: Iterable[str]) -> list[Node]:
    """The nodes with these names; all of them for no name.

    Raises:
        UserError: there is no such node.
    """
    chosen = list(names)
    for name in chosen:
        if name not in BY_NAME:
            raise user_error(f"the lab has no node {name!r}", f"use one of: {', '.join(BY_NAME)}")
    return [BY_NAME[name] for name in chosen] or list(NODES)


def _vendor() -> str:
    """Build the vendor packages if their sources changed; `current`, which mgmt serves, names the newest build."""
    return build_repository(vendor_dir()).name


def _empty(directory: Path, keep: Iterable[str] = ()) -> None:
    """Delete what is in `directory`, not itself: nodes may have it mounted."""
    for path in directory.iterdir() if directory.exists() else ():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def _step(console: Console, name: str) -> Iterator[Callable[[str], None]]:
    """Show a step while it runs, then its time in seconds and what came of it."""
    started, notes = time.monotonic(), [""]
    with console.status(f"{name} …"):
        yield lambda text: notes.__setitem__(0, text)
    console.print(f"{time.monotonic() - started:6.1f} s  {name}: {notes[0]}", highlight=False)

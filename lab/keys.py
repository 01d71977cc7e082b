"""SSH keys and names: the operator's key pair, each node's host key, `known_hosts`, the nodes' hosts file."""

from __future__ import annotations

from pathlib import Path

from lab.host import run
from lab.layout import NODES, keys_dir, ssh_dir
from medllm.files import write_atomic

_HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def write_keys() -> None:
    """Make what is missing; keys that are there stay, so that a second `up` changes no identity."""
    ssh_dir().mkdir(parents=True, exist_ok=True, mode=0o700)
    operator = _key_pair(ssh_dir() / "id_ed25519", "medllm-lab operator")
    hosts = _HOSTS + "".join(f"{node.address} {node.name}\n" for node in NODES)
    known = []
    for node in NODES:
        directory = keys_dir(node)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        public = _key_pair(directory / "ssh_host_ed25519_key", node.name)
        known.append(f"{node.address},{node.name} {' '.join(public.split()[:2])}\n")
        write_atomic(directory / "authorized_keys", operator)
        write_atomic(directory / "hosts", hosts)
    write_atomic(ssh_dir() / "known_hosts", "".join(known))


def _key_pair(path: Path, comment: str) -> str:
    """The public key of the pair at `path`, which is made when it is not there."""
    if not path.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path], timeout=30)
    return path.with_name(path.name + ".pub").read_text()

"""What the engine has beside its code: playbooks, roles, plugins, pages and the declaration, as one directory on mgmt.

Role `recovery_engine` ships it from the controller's checkout, so the engine runs the very playbooks and the very
declaration that the cluster was brought up with. Two things are different there: how mgmt reaches the hosts, and where
it keeps the BMCs' login. No secret is in it.

`python -m runbooks.engine.content REPOSITORY INVENTORY SECRETS` prints one JSON object: `name` (it changes with the
content), `archive` (a gzipped tar, base64).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from medllm.errors import UserError, user_error
from medllm.site import load_site

_FILES = ("ansible.cfg", "site.yml")
_DIRECTORIES = ("playbooks", "roles", "plugins", "runbooks")
_INVENTORY = "inventory/site"


def content_files(repository: Path, inventory: Path, secrets: str) -> dict[str, bytes]:
    """Path in the directory → content. `secrets`: where mgmt keeps its keys, as `/etc/medllm/recover`.

    Raises:
        UserError: the declaration is wrong, or `repository` is no checkout.
    """
    site = load_site(inventory)
    if missing := [name for name in (*_FILES, *_DIRECTORIES) if not (repository / name).exists()]:
        raise user_error(f"there is no {', '.join(missing)} in it", "give the checkout's directory", file=repository)
    files = {name: (repository / name).read_bytes() for name in _FILES}
    for name in _DIRECTORIES:
        for path in _tree(repository / name):
            # The engine's code comes with our wheel; here it would be a second copy that nothing runs.
            if name != "runbooks" or path.suffix != ".py":
                files[f"{path.relative_to(repository)}"] = path.read_bytes()
    for path in sorted((inventory / "group_vars").rglob("*.yml")):
        files[f"{_INVENTORY}/{path.relative_to(inventory)}"] = _with_bmc_files(path, secrets)
    files[f"{_INVENTORY}/hosts.yml"] = _hosts(inventory / "hosts.yml", secrets)
    versions, thresholds = f"versions/{site.versions}.yml", f"thresholds/{site.thresholds_catalogue}.yml"
    for name in (versions, thresholds):
        files[f"inventory/{name}"] = (inventory.parent / name).read_bytes()
    default = b"inventory = " + _INVENTORY.encode()
    files["ansible.cfg"] = re.sub(rb"(?m)^inventory = .*$", default, files["ansible.cfg"])
    return dict(sorted(files.items()))


def archive(files: dict[str, bytes]) -> tuple[str, bytes]:
    """Name of the directory, and a gzipped tar: the same files give the same bytes, whenever and wherever."""
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in files.items())
    return f"content-{hashlib.sha256(lines.encode()).hexdigest()[:12]}", stream.getvalue()


def _tree(directory: Path) -> Iterator[Path]:
    """Regular files, without what Python and editors leave behind."""
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        hidden = any(part.startswith(".") or part.endswith(("~", ".pyc")) or part == "__pycache__" for part in parts)
        if path.is_file() and not path.is_symlink() and not hidden:
            yield path


def _hosts(path: Path, secrets: str) -> bytes:
    """The host list, with the engine's key and known hosts in place of this controller's."""
    yaml = _yaml()
    data = yaml.load(path)
    connection = ("ansible_ssh_private_key_file", "ansible_ssh_common_args")
    for mapping in _mappings(data):
        for key in connection:
            mapping.pop(key, None)
    options = f"-o UserKnownHostsFile={secrets}/known_hosts -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
    data["all"].setdefault("vars", {}).update(dict(zip(connection, (f"{secrets}/id_ed25519", options), strict=True)))
    return _dumped(yaml, data)


def _with_bmc_files(path: Path, secrets: str) -> bytes:
    """A file of the declaration; where it says which files the controller keeps for the BMCs, mgmt's instead."""
    yaml = _yaml()
    data = yaml.load(path)
    if not isinstance(data, dict) or "site_bmc" not in data:
        return path.read_bytes()
    data["site_bmc"] |= {"credentials_file": f"{secrets}/bmc.json", "ca_file": f"{secrets}/bmc-ca.pem"}
    return _dumped(yaml, data)


def _mappings(node: Any) -> Iterator[dict[Any, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _mappings(value)


def _yaml() -> YAML:
    yaml = YAML(typ="rt", pure=True)
    # As medllm.site.source reads it, and as Ansible does: `on` is a boolean.
    yaml.version = (1, 1)
    yaml.preserve_quotes = yaml.explicit_start = True
    yaml.width = 4096
    return yaml


def _dumped(yaml: YAML, data: Any) -> bytes:
    stream = io.StringIO()
    yaml.dump(data, stream)
    # The line that declares the version is for a parser of another one; none reads these.
    return stream.getvalue().removeprefix("%YAML 1.1\n").encode()


def main() -> None:
    """See the module's text. Exits with 2 on a wrong declaration."""
    try:
        repository, inventory, secrets = sys.argv[1:]
    except ValueError:
        sys.exit("usage: python -m runbooks.engine.content REPOSITORY INVENTORY SECRETS")
    try:
        name, data = archive(content_files(Path(repository), Path(inventory), secrets))
    except UserError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        sys.exit(2)
    print(json.dumps({"name": name, "archive": base64.b64encode(data).decode()}))


if __name__ == "__main__":
    main()

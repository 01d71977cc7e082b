"""A repository whose key was exchanged is refused on a real node, nothing is written, and a wrong key is put right."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lab.layout import GATEWAY
from medllm.parsers.openpgp import fingerprints
from medllm.remote import Remote
from medllm.site import load_site

ROOT = Path(__file__).parents[2]
SITE = load_site(ROOT / "inventory/lab")
NODE = SITE.gpu_nodes[-1]
(REPOSITORY,) = SITE.vendor_repositories
KEYRING = f"/etc/apt/keyrings/{REPOSITORY.name}.asc"
TASK = "vendor_repository : Trust the declared signing keys"
# Somebody else's, and not the one that signs the lab's packages.
OTHER = (ROOT / "tests/data/acceptance/debian-bookworm-stable.gpg").read_bytes()


class Mirror(ThreadingHTTPServer):
    """A web server that nodes reach, whose one file somebody may exchange."""

    content = b""


class _Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror((GATEWAY, 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def armored(keys: bytes) -> bytes:
    head, tail = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n", b"-----END PGP PUBLIC KEY BLOCK-----\n"
    return head + base64.encodebytes(keys) + tail


def on_node(command: str) -> str:
    with Remote(NODE) as remote:
        return remote.run(command, deadline_s=60, sudo=True).check().stdout


def run(repository: dict[str, Any], *options: str) -> dict[str, Any]:
    """The role on one node with this repository; the result of its keys' task."""
    environment = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
    playbook = Path(sys.executable).with_name("ansible-playbook")
    variables = json.dumps({"vendor_repository_list": [repository]})
    done = subprocess.run(
        [playbook, "site.yml", "--tags", "vendor_repository", "--limit", NODE.name, "-e", variables, *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    answer = json.loads(done.stdout[done.stdout.index("{") :])
    tasks = [task for play in answer["plays"] for task in play["tasks"] if task["task"]["name"] == TASK]
    result: dict[str, Any] = tasks[0]["hosts"][NODE.name]
    assert (done.returncode != 0) == bool(result.get("failed")), f"{done.stdout[-3000:]}\n{done.stderr[-1000:]}"
    return result


def test_an_exchanged_key_is_refused_and_a_wrong_one_is_put_right(mirror: Mirror) -> None:
    assert REPOSITORY.key_file
    declared = REPOSITORY.model_dump()
    right = Path(declared.pop("key_file")).expanduser().read_bytes()
    (mine,), (others,) = fingerprints(right), fingerprints(OTHER)
    url = f"http://{GATEWAY}:{mirror.server_address[1]}/vendor.asc"
    fetched = {**declared, "key_url": url, "key_fingerprints": [mine]}
    run(REPOSITORY.model_dump())
    before = on_node(f"cat {KEYRING}")

    mirror.content = right
    assert not run(fetched)["changed"], "the fetched key and the checked copy are the same key"

    mirror.content = OTHER
    for options in ([], ["--check"]):
        refused = run(fetched, *options)
        for part in ("No signing key was written", url, mine, others):
            assert part in refused["msg"]
        assert on_node(f"cat {KEYRING}") == before
    mirror.content = right + armored(OTHER)
    assert others in run(fetched)["msg"], "a key beside the declared one is refused too"

    try:
        on_node(f"echo {base64.b64encode(OTHER).decode()} | base64 -d > {KEYRING}")
        mirror.content = right
        assert run(fetched)["changed"]
    finally:
        run(REPOSITORY.model_dump())
    assert on_node(f"cat {KEYRING}") == before
    # apt takes the packages that this key signed.
    source = f"-o Dir::Etc::sourcelist=/etc/apt/sources.list.d/{REPOSITORY.name}.sources -o Dir::Etc::sourceparts=-"
    on_node(f"apt-get -qq update {source} -o APT::Get::List-Cleanup=0")
    assert not run(REPOSITORY.model_dump())["changed"]

"""The lab's certificates: who is who, what is kept, what is made anew, and what a TLS library makes of them."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lab.kubernetes import pki, users
from lab.kubernetes.arguments import COMPONENTS, ControlPlane

NAMES = pki.server_names("10.89.77.10", "10.96.0.0/16")
SERVER = "https://10.89.77.10:6443"
DAY = timedelta(days=1)


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def handshake(signer: Path, server: pki.Pair, client: pki.Pair, name: str, directory: Path) -> str:
    """What both say of it when the server wants a client certificate; the TLS version, or their errors."""
    files = {}
    for role, pair in (("server", server), ("client", client)):
        files[role] = directory / f"{role}.pem"
        files[role].write_bytes(pair.certificate + pair.key)
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(signer))
    accepting.verify_mode = ssl.CERT_REQUIRED
    accepting.load_cert_chain(files["server"])
    calling = ssl.create_default_context(cafile=str(signer))
    calling.load_cert_chain(files["client"])
    # What newer Pythons ask by default: key identifiers and critical constraints as RFC 5280 wants them.
    for context in (accepting, calling):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()
    told: list[str] = []

    def serve() -> None:
        try:
            with accepting.wrap_socket(theirs, server_side=True) as connection:
                connection.sendall(b"hello")
                told.append(connection.version() or "")
        except OSError as error:
            told.append(str(error))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with calling.wrap_socket(ours, server_hostname=name) as connection:
            connection.recv(5)
    except OSError as error:
        told.append(str(error))
    thread.join(10)
    return "\n".join(told)


@pytest.mark.parametrize("name", ["10.89.77.10", "127.0.0.1", "10.96.0.1", "kubernetes.default.svc.cluster.local"])
def test_the_api_server_is_trusted_by_each_of_its_names(name: str, tmp_path: Path) -> None:
    signer = pki.prepare(tmp_path / "pki", NAMES)
    server = pki.Pair(
        (tmp_path / "pki/kube-apiserver.crt").read_bytes(), (tmp_path / "pki/kube-apiserver.key").read_bytes()
    )
    assert handshake(tmp_path / "pki/ca.crt", server, signer.client(users.NAMES), name, tmp_path) == "TLSv1.3"


def test_a_certificate_serves_only_what_it_is_for(tmp_path: Path) -> None:
    signer = pki.prepare(tmp_path / "pki", NAMES)
    authority = tmp_path / "pki/ca.crt"
    server, client = signer.server("kube-apiserver", NAMES), signer.client(users.NAMES)
    etcd = pki.authority(tmp_path / "pki", pki.ETCD_CA)
    assert "mismatch" in handshake(authority, server, client, "10.89.77.99", tmp_path)
    assert "purpose" in handshake(authority, server, server, "127.0.0.1", tmp_path)
    assert "purpose" in handshake(authority, client, client, "127.0.0.1", tmp_path)
    assert "expired" in handshake(authority, server, signer.client(users.NAMES, -DAY), "127.0.0.1", tmp_path)
    # A client of the API server is nobody to etcd, and the other way round.
    stranger = etcd.client(pki.Identity("kube-apiserver"))
    assert "certificate" in handshake(authority, server, stranger, "127.0.0.1", tmp_path)
    peer = etcd.server("etcd", ["127.0.0.1"], peer=True)
    assert handshake(tmp_path / "pki/etcd-ca.crt", peer, peer, "127.0.0.1", tmp_path) == "TLSv1.3"
    assert "certificate" in handshake(tmp_path / "pki/etcd-ca.crt", peer, client, "127.0.0.1", tmp_path)


def test_a_client_is_its_common_name_and_its_groups_its_organisations(tmp_path: Path) -> None:
    signer = pki.authority(tmp_path, pki.CA)
    identity = pki.Identity("dana", ("medllm:data-scientist", "medllm:auditor"))
    subject = x509.load_pem_x509_certificate(signer.client(identity).certificate).subject
    assert [item.value for item in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["dana"]
    groups = {item.value for item in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)}
    assert groups == {"medllm:data-scientist", "medllm:auditor"}
    assert users.node_identity("node1") == pki.Identity("system:node:node1", ("system:nodes",))


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    def everything() -> None:
        signer = pki.prepare(tmp_path / "pki", NAMES)
        users.write_controllers(tmp_path / "pki", SERVER, signer)
        users.write_people(tmp_path, SERVER, signer)
        users.write_node(tmp_path / "nodes/node1", "node1", SERVER, signer)

    everything()
    before = content(tmp_path)
    everything()
    assert content(tmp_path) == before


def test_keys_and_kubeconfigs_are_read_by_their_owner_only(tmp_path: Path) -> None:
    signer = pki.prepare(tmp_path / "pki", NAMES)
    users.write_people(tmp_path, SERVER, signer)
    secret = [path for path in tmp_path.rglob("*") if path.suffix in {".key", ".kubeconfig"}]
    assert len(secret) == 6 + len(users.PEOPLE)
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_what_ends_within_a_month_is_made_anew(tmp_path: Path) -> None:
    signer = pki.authority(tmp_path, pki.CA)
    path, identity = tmp_path / "dana.kubeconfig", users.PEOPLE["data-scientist"]
    for lifetime, kept in ((-DAY, False), (29 * DAY, False), (31 * DAY, True)):
        pki.write_kubeconfig(path, SERVER, signer, signer.client(identity, lifetime))
        before = path.read_bytes()
        pki.ensure_kubeconfig(path, SERVER, signer, identity)
        assert (path.read_bytes() == before) is kept
        user = json.loads(path.read_text())["users"][0]["user"]
        certificate = x509.load_pem_x509_certificate(base64.b64decode(user["client-certificate-data"]))
        assert certificate.not_valid_after_utc > datetime.now(UTC) + 30 * DAY


def _empty(path: Path) -> None:
    path.write_text("")


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff not PEM")


def _foreign(path: Path) -> None:
    other = pki.authority(path.parent / "other", "foreign")
    path.write_bytes(other.client(pki.Identity("mallory")).certificate if path.suffix == ".crt" else b"{}")


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "kube-apiserver.crt", "kube-apiserver.key", "etcd-ca.crt"])
@pytest.mark.parametrize("spoil", [Path.unlink, _empty, _garbage, _foreign])
def test_broken_files_are_replaced_by_ones_that_fit_together(
    name: str, spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    pki.prepare(tmp_path / "pki", NAMES)
    spoil(tmp_path / "pki" / name)
    signer = pki.prepare(tmp_path / "pki", NAMES)
    load(tmp_path / "pki/kube-apiserver.crt").verify_directly_issued_by(load(tmp_path / "pki/ca.crt"))
    load(tmp_path / "pki/etcd.crt").verify_directly_issued_by(load(tmp_path / "pki/etcd-ca.crt"))
    for pair in (pki.API_SERVER, pki.ETCD, pki.ETCD_CLIENT, pki.CA):
        certificate = load(tmp_path / "pki" / f"{pair}.crt")
        other = x509.load_pem_x509_certificate(signer.pem) if pair == pki.CA else certificate
        assert certificate == other


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"clusters": [], "users": []}',
        '{"clusters": [{"cluster": null}], "users": [{"user": {}}]}',
        "apiVersion: v1\nkind: Config\n",
    ],
)
def test_a_broken_kubeconfig_is_replaced(broken: str, tmp_path: Path) -> None:
    signer = pki.authority(tmp_path, pki.CA)
    path = tmp_path / "admin.kubeconfig"
    path.write_text(broken)
    pki.ensure_kubeconfig(path, SERVER, signer, users.PEOPLE[users.ADMIN])
    assert json.loads(path.read_text())["clusters"][0]["cluster"]["server"] == SERVER


def test_a_kubeconfig_of_another_server_authority_or_person_is_replaced(tmp_path: Path) -> None:
    signer, other = pki.authority(tmp_path, pki.CA), pki.authority(tmp_path, "other")
    path, admin = tmp_path / "admin.kubeconfig", users.PEOPLE[users.ADMIN]
    for server, by, whom in (
        (SERVER, other, admin),
        ("https://127.0.0.1:1", signer, admin),
        (SERVER, signer, users.NAMES),
    ):
        pki.write_kubeconfig(path, server, by, by.client(whom))
        before = path.read_bytes()
        pki.ensure_kubeconfig(path, SERVER, signer, admin)
        assert path.read_bytes() != before
        after = path.read_bytes()
        pki.ensure_kubeconfig(path, SERVER, signer, admin)
        assert path.read_bytes() == after


def test_new_names_give_a_new_server_certificate_and_keep_the_rest(tmp_path: Path) -> None:
    pki.prepare(tmp_path, NAMES)
    before = content(tmp_path)
    pki.prepare(tmp_path, [*NAMES, "mgmt"])
    after = content(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"kube-apiserver.crt", "kube-apiserver.key"}


def test_every_certificate_can_be_checked_by_usage(tmp_path: Path) -> None:
    pki.prepare(tmp_path, NAMES)
    usages = {
        name: set(load(tmp_path / f"{name}.crt").extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for name in (pki.API_SERVER, pki.ETCD, pki.ETCD_CLIENT)
    }
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    assert usages == {pki.API_SERVER: {server}, pki.ETCD: {server, client}, pki.ETCD_CLIENT: {client}}


def test_command_lines_name_only_files_that_are_there(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, "127.0.0.1")
    signer = pki.prepare(plane.pki, NAMES)
    users.write_controllers(plane.pki, plane.server, signer)
    named = [
        Path(argument.partition("=")[2])
        for arguments in COMPONENTS.values()
        for argument in arguments(plane)
        if str(plane.pki) in argument
    ]
    assert len(named) > 15
    assert [path for path in named if not path.is_file()] == []


def test_nothing_of_the_store_listens_beyond_the_loopback_interface(tmp_path: Path) -> None:
    arguments = COMPONENTS["etcd"](ControlPlane(tmp_path, "10.89.77.10"))
    urls = [argument for argument in arguments if "url" in argument]
    assert len(urls) == 4
    assert all("=https://127.0.0.1:" in url for url in urls)

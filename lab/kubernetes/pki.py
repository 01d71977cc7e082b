"""Who is who in the lab's Kubernetes: authorities, certificates, service-account keys, kubeconfigs.

All keys are ECDSA P-256. What is there and still good is kept, so that a second `up` changes no identity.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from medllm.files import write_atomic

# Names of files: `NAME.crt` and `NAME.key`, of the service-account keys `NAME.pub` and `NAME.key`.
CA, ETCD_CA = "ca", "etcd-ca"
API_SERVER, ETCD, ETCD_CLIENT = "kube-apiserver", "etcd", "kube-apiserver-etcd-client"
SERVICE_ACCOUNT = "service-account"
AUTHORITY_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=365)
# What ends sooner than this is made anew: an `up` gives at least a month.
RENEW_BEFORE = timedelta(days=30)
# The clocks of nodes may differ a little.
_SKEW = timedelta(minutes=5)
_LOOPBACK = ("127.0.0.1", "localhost")
_CLIENT, _SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is to the API server: the certificate's common name and organisations."""

    user: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates; `certificate` and `key` are its own."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def client(self, identity: Identity, lifetime: timedelta = LIFETIME) -> Pair:
        """A client certificate. A lifetime below zero gives one that has expired."""
        return self._issue(identity, [], [_CLIENT], lifetime)

    def server(self, name: str, alternatives: Sequence[str], *, peer: bool = False) -> Pair:
        """A certificate for a server that is reached by these names and addresses; a `peer` is a client too."""
        usages = [_SERVER, _CLIENT] if peer else [_SERVER]
        return self._issue(Identity(name), alternatives, usages, LIFETIME)

    def _issue(
        self, subject: Identity, alternatives: Sequence[str], usages: list[x509.ObjectIdentifier], lifetime: timedelta
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_subject(subject), self.certificate.subject, key, lifetime)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if alternatives:
            names = x509.SubjectAlternativeName([_general_name(text) for text in alternatives])
            builder = builder.add_extension(names, critical=False)
        return Pair(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), _private(key))

    def vouches_for(self, pair: Pair, subject: Identity, alternatives: Sequence[str] = ()) -> bool:
        """Whether the pair is this authority's, of that subject and names, and good for another month."""
        certificate = _matching(pair)
        if certificate is None:
            return False
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        try:
            named = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except x509.ExtensionNotFound:
            named = []
        return (
            certificate.subject == _subject(subject)
            and named == [_general_name(text) for text in alternatives]
            and certificate.not_valid_after_utc > datetime.now(UTC) + RENEW_BEFORE
        )


def authority(directory: Path, name: str) -> Authority:
    """The authority of `NAME.crt` and `NAME.key`. One that is not there, is broken, or ends before what it would sign
    is made anew, and then nothing that the old one signed is kept."""
    pair = _read(directory, name)
    certificate = _matching(pair) if pair else None
    if pair and certificate and certificate.not_valid_after_utc > datetime.now(UTC) + LIFETIME:
        return Authority(certificate, _load_key(pair.key))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(Identity(f"medllm-lab {name}"))
    builder = _builder(subject, subject, key, AUTHORITY_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_AUTHORITY_USAGE, critical=True)
    made = Authority(builder.sign(key, hashes.SHA256()), key)
    _write(directory, name, Pair(made.pem, _private(key)))
    return made


def server_names(address: str, service_range: str) -> list[str]:
    """What the API server is called: from outside by its address, from pods by its Service."""
    service = "kubernetes.default.svc.cluster.local"
    inner = [".".join(service.split(".")[:count]) for count in (1, 2, 3)] + [service]
    first = str(IPv4Network(service_range)[1])
    return list(dict.fromkeys([address, "127.0.0.1", first, "localhost", *inner]))


def prepare(directory: Path, names: Sequence[str]) -> Authority:
    """Everything that the control plane's own processes need; returns the authority of clients and API server.

    `names` are the API server's. etcd has an authority of its own: a client of the API server is none of etcd's.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    clients, store = authority(directory, CA), authority(directory, ETCD_CA)
    _ensure(directory, API_SERVER, clients, names, lambda: clients.server(API_SERVER, names))
    _ensure(directory, ETCD, store, _LOOPBACK, lambda: store.server(ETCD, _LOOPBACK, peer=True))
    _ensure(directory, ETCD_CLIENT, store, (), lambda: store.client(Identity(ETCD_CLIENT)))
    private = directory / f"{SERVICE_ACCOUNT}.key"
    if not private.exists():
        write_atomic(private, _private(ec.generate_private_key(ec.SECP256R1())), mode=0o600)
    public = _load_key(private.read_bytes()).public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    write_atomic(directory / f"{SERVICE_ACCOUNT}.pub", public.public_bytes(serialization.Encoding.PEM, spki))
    return clients


def ensure_kubeconfig(path: Path, server: str, signer: Authority, identity: Identity) -> Path:
    """A kubeconfig of `identity` at `path` that is good for another month; one that is stays as it is."""
    pair = _pair_of_kubeconfig(path, server, signer)
    if not pair or not signer.vouches_for(pair, identity):
        write_kubeconfig(path, server, signer, signer.client(identity))
    return path


def write_kubeconfig(path: Path, server: str, signer: Authority, pair: Pair) -> None:
    """Write a kubeconfig with everything in it. JSON is YAML too, and Python reads it without a library."""
    data = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "lab", "cluster": {"server": server, "certificate-authority-data": _base64(signer.pem)}},
        ],
        "users": [
            {
                "name": "user",
                "user": {
                    "client-certificate-data": _base64(pair.certificate), "client-key-data": _base64(pair.key),
                },
            },
        ],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
        "current-context": "lab",
    }  # fmt: skip
    write_atomic(path, json.dumps(data, indent=2) + "\n", mode=0o600)


def _pair_of_kubeconfig(path: Path, server: str, signer: Authority) -> Pair | None:
    """The certificate and key of a kubeconfig that leads to `server`, or None: there is none, or it is another one."""
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        cluster, user = data["clusters"][0]["cluster"], data["users"][0]["user"]
        if cluster != {"server": server, "certificate-authority-data": _base64(signer.pem)}:
            return None
        return Pair(base64.b64decode(user["client-certificate-data"]), base64.b64decode(user["client-key-data"]))
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _ensure(directory: Path, name: str, signer: Authority, names: Sequence[str], make: Callable[[], Pair]) -> None:
    pair = _read(directory, name)
    if not pair or not signer.vouches_for(pair, Identity(name), names):
        _write(directory, name, make())


def _matching(pair: Pair) -> x509.Certificate | None:
    """The certificate, if it can be read and the key is its own."""
    try:
        certificate, key = x509.load_pem_x509_certificate(pair.certificate), _load_key(pair.key)
    except ValueError:
        return None
    return certificate if certificate.public_key() == key.public_key() else None


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises: ValueError: it is no elliptic-curve key."""
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("no elliptic-curve key")
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC).replace(microsecond=0)
    start = min(now, now + lifetime) - _SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


def _subject(identity: Identity) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in identity.groups]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, identity.user)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(IPv4Address(text))
    except ValueError:
        return x509.DNSName(text)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )  # fmt: skip


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _read(directory: Path, name: str) -> Pair | None:
    try:
        return Pair((directory / f"{name}.crt").read_bytes(), (directory / f"{name}.key").read_bytes())
    except FileNotFoundError:
        return None


def _write(directory: Path, name: str, pair: Pair) -> None:
    """The key first: a certificate without its key would be taken for good."""
    write_atomic(directory / f"{name}.key", pair.key, mode=0o600)
    write_atomic(directory / f"{name}.crt", pair.certificate)

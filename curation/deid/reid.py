"""Who a pseudonym was: a table that the curating host can only add to, and only a private key's holder can read.

Sealed by HPKE (RFC 9180) with X25519, HKDF-SHA-256 and ChaCha20-Poly1305, as `cryptography` has it. Base mode: whoever
has the public key could add entries, so two answers for one pseudonym are refused, not chosen from.

The file has a line that names format and recipient, then one for each run that knew somebody new:
`{"marks": […], "sealed": base64}`. A mark is a keyed digest of one entry: by it a run sees, without reading, what is
there already. The number of patients can be read by everybody who has the file; nothing else.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from curation.deid.keys import PseudonymKey
from medllm.errors import UserError, user_error
from medllm.files import write_atomic

FORMAT = "medllm-reid-1"
_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
_MAKE_KEYS = (
    "make a pair: `openssl genpkey -algorithm X25519 -out reid.key`, `openssl pkey -in reid.key -pubout -out reid.pub`"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """One patient. `shift_days` is what was added to each date (negative). Never in a traceback or a log."""

    pseudonym: str
    patient_id: str = field(repr=False)
    mrn: str = field(repr=False)
    shift_days: int = field(repr=False)


@dataclass(frozen=True, slots=True)
class Table:
    """Where a run adds its patients, and for whom they are sealed."""

    file: Path
    recipient: X25519PublicKey

    def check(self, source: Path, destination: Path) -> None:
        """Refuse, before any work, what would fail or endanger the table at the end.

        Raises:
            UserError: the file lies in one of the trees, is a link, or is no table of this recipient.
        """
        place = self.file.parent.resolve() / self.file.name
        for tree, what in ((destination, "published"), (source, "raw")):
            inside = tree.resolve()
            if place == inside or inside in place.parents:
                raise user_error(f"the table would lie inside the {what} tree", "name a file elsewhere", file=self.file)
        if not self.file.parent.is_dir():
            raise user_error("there is no such directory for the table", "make it, for you alone", file=self.file)
        if self.file.is_symlink() or (self.file.exists() and not self.file.is_file()):
            raise user_error("the table is no plain file", "name the file itself", file=self.file)
        self._lines()

    def extend(self, key: PseudonymKey, identities: Iterable[Identity]) -> int:
        """Add who is not there yet, in one step; return how many. The same run again changes nothing.

        Raises:
            UserError: no table of this recipient. OSError: it cannot be written; it names the table.
        """
        with _locked(self.file.parent):
            lines = self._lines()
            known = {mark for line in lines[1:] for mark in json.loads(line)["marks"]}
            new = {mark: identity for identity in identities if (mark := _mark(key, identity)) not in known}
            if not new:
                return 0
            marks = sorted(new)
            body = json.dumps([_row(new[mark]) for mark in marks], ensure_ascii=False).encode(errors="surrogatepass")
            sealed = _SUITE.encrypt(body, self.recipient, info=_info(_fingerprint(self.recipient), marks))
            lines.append(json.dumps({"marks": marks, "sealed": base64.b64encode(sealed).decode()}))
            write_atomic(self.file, "\n".join(lines) + "\n", mode=0o600)
        return len(new)

    def _lines(self) -> list[str]:
        """The table's lines; a new one's are its header."""
        own = _fingerprint(self.recipient)
        if not self.file.exists():
            return [json.dumps({"format": FORMAT, "recipient": own})]
        lines = _checked_lines(self.file)
        if json.loads(lines[0])["recipient"] != own:
            raise user_error("the table is for another key", "give that key, or name a new table", file=self.file)
        return lines


def read_table(file: Path, reader: X25519PrivateKey) -> dict[str, Identity]:
    """All patients of the table by pseudonym; of a patient whose MRN has changed, the newest.

    Raises:
        UserError: no table, altered, for another key, or with two patients of one pseudonym.
    """
    lines = _checked_lines(file)
    recipient = _fingerprint(reader.public_key())
    if json.loads(lines[0])["recipient"] != recipient:
        raise user_error("the table is for another key", "give the private key of the key that made it", file=file)
    found: dict[str, Identity] = {}
    for number, line in enumerate(lines[1:], 2):
        facts = json.loads(line)
        try:
            sealed = base64.b64decode(facts["sealed"], validate=True)
            body = _SUITE.decrypt(sealed, reader, info=_info(recipient, facts["marks"]))
            rows = [Identity(**row) for row in json.loads(body.decode(errors="surrogatepass"))]
        except (InvalidTag, binascii.Error, ValueError, TypeError):
            _refuse(file, "this line was altered or not sealed by this command", number)
        for row in rows:
            if row.patient_id != found.get(row.pseudonym, row).patient_id:
                _refuse(file, "the table names two patients for one pseudonym", number)
            found[row.pseudonym] = row
    return found


def load_recipient(path: Path) -> X25519PublicKey:
    """The X25519 public key in a PEM file. Raises `UserError` if there is none."""
    payload = _key_bytes(path)
    try:
        key = serialization.load_pem_public_key(payload)
    except ValueError:
        key = None
    if not isinstance(key, X25519PublicKey):
        raise user_error("this is not an X25519 public key (PEM)", _MAKE_KEYS, file=path)
    return key


def load_reader(path: Path) -> X25519PrivateKey:
    """The X25519 private key in a PEM file that only its owner can read. Raises `UserError` if there is none."""
    payload = _key_bytes(path)
    if path.stat().st_mode & 0o077:
        raise user_error("others can read this private key", "run `chmod 600` on it", file=path)
    try:
        key = serialization.load_pem_private_key(payload, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, X25519PrivateKey):
        raise user_error("this is not an X25519 private key (PEM, no password)", _MAKE_KEYS, file=path)
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise user_error("there is no key", _MAKE_KEYS, file=path) from None


def _checked_lines(file: Path) -> list[str]:
    """The lines of a table, each of the right form; what is sealed in them is not looked at."""
    try:
        status = file.stat()
        lines = file.read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise user_error(
            "there is no such table", "name what `medllm data deid --reid-table` wrote", file=file
        ) from None
    except UnicodeDecodeError:
        lines = []
    if not lines or not _is_header(_parsed(lines[0])):
        _refuse(file, f"this is not a {FORMAT} table", None)
    if status.st_mode & 0o077:
        raise user_error("others can read the table", "run `chmod 600` on it", file=file)
    for number, line in enumerate(lines[1:], 2):
        if not _is_entry(_parsed(line)):
            _refuse(file, "this line was altered or not sealed by this command", number)
    return lines


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_header(facts: Any) -> bool:
    return isinstance(facts, dict) and facts.get("format") == FORMAT and isinstance(facts.get("recipient"), str)


def _is_entry(facts: Any) -> bool:
    return (
        isinstance(facts, dict)
        and isinstance(facts.get("sealed"), str)
        and isinstance(facts.get("marks"), list)
        and all(isinstance(mark, str) for mark in facts["marks"])
    )


def _refuse(file: Path, rule: str, line: int | None) -> NoReturn:
    error: UserError = user_error(rule, "restore the table from its backup, or name a new one", file=file, line=line)
    raise error from None


def _row(identity: Identity) -> dict[str, str | int]:
    return {
        "pseudonym": identity.pseudonym,
        "patient_id": identity.patient_id,
        "mrn": identity.mrn,
        "shift_days": identity.shift_days,
    }


def _mark(key: PseudonymKey, identity: Identity) -> str:
    """128 keyed bits: without the key nobody can try out record numbers; a million patients collide once in 10^26."""
    return key.mark("reid", json.dumps(_row(identity), sort_keys=True))


def _info(recipient: str, marks: list[str]) -> bytes:
    """Binds an entry to this format, its recipient and its marks."""
    return "\0".join((FORMAT, recipient, *marks)).encode()


def _fingerprint(key: X25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One run at a time extends tables of this directory; a lock of the file itself would go with its replacement."""
    handle = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""What a patient is called and how far the patient's dates move: keyed, so that only the key's holder can link them.

A plain hash of a record number can be undone by trying all numbers; HMAC-SHA-256 with a secret key can't. The key stays
in a file of mode 0600 on the curating host. Losing it unlinks old and new releases; leaking it undoes the pseudonyms.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from medllm.errors import user_error
from medllm.files import state_dir, write_atomic

KEY_BYTES = 32
# Dates move back by one to six years, never less: a shifted date of a stay can't be another true date of it.
MINIMUM_SHIFT, SHIFTS = 366, 1826


def keys_dir() -> Path:
    """Where the curating host keeps its secret keys."""
    return state_dir() / "keys"


@dataclass(frozen=True, slots=True)
class PseudonymKey:
    """Derives all that replaces identity. Equal input gives equal output, on each run and machine with this key."""

    secret: bytes

    def __repr__(self) -> str:
        return "PseudonymKey(…)"

    def _derive(self, purpose: str, value: str) -> bytes:
        # A file's name need not be UTF-8; Python then holds its bytes as lone surrogates.
        return hmac.new(self.secret, f"{purpose}\0{value}".encode(errors="surrogatepass"), hashlib.sha256).digest()

    def patient(self, identifier: str) -> str:
        """The patient's pseudonym: `p` and 80 bits in hex."""
        return "p" + self._derive("patient", identifier).hex()[:20]

    def shift_days(self, identifier: str) -> int:
        """By how many days all of the patient's dates move (negative: into the past)."""
        return -(MINIMUM_SHIFT + int.from_bytes(self._derive("shift", identifier)[:8]) % SHIFTS)

    def uid(self, uid: str) -> str:
        """A DICOM UID in the 2.25 arc (PS3.5 B.2) from 128 keyed bits."""
        return f"2.25.{int.from_bytes(self._derive('uid', uid)[:16])}"

    def digest(self, value: str) -> str:
        """A short keyed name for something that must not be named (a file in a report)."""
        return self._derive("item", value).hex()[:12]

    def mark(self, purpose: str, value: str) -> str:
        """128 keyed bits in hex: equal for equal values, and no two values share them by chance."""
        return self._derive(f"mark-{purpose}", value).hex()[:32]


def shift_dicom_date(value: str, days: int) -> str | None:
    """A DA value or the date at the start of a DT value, moved; None when it is no date."""
    text = value.replace(".", "") if len(value) == 10 and value[4] == "." else value
    try:
        moved = date(int(text[:4]), int(text[4:6]), int(text[6:8])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return f"{moved:%Y%m%d}{text[8:]}" if moved.year >= 1000 else None


def load_pseudonym_key(path: Path | None = None) -> PseudonymKey:
    """The key in `path` (default: the host's own, made on first use).

    Raises:
        UserError: others can read the file, or it holds no key.
    """
    path = path or keys_dir() / "pseudonym.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, secrets.token_bytes(KEY_BYTES).hex() + "\n", mode=0o600)
    if path.stat().st_mode & 0o077:
        raise user_error("others can read the key of the pseudonyms", "run `chmod 600` on it", file=path)
    try:
        secret = bytes.fromhex(path.read_text().strip())
    except (ValueError, OSError):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise user_error(
            "this is not a key of the pseudonyms",
            f"restore it from its backup ({KEY_BYTES} bytes in hex); a new key gives every patient a new pseudonym",
            file=path,
        )
    return PseudonymKey(secret)

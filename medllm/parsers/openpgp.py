"""OpenPGP keys (RFC 4880 and RFC 9580) where no `gpg` is installed: their fingerprints, and which may be trusted."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection, Iterator

_BEGIN, _END = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
_PUBLIC_KEY = 6
# What belongs to a public key: signature, the key itself, user ID, subkey, user attribute.
_PARTS_OF_A_KEY = frozenset({2, _PUBLIC_KEY, 13, 14, 17})
# gpg's own notes about trust, which an export does not have and no reader needs.
_LOCAL_TRUST = 12


def fingerprints(keyring: bytes) -> tuple[str, ...]:
    """Fingerprints of the primary keys in a keyring, binary or armored: 40 capital hex digits each.

    Raises:
        ValueError: no key in it, cut off, or a key older than version 4.
    """
    found = tuple(_fingerprint(body) for tag, body in _packets(_binary(keyring)) if tag == _PUBLIC_KEY)
    if not found:
        raise ValueError("keyring: no public key in it")
    return found


def trusted_keys(keyring: bytes, trusted: Collection[str] | None) -> str:
    """The keys of a keyring, armored anew, if the fingerprint of each is in `trusted` (None: whichever they are).

    Only what was read here is written again. In the file as it came another program might find a key that this one
    passed over: apt takes any armored block for keys, whatever its head says.

    Raises:
        ValueError: nothing or something else than public keys in it, or a key that is not in `trusted`.
    """
    found = fingerprints(keyring)
    if trusted is not None and (others := [name for name in found if name not in trusted]):
        raise ValueError(f"the key is {' and '.join(others)}, and declared is {' or '.join(trusted)}")
    data = b""
    for tag, body in _packets(_binary(keyring)):
        if tag == _LOCAL_TRUST:
            continue
        if tag not in _PARTS_OF_A_KEY or (not data and tag != _PUBLIC_KEY):
            raise ValueError(f"keyring: a packet of type {tag}, which is no part of a public key")
        data += bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body
    lines = base64.b64encode(data).decode()
    return "\n".join([_BEGIN, "", *(lines[at : at + 64] for at in range(0, len(lines), 64)), _END, ""])


def _fingerprint(body: bytes) -> str:
    if not body or body[0] != 4:
        raise ValueError(f"keyring: a public key of version {body[0] if body else '?'}; only 4 is read")
    packet = b"\x99" + len(body).to_bytes(2, "big") + body
    return hashlib.sha1(packet, usedforsecurity=False).hexdigest().upper()


def _binary(keyring: bytes) -> bytes:
    return _dearmored(keyring) if _BEGIN.encode() in keyring else keyring


def _dearmored(keyring: bytes) -> bytes:
    data = b""
    for block in keyring.decode("ascii", errors="replace").split(_BEGIN)[1:]:
        body, end, _ = block.partition(_END)
        if not end:
            raise ValueError("keyring: an armored block without its end")
        # After the armor headers and an empty line come the base64 lines, then "=" and a checksum.
        _, blank, text = body.replace("\r\n", "\n").partition("\n\n")
        lines = [line.strip() for line in (text if blank else body).splitlines()]
        try:
            data += base64.b64decode("".join(line for line in lines if not line.startswith("=")), validate=True)
        except binascii.Error as error:
            raise ValueError(f"keyring: the armor is not base64 ({error})") from None
    return data


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        header = data[at]
        if not header & 0x80:
            raise ValueError(f"keyring, byte {at}: no OpenPGP packet")
        at += 1
        if header & 0x40:
            tag = header & 0x3F
            length, at = _new_length(data, at)
        else:
            tag = (header >> 2) & 0x0F
            size = 1 << (header & 3)
            if size == 8:
                raise ValueError(f"keyring, byte {at}: a packet of unknown length")
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("keyring: the last packet is cut off")
        yield tag, data[at : at + length]
        at += length


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at] if at < len(data) else 255
    if first < 192:
        return first, at + 1
    if first < 224 and at + 1 < len(data):
        return ((first - 192) << 8) + data[at + 1] + 192, at + 2
    if first == 255 and at + 5 <= len(data):
        return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
    raise ValueError(f"keyring, byte {at}: a packet in parts, or cut off")

"""Fingerprints of OpenPGP keys (RFC 4880 and RFC 9580), for nodes on which no `gpg` is installed."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator

_BEGIN, _END = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
_PUBLIC_KEY = 6


def fingerprints(keyring: bytes) -> tuple[str, ...]:
    """Fingerprints of the primary keys in a keyring, binary or armored: 40 capital hex digits each.

    Raises:
        ValueError: no key in it, cut off, or a key older than version 4.
    """
    data = _dearmored(keyring) if _BEGIN.encode() in keyring else keyring
    found = []
    for tag, body in _packets(data):
        if tag == _PUBLIC_KEY:
            if not body or body[0] != 4:
                raise ValueError(f"keyring: a public key of version {body[0] if body else '?'}; only 4 is read")
            packet = b"\x99" + len(body).to_bytes(2, "big") + body
            found.append(hashlib.sha1(packet, usedforsecurity=False).hexdigest().upper())
    if not found:
        raise ValueError("keyring: no public key in it")
    return tuple(found)


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

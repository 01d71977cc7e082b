"""Signing a dossier, verifying it, and waiving items: who answers for what, until when."""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import TypeAdapter, ValidationError

from benchmarks.dossier import store
from benchmarks.dossier.model import Dossier, Item, Signature, Signatures, Statement, Waiver
from medllm.errors import user_error
from medllm.files import state_dir, write_atomic
from medllm.manifest import load_or_create_private_key, public_key_pem
from medllm.verdict import Evidence, Measurement, Outcome, Threshold, judge, label, worst


class Refused(Exception):  # noqa: N818 - a verdict, not an error
    """The dossier is not signed; `args` are the reasons."""


_WAIVERS = TypeAdapter(list[Waiver])


def waivers_file(site: str) -> Path:
    """Where the waivers of a site are kept."""
    return state_dir() / "waivers" / f"{site}.json"


def read_waivers(site: str) -> list[Waiver]:
    """All waivers of a site, expired ones too. Raises UserError."""
    path = waivers_file(site)
    if not path.exists():
        return []
    try:
        return _WAIVERS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise user_error(
            f"not a list of waivers: {error.errors()[0]['msg']}", "correct or remove it", file=path
        ) from None


def add_waiver(site: str, waiver: Waiver) -> None:
    """Store a waiver; one of the same check and host is replaced."""
    kept = [old for old in read_waivers(site) if (old.check, old.host) != (waiver.check, waiver.host)]
    data = [item.model_dump(mode="json") for item in (*kept, waiver)]
    write_atomic(waivers_file(site), json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def obstacles(dossier: Dossier, waivers: Sequence[Waiver], now: datetime) -> list[str]:
    """Why this dossier can't be signed; empty when it can."""
    reasons = []
    if not dossier.complete:
        reasons.append("it covers only a part: run without --tag and --host")
    simulated = [item for item in dossier.items if item.evidence is Evidence.SIMULATED]
    if simulated:
        reasons.append(
            f"{len(simulated)} items stand on simulated evidence, which nothing can waive: {_brief(simulated)}; "
            f"for example {simulated[0].evidence_reason}"
        )
    if not any(item.outcome is Outcome.PASS and item.evidence is Evidence.MEASURED for item in dossier.items):
        reasons.append("nothing in it was measured and passed")
    for outcome in (Outcome.FAIL, Outcome.NOT_RUN, Outcome.INCONCLUSIVE):
        open_items = [
            item
            for item in dossier.items
            if item.outcome is outcome and not any(waiver.covers(item, now) for waiver in waivers)
        ]
        if open_items:
            reasons.append(f"{len(open_items)} {outcome} without a valid waiver: {_brief(open_items)}")
    return reasons


def sign(folder: Path, key: Ed25519PrivateKey, signer: str, role: str) -> Signature:
    """Add a signature to a dossier.

    Raises:
        Refused: the dossier was altered since this machine wrote it, or something stands against signing it.
        UserError: there is no dossier, or the signer or role is no text of two characters or more.
    """
    dossier, payload = store.read_bytes(folder)
    now = datetime.now(UTC)
    waivers = read_waivers(dossier.site.name)
    own = load_or_create_private_key(store.own_key()).public_key()
    reasons = seal_faults(folder, payload, own) + faults(folder, dossier) + obstacles(dossier, waivers, now)
    if reasons:
        raise Refused(*reasons)
    used = [waiver for waiver in waivers if any(waiver.covers(item, now) for item in dossier.items)]
    try:
        statement = Statement(
            dossier_sha256=store.sha256(payload), signer=one_line(signer), role=one_line(role), time=now, waivers=used
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise user_error(first["msg"], "give a name and a role", key=f"--{first['loc'][0]}") from None
    signature = Signature(
        statement=statement,
        public_key=public_key_pem(key.public_key()).decode(),
        signature=base64.b64encode(key.sign(store.dumps(statement).encode())).decode(),
    )
    earlier = store.read_signatures(folder).signatures
    write_atomic(folder / store.SIGNATURES, store.dumps(Signatures(signatures=[*earlier, signature])))
    return signature


def one_line(text: str) -> str:
    """A person's words as they are kept: blanks and line breaks are no content."""
    return " ".join(text.split())


def seal_faults(folder: Path, payload: bytes, own: Ed25519PublicKey | None) -> list[str]:
    """Whether the dossier's bytes are those that `medllm accept run` wrote; with `own`, on this very machine."""
    seal = store.read_seal(folder)
    if seal is None:
        return ["it has no seal: run `medllm accept run` again"] if own is not None else []
    if not _holds(seal.public_key, seal.signature, payload):
        return [f"{store.JSON} was altered after `medllm accept run` wrote it"]
    if own is not None and public_key_pem(own).decode() != seal.public_key:
        return ["another machine's `medllm accept run` sealed it: sign it there"]
    return []


def _holds(public_key: str, signature: str, payload: bytes) -> bool:
    try:
        key = serialization.load_pem_public_key(public_key.encode())
        if not isinstance(key, Ed25519PublicKey):
            return False
        key.verify(base64.b64decode(signature, validate=True), payload)
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def faults(folder: Path, dossier: Dossier) -> list[str]:
    """What in a dossier's folder does not fit together: raw texts that were altered, outcomes that do not follow."""
    found = []
    for digest in dict.fromkeys(artifact.sha256 for artifact in dossier.artifacts):
        path = folder / store.RAW / f"{digest}.txt"
        if not path.is_file():
            found.append(f"the raw text {digest[:12]}… is missing")
        elif store.sha256(path.read_bytes()) != digest:
            found.append(f"the raw text {digest[:12]}… was altered")
    known = {artifact.sha256 for artifact in dossier.artifacts}
    for item in dossier.items:
        place = f"{item.check} on {item.host}"
        if not set(item.artifacts) <= known:
            found.append(f"{place} names a raw text that is not in the dossier")
        if item.label != label(item.outcome, item.evidence):
            found.append(f"{place} is called {item.label}, which its outcome and evidence do not give")
        if not _follows(item):
            found.append(f"{place}: {item.outcome} does not follow from its measurements")
    return found


def signature_faults(folder: Path, trusted: Ed25519PublicKey | None) -> list[str]:
    """What is wrong with a dossier's signatures; `trusted` is the one key that counts, when given."""
    dossier, payload = store.read_bytes(folder)
    digest = store.sha256(payload)
    found = []
    signatures = store.read_signatures(folder).signatures
    for signature in signatures:
        statement = signature.statement
        who = f"the signature of {statement.signer}"
        if not _holds(signature.public_key, signature.signature, store.dumps(statement).encode()):
            found.append(f"{who} does not hold")
            continue
        if statement.dossier_sha256 != digest:
            found.append(f"{who} is of another dossier (or this one was altered)")
        # Who signs by other means than `sign` may sign anything.
        found += [f"{who} counts for nothing: {why}" for why in obstacles(dossier, statement.waivers, statement.time)]
        if trusted is not None and public_key_pem(trusted).decode() != signature.public_key:
            found.append(f"{who} is by another key than the given one")
    if trusted is not None and not signatures:
        found.append("it is not signed")
    return found


def _follows(item: Item) -> bool:
    """Judge the recorded measurements again; an item without any may only be NOT_RUN."""
    if not item.measurements:
        return item.outcome is Outcome.NOT_RUN
    wanted = item.threshold
    threshold = Threshold(
        item.check,
        wanted.quantity,
        wanted.op,
        wanted.value,
        wanted.unit,
        wanted.asked,
        wanted.source,
        wanted.derivation,
        wanted.low,
        wanted.high,
    )
    again = [
        judge(
            Measurement(
                part.value, part.unit, item.host, part.device, part.command, part.time, (), part.detail, part.refuted,
                part.unsure,
            ),
            threshold,
        ).outcome
        for part in item.measurements
    ]  # fmt: skip
    return again == [part.outcome for part in item.measurements] and worst(again) is item.outcome


def _brief(items: Sequence[Item]) -> str:
    counts = Counter(item.check for item in items)
    return ", ".join(f"{check} ({count})" for check, count in counts.items())

"""`medllm data deid`: a tree of patients in, a validated and signed tree of pseudonyms out; what fails is held back.

In:  `patients/<patient>/{meta.json, note*.txt, *.dcm, *.csv, *.edf}`
Out: `patients/<pseudonym>/…`, `report.json` (one entry a file), manifest and signature.
A file that fails is not written; the report names it by a keyed digest with a reason, so that nobody has to guess.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from curation.deid import dicom, pixels
from curation.deid.dicom import UnsafeError
from curation.deid.keys import PseudonymKey
from curation.deid.recordings import clean_csv, clean_edf
from curation.deid.text import known_identifiers, redact
from curation.deid.validate import Roster, Verdict, known_values, scan, validate_known, validate_text
from curation.deid.validate_dicom import validate_dicom
from medllm.errors import user_error
from medllm.files import staged_directory, write_atomic
from medllm.manifest import MANIFEST_NAME, sign_manifest

REPORT = "report.json"
STAGE = "deid"
# Of meta.json only these go on; they describe the note, not the person.
_KEPT_META = ("lang", "kind")
_LONG = 10_000


@dataclass(slots=True)
class Summary:
    """What one run did. Counts only."""

    patients: int = 0
    passed: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    phi: Counter[str] = field(default_factory=Counter)
    left: int = 0
    seconds: float = 0.0
    manifest_sha256: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json` and the manifest (without the time, which would change its hash)."""
        return {
            "patients": self.patients,
            "files_passed": self.passed,
            "files_quarantined": sum(self.quarantined.values()),
            "quarantine_reasons": dict(sorted(self.quarantined.items())),
            "phi_counts": {kind: {"original": count, "redacted": 0} for kind, count in sorted(self.phi.items())},
            "validation_passed": self.passed > 0 and self.left == 0,
        }


@dataclass(frozen=True, slots=True)
class _Patient:
    folder: Path
    identifier: str
    pseudonym: str
    days: int
    meta: dict[str, Any]

    @property
    def record(self) -> dict[str, str]:
        return {**dict(_flat(self.meta.get("patient", {}), "")), "patient_id": self.identifier}


def deidentify_tree(
    source: Path, destination: Path, key: PseudonymKey, signer: Ed25519PrivateKey, *, blank_pixels: bool = False
) -> Summary:
    """De-identify `source` into `destination`, which appears whole or not at all.

    Args:
        blank_pixels: blank text in pictures that may show some, instead of holding them back

    Raises:
        UserError: no such tree, a destination that is not ours to replace, or no detector to blank with.
    """
    begin = time.monotonic()
    _quiet()
    if blank_pixels:
        pixels.check_installed()
    patients_dir = check_paths(source, destination, needs="patients")
    summary = Summary()
    report: list[dict[str, Any]] = []
    try:
        with staged_directory(destination) as staging:
            patients = list(_patients(patients_dir, key, report))
            roster = _roster(patients)
            for patient in patients:
                report += _patient(patient, staging, key, roster, summary, _handlers(blank_pixels))
            summary.patients = len(patients)
            for entry in report:
                if entry["validation_passed"]:
                    summary.passed += 1
                else:
                    summary.quarantined[entry["reason"]] += 1
            if not summary.passed:
                reasons = ", ".join(f"{count} x {reason}" for reason, count in summary.quarantined.most_common())
                raise user_error(f"no file passed ({reasons or 'there is none'})", "mend the raw tree", file=source)
            write_atomic(
                staging / REPORT, json.dumps({"files": report}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
            )
            summary.manifest_sha256 = sign_manifest(staging, signer, {"stage": STAGE, "summary": summary.as_json()})
    except OSError as error:
        # A path below the source may be the patient's name.
        raise OSError(error.errno, f"{error.strerror} (de-identifying into it)", str(destination)) from None
    summary.seconds = time.monotonic() - begin
    return summary


def check_paths(source: Path, destination: Path, *, needs: str) -> Path:
    """`source/needs`, after both paths are known to be apart and the destination free or made by us."""
    wanted = source / needs
    if not wanted.is_dir():
        raise user_error(f"there is no directory {needs!r} here", "name the directory that holds it", file=source)
    inside, outside = source.resolve(), destination.resolve()
    if outside == inside or inside in outside.parents or outside in inside.parents:
        raise user_error(
            "source and destination lie inside each other", "name two separate directories", file=destination
        )
    if destination.is_symlink():
        raise user_error("the destination is a symbolic link", "name the directory itself", file=destination)
    if destination.exists() and not (destination / MANIFEST_NAME).is_file():
        raise user_error(
            "the destination exists and was not made by this command",
            "name a new directory, or remove this one",
            file=destination,
        )
    return wanted


def _quiet() -> None:
    """The DICOM library logs values that it finds odd."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


def _patients(folder: Path, key: PseudonymKey, report: list[dict[str, Any]]) -> Iterator[_Patient]:
    """Each patient with usable meta.json; without it nothing can be checked, so everything is held back."""
    seen: set[str] = set()
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_dir():
            report.append(_held(key.digest(path.name), key.digest(path.name), "not_a_patient_directory"))
            continue
        meta = _meta(path / "meta.json")
        identifier = str(meta["patient_id"]).strip() if meta else ""
        if meta is None or identifier in seen:
            # Two folders of one number may be two people, and one's files would take the place of the other's.
            reason = "no_usable_meta" if meta is None else "patient_id_stands_twice"
            report += [
                _held(key.digest(path.name), key.digest(item.name), reason)
                for item in _files(path)
                if meta is None or item != path / "meta.json"
            ]
            continue
        seen.add(identifier)
        yield _Patient(path, identifier, key.patient(identifier), key.shift_days(identifier), meta)


def _meta(path: Path) -> dict[str, Any] | None:
    """A patient's meta.json; None unless it says who that is."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(meta, dict) or not isinstance(meta.get("patient", {}), dict):
        return None
    identifier = meta.get("patient_id")
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or not str(identifier).strip():
        return None
    return meta


def _flat(value: object, field: str) -> Iterator[tuple[str, str]]:
    """The values of a structured record as texts: a long number identifies as a text does, an age does not."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{field}.{key}" if field else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _flat(item, f"{field}.{number}")
    elif isinstance(value, str) or (isinstance(value, int) and abs(value) >= _LONG):
        yield field, str(value)


def _roster(patients: list[_Patient]) -> Roster:
    """Names of the structured records and the words that the notes write in lower case."""
    names = {patient.record["name"] for patient in patients if patient.record.get("name")}
    ordinary: set[str] = set()
    for patient in patients:
        for path in sorted(patient.folder.glob("note*.txt")):
            if path.is_symlink() or not path.is_file():
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            ordinary.update(word for word in "".join(c if c.isalpha() else " " for c in text).split() if word.islower())
    return Roster(frozenset(names), frozenset(ordinary))


def _files(folder: Path) -> list[Path]:
    """Everything below that is no directory. Raises OSError for a directory that can't be read."""

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        links = [name for name in folders if Path(root, name).is_symlink()]
        found += [Path(root, name) for name in (*names, *links)]
    return sorted(found)


def _patient(
    patient: _Patient,
    staging: Path,
    key: PseudonymKey,
    roster: Roster,
    summary: Summary,
    handlers: dict[str, _Handler],
) -> Iterator[dict[str, Any]]:
    numbers: Counter[str] = Counter()
    target = staging / "patients" / patient.pseudonym
    for path in _files(patient.folder):
        if path.name == "meta.json" and path.parent == patient.folder and not path.is_symlink():
            continue
        handler = handlers.get(path.suffix.lower())
        if path.is_symlink():
            yield _held(patient.pseudonym, key.digest(path.name), "symbolic_link")
            continue
        if not path.is_file():  # reading a pipe would never end
            yield _held(patient.pseudonym, key.digest(path.name), "special_file")
            continue
        if handler is None:
            yield _held(patient.pseudonym, key.digest(path.name), "unsupported_file")
            continue
        # The given file name may be the patient's; ours says the kind and a number.
        numbers[path.suffix.lower()] += 1
        number = numbers[path.suffix.lower()]
        name = _STEMS[path.suffix.lower()] + (f"-{number}" if number > 1 else "") + path.suffix.lower()
        try:
            output, verdict = handler(path.read_bytes(), patient, key, roster)
        except UnsafeError as problem:
            yield _held(patient.pseudonym, name, problem.reason)
            continue
        except Exception as problem:  # any message may quote the patient's data: only its type is told
            yield _held(patient.pseudonym, name, f"failed_{type(problem).__name__}")
            continue
        entry = {"patient": patient.pseudonym, "file": name, **verdict.as_json()}
        if verdict.passed:
            for kind, count in verdict.phi_counts.items():
                summary.phi[kind] += count["original"]
            write_atomic(target / name, output)
        else:
            entry["reason"] = "validation_found_" + ("_and_".join(sorted(verdict.findings)) or "leftovers")
        yield entry
    if target.is_dir():
        kept = {field: patient.meta[field] for field in _KEPT_META if _is_plain(patient.meta.get(field), roster)}
        write_atomic(target / "meta.json", json.dumps({"patient": patient.pseudonym, **kept}, sort_keys=True) + "\n")


def _is_plain(value: object, roster: Roster) -> bool:
    """A short word that is part of nobody's name."""
    names = {part for name in roster.names for part in name.lower().replace(",", " ").split()}
    return (
        isinstance(value, str)
        and 0 < len(value) <= 24
        and value.replace("_", "").isalpha()
        and value.isascii()
        and names.isdisjoint({value.lower(), *value.lower().split("_")})
    )


def _held(patient: str, file: str, reason: str) -> dict[str, Any]:
    return {"patient": patient, "file": file, "validation_passed": False, "reason": reason}


def _note(data: bytes, patient: _Patient, _key: PseudonymKey, roster: Roster) -> tuple[bytes, Verdict]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = data.decode("gb18030")
        except UnicodeDecodeError:
            raise UnsafeError("unreadable") from None
    result = redact(text, patient.days, known_identifiers(patient.record))
    found = [(span.kind.value, text[span.start : span.end]) for span in result.spans]
    return result.text.encode(), validate_text(text, result.text, found, patient.record, roster)


def _image(
    data: bytes, patient: _Patient, key: PseudonymKey, _roster: Roster, *, blank_pixels: bool = False
) -> tuple[bytes, Verdict]:
    dataset, counts = dicom.deidentify(dicom.read(data), key, patient.identifier, blank_pixels=blank_pixels)
    written = dicom.write(dataset)
    verdict = validate_dicom(
        dicom.read(data), len(data), dicom.read(written), written, patient.record, patient.pseudonym
    )
    if "blanked" in counts:
        verdict.phi_counts["text_in_pixels"] = {
            "original": counts["blanked"], "redacted": verdict.findings["text_in_pixels"],
        }  # fmt: skip
    return written, verdict


def _csv(data: bytes, patient: _Patient, _key: PseudonymKey, _roster: Roster) -> tuple[bytes, Verdict]:
    output, dropped = clean_csv(data, patient.days)
    return output, _recording(
        data, output, output[: output.find(b"\n\n") if b"\n\n" in output else 2000], dropped, patient
    )


def _edf(data: bytes, patient: _Patient, _key: PseudonymKey, _roster: Roster) -> tuple[bytes, Verdict]:
    output, dropped = clean_edf(data, patient.days)
    return output, _recording(data, output, output[:256], dropped, patient)


def _recording(data: bytes, output: bytes, head: bytes, dropped: int, patient: _Patient) -> Verdict:
    """The known values must be nowhere; the header must look clean."""
    verdict = validate_known(len(data), output, known_values(patient.record), length=len(output))
    comments = "\n".join(line for line in head.decode("utf-8", "replace").splitlines() if line.startswith("#"))
    verdict.findings += scan(comments)
    verdict.phi_counts["header_field"] = {"original": dropped, "redacted": 0}
    return verdict


_Handler = Callable[[bytes, _Patient, PseudonymKey, Roster], tuple[bytes, Verdict]]


def _handlers(blank_pixels: bool) -> dict[str, _Handler]:
    return {".txt": _note, ".dcm": partial(_image, blank_pixels=blank_pixels), ".csv": _csv, ".edf": _edf}


_STEMS = {".txt": "note", ".dcm": "image", ".csv": "ecg", ".edf": "ecg"}

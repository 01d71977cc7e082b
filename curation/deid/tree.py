"""`medllm data deid`: a tree of patients in, a validated and signed tree of pseudonyms out; what fails is held back.

In:  `patients/<patient>/{meta.json, note*.txt, *.dcm, *.csv, *.edf}`
Out: `patients/<pseudonym>/…`, `report.json` (one entry a file), manifest and signature.
A file that fails is not written; the report names it by a keyed digest with a reason, so that nobody has to guess.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from curation.deid import pixels
from curation.deid.decode import decode_note
from curation.deid.handlers import HANDLERS, STEMS, Given, Patient, Run, Seen
from curation.deid.intake import check_plain, files_below, read_plain
from curation.deid.keys import PseudonymKey
from curation.deid.reid import Table
from curation.deid.report import write_report
from curation.deid.unsafe import UnsafeError
from curation.deid.validate import Roster
from curation.review.sample import NOT_DONE, Sampling, not_done
from curation.room import room_at
from medllm.errors import user_error
from medllm.files import staged_directory, write_atomic
from medllm.manifest import MANIFEST_NAME, sign_manifest

REPORT = "report.json"
STAGE = "deid"
# Of meta.json only these go on; they describe the note, not the person.
_KEPT_META = ("lang", "kind")
_WORD = re.compile(r"[^\W\d_]+")
_MOST_WORDS = 1_000_000


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
    review: str = NOT_DONE

    def as_json(self) -> dict[str, Any]:
        """For `--json` and the manifest (without the time, which would change its hash)."""
        return {
            "patients": self.patients,
            "files_passed": self.passed,
            "files_quarantined": sum(self.quarantined.values()),
            "quarantine_reasons": dict(sorted(self.quarantined.items())),
            "phi_counts": {kind: {"original": count, "redacted": 0} for kind, count in sorted(self.phi.items())},
            "validation_passed": self.passed > 0 and self.left == 0,
            "review": self.review,
        }


def deidentify_tree(
    source: Path,
    destination: Path,
    key: PseudonymKey,
    signer: Ed25519PrivateKey,
    table: Table | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    *,
    blank_pixels: bool = False,
) -> Summary:
    """De-identify `source` into `destination`, which appears whole or not at all.

    Args:
        table: gets who is who, before the destination appears: nobody is published who can't be found again
        sampling: how the notes that a person will read are drawn
        blank_pixels: blank text in pictures that may show some, instead of holding them back

    Raises:
        UserError: no such tree, a destination that is not ours to replace, no room for it, a table that can't be
            extended, or no detector to blank with.
        OSError: the destination or the table cannot be written.
    """
    begin = time.monotonic()
    _quiet()
    patients_dir = check_paths(source, destination, needs="patients")
    if table:
        table.check(source, destination)
    if blank_pixels:
        pixels.check_installed()
    summary = Summary()
    report: list[dict[str, Any]] = []
    try:
        with room_at(destination), staged_directory(destination) as staging:
            patients = list(_patients(patients_dir, key, report))
            roster = _roster(patients)
            run = Run(key, roster, Seen(), blank_pixels)
            for patient in patients:
                report += _patient(patient, staging, run)
            _hold_shared(report, staging, run.seen)
            for patient in patients:
                _write_meta(patient, staging, roster)
            summary.patients = len(patients)
            for entry in report:
                if entry["validation_passed"]:
                    summary.passed += 1
                    for kind, count in entry["phi_counts"].items():
                        summary.phi[kind] += count["original"]
                else:
                    summary.quarantined[entry["reason"]] += 1
            if not summary.passed:
                reasons = ", ".join(f"{count} x {reason}" for reason, count in summary.quarantined.most_common())
                raise user_error(f"no file passed ({reasons or 'there is none'})", "mend the raw tree", file=source)
            notes = sorted(path.relative_to(staging).as_posix() for path in staging.glob("patients/*/note*.txt"))
            write_report(staging, report, not_done(staging, notes, sampling))
            summary.manifest_sha256 = sign_manifest(staging, signer, {"stage": STAGE, "summary": summary.as_json()})
            if table:
                published = [patient for patient in patients if (staging / "patients" / patient.pseudonym).is_dir()]
                table.extend(key, (patient.identity for patient in published))
    except OSError as error:
        if table and error.filename in {str(table.file), str(table.file.parent)}:
            raise
        # A path below the source may be the patient's name.
        raise OSError(error.errno, f"{error.strerror} (de-identifying into it)", str(destination)) from None
    summary.seconds = time.monotonic() - begin
    return summary


def check_paths(source: Path, destination: Path, *, needs: str) -> Path:
    """`source/needs`, after both paths are known to be apart and the destination free or made by us."""
    wanted = source / needs
    if wanted.is_symlink():
        raise user_error(f"{needs!r} is a symbolic link", "name the directory that really holds it", file=source)
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


def _patients(folder: Path, key: PseudonymKey, report: list[dict[str, Any]]) -> Iterator[Patient]:
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
                for item in files_below(path)
                if meta is None or item != path / "meta.json"
            ]
            continue
        seen.add(identifier)
        yield Patient(path, identifier, key.patient(identifier), key.shift_days(identifier), meta)


def _meta(path: Path) -> dict[str, Any] | None:
    """A patient's meta.json; None unless it says who that is."""
    try:
        meta = json.loads(read_plain(path).decode("utf-8"))
    except (OSError, UnsafeError, ValueError, RecursionError):
        return None
    if not isinstance(meta, dict) or not isinstance(meta.get("patient", {}), dict):
        return None
    identifier = meta.get("patient_id")
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or not str(identifier).strip():
        return None
    return meta


def _roster(patients: list[Patient]) -> Roster:
    """Names of the structured records and the words that the notes write in lower case."""
    names = {patient.record["name"] for patient in patients if patient.record.get("name")}
    ordinary: set[str] = set()
    for patient in patients:
        for path in sorted(patient.folder.glob("note*.txt")):
            try:
                text = decode_note(read_plain(path))
            except (OSError, UnsafeError):
                continue  # its own turn comes, and then it is held back
            for match in _WORD.finditer(text):
                # The fewer words count as ordinary, the more is held back: a bound here is safe.
                if len(ordinary) < _MOST_WORDS and match.group().islower():
                    ordinary.add(match.group())
    return Roster(frozenset(names), frozenset(ordinary))


def _patient(patient: Patient, staging: Path, run: Run) -> Iterator[dict[str, Any]]:
    numbers: Counter[str] = Counter()
    taken: set[Path] = set()
    # Headers first: they say what the files beside them are.
    for path in sorted(files_below(patient.folder), key=lambda path: path.suffix.lower() != ".hea"):
        if path == patient.folder / "meta.json" or path in taken:
            continue
        suffix = path.suffix.lower()
        name = run.key.digest(path.name)
        try:
            check_plain(path)
            handler = HANDLERS.get(suffix)
            if handler is None:
                raise UnsafeError("unsupported_file")
            # The given file name may be the patient's; ours says the kind and a number.
            numbers[suffix] += 1
            name = STEMS[suffix] + (f"-{numbers[suffix]}" if numbers[suffix] > 1 else "") + suffix
            cleaned = handler(Given(read_plain(path), path, name), patient, run)
        except UnsafeError as problem:
            yield _held(patient.pseudonym, name, problem.reason)
            continue
        except Exception as problem:  # any message may quote the patient's data: only its type is told
            yield _held(patient.pseudonym, name, f"failed_{type(problem).__name__}")
            continue
        taken.update(cleaned.taken)
        parts = {name: (cleaned.output, cleaned.verdict), **cleaned.others}
        found = {
            kind for _, verdict in parts.values() if not verdict.passed for kind in verdict.findings or ("leftovers",)
        }
        for part, (output, verdict) in parts.items():
            entry = {"patient": patient.pseudonym, "file": part, **verdict.as_json()}
            if found:  # one part is of no use without the others
                entry |= {"validation_passed": False, "reason": "validation_found_" + "_and_".join(sorted(found))}
            else:
                write_atomic(staging / "patients" / patient.pseudonym / part, output)
            yield entry


def _hold_shared(report: list[dict[str, Any]], staging: Path, seen: Seen) -> None:
    """Take out what two patients' folders hold the same instance or study of: nobody here knows whose it is."""
    for entry in report:
        if seen.is_shared(entry["patient"], entry["file"]) and entry["validation_passed"]:
            (staging / "patients" / entry["patient"] / entry["file"]).unlink()
            entry |= {"validation_passed": False, "reason": "same_study_in_two_patients"}


def _write_meta(patient: Patient, staging: Path, roster: Roster) -> None:
    """The patient's meta.json, where anything of the patient passed."""
    target = staging / "patients" / patient.pseudonym
    if not target.is_dir():
        return
    if not any(target.iterdir()):
        target.rmdir()
        return
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

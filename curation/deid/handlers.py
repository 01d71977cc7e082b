"""What is done to each kind of file: read, cleaned by the first pass, judged by the second."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.deid import dicom
from curation.deid.decode import decode_note
from curation.deid.keys import PseudonymKey
from curation.deid.recordings import clean_csv, clean_edf
from curation.deid.text import known_identifiers, redact
from curation.deid.validate import Roster, Verdict, known_values, scan, validate_known, validate_text
from curation.deid.validate_dicom import validate_dicom

_LONG = 10_000


@dataclass(frozen=True, slots=True)
class Patient:
    """One person: the folder, the true identifier, what replaces it, and meta.json."""

    folder: Path
    identifier: str
    pseudonym: str
    days: int
    meta: dict[str, Any]

    @property
    def record(self) -> dict[str, str]:
        """The values of the structured record that can identify, by field."""
        return {**dict(_flat(self.meta.get("patient", {}), "")), "patient_id": self.identifier}


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


@dataclass(slots=True)
class Seen:
    """Which patients' folders hold an instance or a study; the same one in two says that one of them is misfiled."""

    patients: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    of_file: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def add(self, patient: str, file: str, uids: tuple[str, ...]) -> None:
        """Note that `file` of `patient` (pseudonym) belongs to these instances and studies."""
        self.of_file[patient, file] = uids
        for uid in uids:
            self.patients[uid].add(patient)

    def is_shared(self, patient: str, file: str) -> bool:
        """Whether another patient has one of the file's UIDs."""
        return any(len(self.patients[uid]) > 1 for uid in self.of_file.get((patient, file), ()))


@dataclass(frozen=True, slots=True)
class Run:
    """What all files of a run share."""

    key: PseudonymKey
    roster: Roster
    seen: Seen


@dataclass(frozen=True, slots=True)
class Given:
    """One file as it came, and the name that it gets: the given one may be the patient's."""

    data: bytes
    path: Path
    name: str


Handler = Callable[[Given, Patient, Run], tuple[bytes, Verdict]]


def _note(given: Given, patient: Patient, run: Run) -> tuple[bytes, Verdict]:
    text = decode_note(given.data)
    result = redact(text, patient.days, known_identifiers(patient.record))
    found = [(span.kind.value, text[span.start : span.end]) for span in result.spans]
    return result.text.encode(), validate_text(text, result.text, found, patient.record, run.roster)


def _image(given: Given, patient: Patient, run: Run) -> tuple[bytes, Verdict]:
    original = dicom.read(given.data)
    # Under the patient's own name and study: a UID that two folders hold is looked at when all are known.
    run.seen.add(patient.pseudonym, given.name, dicom.instance_and_study(original))
    dataset, _ = dicom.deidentify(original, run.key, patient.identifier)
    written = dicom.write(dataset)
    return written, validate_dicom(
        dicom.read(given.data), len(given.data), dicom.read(written), written, patient.record, patient.pseudonym
    )


def _csv(given: Given, patient: Patient, _run: Run) -> tuple[bytes, Verdict]:
    output, dropped = clean_csv(given.data, patient.days)
    head = output[: output.find(b"\n\n") if b"\n\n" in output else 2000]
    return output, _recording(given.data, output, head, dropped, patient)


def _edf(given: Given, patient: Patient, _run: Run) -> tuple[bytes, Verdict]:
    output, dropped = clean_edf(given.data, patient.days)
    return output, _recording(given.data, output, output[:256], dropped, patient)


def _recording(data: bytes, output: bytes, head: bytes, dropped: int, patient: Patient) -> Verdict:
    """The known values must be nowhere; the header must look clean."""
    verdict = validate_known(len(data), output, known_values(patient.record), length=len(output))
    comments = "\n".join(line for line in head.decode("utf-8", "replace").splitlines() if line.startswith("#"))
    verdict.findings += scan(comments)
    verdict.phi_counts["header_field"] = {"original": dropped, "redacted": 0}
    return verdict


HANDLERS: dict[str, Handler] = {".txt": _note, ".dcm": _image, ".csv": _csv, ".edf": _edf}
STEMS = {".txt": "note", ".dcm": "image", ".csv": "ecg", ".edf": "ecg"}

"""What is done to each kind of file: read, cleaned by the first pass, judged by the second."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.deid import dicom
from curation.deid.decode import decode_note
from curation.deid.edf import annotation_texts, clean_edf
from curation.deid.intake import read_plain
from curation.deid.keys import PseudonymKey
from curation.deid.long_text import redact_any
from curation.deid.recordings import clean_csv
from curation.deid.reid import Identity
from curation.deid.text import known_identifiers
from curation.deid.unsafe import UnsafeError
from curation.deid.validate import Roster, Verdict, known_values, scan, validate_known, validate_text
from curation.deid.validate_dicom import validate_dicom
from curation.deid.wfdb_annotations import annotation_texts as atr_texts
from curation.deid.wfdb_annotations import clean_annotations
from curation.deid.wfdb_record import clean_header

# Of a WFDB record; other annotators' files (.qrs, .ecg, …) are held back.
ANNOTATIONS = ".atr"
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

    @property
    def identity(self) -> Identity:
        """Who that is, for the re-identification table."""
        mrn = self.meta.get("patient", {}).get("mrn", "")
        return Identity(self.pseudonym, self.identifier, str(mrn) if isinstance(mrn, str | int) else "", self.days)


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
    blank_pixels: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """One file as it came, and the name that it gets: the given one may be the patient's."""

    data: bytes
    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What becomes of one file: its bytes, the verdict on it, and files that came with it, by their new names.

    `taken`: the given files that became `others`; nothing else is to be done with them.
    """

    output: bytes
    verdict: Verdict
    others: dict[str, tuple[bytes, Verdict]] = field(default_factory=dict)
    taken: tuple[Path, ...] = ()


Handler = Callable[[Given, Patient, Run], Cleaned]


def _note(given: Given, patient: Patient, run: Run) -> Cleaned:
    text = decode_note(given.data)
    result = redact_any(text, patient.days, known_identifiers(patient.record))
    found = ((span.kind.value, text[span.start : span.end]) for span in result.spans)
    return Cleaned(result.text.encode(), validate_text(text, result.text, found, patient.record, run.roster))


def _image(given: Given, patient: Patient, run: Run) -> Cleaned:
    original = dicom.read(given.data)
    # Under the patient's own name and study: a UID that two folders hold is looked at when all are known.
    run.seen.add(patient.pseudonym, given.name, dicom.instance_and_study(original))
    dataset, counts = dicom.deidentify(original, run.key, patient.identifier, blank_pixels=run.blank_pixels)
    written = dicom.write(dataset)
    verdict = validate_dicom(
        dicom.read(given.data), len(given.data), dicom.read(written), written, patient.record, patient.pseudonym
    )
    if "blanked" in counts:
        verdict.phi_counts["text_in_pixels"] = {
            "original": counts["blanked"], "redacted": verdict.findings["text_in_pixels"],
        }  # fmt: skip
    return Cleaned(written, verdict)


def _csv(given: Given, patient: Patient, _run: Run) -> Cleaned:
    output, dropped = clean_csv(given.data, patient.days)
    head = output[: output.find(b"\n\n") if b"\n\n" in output else 2000]
    return Cleaned(output, _recording(given.data, output, head, dropped, patient))


def _edf(given: Given, patient: Patient, run: Run) -> Cleaned:
    output, changed = clean_edf(given.data, patient.days, known_identifiers(patient.record))
    verdict = _recording(given.data, output, output[:256], changed, patient)
    verdict.findings += _doubts(annotation_texts(output), patient, run)
    return Cleaned(output, verdict)


def _wfdb(given: Given, patient: Patient, run: Run) -> Cleaned:
    """A header, the signal files beside it that it names, and its annotations if there are any.

    A signal file that is missing or of another size fails all, and so do annotations that can't be read.
    """
    header = clean_header(given.data, patient.days)
    output, names = header.written(Path(given.name).stem)
    verdict = _recording(given.data, output, output, header.dropped, patient)
    others = {}
    for old, size in header.sizes.items():
        try:
            data = read_plain(given.path.parent / old)
        except FileNotFoundError:
            raise UnsafeError("signal_file_missing") from None
        if len(data) != size:
            raise UnsafeError("length_differs_from_header")
        others[names[old]] = (data, _recording(data, data, b"", 0, patient))
    taken = [given.path.parent / old for old in header.sizes]
    beside = given.path.with_suffix(ANNOTATIONS)
    if beside.is_file():
        data = read_plain(beside)
        cleaned, changed = clean_annotations(data, patient.days, known_identifiers(patient.record))
        judged = _recording(data, cleaned, b"", changed, patient)
        judged.findings += _doubts(atr_texts(cleaned), patient, run)
        others[Path(given.name).with_suffix(ANNOTATIONS).name] = (cleaned, judged)
        taken.append(beside)
    return Cleaned(output, verdict, others, tuple(taken))


def _doubts(texts: Iterable[str], patient: Patient, run: Run) -> Counter[str]:
    """What the second pass finds in an output's annotations."""
    text = "\n".join(sorted(set(texts)))
    return validate_text(text, text, (), patient.record, run.roster).findings


def _recording(data: bytes, output: bytes, head: bytes, dropped: int, patient: Patient) -> Verdict:
    """The known values must be nowhere; the header must look clean."""
    verdict = validate_known(len(data), output, known_values(patient.record), length=len(output))
    comments = "\n".join(line for line in head.decode("utf-8", "replace").splitlines() if line.startswith("#"))
    verdict.findings += scan(comments)
    verdict.phi_counts["header_field"] = {"original": dropped, "redacted": 0}
    return verdict


HANDLERS: dict[str, Handler] = {".txt": _note, ".dcm": _image, ".csv": _csv, ".edf": _edf, ".hea": _wfdb}
STEMS = {".txt": "note", ".dcm": "image", ".csv": "ecg", ".edf": "ecg", ".hea": "ecg"}

"""The second pass over DICOM: the input's own header says what must not be in the output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from curation.deid.validate import Verdict, known_values, scan, validate_known
from curation.deid.validate_pixels import judge_pixels

# Parts of attribute names whose values speak about persons, places or items; judged apart from the redaction's tables.
_IDENTIFYING = (
    "PatientID", "PatientName", "OtherPatient", "BirthName", "Address", "Telephone", "Physician", "Operator",
    "Institution", "AccessionNumber", "StudyID", "StationName", "SerialNumber", "MothersMaiden", "MilitaryRank",
    "Insurance", "Comments", "Occupation", "Religious", "RegionOfResidence", "Country", "AdmissionID",
    "RequestingService", "PlacerOrder", "FillerOrder", "PersonName", "History",
)  # fmt: skip
_SKIPPED_TEXT = frozenset({"PatientID", "PatientName", "DeidentificationMethod"})


def validate_dicom(
    original: Dataset,
    original_length: int,
    output: Dataset,
    written: bytes,
    patient: Mapping[str, object],
    pseudonym: str,
) -> Verdict:
    """Judge a file: no known value in its bytes, no private element, the method stated, the pixels kept or blanked."""
    pixels = bytes(output.PixelData) if "PixelData" in output else b""
    # Only once: a picture of one byte would take that byte out of every name.
    before, _, after = written.rpartition(pixels) if pixels else (written, b"", b"")
    header = before + after
    # A maker's name says nothing about a patient, even where it was also entered as the institution.
    makers = " ".join(str(original.get(keyword, "")) for keyword in ("Manufacturer", "ManufacturerModelName"))
    known = {*(value for value in _identifying(original) if value not in makers), *known_values(patient)}
    verdict = validate_known(original_length, header, known - {pseudonym}, length=len(written))
    uids = {str(value) for element in _walk(original) if element.VR == "UI" for value in _values(element)}
    kept = {str(value) for element in _walk(output) if element.VR == "UI" for value in _values(element)}
    verdict.findings["uid_kept"] += sum(not _is_standard(uid) for uid in uids & kept)
    verdict.findings["date_kept"] += len(_dates(original) & _dates(output))
    verdict.findings["private_element"] += sum(element.tag.is_private for element in _walk(output))
    verdict.findings["method_not_stated"] += output.get("PatientIdentityRemoved") != "YES" or not any(
        item.CodeValue == "113100" for item in output.get("DeidentificationMethodCodeSequence", ())
    )
    if any(item.CodeValue == "113101" for item in output.get("DeidentificationMethodCodeSequence", ())):
        verdict.findings += judge_pixels(original, output)
    else:
        verdict.findings["pixels_changed"] += original.get("PixelData") != output.get("PixelData")
    verdict.findings["pseudonym_missing"] += str(output.get("PatientID", "")) != pseudonym
    for element in _walk(output):
        if element.VR in {"LO", "LT", "SH", "ST", "UC", "UT", "PN"} and element.keyword not in _SKIPPED_TEXT:
            verdict.findings += scan(" ".join(map(str, _values(element))))
    verdict.findings = +verdict.findings
    return verdict


def _walk(dataset: Dataset) -> Iterator[Any]:
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from _walk(item)


def _values(element: Any) -> Iterable[Any]:
    if element.value is None or element.value == "" or element.VR == "SQ":
        return []
    return element.value if isinstance(element.value, MultiValue) else [element.value]


def _identifying(dataset: Dataset) -> Iterator[str]:
    for element in _walk(dataset):
        named = any(part in element.keyword for part in _IDENTIFYING)
        if element.VR == "PN" or (named and element.VR in {"LO", "SH", "LT", "ST", "UT", "CS", "AE"}):
            for value in _values(element):
                text = str(value).strip()
                yield text
                yield from (part for part in text.split("^") if part)


def _dates(dataset: Dataset) -> set[str]:
    return {str(value)[:8] for element in _walk(dataset) if element.VR in {"DA", "DT"} for value in _values(element)}


def _is_standard(uid: str) -> bool:
    """The standard's own root: classes, syntaxes, well-known frames."""
    return uid.startswith("1.2.840.10008.")

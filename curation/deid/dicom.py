"""De-identifying DICOM by PS3.15 Annex E: the tables of `dicom-anonymizer`, at every depth, with our own actions.

Profile: Basic Application Level Confidentiality with the options Retain Longitudinal Temporal Information with Modified
Dates and Clean Descriptors. UIDs are keyed, dates shifted, private elements removed, sequences cleaned item by item.
Pixels are not changed: what may show text in its pixels is refused, for a person to look at. Only an operator who asks
for it gets the option Clean Pixel Data (`pixels`).
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from io import BytesIO
from typing import Any, Final

from pydicom import config
from pydicom._uid_dict import UID_dictionary
from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from curation.deid import pixels
from curation.deid.keys import PseudonymKey, shift_dicom_date
from curation.deid.text import redact
from curation.deid.unsafe import UnsafeError as UnsafeError
from curation.dicom_bytes import RefusedError, check_declared, read_within_limits

EDITION = "dicomfields_2026c"
METHOD = "PS3.15 Basic Profile, modified dates, clean descriptors"
# Code value, meaning (PS3.16 CID 7050).
METHOD_CODES: Final = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
)
# Free text outside the tables is searched like a note.
_TEXT = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
# What may stand in values that are no free text (PS3.5 table 6.2-1, with the colons of old times of day). Who enters a
# name into such a field breaks its form.
_FORMS: Final = {
    "AS": re.compile(r"[0-9]{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9_ ]{1,16}"),
    "DS": re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"),
    "IS": re.compile(r"[+-]?[0-9]{1,12}"),
    "TM": re.compile(r"[0-9]{2}(:?[0-9]{2}(:?[0-9]{2}(\.[0-9]{1,6})?)?)?"),
}
# Kinds of images that often carry text in their pixels (ultrasound, screenshots, scanned paper, photographs).
_RISKY_MODALITIES = frozenset({"US", "IVUS", "SC", "OT", "XC", "ES", "GM", "DOC", "OP", "RF", "XA", "ECG", "HD"})
# Words in ImageType of screens, dose reports, protocol pages and scouts (makers' conformance statements; CS values).
_RISKY_WORDS: Final = ("SCREEN", "DOSE", "PROT", "REPORT", "LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame forms .1 to .4

config.settings.reading_validation_mode = config.IGNORE


@cache
def _tables() -> tuple[dict[tuple[int, int], str], tuple[tuple[int, int, int, int, str], ...]]:
    """Action letters by tag, and those of repeating groups as (group, element, masks, action)."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    single: dict[tuple[int, int], str] = {}
    ranges: list[tuple[int, int, int, int, str]] = []
    # Where the standard lets choose, the stricter one that keeps the file readable.
    for table, action in (
        ("D_TAGS", "D"), ("Z_TAGS", "Z"), ("X_TAGS", "X"), ("U_TAGS", "U"), ("Z_D_TAGS", "D"), ("X_Z_TAGS", "Z"),
        ("X_D_TAGS", "D"), ("X_Z_D_TAGS", "D"), ("X_Z_U_STAR_TAGS", "U"),
    ):  # fmt: skip
        for tag in dicom_anonymization_database_selector(EDITION)[table]:
            if len(tag) > 2:
                ranges.append((*tag[:4], action))
            else:
                single[tag] = action
    return single, tuple(ranges)


def _action(element: DataElement) -> str | None:
    single, ranges = _tables()
    group, number = element.tag.group, element.tag.element
    found = single.get((group, number))
    if found is None:
        for wanted_group, wanted_element, group_mask, element_mask, action in ranges:
            if (
                group & group_mask == wanted_group & group_mask
                and number & element_mask == wanted_element & element_mask
            ):
                return action
    return found


def read(data: bytes) -> Dataset:
    """The data set in a DICOM file's bytes. Raises `UnsafeError` when it is none, or one not to be trusted."""
    try:
        dataset = read_within_limits(data)
        check_declared(dataset)
    except RefusedError as error:
        raise UnsafeError(error.reason) from None
    if not dataset.get("SOPClassUID") or not dataset.get("SOPInstanceUID"):
        raise UnsafeError("no_instance")
    return dataset


def instance_and_study(dataset: Dataset) -> tuple[str, ...]:
    """The UIDs of which no two patients can hold the same: that of the instance and that of the study."""
    uids = (str(dataset.get(keyword) or "") for keyword in ("SOPInstanceUID", "StudyInstanceUID"))
    return tuple(uid for uid in uids if uid)


def check_pixels(dataset: Dataset) -> None:
    """Raise `UnsafeError` when the pixels may show text, so that a person has to look."""
    flag = str(dataset.get("BurnedInAnnotation", "")).upper()
    if flag == "YES":
        raise UnsafeError("burned_in_annotation")
    if flag != "NO" and _is_risky(dataset):
        raise UnsafeError("pixels_may_show_text")


def _is_risky(dataset: Dataset) -> bool:
    """Whether such pictures often carry text, whatever the file states."""
    image_type = dataset.get("ImageType", None) or ()
    types = " ".join([image_type] if isinstance(image_type, str) else map(str, image_type)).upper()
    return (
        str(dataset.get("Modality", "")).upper() in _RISKY_MODALITIES
        or any(word in types for word in _RISKY_WORDS)
        or str(dataset.get("SOPClassUID", "")).startswith(_SECONDARY_CAPTURE)
    )


def _blank(dataset: Dataset) -> int | None:
    """Blank the text of a picture that may show some; returns how many places, None when it need not be examined."""
    if str(dataset.get("BurnedInAnnotation", "")).upper() != "YES" and not _is_risky(dataset):
        return None
    try:
        return pixels.blank_text(dataset)
    except pixels.PixelsError as problem:
        raise UnsafeError(problem.reason) from None


def deidentify(
    dataset: Dataset, key: PseudonymKey, patient: str, *, blank_pixels: bool = False
) -> tuple[Dataset, dict[str, int]]:
    """Clean `dataset` in place for the patient with the identifier `patient`; also count what was done to how many.

    Args:
        blank_pixels: blank what may be text in the pixels, instead of refusing pictures that may show some

    Raises:
        UnsafeError: its pixels may show text, or it is not an image of this profile.
    """
    blanked = _blank(dataset) if blank_pixels else None
    check_pixels(dataset)
    codes = METHOD_CODES if blanked is None else (pixels.CLEAN_PIXELS, *METHOD_CODES)
    days, counts = key.shift_days(patient), {"removed": 0, "emptied": 0, "replaced": 0, "uid": 0, "date": 0, "text": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _clean(dataset, key, days, counts)
        dataset.PatientID = dataset.PatientName = key.patient(patient)
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = METHOD if blanked is None else f"{METHOD}, clean pixels"
        dataset.DeidentificationMethodCodeSequence = Sequence([_code(*code) for code in codes])
        dataset.LongitudinalTemporalInformationModified = "MODIFIED"
        _new_file_meta(dataset)
    return dataset, counts if blanked is None else {**counts, "blanked": blanked}


def write(dataset: Dataset) -> bytes:
    """The file: empty preamble, fresh header, explicit form."""
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _clean(dataset: Dataset, key: PseudonymKey, days: int, counts: dict[str, int]) -> None:
    for element in list(dataset):
        if element.tag.is_private or element.tag == 0xFFFCFFFC:
            del dataset[element.tag]
            counts["removed"] += 1
            continue
        action = _action(element)
        if element.VR in _FORMS and not _well_formed(element):
            element.value = None
            counts["emptied"] += 1
        elif element.VR in {"DA", "DT"}:
            _shift(dataset, element, days, counts, remove=action == "X")
        elif element.VR == "TM" and action is not None:
            pass  # the option keeps times of day
        elif element.VR == "UI" and element.keyword != "TransferSyntaxUID":
            _replace_uids(element, key, counts, listed=action is not None)
        elif action == "X":
            del dataset[element.tag]
            counts["removed"] += 1
        elif action == "Z" or element.VR == "PN":
            element.value = Sequence() if element.VR == "SQ" else None
            counts["emptied"] += 1
        elif element.VR == "SQ":
            for item in element.value:
                _clean(item, key, days, counts)
        elif action == "D":
            element.value = _dummy(element.VR)
            counts["replaced"] += 1
        elif element.VR == "AS":
            element.value = _age(str(element.value))
        elif element.VR in _TEXT:
            _clean_text(element, days, counts)
        elif element.VR in {"UN", "UR", "AE"}:
            del dataset[element.tag]
            counts["removed"] += 1


def _well_formed(element: DataElement) -> bool:
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    texts = [str(value).strip(" \0") for value in values if value is not None]
    if element.keyword == "SpecificCharacterSet":
        return all(text in python_encoding for text in texts)
    return all(not text or _FORMS[element.VR].fullmatch(text) for text in texts)


def _shift(dataset: Dataset, element: DataElement, days: int, counts: dict[str, int], *, remove: bool) -> None:
    """A birth date goes, any other date moves; what is no date is emptied."""
    if not element.value:
        return
    many = isinstance(element.value, MultiValue)
    moved = [shift_dicom_date(str(value), days) for value in (element.value if many else [element.value])]
    birth = "Birth" in element.keyword or "Death" in element.keyword
    if birth or not all(moved):
        if remove:
            del dataset[element.tag]
        else:
            element.value = ""
        counts["emptied"] += 1
        return
    element.value = moved if many else moved[0]
    counts["date"] += 1


def _replace_uids(element: DataElement, key: PseudonymKey, counts: dict[str, int], *, listed: bool) -> None:
    """Keyed UIDs for instances; the standard's own (classes, syntaxes) say nothing about a patient."""
    if not element.value:
        return
    many = isinstance(element.value, MultiValue)
    old = [str(value) for value in (element.value if many else [element.value])]
    new = [value if value in UID_dictionary and not listed else key.uid(value) for value in old]
    if new != old:
        element.value = new if many else new[0]
        counts["uid"] += 1


def _clean_text(element: DataElement, days: int, counts: dict[str, int]) -> None:
    many = isinstance(element.value, MultiValue)
    values = [str(value) for value in (element.value if many else [element.value])]
    cleaned = [redact(value, days).text if value else value for value in values]
    if cleaned != values:
        limit = {"SH": 16, "LO": 64}.get(element.VR, 1 << 20)
        element.value = [text[:limit] for text in cleaned] if many else cleaned[0][:limit]
        counts["text"] += 1


def _dummy(vr: str) -> Any:
    if vr in {"OB", "OW", "UN", "OF", "OD", "OL", "OV"}:
        return b"\0\0"
    if vr in {"DS", "IS"}:
        return "0"
    if vr in {"FD", "FL", "SS", "US", "SL", "UL"}:
        return 0
    return "000Y" if vr == "AS" else "REMOVED"


def _age(value: str) -> str:
    """Ages over 89 become 90 (45 CFR 164.514(b)(2)(i)(C))."""
    return "090Y" if value[:3].isdigit() and value[3:] == "Y" and int(value[:3]) > 89 else value


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _new_file_meta(dataset: Dataset) -> None:
    """A header of our own: the old one may name stations and the old instance."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128

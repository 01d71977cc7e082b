"""`medllm data sample`: a raw tree of fictional patients with real pixels and real ECG traces.

- notes: our own (`sample_notes/`), fictional, with planted identifiers
- CT, MR: files that pydicom ships (MIT licence), a different section of the picture for each patient, with the
  fictional patient's identity planted in the header
- ECG: the 12-lead recording that pydicom ships (MIT licence), a different stretch of it for each patient
Everything follows from the notes, so the same version writes the same tree.
"""

from __future__ import annotations

import json
import logging
import warnings
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medllm.errors import user_error
from medllm.files import staged_directory, write_atomic

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_PICTURES = ("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm")
_RECORDED_HZ = 1000
_SECONDS = 6
# Every so many patients one whose picture is flagged as showing text: it must be held back.
_BURNED_IN_EVERY = 60


def write_sample(destination: Path, limit: int | None = None) -> dict[str, int]:
    """Write `destination/patients/<id>/{meta.json, note.txt, image.dcm, ecg.csv}`; return how many of each.

    Raises:
        UserError: the destination exists.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    if destination.is_symlink() or (destination.exists() and not (destination.is_dir() and _is_empty(destination))):
        raise user_error("the destination exists", "name a new directory, or remove this one", file=destination)
    lines = files("curation.sample_notes").joinpath("notes.jsonl").read_text(encoding="utf-8").splitlines()[:limit]
    counts = {"patients": 0, "images": 0, "ecgs": 0}
    with staged_directory(destination) as staging:
        for number, line in enumerate(lines):
            record = json.loads(line)
            identifier = f"HOSP-{number:05d}"
            folder = staging / "patients" / identifier
            meta = {
                "patient_id": identifier, "lang": record["lang"], "kind": record["kind"], "patient": record["patient"],
            }  # fmt: skip
            write_atomic(folder / "meta.json", json.dumps(meta, ensure_ascii=False, indent=1) + "\n")
            write_atomic(folder / "note.txt", record["text"])
            write_atomic(folder / "image.dcm", _picture(number, identifier, record["patient"]))
            counts["patients"] += 1
            counts["images"] += 1
            # Not each patient has each modality.
            if number % 5 != 4:
                write_atomic(folder / "ecg.csv", _recording(number, identifier, record["patient"]))
                counts["ecgs"] += 1
    return counts


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _testdata(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    if path is None:
        raise user_error(f"pydicom's test file {name} is not installed", "install pydicom with its data files")
    return Path(str(path))


def _picture(number: int, identifier: str, patient: dict[str, Any]) -> bytes:
    """A section of a real picture under this patient's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(_testdata(_PICTURES[number % len(_PICTURES)]))
        pixels = dataset.pixel_array
        side = min(pixels.shape)
        crop = side - (number * 7) % (side // 4)
        top, left = (number * 5) % (side - crop + 1), (number * 3) % (side - crop + 1)
        section = np.ascontiguousarray(pixels[top : top + crop, left : left + crop])
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            dataset.decompress()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.Rows, dataset.Columns = section.shape
        dataset.PixelData = section.astype(section.dtype.newbyteorder("<")).tobytes()
        _plant(dataset, number, identifier, patient)
        stream = BytesIO()
        dataset.save_as(stream, implicit_vr=False, little_endian=True)
    return stream.getvalue()


def _plant(dataset: Dataset, number: int, identifier: str, patient: dict[str, Any]) -> None:
    """Identity where scanners, technicians and archives leave it: standard, free-text, nested and private elements."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    family, *given = reversed(str(patient["name"]).split())
    dataset.PatientName = "^".join([family, " ".join(reversed(given))]) if given else str(patient["name"])
    dataset.PatientID = identifier
    dataset.OtherPatientIDsSequence = Sequence([_other_id(str(patient["mrn"]))])
    dataset.PatientBirthDate = str(patient["birth_date"]).replace("-", "")
    dataset.PatientTelephoneNumbers = str(patient["phone"])
    study = date(2025, 1, 1) + timedelta(days=number)
    dataset.StudyDate = dataset.SeriesDate = f"{study:%Y%m%d}"
    dataset.AccessionNumber = f"ACC{700000 + number}"
    dataset.StudyDescription = f"Follow-up of {patient['name']}"
    dataset.ImageComments = f"call {patient['phone']}"
    dataset.OperatorsName = "Quill^Marisol"
    for place, keyword in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")):
        setattr(dataset, keyword, f"1.2.826.0.1.3680043.10.77.{number}.{place}.1")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.private_block(0x0055, "SITE ARCHIVE", create=True).add_new(0x01, "LO", str(patient["mrn"]))
    if number % _BURNED_IN_EVERY == _BURNED_IN_EVERY - 1:
        dataset.BurnedInAnnotation = "YES"


def _other_id(mrn: str) -> Dataset:
    item = Dataset()
    item.PatientID, item.TypeOfPatientID = mrn, "TEXT"
    return item


@cache
def _trace() -> NDArray[np.float64]:
    """The shipped recording: millivolts [samples, 12] at 1000 Hz (its channels are in microvolts)."""
    return np.asarray(pydicom.dcmread(_testdata("waveform_ecg.dcm")).waveform_array(0), np.float64) / 1000


def _recording(number: int, identifier: str, patient: dict[str, Any]) -> bytes:
    """Six seconds from another place of the trace for each patient, at 250 or 500 samples a second."""
    rate = (250, 500)[number % 2]
    trace, length = _trace(), _SECONDS * _RECORDED_HZ
    start = (number * 37) % (len(trace) - length)
    rows = trace[start : start + length : _RECORDED_HZ // rate]
    day = date(2025, 1, 2) + timedelta(days=number)
    head = [
        f"# Patient Name: {patient['name']}", f"# Patient ID: {identifier}", f"# MRN: {patient['mrn']}",
        f"# Birth Date: {patient['birth_date']}", f"# Recording Date: {day.isoformat()}",
        "# Device: CardioScribe serial 88413-A", f"# Sampling Rate: {rate}", "# Units: mV", ",".join(LEADS),
    ]  # fmt: skip
    return ("\n".join([*head, *(",".join(f"{value:.3f}" for value in row) for row in rows)]) + "\n").encode()

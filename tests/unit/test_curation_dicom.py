"""DICOM: the header of a real picture with planted identity comes out clean, the pixels come out untouched."""

from __future__ import annotations

import warnings
from datetime import date
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from curation.deid import dicom
from curation.deid.keys import PseudonymKey
from curation.deid.validate_dicom import validate_dicom

KEY = PseudonymKey(b"k" * 32)
PATIENT = {"name": "Agnes Whitmore", "mrn": "MR-448812", "birth_date": "1951-03-04", "phone": "415-555-0143"}
SECRETS = ["Whitmore", "MR-448812", "19510304", "415-555-0143", "Tallis", "ACC-90017", "1.2.3.4.5.6.7"]


def planted(name: str = "CT_small.dcm") -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
        dataset.PatientName, dataset.PatientID = "Whitmore^Agnes", "MR-448812"
        dataset.PatientBirthDate, dataset.PatientAge = "19510304", "093Y"
        dataset.ReferringPhysicianName = "Tallis^Ruth"
        dataset.AccessionNumber = "ACC-90017"
        dataset.StudyInstanceUID = "1.2.3.4.5.6.7"
        dataset.StudyDate, dataset.SeriesDate = "20240110", "20240115"
        dataset.ProtocolName = "Knee for Mr. Whitmore, MRN: MR-448812"
        request = Dataset()
        request.RequestingPhysician = "Tallis^Ruth"
        request.AccessionNumber = "ACC-90017"
        request.RequestedProcedureDescription = "call 415-555-0143"
        inner = Dataset()
        inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5.6.7"
        inner.private_block(0x0077, "HIDDEN", create=True).add_new(1, "LO", "Whitmore")
        dataset.SourceImageSequence = Sequence([inner])
        dataset.RequestAttributesSequence = Sequence([request])
        dataset.private_block(0x0055, "ARCHIVE", create=True).add_new(1, "LO", "MR-448812")
        dataset.preamble = b"Whitmore".ljust(128, b"\0")
    return dataset


def as_bytes(dataset: Dataset) -> bytes:
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(stream)
    return stream.getvalue()


def run(dataset: Dataset) -> tuple[Dataset, bytes]:
    clean, _ = dicom.deidentify(dicom.read(as_bytes(dataset)), KEY, "patient-1")
    written = dicom.write(clean)
    return dicom.read(written), written


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"])
def test_nothing_of_the_identity_is_left(name: str) -> None:
    original = planted(name)
    output, written = run(original)
    for secret in SECRETS:
        assert secret.lower().encode() not in written.lower()
    assert output.PatientID == output.PatientName == KEY.patient("patient-1")
    assert not any(element.tag.is_private for element in output.iterall())
    assert bytes(output.PixelData) == bytes(original.PixelData)
    verdict = validate_dicom(original, 1, output, written, PATIENT, KEY.patient("patient-1"))
    assert verdict.passed, dict(verdict.findings)


def test_the_method_is_stated() -> None:
    output, _ = run(planted())
    assert output.PatientIdentityRemoved == "YES"
    assert output.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = [item.CodeValue for item in output.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113105", "113107"]


def test_dates_move_together_and_uids_follow_the_key() -> None:
    output, _ = run(planted())
    study, series = (date.fromisoformat(value) for value in (output.StudyDate, output.SeriesDate))
    assert (series - study).days == 5
    assert (study - date(2024, 1, 10)).days == KEY.shift_days("patient-1")
    again, _ = run(planted())
    assert again.StudyInstanceUID == output.StudyInstanceUID
    assert output.SourceImageSequence[0].ReferencedSOPInstanceUID == output.StudyInstanceUID
    assert output.StudyInstanceUID != PseudonymKey(b"x" * 32).uid("1.2.3.4.5.6.7")
    assert output.file_meta.MediaStorageSOPInstanceUID == output.SOPInstanceUID
    assert output.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"


def test_pixels_that_may_show_text_are_refused() -> None:
    for keyword, value in (
        ("BurnedInAnnotation", "YES"),
        ("Modality", "US"),
        ("ImageType", ["DERIVED", "PRIMARY", "SCREEN SAVE"]),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"),
    ):
        dataset = planted()
        setattr(dataset, keyword, value)
        with pytest.raises(dicom.UnsafeError):
            dicom.check_pixels(dataset)


def test_no_error_quotes_the_file() -> None:
    with pytest.raises(dicom.UnsafeError) as caught:
        dicom.read(b"Whitmore" * 100)
    assert "Whitmore" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("harm", "finding"),
    [
        (lambda dataset: setattr(dataset, "ProtocolName", "Knee, Whitmore"), None),
        (lambda dataset: setattr(dataset, "StudyInstanceUID", "1.2.3.4.5.6.7"), "uid_kept"),
        (lambda dataset: setattr(dataset, "StudyDate", "20240110"), "date_kept"),
        (lambda dataset: dataset.private_block(0x55, "X", create=True).add_new(1, "LO", "y"), "private_element"),
        (lambda dataset: delattr(dataset, "DeidentificationMethodCodeSequence"), "method_not_stated"),
        (lambda dataset: setattr(dataset, "PixelData", b"\1" + dataset.PixelData[1:]), "pixels_changed"),
        (lambda dataset: setattr(dataset, "PatientID", "other"), "pseudonym_missing"),
        (lambda dataset: setattr(dataset, "StudyDescription", "mail x@y.org"), "at_sign"),
        (lambda dataset: setattr(dataset, "StudyDescription", "4155550143"), "long_number"),
    ],
)
def test_the_second_pass_sees_what_the_first_would_miss(harm, finding: str | None) -> None:  # type: ignore[no-untyped-def]
    output, _ = run(planted())
    harm(output)
    verdict = validate_dicom(planted(), 1, output, as_bytes(output), PATIENT, KEY.patient("patient-1"))
    assert not verdict.passed
    if finding:
        assert verdict.findings[finding]
    else:
        assert verdict.phi_counts["known_values"]["redacted"]


def test_the_key_stays_private(tmp_path: Path) -> None:
    from curation.deid.keys import load_pseudonym_key
    from medllm.errors import UserError

    path = tmp_path / "keys" / "pseudonym.key"
    key = load_pseudonym_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_pseudonym_key(path) == key
    assert key.secret.hex() not in repr(key)
    path.chmod(0o644)
    with pytest.raises(UserError, match="others can read"):
        load_pseudonym_key(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(UserError, match="not a key"):
        load_pseudonym_key(path)

"""ECG recordings: CSV and EDF headers lose the person, keep the signal."""

from __future__ import annotations

import tracemalloc
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from curation.deid.edf import annotation_texts, clean_edf
from curation.deid.recordings import clean_csv
from curation.deid.unsafe import UnsafeError
from curation.deid.wfdb_record import clean_header
from curation.prepare.ecg import LEADS, load_ecg
from curation.prepare.waveform import load_waveform
from tests.unit.test_curation_hostile import deid, patient

CSV = b"""# Patient Name: Agnes Whitmore
# Recording Date: 2024-01-10
# Technician: R. Tallis
# Sampling Rate: 250
# Units: mV
I,II,V1
0.10,0.20,0.30
0.11,0.21,0.31
"""


def test_csv_keeps_what_describes_the_signal() -> None:
    output, dropped = clean_csv(CSV, -400)
    assert output.decode().splitlines() == [
        "# recording date: 2022-12-06", "# sampling rate: 250", "# units: mV", "I,II,V1",
        "0.10,0.20,0.30", "0.11,0.21,0.31",
    ]  # fmt: skip
    assert dropped == 2


@pytest.mark.parametrize(
    "bad",
    [
        CSV.replace(b"I,II,V1", b"I,II,Whitmore"),
        CSV + b"0.1,0.2,Whitmore\n",
        CSV + b"0.1,0.2\n",
        CSV + b"1234567890123,0.2,0.1\n",
        b"\xff\xfe\x00",
        b"# only: header\n",
    ],
)
def test_csv_with_anything_else_is_refused(bad: bytes) -> None:
    with pytest.raises(UnsafeError) as caught:
        clean_csv(bad, -400)
    assert "Whitmore" not in str(caught.value)


def edf(*, label: str = "ECG I", plus: bool = True) -> bytes:
    """A smallest EDF(+) file with one signal and one record of two samples."""
    patient = "MCH-0234567 F 02-MAY-1951 Agnes_Whitmore" if plus else "Agnes Whitmore 448812"
    recording = "Startdate 10-JAN-2024 PSG-1234 Tallis Telemetry03" if plus else "Ward 7B Tallis"
    head = "0".ljust(8) + patient.ljust(80) + recording.ljust(80) + "10.01.24" + "22.15.00" + "512".ljust(8)
    head += ("EDF+C" if plus else "").ljust(44) + "1".ljust(8) + "1".ljust(8) + "1".ljust(4)
    signal = label.ljust(16) + "electrode of Whitmore".ljust(80) + "uV".ljust(8) + "-500".ljust(8) + "500".ljust(8)
    signal += "-2048".ljust(8) + "2047".ljust(8) + "HP:0.1Hz".ljust(80) + "2".ljust(8) + "Tallis".ljust(32)
    return (head + signal).encode() + b"\1\0\2\0"


@pytest.mark.parametrize("plus", [True, False])
def test_edf(plus: bool) -> None:
    output, _ = clean_edf(edf(plus=plus), -400)
    for secret in (
        b"Whitmore",
        b"Tallis",
        b"0234567",
        b"448812",
        b"1951",
        b"PSG",
        b"Telemetry",
        b"7B",
        b"10.01.24",
        b"2024",
    ):
        assert secret not in output
    assert len(output) == len(edf(plus=plus))
    assert output[-4:] == b"\1\0\2\0"
    assert output[168:176] == b"06.12.22"
    assert date(2024, 1, 10).toordinal() - date(2022, 12, 6).toordinal() == 400
    assert b"HP:0.1Hz" in output
    if plus:
        assert output[8:88].rstrip() == b"X X X X"
        assert output[88:168].rstrip() == b"Startdate 06-DEC-2022 X X X"


@pytest.mark.parametrize("bad", [b"junk", b"", edf()[:300], edf().replace(b"10.01.24", b"99.99.99")])
def test_edf_that_cannot_be_judged_is_refused(bad: bytes) -> None:
    with pytest.raises(UnsafeError):
        clean_edf(bad, -400)


def test_an_ecg_is_resampled_to_the_declared_form(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import numpy as np

    rate, seconds = 250, 6
    time = np.arange(rate * seconds) / rate
    wave = np.sin(2 * np.pi * 5 * time)
    lines = ["# sampling rate: 250", "# units: uV", "II,V1"] + [f"{1000 * value:.3f},0" for value in wave]
    path = tmp_path / "ecg.csv"
    path.write_text("\n".join(lines) + "\n")
    array = load_ecg(path, 100, 500)
    assert array.shape == (12, 500)
    assert array.dtype == np.float32
    expected = np.sin(2 * np.pi * 5 * np.arange(500) / 100)
    assert np.abs(array[LEADS.index("II")] - expected)[20:-20].max() < 0.02, "5 Hz at 1 mV comes back as 5 Hz at 1 mV"
    assert not array[LEADS.index("I")].any()
    path.write_text("I\n1\n")
    with pytest.raises(ValueError, match="no readable recording"):
        load_ecg(path, 100, 500)


def tal(text: bytes, onset: bytes = b"+1.5") -> bytes:
    return onset + b"\x14" + text + b"\x14\0"


def annotated(*records: bytes, room: int = 120, label: str = "ECG II", **fields: str) -> bytes:
    """EDF+ with a signal of two samples and annotations of `room` bytes a record; `fields` overwrite header fields."""
    recording = "Startdate 10-JAN-2024 PSG-1234 Tallis Telemetry03"
    head = (
        "0".ljust(8) + "MCH-0234567 F 02-MAY-1951 Agnes_Whitmore".ljust(80) + recording.ljust(80) + "10.01.2422.15.00"
    )
    head += "768".ljust(8) + fields.get("reserved", "EDF+C").ljust(44)
    head += fields.get("records", str(len(records))).ljust(8) + "1".ljust(8) + fields.get("signals", "2").ljust(4)
    columns = (
        (label, "EDF Annotations", 16),
        ("electrode of Tallis", "", 80),
        (fields.get("unit", "mV"), "", 8),
        ("-5", "-1", 8),
        ("5", "1", 8),
        ("-2048", "-32768", 8),
        ("2047", "32767", 8),
        (fields.get("filters", "HP:0.1Hz LP:75Hz"), "", 80),
        (fields.get("samples", "2"), str(room // 2), 8),
        ("Tallis", "", 32),
    )
    head += "".join(one.ljust(width) + two.ljust(width) for one, two, width in columns)
    return head.encode("latin-1") + b"".join(b"\1\0\2\0" + record.ljust(room, b"\0") for record in records)


def test_annotations_of_edf_plus_are_redacted_and_the_signal_stays() -> None:
    first = tal(b"", b"+0") + tal(b"Seen by Dr. Whitmore, call 415-555-0143", b"+0.5\x152")
    data = annotated(first, tal(b"", b"+1") + tal(b"Sleep stage W") + tal("姓名：王建国".encode()))
    output, changed = clean_edf(data, -400)
    for secret in (b"Whitmore", b"415-555", "王建国".encode(), b"Tallis", b"0234567", b"1951", b"2024"):
        assert secret not in output
    assert len(output) == len(data)
    assert changed == 4 + 2
    texts = annotation_texts(output)
    assert "Sleep stage W" in texts
    assert len(texts) == 3
    assert output[768:772] == output[768 + 124 : 772 + 124] == b"\1\0\2\0"
    assert b"+0\x14\x14\0" in output, "the time of each record stays"
    assert b"+0.5\x152\x14" in output


def test_a_redacted_edf_plus_file_is_still_one(tmp_path: Path) -> None:
    import edfio

    (tmp_path / "a.edf").write_bytes(clean_edf(annotated(tal(b"", b"+0") + tal(b"call 415-555-0143")), -400)[0])
    edf_file = edfio.read_edf(tmp_path / "a.edf")
    assert [each.text for each in edf_file.annotations] == ["call [PHONE_REDACTED]"]
    assert edf_file.startdate == date(2022, 12, 6)
    assert list(edf_file.signals[0].digital) == [1, 2]


def test_each_header_field_is_of_known_words() -> None:
    data = annotated(
        tal(b"", b"+0"), label="ECG Whitmore", unit="Whitmore", filters="by Tallis", reserved="EDF+C for Whitmore"
    )
    output, _ = clean_edf(data, -400)
    assert b"Whitmore" not in output
    assert b"Tallis" not in output
    assert output[256:272].strip() == b"signal 1"
    assert output[192:236].strip() == b"EDF+C"
    known, _ = clean_edf(annotated(tal(b"", b"+0"), label="EEG Fp1-Ref"), -400)
    assert known[256:272].strip() == b"EEG Fp1-Ref"
    assert b"HP:0.1Hz LP:75Hz" in known


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (annotated(tal(b"", b"+0"), records="99999999"), "length_differs_from_header"),
        (annotated(tal(b"", b"+0"), records="-1"), "length_differs_from_header"),
        (annotated(tal(b"", b"+0"), samples="99999999"), "length_differs_from_header"),
        (annotated(tal(b"", b"+0"), samples="-60"), "length_differs_from_header"),
        (annotated(tal(b"", b"+0")) + b"Agnes Whitmore", "length_differs_from_header"),
        (annotated(tal(b"", b"+0"))[:-1], "length_differs_from_header"),
        (annotated(tal(b"", b"+0"), signals="9999"), "unreadable"),
        (annotated(tal(b"", b"+0"), signals="1e9"), "unreadable"),
        (annotated(b"Agnes Whitmore"), "unreadable_annotations"),
        (annotated(tal(b"\xff\xfe")), "unreadable_annotations"),
        (annotated(tal(b"", b"+0") + tal(b"call 415-555-0143"), room=32), "annotations_too_long_when_redacted"),
    ],
)
def test_edf_that_lies_about_itself_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UnsafeError, match=reason):
        clean_edf(data, -400)


HEADER = b"""# Agnes Whitmore, 72
whitmore_448812 2 360 650000 22:15:00 10/01/2024
whitmore_448812.dat 212 200(1024)/mV 11 1024 995 -22131 0 MLII
whitmore_448812.dat 212 200/mV 11 1024 1011 20052 0 Whitmore V5
#Age: 72 Sex: F, seen by Tallis
"""


def test_a_wfdb_header_is_written_anew() -> None:
    header = clean_header(HEADER, -400)
    text, names = header.written("ecg-2")
    assert text.decode().splitlines() == [
        "ecg-2 2 360 650000 22:15:00 06/12/2022",
        "ecg-2.dat 212 200(1024)/mV 11 1024 995 -22131 0 MLII",
        "ecg-2.dat 212 200/mV 11 1024 1011 20052 0 signal 2",
    ]
    assert names == {"whitmore_448812.dat": "ecg-2.dat"}
    assert header.sizes == {"whitmore_448812.dat": 1_950_000}
    assert header.dropped == 3


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"whitmore_448812.dat", b"/etc/shadow.dat", "unsafe_path"),
        (b"whitmore_448812.dat", b"../x.dat", "unsafe_path"),
        (b"whitmore_448812.dat", b"-", "unsafe_path"),
        (b"whitmore_448812.dat", b"note.txt", "unsafe_path"),
        (b"812 2 ", b"812/9 2 ", "several_segments"),
        (b"812 2 ", b"812 3 ", "unreadable"),
        (b" 212 ", b" 311 ", "signal_format_not_known"),
        (b" 212 ", b" 212x99999999 ", "unreadable"),
        (b"10/01/2024", b"99/99/2024", "unreadable"),
        (b"# Agnes", b"Agnes", "unreadable"),
        (HEADER, b"", "unreadable"),
        (b"# Agnes", b"\0", "binary"),
        (b" 650000", b"", "unreadable"),
    ],
)
def test_a_wfdb_header_that_cannot_be_judged_is_refused(old: bytes, new: bytes, reason: str) -> None:
    with pytest.raises(UnsafeError, match=reason):
        clean_header(HEADER.replace(old, new), -400)


def test_a_wfdb_record_goes_through_the_tree_and_is_read_there(tmp_path: Path) -> None:
    place = patient(tmp_path / "raw", "A", patient={"name": "Agnes Whitmore", "mrn": "448812"})
    samples = np.round(1000 * np.sin(np.arange(2000) / 20)).astype("<i2")
    good = "whitmore 1 250 2000 10:00:00 10/01/2024\nwhitmore.dat 16 1000/mV 16 0 0 0 0 II\n# Agnes Whitmore\n"
    (place / "whitmore.hea").write_text(good)
    (place / "whitmore.dat").write_bytes(samples.tobytes())
    (place / "short.hea").write_text(good.replace("whitmore", "short"))
    (place / "short.dat").write_bytes(samples.tobytes()[:-2])
    (place / "gone.hea").write_text(good.replace("whitmore", "gone"))
    (place / "hidden.hea").write_text(good.replace("whitmore", "hidden"))
    (place / "hidden.dat").write_bytes(b"Agnes Whitmore".ljust(4000, b"\0"))
    (place / "whitmore.qrs").write_bytes(b"\0\0")
    done, report = deid(tmp_path / "raw", tmp_path / "clean")
    assert done.quarantined == {
        "length_differs_from_header": 1,
        "signal_file_missing": 1,
        "validation_found_leftovers": 2,
        "unsupported_file": 2,
    }
    assert "hitmore" not in str(report)
    (header,) = (tmp_path / "clean").rglob("*.hea")
    assert b"hitmore" not in header.read_bytes()
    waveform = load_waveform(header, "ecg")
    assert waveform.channels == ("II",)
    assert waveform.rate_hz == 250
    assert np.abs(waveform.signal[0] - samples / 1000).max() < 1e-6


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"I," * (40 << 20), "line_too_long"),
        (CSV + b"0." + b"1" * (1 << 20), "line_too_long"),
        (b"# " + b"a" * (1 << 20), "line_too_long"),
        (b"\r" * (1 << 17), "line_too_long"),
        (b"#\n" * 100_000, "unexpected_columns"),
    ],
)
def test_a_giant_line_is_not_split_into_fields(data: bytes, reason: str) -> None:
    tracemalloc.start()
    with pytest.raises(UnsafeError, match=reason):
        clean_csv(data, -400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(data) + (1 << 20)


def test_a_csv_with_a_byte_order_mark_is_read() -> None:
    assert (
        clean_csv(b"\xef\xbb\xbf" + CSV, -400) == clean_csv(CSV.replace(b"\n", b"\r\n"), -400) == clean_csv(CSV, -400)
    )

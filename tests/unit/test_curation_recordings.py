"""ECG recordings: CSV and EDF headers lose the person, keep the signal."""

from __future__ import annotations

from datetime import date

import pytest

from curation.deid.unsafe import UnsafeError
from curation.deid.recordings import clean_csv, clean_edf
from curation.prepare.ecg import LEADS, load_ecg

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


@pytest.mark.parametrize(
    "bad", [edf(label="EDF Annotations"), b"junk", edf()[:300], edf().replace(b"10.01.24", b"99.99.99")]
)
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

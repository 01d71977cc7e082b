"""Recordings of four formats come out alike; filters and features do what their numbers say; bad ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pydicom
import pytest
import wfdb
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

from curation.prepare.ecg import LEADS
from curation.prepare.reasons import WaveformError
from curation.prepare.signals import at_rate, filter_zero_phase, is_clipped, prepare_waveform, spectrum
from curation.prepare.waveform import Kind, Waveform, load_waveform

DICOM = Path(str(get_testdata_file("waveform_ecg.dcm", download=False)))
_SECRET = "Zebedee Quillfeather"


def _trace() -> NDArray[np.float64]:
    """[12, 10000] millivolts at 1000 Hz, as pydicom itself reads them."""
    return np.asarray(pydicom.dcmread(DICOM).waveform_array(0), np.float64).T / 1000


def _write_csv(path: Path, signal: NDArray[Any], rate: str = "500", units: str = "mV", names: Any = LEADS) -> Path:
    rows = [",".join(f"{value:.6f}" for value in row) for row in signal.T]
    head = [f"# Patient Name: {_SECRET}", f"# Sampling Rate: {rate}", f"# Units: {units}", ",".join(names)]
    path.write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")
    return path


def _reason(path: Path, kind: Kind = "ecg") -> str:
    with pytest.raises(WaveformError) as caught:
        load_waveform(path, kind)
    assert _SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.reason


def test_the_same_recording_comes_out_of_each_format(tmp_path: Path) -> None:
    trace = _trace()[:, :4000]
    signals = [
        edfio.EdfSignal(row * 1000, 1000, label=f"ECG {lead}", physical_dimension="uV", physical_range=(-5000, 5000))
        for lead, row in zip(LEADS, trace, strict=True)
    ]
    pulse = edfio.EdfSignal(np.full(40, 97.0), 10, label="SpO2", physical_dimension="%", physical_range=(0, 100))
    edfio.Edf([*signals, pulse]).write(tmp_path / "a.edf")
    wfdb.wrsamp(
        "a", 1000, ["mV"] * 12, list(LEADS), p_signal=trace.T, fmt=["16"] * 12, write_dir=str(tmp_path)
    )  # fmt: skip
    _write_csv(tmp_path / "a.csv", trace, "1000 Hz")
    for name, least in (("a.edf", 0.2e-3), ("a.hea", 0.2e-3), ("a.csv", 1e-6)):
        waveform = load_waveform(tmp_path / name, "ecg")
        assert waveform.signal.dtype == np.float32
        assert (waveform.rate_hz, waveform.unit, waveform.channels) == (1000.0, "mV", LEADS), name
        assert np.abs(waveform.signal - trace).max() < least, name
    assert np.allclose(load_waveform(DICOM, "ecg").signal, _trace(), atol=1e-6)


def test_electrodes_are_known_by_their_usual_labels(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 20, (3, 512))
    labels = ["EEG Fp1-Ref", "T3", _SECRET[:16]]
    signals = [
        edfio.EdfSignal(row, 256, label=label, physical_dimension="uV")
        for label, row in zip(labels, noise, strict=True)
    ]
    edfio.Edf(signals).write(tmp_path / "a.edf")
    waveform = load_waveform(tmp_path / "a.edf", "eeg")
    assert waveform.channels == ("Fp1", "T7")
    assert waveform.unit == "uV"
    assert np.abs(waveform.signal - noise[:2]).max() < 0.01


def test_unusable_recordings_are_refused_by_a_reason(tmp_path: Path) -> None:
    trace, path = _trace()[:, ::2][:, :2000], tmp_path / "a.csv"
    assert _reason(_write_csv(path, trace[:, :0])) == "empty"
    assert _reason(_write_csv(path, trace, units="mmHg")) == "wrong_unit"
    assert _reason(_write_csv(path, trace, units="V")) == "implausible_amplitude"
    assert _reason(_write_csv(path, trace, rate="fast")) == "bad_rate"
    assert _reason(_write_csv(path, trace, rate="0")) == "bad_rate"
    assert _reason(_write_csv(path, trace, names=[f"{_SECRET}{n}" for n in range(12)])) == "no_channels"
    assert _reason(_write_csv(path, np.full_like(trace, np.nan))) == "nan_samples"
    path.write_text(_write_csv(path, trace).read_text() + "1,2,3\n")
    assert _reason(path) == "mismatched_lengths"
    path.write_text(_write_csv(path, trace).read_text() + f"{_SECRET}," * 11 + "0\n")
    assert _reason(path) == "unreadable"
    path.write_bytes(b"\xff\xfe\x00broken")
    assert _reason(path) == "unreadable"
    (tmp_path / "a.edf").write_bytes(b"0       " + _SECRET.encode())
    assert _reason(tmp_path / "a.edf") == "unreadable"
    assert _reason(tmp_path / "none.hea") == "unreadable"
    assert _reason(tmp_path / "a.xml") == "unknown_format"
    assert _reason(Path(str(get_testdata_file("CT_small.dcm", download=False)))) in {"empty", "unreadable"}


def test_channels_of_several_rates_are_refused(tmp_path: Path) -> None:
    signals = [
        edfio.EdfSignal(np.sin(np.arange(10 * rate)), rate, label=lead, physical_dimension="mV")
        for lead, rate in (("I", 250), ("II", 500))
    ]
    edfio.Edf(signals).write(tmp_path / "a.edf")
    assert _reason(tmp_path / "a.edf") == "mixed_rates"


def test_a_header_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    wfdb.wrsamp("a", 500, ["mV"], ["I"], p_signal=_trace()[:1].T, fmt=["16"], write_dir=str(tmp_path))
    header = (tmp_path / "a.hea").read_text().replace("a.dat", "../a.dat")
    (tmp_path / "b" / "a.hea").write_text(header)
    # The reader of headers refuses some of these by itself.
    assert _reason(tmp_path / "b" / "a.hea") in {"unsafe_path", "unreadable"}
    (tmp_path / "b" / "a.hea").write_text((tmp_path / "a.hea").read_text())
    (tmp_path / "b" / "a.dat").symlink_to(tmp_path / "a.dat")
    assert _reason(tmp_path / "b" / "a.hea") == "unsafe_path"


def test_a_recording_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wfdb.wrsamp("a", 500, ["mV"], ["I"], p_signal=_trace()[:1].T, fmt=["16"], write_dir=str(tmp_path))
    monkeypatch.setattr("curation.prepare.waveform.MAX_BYTES", 5000)
    assert _reason(tmp_path / "a.hea") == "too_large"
    assert _reason(DICOM) == "too_large"


def _sine(hertz: float, rate: float = 500, seconds: float = 20, amplitude: float = 1.0) -> NDArray[np.float64]:
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(("hertz", "least", "most"), [(10, 0.98, 1.02), (50, 0, 0.01), (0.05, 0, 0.02), (230, 0, 0.1)])
def test_the_filter_passes_the_band_and_takes_out_mains_and_drift(hertz: float, least: float, most: float) -> None:
    middle = slice(3000, 7000)
    before, after = _sine(hertz), filter_zero_phase(_sine(hertz)[None], 500, (0.5, 150), 50)[0]
    gain = np.sqrt(np.mean(after[middle] ** 2) / np.mean(before[middle] ** 2))
    assert least <= gain <= most


def test_the_filter_shifts_nothing() -> None:
    after = filter_zero_phase(_sine(7)[None], 500, (0.5, 150), 50)[0]
    lags = np.correlate(after[4000:6000], _sine(7)[4000:6000], "full")
    assert int(lags.argmax()) == 1999


@pytest.mark.parametrize(
    ("rate", "wanted"), [(500, 250), (250, 500), (360, 500), (1000, 100), (256, 200), (128.5, 100)]
)
def test_another_rate_keeps_the_wave_and_the_duration(rate: float, wanted: float) -> None:
    result = at_rate(_sine(7, rate)[None], rate, wanted)[0]
    assert len(result) == pytest.approx(20 * wanted, abs=1)
    edge = int(wanted)
    assert np.abs(result - _sine(7, wanted, len(result) / wanted)[: len(result)])[edge:-edge].max() < 0.01


def _wave(signal: NDArray[Any], rate: float = 500, unit: str = "mV") -> Waveform:
    signal = np.atleast_2d(signal).astype(np.float32)
    return Waveform(signal, rate, unit, LEADS[: len(signal)])


def test_flat_clipped_and_filled_channels_are_flagged() -> None:
    rng = np.random.default_rng(3)
    good = _sine(5) + rng.normal(0, 0.01, 10000)
    gap = good.copy()
    gap[100:120] = np.nan
    prepared = prepare_waveform(_wave(np.stack([good, np.full(10000, 0.3), np.clip(good, -0.8, 0.8), gap])), "ecg", 250)
    assert prepared.flags == ((), ("flat",), ("clipped",), ("filled",))
    assert prepared.waveform.signal.shape == (4, 5000)
    assert np.isfinite(prepared.waveform.signal).all()
    assert not prepared.waveform.signal[1].any()
    assert not is_clipped(np.round(_sine(1), 3))


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (np.full(10000, 0.1), "all_flat"),
        (_sine(5, seconds=1), "too_short"),
        (np.where(np.arange(10000) < 30, np.nan, _sine(5)), "nan_samples"),
        (np.where(np.arange(10000) % 50 == 0, np.inf, _sine(5)), "nan_samples"),
    ],
)
def test_what_cannot_be_mended_is_refused(signal: NDArray[np.float64], reason: str) -> None:
    with pytest.raises(WaveformError) as caught:
        prepare_waveform(_wave(signal), "ecg", 250)
    assert caught.value.reason == reason


def test_band_powers_are_those_of_the_waves_in_them() -> None:
    waves = _sine(10, 256, amplitude=30) + _sine(2, 256, amplitude=10)
    found = spectrum(_wave(waves, 256, "uV"), "eeg")
    powers = dict(zip(found.band_names, found.bands[0], strict=True))
    assert powers["alpha"] == pytest.approx(450, rel=0.02)
    assert powers["delta"] == pytest.approx(50, rel=0.02)
    assert max(powers["theta"], powers["beta"], powers["gamma"]) < 1
    assert found.log_power.shape == (1, len(found.frequencies_hz), len(found.times_s))
    assert found.frequencies_hz[found.log_power[0].mean(axis=1).argmax()] == 10

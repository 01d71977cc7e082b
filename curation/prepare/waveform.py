"""Recordings of ECG and EEG, read from EDF, WFDB, CSV or DICOM: float32 [channels, samples] in mV (ECG) or uV (EEG).

Channel names are kept only where they are standard ones, so a name that somebody typed into a header stays behind.
"""

from __future__ import annotations

import csv
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curation.dicom_bytes import read_within_limits
from curation.prepare.ecg import LEADS
from curation.prepare.reasons import WaveformError

Kind = Literal["ecg", "eeg"]
UNITS: dict[Kind, str] = {"ecg": "mV", "eeg": "uV"}
# The positions of the 10-20 system and its 10-10 additions (ACNS guideline 2, 2016), with the older names of four.
# fmt: off
ELECTRODES = (
    "Fp1", "Fpz", "Fp2", "AF7", "AF3", "AFz", "AF4", "AF8", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FC2", "FC6",
    "T7", "C3", "Cz", "C4", "T8", "CP5", "CP1", "CP2", "CP6", "P7", "P3", "Pz", "P4", "P8", "PO3", "POz", "PO4",
    "O1", "Oz", "O2", "A1", "A2", "M1", "M2",
)
# fmt: on
_OLDER = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
_NAMES = {
    "ecg": {name.lower(): name for name in LEADS},
    "eeg": {name.lower(): name for name in ELECTRODES} | {old.lower(): new for old, new in _OLDER.items()},
}
_VOLTS = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "µv": 1e-6, "μv": 1e-6, "nv": 1e-9}
# Beyond these (99th percentile of the distance from the median) the declared unit is wrong: ECG amplifiers take
# +-5 mV (IEC 60601-2-25), scalp EEG stays below a few hundred uV (ACNS guideline 1), artefacts are ten times that.
_PLAUSIBLE: dict[Kind, float] = {"ecg": 20.0, "eeg": 5000.0}
# 86 MB are usual for a patient; in double precision, and filtered, a recording takes ten times its file.
MAX_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Waveform:
    """`signal` [channels, samples] float32 in `unit` at `rate_hz`; not finite where a sample is missing."""

    signal: NDArray[np.float32]
    rate_hz: float
    unit: str
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Raw:
    """One channel as the file has it: its name and unit as written."""

    name: str
    unit: str
    rate_hz: float
    values: NDArray[np.float64]


def load_waveform(path: Path, kind: Kind) -> Waveform:
    """The channels of `kind` in a recording, in the file's order; others (a pulse, a marker) are left out.

    Raises:
        WaveformError: with a reason; nothing from the file is in it.
    """
    reader = _reader(path)
    with _quiet():
        try:
            _check_size([path])
            return _joined(list(reader(path, kind)), kind)
        except WaveformError:
            raise
        except Exception:  # the libraries' messages quote the file
            raise WaveformError("unreadable") from None


def _check_size(paths: list[Path]) -> None:
    if sum(path.stat().st_size for path in set(paths)) > MAX_BYTES:
        raise WaveformError("too_large")


def _joined(found: list[_Raw], kind: Kind) -> Waveform:
    names = [_standard(raw.name, kind) for raw in found]
    wanted = [(name, raw) for name, raw in zip(names, found, strict=True) if name]
    if not wanted or len({name for name, _ in wanted}) < len(wanted):
        raise WaveformError("no_channels")
    rates = {raw.rate_hz for _, raw in wanted}
    if len(rates) > 1:
        raise WaveformError("mixed_rates")
    rate = rates.pop()
    if not np.isfinite(rate) or not 1 <= rate <= 1e6:
        raise WaveformError("bad_rate")
    lengths = {len(raw.values) for _, raw in wanted}
    if len(lengths) > 1:
        raise WaveformError("mismatched_lengths")
    if lengths == {0}:
        raise WaveformError("empty")
    rows = [raw.values * (_in_volts(raw.unit) / _VOLTS[UNITS[kind].lower()]) for _, raw in wanted]
    signal = np.stack(rows).astype(np.float32)
    _check_amplitude(signal, _PLAUSIBLE[kind])
    return Waveform(signal, float(rate), UNITS[kind], tuple(name for name, _ in wanted))


def _standard(name: str, kind: Kind) -> str:
    """The standard name of a channel (`EEG Fp1-Ref` is Fp1, `Lead I (Einthoven)` is I), or empty."""
    short = re.sub(r"^(?:eeg|ecg|ekg|lead)\s+", "", name.strip().lower())
    short = re.sub(r"\s*\(.*\)$|[-\s](?:ref|le|avg?|a1|a2|m1|m2)$", "", short).strip()
    return _NAMES[kind].get(short, "")


def _in_volts(unit: str) -> float:
    try:
        return _VOLTS[unit.strip().lower()]
    except KeyError:
        raise WaveformError("wrong_unit") from None


def _check_amplitude(signal: NDArray[np.float32], limit: float) -> None:
    with np.errstate(invalid="ignore"):
        finite = np.where(np.isfinite(signal), signal, np.nan)
        if np.isnan(finite).all():
            raise WaveformError("nan_samples")
        usable = finite[~np.isnan(finite).all(axis=1)]
        away = np.abs(usable - np.nanmedian(usable, axis=1, keepdims=True))
        if (np.nanpercentile(away, 99, axis=1) > limit).any():
            raise WaveformError("implausible_amplitude")


def _edf(path: Path, kind: Kind) -> Iterator[_Raw]:
    import edfio

    _check_edf_length(path)
    edf = edfio.read_edf(path, lazy_load_data=True)
    if not edf.is_continuous:
        raise WaveformError("discontinuous")
    for signal in edf.signals:
        if _standard(signal.label, kind):
            values = np.asarray(signal.data, np.float64)
            yield _Raw(signal.label, signal.physical_dimension, signal.sampling_frequency, values)


def _check_edf_length(path: Path) -> None:
    """The reader takes what there is of a file that was cut; here its records are as many as its header says."""
    with path.open("rb") as stream:
        main = stream.read(256)
        signals = int(main[252:256])
        # Of each signal 216 bytes come before its samples a record, of 8 bytes.
        fields = stream.read(224 * signals)[216 * signals :]
    record = 2 * sum(int(fields[place : place + 8]) for place in range(0, 8 * signals, 8))
    if int(main[184:192]) + int(main[236:244]) * record != path.stat().st_size:
        raise WaveformError("unreadable")


def _wfdb(path: Path, kind: Kind) -> Iterator[_Raw]:
    import wfdb

    header = wfdb.rdheader(str(path.with_suffix("")))
    # The header names the files of the signal: only beside itself, and no link out of the tree.
    for name in {*(getattr(header, "file_name", None) or ()), *(getattr(header, "seg_name", None) or ())}:
        if Path(name).name != name or (path.parent / name).is_symlink():
            raise WaveformError("unsafe_path")
    _check_size([path.parent / name for name in (getattr(header, "file_name", None) or ())])
    files = {path.parent / name for name in (getattr(header, "file_name", None) or ())}
    samples = int(header.sig_len or 0) * int(header.n_sig or 0)
    # The reader allocates what the header says. A sample takes a byte or more, but in FLAC (formats 508 to 524).
    compressed = any(str(code).startswith("5") for code in (getattr(header, "fmt", None) or ()))
    if samples > MAX_BYTES or (files and not compressed and samples > sum(file.stat().st_size for file in files)):
        raise WaveformError("too_large")
    record = wfdb.rdrecord(str(path.with_suffix("")))
    if record.p_signal is None:
        raise WaveformError("empty")
    for name, unit, values in zip(record.sig_name, record.units, record.p_signal.T, strict=True):
        yield _Raw(name or "", unit or "", float(record.fs), np.asarray(values, np.float64))


def _csv(path: Path, kind: Kind) -> Iterator[_Raw]:
    """`# Name: value` lines (`Sampling Rate`, `Units`), a line of channel names, a line for each sample."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    header: dict[str, str] = {}
    while lines and lines[0].startswith("#"):
        name, _, value = lines.pop(0)[1:].partition(":")
        header[name.strip().lower()] = value.strip()
    rate = re.match(r"\d+(?:\.\d+)?", header.get("sampling rate", ""))
    if rate is None:
        raise WaveformError("bad_rate")
    rows = [row for row in csv.reader(StringIO("\n".join(lines))) if row]
    if len(rows) < 2:
        raise WaveformError("empty")
    if len({len(row) for row in rows}) > 1:
        raise WaveformError("mismatched_lengths")
    # An empty field is a missing sample.
    values = np.array([[field.strip() or "nan" for field in row] for row in rows[1:]], np.float64)
    for name, column in zip(rows[0], values.T, strict=True):
        yield _Raw(name, header.get("units", ""), float(rate[0]), column)


def _dicom(path: Path, kind: Kind) -> Iterator[_Raw]:
    """The first multiplex group: the recording itself (a second one holds median beats)."""
    dataset = read_within_limits(path.read_bytes())
    if not dataset.get("WaveformSequence"):
        raise WaveformError("empty")
    group = dataset.WaveformSequence[0]
    values = np.asarray(dataset.waveform_array(0), np.float64)
    for number, channel in enumerate(group.ChannelDefinitionSequence):
        source = channel.ChannelSourceSequence[0]
        units = channel.get("ChannelSensitivityUnitsSequence")
        unit = str(units[0].CodeValue) if units and "ChannelSensitivity" in channel else ""
        name = str(source.get("CodeMeaning", "")) or str(channel.get("ChannelLabel", ""))
        yield _Raw(name, unit, float(group.SamplingFrequency), values[:, number])


_Reader = Callable[[Path, Kind], Iterator[_Raw]]
_READERS: dict[str, _Reader] = {".edf": _edf, ".hea": _wfdb, ".csv": _csv, ".dcm": _dicom}


def _reader(path: Path) -> _Reader:
    try:
        return _READERS[path.suffix.lower()]
    except KeyError:
        raise WaveformError("unknown_format") from None


@contextmanager
def _quiet() -> Iterator[Any]:
    """Warnings and log lines of the readers quote values of the file: none of them gets out."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "edfio", "wfdb")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

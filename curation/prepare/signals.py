"""What is done to a recording: quality of each channel, zero-phase filters, another rate, spectral features.

Cut-offs and their sources:
- ECG 0.5-150 Hz. AHA/ACC/HRS 2007 part I (Kligfield et al., Circulation 115:1306): low cut-off 0.05 Hz, relaxed to
  0.67 Hz or less for filters without phase distortion, high cut-off at least 150 Hz for adults.
- EEG 0.5-70 Hz. ACNS guideline 1 (2016): low-frequency filter at most 1 Hz, high-frequency filter at least 70 Hz.
- Notch at the mains, 50 or 60 Hz, quality 30: 1.7 Hz wide at 50 Hz.
Filters run forwards and backwards, so they shift nothing and their attenuation counts twice (6 dB at the cut-offs).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, iirnotch, resample_poly, sosfiltfilt, spectrogram, tf2sos, welch

from curation.prepare.reasons import WaveformError
from curation.prepare.waveform import Kind, Waveform

PASS_HZ: dict[Kind, tuple[float, float]] = {"ecg": (0.5, 150.0), "eeg": (0.5, 70.0)}
# EEG: the bands of the IFCN glossary (Kane et al. 2017). ECG: T and P waves, QRS (Pan and Tompkins 1985), the rest.
BANDS_HZ: dict[Kind, dict[str, tuple[float, float]]] = {
    "ecg": {"p_t": (0.5, 5.0), "qrs": (5.0, 15.0), "middle": (15.0, 40.0), "high": (40.0, 150.0)},
    "eeg": {
        "delta": (0.5, 4.0),
        "theta": (4.0, 8.0),
        "alpha": (8.0, 13.0),
        "beta": (13.0, 30.0),
        "gamma": (30.0, 70.0),
    },
}
_ORDER, _NOTCH_QUALITY = 2, 30.0
# Two seconds: one period of the lowest frequency that passes.
_SHORTEST_S = 2.0
# A gap up to 50 ms, 1 % of a channel in all, is bridged by a straight line; a longer one would invent a wave.
_GAP_S, _GAP_SHARE = 0.05, 0.01
# A channel that moves less than this in all (in its unit) carries nothing: 5 uV is the resolution asked of an ECG.
_FLAT: dict[str, float] = {"mV": 0.005, "uV": 0.5}
# The amplifier's limit: 5 samples or more exactly at the largest or smallest value, 0.5 % of the channel in all. The
# signal falls off such a shelf by several quanta; off the top of a slow wave it goes by one.
_RUN, _CLIPPED_SHARE, _QUANTA = 5, 0.005, 3
_FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recording made ready. `flags[i]` of channel i: `filled` (short gaps bridged), `flat`, `clipped`."""

    waveform: Waveform
    flags: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """`log_power` [channels, frequencies, times] float32, log10 of unit²/Hz; `bands` [channels, bands] unit²."""

    log_power: NDArray[np.float32]
    frequencies_hz: NDArray[np.float32]
    times_s: NDArray[np.float32]
    bands: NDArray[np.float32]
    band_names: tuple[str, ...]


def prepare_waveform(waveform: Waveform, kind: Kind, rate_hz: float, mains_hz: float = 50.0) -> Prepared:
    """The recording filtered and at `rate_hz`. Flat channels are zeros, so that noise of theirs is no signal.

    Raises:
        WaveformError: `too_short`, `nan_samples`, `all_flat`, `bad_rate`.
    """
    if not rate_hz > 0 or not mains_hz > 0:
        raise WaveformError("bad_rate")
    if waveform.signal.shape[1] < _SHORTEST_S * waveform.rate_hz:
        raise WaveformError("too_short")
    rows, flags = [], []
    for channel in waveform.signal:
        filled, row = _filled(channel, waveform.rate_hz)
        found = ["filled"] if filled else []
        if float(np.ptp(row)) < _FLAT[waveform.unit]:
            found.append("flat")
            row = np.zeros_like(row)
        elif is_clipped(row):
            found.append("clipped")
        rows.append(row)
        flags.append(tuple(found))
    if all("flat" in found for found in flags):
        raise WaveformError("all_flat")
    filtered = filter_zero_phase(np.stack(rows), waveform.rate_hz, PASS_HZ[kind], mains_hz)
    signal = at_rate(filtered, waveform.rate_hz, rate_hz).astype(np.float32)
    return Prepared(replace(waveform, signal=signal, rate_hz=rate_hz), tuple(flags))


def _filled(channel: NDArray[np.floating[Any]], rate_hz: float) -> tuple[bool, NDArray[np.float64]]:
    """Whether there were gaps, and the channel with short ones bridged."""
    values = channel.astype(np.float64)
    missing = ~np.isfinite(values)
    if not missing.any():
        return False, values
    if missing.mean() > _GAP_SHARE or _longest_run(missing) > _GAP_S * rate_hz:
        raise WaveformError("nan_samples")
    index = np.arange(len(values))
    values[missing] = np.interp(index[missing], index[~missing], values[~missing])
    return True, values


def _longest_run(mask: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def is_clipped(channel: NDArray[np.floating[Any]]) -> bool:
    """Whether the channel stays at its largest or smallest value as only an amplifier's limit makes it."""
    steps = np.abs(np.diff(channel))
    if not steps.any():
        return False
    steep = _QUANTA * float(steps[steps > 0].min())
    # Beyond the recording's ends nothing is known: no step.
    steps = np.concatenate([[0.0], steps, [0.0]])
    held = 0
    for end in (channel.max(), channel.min()):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], channel == end, [False]]).astype(np.int8)))
        for first, after in edges.reshape(-1, 2):
            if after - first >= _RUN and max(steps[first], steps[after]) >= steep:
                held += int(after - first)
    return held > _CLIPPED_SHARE * len(channel)


def filter_zero_phase(
    signal: NDArray[np.floating[Any]], rate_hz: float, pass_hz: tuple[float, float], mains_hz: float
) -> NDArray[np.float64]:
    """[channels, samples] band-passed (Butterworth of order 2) and notched, forwards and backwards.

    Above 0.45 of the rate there is nothing to cut: the high cut-off falls away, and so does a notch there.
    """
    low, high = pass_hz
    limit = 0.45 * rate_hz
    if low >= limit:
        raise WaveformError("bad_rate")
    if high < limit:
        sections = butter(_ORDER, [low, high], "bandpass", fs=rate_hz, output="sos")
    else:
        sections = butter(_ORDER, low, "highpass", fs=rate_hz, output="sos")
    if mains_hz < limit:
        sections = np.vstack([sections, tf2sos(*iirnotch(mains_hz, _NOTCH_QUALITY, fs=rate_hz))])
    # Reflected at the ends by up to two periods of the lowest frequency, or the high pass rings there.
    padding = min(signal.shape[1] - 1, int(2 * rate_hz / low))
    return np.asarray(sosfiltfilt(sections, signal, axis=1, padlen=padding), np.float64)


def at_rate(signal: NDArray[np.floating[Any]], rate_hz: float, wanted_hz: float) -> NDArray[np.floating[Any]]:
    """[channels, samples] at another rate: polyphase, with its own filter against aliases.

    Raises:
        WaveformError: `bad_rate` where no ratio of whole numbers up to 10000 makes the rate exact to a millionth.
    """
    ratio = Fraction(wanted_hz / rate_hz).limit_denominator(10000)
    if ratio <= 0 or abs(float(ratio) * rate_hz / wanted_hz - 1) > 1e-6:
        raise WaveformError("bad_rate")
    if ratio == 1:
        return signal
    return np.asarray(resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, padtype="line"))


def spectrum(waveform: Waveform, kind: Kind, window_s: float = 1.0) -> Spectrum:
    """The log power spectrogram (Hann windows of `window_s`, half overlapping) and the mean power in each band.

    The band power is the integral of Welch's density (windows of four seconds, or all): a sine of amplitude A
    gives A²/2. A band above half of the rate is 0; one that reaches beyond it is cut there.
    """
    samples, rate = waveform.signal.shape[1], waveform.rate_hz
    window = min(samples, max(8, round(window_s * rate)))
    signal = waveform.signal.astype(np.float64)
    frequencies, times, power = spectrogram(signal, rate, "hann", nperseg=window, noverlap=window // 2)
    at, density = welch(signal, rate, "hann", nperseg=min(samples, round(4 * rate)))
    names = tuple(BANDS_HZ[kind])
    width = float(np.mean([after - before for before, after in pairwise(at)])) if len(at) > 1 else 0.0
    bands = [
        density[:, (at >= BANDS_HZ[kind][name][0]) & (at < BANDS_HZ[kind][name][1])].sum(axis=1) * width
        for name in names
    ]
    return Spectrum(
        np.log10(np.maximum(power, _FLOOR)).astype(np.float32),
        frequencies.astype(np.float32),
        times.astype(np.float32),
        np.stack(bands, axis=1).astype(np.float32),
        names,
    )

"""ECG CSV → float32 [leads, samples] in millivolts at the declared rate and length."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
# Numbers of a text take ten times its bytes; twelve leads of an hour at 250 Hz are 100 MB. The filter that resamples
# has twenty taps for each Hz, and pacemaker pulses are recorded at 100 kHz at most.
_MAX_BYTES, _MAX_RATE_HZ = 1 << 28, 100_000
_PER_MILLIVOLT = {"mv": 1.0, "uv": 1e-3, "v": 1e3}


def load_ecg(path: Path, rate_hz: int, samples: int) -> NDArray[np.float32]:
    """The recording, resampled (polyphase, with its anti-aliasing filter), cut or padded with zeros at the end.

    Leads come in the standard order; one that is missing is zero.

    Raises:
        ValueError: no rate, an unknown unit, unequal columns, or too large. The message holds nothing from the file.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("recording too large")
    lines = path.read_text(encoding="utf-8").splitlines()
    header: dict[str, str] = {}
    while lines and lines[0].startswith("#"):
        name, _, value = lines.pop(0)[1:].partition(":")
        header[name.strip().lower()] = value.strip()
    try:
        rate = int(header["sampling rate"].split()[0])
        scale = _PER_MILLIVOLT[header.get("units", "mV").lower()]
        names = lines.pop(0).split(",")
        values = np.array([line.split(",") for line in lines], np.float64) * scale
    except (KeyError, IndexError, ValueError):
        raise ValueError("no readable recording") from None
    if values.ndim != 2 or values.shape[1] != len(names) or not 0 < rate <= _MAX_RATE_HZ:
        raise ValueError("no readable recording")
    return standard_leads(values, names, rate, rate_hz, samples)


def standard_leads(
    values: NDArray[np.float64], names: Sequence[str], recorded_hz: float, rate_hz: int, samples: int
) -> NDArray[np.float32]:
    """Values [samples, leads] at `recorded_hz` → float32 [12, `samples`] at `rate_hz`; see `load_ecg`."""
    ratio = Fraction(rate_hz) / Fraction(recorded_hz)
    resampled = resample_poly(values, ratio.numerator, ratio.denominator, axis=0)[:samples]
    leads = np.zeros((len(LEADS), samples), np.float32)
    for number, lead in enumerate(LEADS):
        if lead in names:
            leads[number, : len(resampled)] = resampled[:, names.index(lead)]
    return leads

"""Why a recording cannot be prepared: a code that may be printed, counted and stored, and nothing from the file."""

from __future__ import annotations

from typing import ClassVar


class UnfitError(ValueError):
    """A recording that cannot be used. `reason` is one of `REASONS`; the message says the same in words."""

    REASONS: ClassVar[dict[str, str]] = {}

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {self.REASONS[reason]}")

    def __reduce__(self) -> tuple[type[UnfitError], tuple[str]]:
        return type(self), (self.reason,)


class VolumeError(UnfitError):
    """A DICOM series that is no volume."""

    REASONS: ClassVar[dict[str, str]] = {
        "empty": "the series has no file",
        "unreadable": "a file is not readable DICOM",
        "no_pixels": "a file has no picture",
        "pixels_damaged": "the pixels cannot be decoded or are fewer than declared",
        "syntax_not_lossless": "the transfer syntax is not one of the lossless ones that are decoded",
        "too_large": "the pixels are more than the limit, or the file inflates beyond it",
        "not_greyscale": "the picture is in colour",
        "no_position": "several slices, but not all say where they are",
        "bad_geometry": "the orientation, the spacing or another value of a slice is not usable",
        "mixed_series": "the files are of several series, modalities or frames of reference",
        "mixed_size": "the slices differ in rows or columns",
        "mixed_orientation": "the slices are not parallel",
        "mixed_spacing": "the pixel spacing or the distance between slices varies",
        "duplicate_slice": "two slices are at the same place",
        "gap": "at least one slice is missing",
    }


class WaveformError(UnfitError):
    """A recording of signals that is not usable."""

    REASONS: ClassVar[dict[str, str]] = {
        "unreadable": "the recording cannot be read",
        "unknown_format": "the file is neither EDF, WFDB, CSV nor DICOM",
        "unsafe_path": "the header names a file outside its folder",
        "too_large": "the recording is larger than the limit",
        "empty": "the recording has no samples",
        "too_short": "the recording is shorter than the filter needs",
        "no_channels": "none of the wanted channels is in it",
        "wrong_unit": "a channel is not in volts",
        "implausible_amplitude": "the amplitudes do not fit the declared unit",
        "bad_rate": "the sampling rate is missing or not usable",
        "mixed_rates": "the channels have several sampling rates",
        "mismatched_lengths": "the channels are not equally long",
        "discontinuous": "the recording has breaks in time",
        "nan_samples": "samples are missing or not finite for longer than may be filled",
        "all_flat": "no channel carries a signal",
    }

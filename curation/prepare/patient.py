"""One patient's folder → one prepared sample: volumes, recordings, note, findings, alignment, thumbnails, variants.

The result is a plain `.npz`: arrays by name, and `facts`, a JSON text in bytes. Names: `volume_0`, `thumbnail_0` (a PNG
in bytes), `pool_0` (variants of the middle slice), `ecg_0`, `ecg_0_log_power`, `ecg_0_bands` and so on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from curation.prepare.align import align, facts
from curation.prepare.augment import Augmentation, make_pool
from curation.prepare.dicom_slices import Slice, read_slices
from curation.prepare.entities import extract
from curation.prepare.note import clean_note
from curation.prepare.reasons import UnfitError, VolumeError, WaveformError
from curation.prepare.signals import prepare_waveform, spectrum
from curation.prepare.views import SOFT_TISSUE, WHOLE, resample, thumbnail
from curation.prepare.volume import Volume, build_volume
from curation.prepare.waveform import Kind, Waveform, load_waveform
from curation.prepare.workers import Task

Rejected = tuple[tuple[str, str], ...]
_KINDS: tuple[Kind, ...] = ("ecg", "eeg")
# Read otherwise, parts of other files, or what the sample is described by.
_NOT_RECORDINGS = {".atr", ".dcm", ".txt", ".dat", ".json"}


class SampleError(UnfitError):
    """A patient's folder that gives no sample."""

    REASONS: ClassVar[dict[str, str]] = {
        "no_note": "the patient has no note",
        "bad_text": "a note is not UTF-8 text",
        "nothing_usable": "the patient has recordings, and none of them can be used",
    }


@dataclass(frozen=True, slots=True)
class Parameters:
    """How samples are prepared. All of it is part of the data version.

    Attributes:
        spacing_mm: slices, rows, columns of a volume; empty leaves it as it was recorded
        variants: of the middle slice in the pool; 0 makes none
    """

    spacing_mm: tuple[float, ...] = ()
    ecg_rate_hz: float = 250.0
    eeg_rate_hz: float = 256.0
    mains_hz: float = 50.0
    thumbnail_side: int = 128
    variants: int = 0
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "spacing_mm": list(self.spacing_mm)}


def from_json(entry: dict[str, Any]) -> Parameters:
    """The parameters that `as_json` gave."""
    changes = Augmentation(**entry["augmentation"])
    return Parameters(**{**entry, "spacing_mm": tuple(entry["spacing_mm"]), "augmentation": changes})


def prepare_patient(task: Task, parameters: dict[str, Any]) -> tuple[bytes, Rejected]:
    """The sample of the files of `task`, and which of them were left out and why.

    Raises:
        SampleError: there is no note, or nothing but a note is left of recordings that there were.
    """
    settings, paths = from_json(parameters), [Path(name) for name in task.inputs]
    text = "\n".join(_notes(paths))
    arrays: dict[str, NDArray[Any]] = {}
    rejected: list[tuple[str, str]] = []
    volumes, recordings = _volumes(paths, rejected)
    waveforms = _waveforms([*recordings, *(path for path in paths if path.suffix not in _NOT_RECORDINGS)], rejected)
    described = [*_add_volumes(volumes, arrays, settings, task.id, rejected)]
    recorded = [*_add_waveforms(waveforms, arrays, settings, rejected)]
    if rejected and not described and not recorded:
        raise SampleError("nothing_usable")
    entities = extract(text)
    samples = align(entities, [facts(volume) for volume, _ in described])
    entry = {
        "id": task.id,
        "text": text,
        "volumes": [shown for _, shown in described],
        "waveforms": recorded,
        "entities": [asdict(each) for each in entities],
        "samples": [asdict(each) for each in samples],
        "rejected": [list(each) for each in rejected],
    }
    arrays["facts"] = _text(json.dumps(entry, ensure_ascii=False, sort_keys=True))
    stream = BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue(), tuple(rejected)


def tasks_of(folder: Path) -> Iterator[Task]:
    """A task for each patient below `folder`, by name; links and files in deeper folders are not followed."""
    for patient in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
        files = sorted(path for path in patient.iterdir() if path.is_file() and not path.is_symlink())
        yield Task(patient.name, tuple(str(path) for path in files))


def _text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def _notes(paths: list[Path]) -> Iterator[str]:
    notes = [path for path in paths if path.suffix == ".txt" and path.name.startswith("note")]
    if not notes:
        raise SampleError("no_note")
    for path in notes:
        try:
            yield clean_note(path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError:
            raise SampleError("bad_text") from None


def _volumes(paths: list[Path], rejected: list[tuple[str, str]]) -> tuple[list[tuple[str, Volume]], list[Path]]:
    """The volumes of the folder with the name of their first file, and the DICOM files without a picture."""
    others: list[Path] = []
    series: dict[tuple[str, str], list[tuple[str, list[Slice]]]] = {}
    for path in paths:
        if path.suffix != ".dcm":
            continue
        try:
            slices = read_slices(path)
        except VolumeError as error:
            if error.reason == "no_pixels":
                others.append(path)
            else:
                rejected.append((path.name, error.reason))
        else:
            series.setdefault(slices[0].group, []).append((path.name, slices))
    found = []
    for files in series.values():
        try:
            found.append((files[0][0], build_volume([each for _, slices in files for each in slices])))
        except VolumeError as error:
            rejected += [(name, error.reason) for name, _ in files]
    return found, others


def _waveforms(paths: list[Path], rejected: list[tuple[str, str]]) -> list[tuple[str, Kind, Waveform]]:
    """Each recording, as an ECG if it has leads of one, else as an EEG."""
    found = []
    for path in paths:
        reason = ""
        for kind in _KINDS:
            try:
                found.append((path.name, kind, load_waveform(path, kind)))
                break
            except WaveformError as error:
                reason = reason if reason and error.reason == "no_channels" else error.reason
        else:
            rejected.append((path.name, reason))
    return found


def _add_volumes(
    volumes: list[tuple[str, Volume]],
    arrays: dict[str, NDArray[Any]],
    settings: Parameters,
    sample_id: str,
    rejected: list[tuple[str, str]],
) -> Iterator[tuple[Volume, dict[str, Any]]]:
    number = 0
    for name, original in volumes:
        volume = original
        if settings.spacing_mm:
            slices, rows, columns = settings.spacing_mm
            try:
                volume = resample(original, (slices, rows, columns))
            except VolumeError as error:
                rejected.append((name, error.reason))
                continue
        window = SOFT_TISSUE if volume.unit == "HU" else WHOLE
        arrays[f"volume_{number}"] = volume.voxels
        arrays[f"thumbnail_{number}"] = np.frombuffer(thumbnail(volume, window, settings.thumbnail_side), np.uint8)
        if settings.variants:
            middle = volume.voxels[len(volume.voxels) // 2]
            arrays[f"pool_{number}"] = make_pool(
                middle, settings.seed, f"{sample_id}/{number}", settings.augmentation, settings.variants
            )
        yield volume, {
            "modality": volume.modality, "unit": volume.unit, "low": volume.low, "high": volume.high,
            "spacing_mm": volume.spacing_mm, "plane": volume.plane, "tilt_deg": round(volume.tilt_deg, 3),
            "clipped": volume.clipped, "region": volume.region, "series": volume.series, "numbers": volume.numbers,
        }  # fmt: skip
        number += 1


def _add_waveforms(
    waveforms: list[tuple[str, Kind, Waveform]],
    arrays: dict[str, NDArray[Any]],
    settings: Parameters,
    rejected: list[tuple[str, str]],
) -> Iterator[dict[str, Any]]:
    number = 0
    for name, kind, waveform in waveforms:
        rate = settings.ecg_rate_hz if kind == "ecg" else settings.eeg_rate_hz
        try:
            prepared = prepare_waveform(waveform, kind, rate, settings.mains_hz)
        except WaveformError as error:
            rejected.append((name, error.reason))
            continue
        features = spectrum(prepared.waveform, kind)
        arrays[f"{kind}_{number}"] = prepared.waveform.signal
        arrays[f"{kind}_{number}_log_power"] = features.log_power
        arrays[f"{kind}_{number}_bands"] = features.bands
        yield {
            "kind": kind, "rate_hz": rate, "unit": waveform.unit, "channels": waveform.channels,
            "flags": prepared.flags, "bands": features.band_names,
        }  # fmt: skip
        number += 1

"""Milliseconds of one core for each prepared sample, by part, on data that is made here from pydicom's own files.

- `sample`: patients of `medllm data sample` (note, one CT or MR picture, ECG of 6 s in CSV), each prepared whole
- `study`: note, CT series of 16 slices of 512 x 512 in JPEG 2000, ECG of 10 s in DICOM, each prepared whole
- `slice_512`: one CT slice of 512 x 512, read to Hounsfield units, by transfer syntax
- `parts`: each step alone
Processor time of this process, so that other work on the machine does not count; the least of several repeats.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from scipy.ndimage import zoom

from curation.prepare.align import SeriesFacts, align
from curation.prepare.augment import Augmentation, make_pool, pick, row_of, to_bytes
from curation.prepare.entities import extract
from curation.prepare.patient import Parameters, prepare_patient, tasks_of
from curation.prepare.signals import prepare_waveform, spectrum
from curation.prepare.views import SOFT_TISSUE, resample, thumbnail
from curation.prepare.volume import Volume, load_volume
from curation.prepare.waveform import load_waveform
from curation.sample import write_sample
from medllm.files import write_atomic

RESULT = Path(__file__).parents[2] / "results" / "prepare.json"
_PATIENTS, _SLICES, _SIDE, _REPEATS = 60, 16, 512, 3
_NOTE = "FINDINGS: A 9 mm nodule in the right upper lobe (series 4, image 3). No pleural effusion. 双肺未见实变。\n"


def main() -> None:
    """Measure, print and write the result."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = {
            "unit": "milliseconds of processor time, one core",
            "goal_ms_per_sample": {"at_most": 100, "aim": 20},
            "sample": _samples(folder / "raw"),
            "study": _study(folder / "study"),
            "slice_512": _slices(folder),
            "parts": _parts(folder),
            "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
            "tools": {tool: version(tool) for tool in ("numpy", "pydicom", "pylibjpeg-openjpeg", "pyjpegls", "scipy")},
        }
    write_atomic(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _ms(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """The least processor time of `repeats` calls after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return round(min(times) * 1000, 3)


def _samples(folder: Path) -> dict[str, Any]:
    write_sample(folder, _PATIENTS)
    tasks = list(tasks_of(folder / "patients"))
    plain, pool = Parameters().as_json(), Parameters(variants=10).as_json()

    def all_of(parameters: dict[str, Any]) -> float:
        return round(_ms(lambda: [prepare_patient(task, parameters) for task in tasks]) / len(tasks), 3)

    return {"count": len(tasks), "ms_per_sample": all_of(plain), "ms_per_sample_with_10_variants": all_of(pool)}


def _large(place: int) -> Dataset:
    """CT_small enlarged to 512 x 512, with the noise of a scanner, at its place in the series."""
    dataset = copy.deepcopy(_ct())
    stored = zoom(dataset.pixel_array.astype(np.float32), _SIDE / 128, order=1)
    noise = np.random.default_rng(place).normal(0, 10, stored.shape)
    dataset.Rows = dataset.Columns = _SIDE
    dataset.PixelSpacing = [0.7, 0.7]
    dataset.SeriesNumber, dataset.BodyPartExamined, dataset.InstanceNumber = 4, "CHEST", _SLICES - place
    dataset.ImagePositionPatient = [0, 0, 1.25 * place]
    dataset.PixelData = np.clip(stored + noise, 0, 4095).astype(np.int16).tobytes()
    return dataset


def _ct() -> Dataset:
    return pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))


def _study(folder: Path) -> dict[str, Any]:
    patient = folder / "patients" / "p1"
    patient.mkdir(parents=True)
    (patient / "note.txt").write_text(_NOTE, encoding="utf-8")
    (patient / "ecg.dcm").write_bytes(Path(str(get_testdata_file("waveform_ecg.dcm", download=False))).read_bytes())
    for place in range(_SLICES):
        dataset = _large(place)
        dataset.compress(JPEG2000Lossless)
        dataset.save_as(patient / f"image-{place:03d}.dcm")
    [task] = tasks_of(folder / "patients")
    as_is = _ms(lambda: prepare_patient(task, Parameters().as_json()))
    spacing = Parameters(spacing_mm=(2.5, 1.4, 1.4)).as_json()
    return {
        "slices": _SLICES,
        "ms_per_study": as_is,
        "ms_per_slice": round(as_is / _SLICES, 3),
        "ms_per_study_resampled_to_half": _ms(lambda: prepare_patient(task, spacing)),
    }


def _slices(folder: Path) -> dict[str, float]:
    found = {}
    for name, syntax in (
        ("uncompressed", None), ("rle", RLELossless), ("jpeg_ls", JPEGLSLossless), ("jpeg_2000", JPEG2000Lossless),
    ):  # fmt: skip
        dataset, path = _large(0), folder / f"{name}.dcm"
        if syntax:
            dataset.compress(syntax)
        dataset.save_as(path)
        found[name] = _ms(lambda path=path: load_volume([path]), 10)  # type: ignore[misc]
    return found


def _parts(folder: Path) -> dict[str, float]:
    ct = Path(str(get_testdata_file("CT_small.dcm", download=False)))
    ecg = Path(str(get_testdata_file("waveform_ecg.dcm", download=False)))
    volume, waveform = load_volume([ct]), load_waveform(ecg, "ecg")
    prepared = prepare_waveform(waveform, "ecg", 250).waveform
    text = _NOTE * 10
    entities = extract(text)
    series = [SeriesFacts(4, "chest", "axial", True, tuple(range(1, 101)))]
    stack = Volume(
        np.zeros((_SLICES, _SIDE, _SIDE), np.int16), (1.25, 0.7, 0.7), "CT", "HU", 0, 1, tuple(range(_SLICES)),
        tuple(1.25 * place for place in range(_SLICES)), None, None, 0.0, 0,
    )  # fmt: skip
    pool = folder / "pool.npy"
    large = load_volume([folder / "uncompressed.dcm"]).voxels[0]
    pool.write_bytes(to_bytes(make_pool(large, 0, "s", Augmentation())))
    return {
        "ct_128": _ms(lambda: load_volume([ct]), 10),
        "thumbnail_128": _ms(lambda: thumbnail(volume, SOFT_TISSUE), 10),
        "ecg_read_12x10s_1000hz": _ms(lambda: load_waveform(ecg, "ecg"), 10),
        "ecg_filter_resample": _ms(lambda: prepare_waveform(waveform, "ecg", 250), 10),
        "ecg_spectrum": _ms(lambda: spectrum(prepared, "ecg"), 10),
        f"entities_{len(text)}_characters": _ms(lambda: extract(text), 10),
        "align": _ms(lambda: align(entities, series), 10),
        "resample_16x512x512_to_half": _ms(lambda: resample(stack, (2.5, 1.4, 1.4))),
        "pool_10_variants_512": _ms(lambda: make_pool(large, 0, "s", Augmentation())),
        "row_of_one_variant": _ms(lambda: row_of(0, "s", 9, Augmentation()), 30),
        "pick_one_variant_512": _ms(lambda: pick(pool, 1), 30),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()

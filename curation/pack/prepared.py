"""A prepared study → the samples that a data set holds: the whole study, and each finding with its own slices.

What a model takes has one fixed size: a picture [size, size], 12 leads at one rate. What it is drawn from goes along as
a stack of slices of that size, evenly spread over the study or over the finding's slices.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.pack.shards import Sample
from curation.prepare.ecg import standard_leads
from curation.prepare.image import square
from curation.prepare.note import clean_note
from curation.prepare.sentences import sentences

Volumes = list[NDArray[np.integer[Any]]]
Signals = dict[str, tuple[NDArray[np.float32], dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of what goes into a sample.

    Attributes:
        image: pixels a side
        slices: of a volume at most; 0 stores none
        ecg_rate_hz, ecg_samples: of each lead
        eeg_samples: of each channel at most, at the rate at which it was prepared
    """

    image: int
    slices: int
    ecg_rate_hz: int
    ecg_samples: int
    eeg_samples: int


def study_samples(path: Path, sizes: Sizes, skipped: Counter[str]) -> Iterator[Sample]:
    """The samples of the prepared study at `path`, the whole one first.

    Args:
        skipped: counts what of the study no sample holds
    """
    with np.load(path, allow_pickle=False) as arrays:
        study = json.loads(arrays["facts"].tobytes())
        volumes = [arrays[f"volume_{number}"] for number in range(len(study["volumes"]))]
        signals = _signals(study["waveforms"], arrays, sizes, skipped)
    for each in study["samples"]:
        yield _sample(study, each, volumes, signals, sizes)


def _sample(study: dict[str, Any], each: dict[str, Any], volumes: Volumes, signals: Signals, sizes: Sizes) -> Sample:
    """One sample of a study: `each` is the entry that alignment made for it."""
    whole = each["kind"] == "full_study"
    finding = {} if whole else study["entities"][each["entity"]]
    text = study["text"] if whole else clean_note(_sentence(study["text"], finding))
    places = range(len(volumes)) if whole else [each["series"]]
    ranges = [(place, *(each["slices"] or (0, len(volumes[place])))) for place in places]
    image, stacks = None, []
    facts: dict[str, Any] = {
        "sample_id": f"{study['id']}-full" if whole else f"{study['id']}-e{each['entity']:03d}",
        "patient": study["id"], "sample_kind": each["kind"], "confidence": each["confidence"],
        "modalities": ["text", *(["image"] if ranges else []), *signals],
    }  # fmt: skip
    if not whole:
        # Codes only: what the finding is, not how the note says it.
        codes = {key: finding[key] for key in ("finding", "anatomy", "side", "status")}
        facts |= {"evidence": each["evidence"], "entity": codes}
    for place, first, last in ranges:
        if image is None:
            image = _small(volumes[place][(first + last) // 2], sizes.image)
            facts["image"] = _described(image) | {"modality": study["volumes"][place]["modality"]}
        numbers = _spread(first, last, sizes.slices)
        if numbers:
            stacks.append(np.stack([_small(volumes[place][number], sizes.image) for number in numbers]))
            kept = {key: study["volumes"][place][key] for key in ("modality", "unit", "spacing_mm", "plane", "region")}
            facts.setdefault("volumes", []).append({**_described(stacks[-1]), **kept, "slices": numbers})
    facts |= {name: described for name, (_, described) in signals.items()}
    ecg, eeg = (signals[name][0] if name in signals else None for name in ("ecg", "eeg"))
    return Sample(facts["sample_id"], facts, text, image, ecg, tuple(stacks), eeg)


def _signals(
    described: list[dict[str, Any]], arrays: Mapping[str, NDArray[Any]], sizes: Sizes, skipped: Counter[str]
) -> Signals:
    """The first recording of each kind, as a sample holds it, with what describes it."""
    found: Signals = {}
    for number, facts in enumerate(described):
        kind, rate = facts["kind"], facts["rate_hz"]
        if kind in found:
            skipped[f"further_{kind}"] += 1
            continue
        signal: NDArray[np.float32] = arrays[f"{kind}_{number}"]
        if kind == "ecg":
            values = signal.T.astype(np.float64)
            signal = standard_leads(values, facts["channels"], rate, sizes.ecg_rate_hz, sizes.ecg_samples)
            rate = sizes.ecg_rate_hz
        else:
            signal = np.ascontiguousarray(signal[:, : sizes.eeg_samples])
        found[kind] = signal, _described(signal) | {"rate_hz": rate, "unit": facts["unit"]}
    return found


def _spread(first: int, last: int, most: int) -> list[int]:
    """At most `most` places of [first, last), evenly spread, both ends included; all of them if they are no more."""
    count = min(most, last - first)
    if count == 1:
        return [(first + last) // 2]
    return [first + round(number * (last - 1 - first) / (count - 1)) for number in range(count)]


def _small(picture: NDArray[np.integer[Any]], size: int) -> NDArray[np.integer[Any]]:
    """[height, width] → [size, size] of the same dtype and unit."""
    limits = np.iinfo(picture.dtype)
    resampled = square(picture.astype(np.float32), size)
    return np.clip(np.rint(resampled), limits.min, limits.max).astype(picture.dtype)


def _sentence(text: str, entity: dict[str, Any]) -> str:
    """The sentence that says the finding."""
    start = entity["span"][0]
    return next((text[each.start : each.end] for each in sentences(text) if each.start <= start < each.end), text)


def _described(array: NDArray[Any]) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype)}

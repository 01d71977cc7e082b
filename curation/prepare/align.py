"""A report and the series of its study → training samples: the whole study always, single findings where they fit.

A finding becomes a sample of its own (`entity_based`) when the confidence that it lies in certain slices is above 0.7.
A finding that is denied or of the past never does. The weights below are our own choice, not measured on labelled
studies: they say which kinds of evidence suffice alone and which only together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from curation.prepare.entities import Entity
from curation.prepare.lexicon import anatomies
from curation.prepare.volume import Volume

THRESHOLD = 0.7
# The report gives series and image; the image alone, found in one series; a landmark; a side, in a sagittal series.
_SERIES_IMAGE, _IMAGE, _LANDMARK, _SIDE = 0.95, 0.85, 0.75, 0.5
# A place that fills the share w of its region bears (1 - w) of this.
_PLACE = 0.7
# A side that is said of a sided organ makes the description more likely to be of a real, seen thing.
_SAID_SIDE = 0.1
# The report doubts the finding; its image number and its place exclude one another.
_DOUBT, _CONTRADICTION = 0.6, 0.5


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What alignment needs of a series: `numbers` of its slices in the volume's order, and how that order runs."""

    series: int | None
    region: str
    plane: str
    ascending: bool
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StudySample:
    """`full_study`: everything. `entity_based`: finding `entity` lies in slices [first, last) of series `series`.

    `entity` and `series` are places in the lists that were aligned; `evidence` names what the confidence rests on.
    """

    kind: Literal["full_study", "entity_based"]
    confidence: float
    entity: int | None = None
    series: int | None = None
    slices: tuple[int, int] | None = None
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Evidence:
    kind: str
    weight: float
    first: int
    last: int


def facts(volume: Volume) -> SeriesFacts:
    """The facts of a volume."""
    return SeriesFacts(volume.series, volume.region, volume.plane, volume.ascending, volume.numbers)


def align(entities: Sequence[Entity], series: Sequence[SeriesFacts], threshold: float = THRESHOLD) -> list[StudySample]:
    """The full study first, then a sample for each finding whose best confidence is above `threshold`."""
    samples = [StudySample("full_study", 1.0)]
    for number, entity in enumerate(entities):
        if entity.status not in {"present", "uncertain"}:
            continue
        candidates = [_judge(entity, number, place, series) for place in range(len(series))]
        best = max((each for each in candidates if each), key=lambda each: each.confidence, default=None)
        if best is not None and best.confidence > threshold:
            samples.append(best)
    return samples


def _judge(entity: Entity, number: int, place: int, series: Sequence[SeriesFacts]) -> StudySample | None:
    """What speaks for the finding in the series at `place`, weighed; None when nothing does."""
    named = _named(entity, place, series)
    where = [each for each in (_anatomy(entity, series[place]), _side(entity, series[place])) if each]
    if named:
        base, rest, factor = named, where, 1.0
    elif where:
        base, rest, factor = where[0], where[1:], 1.0
    else:
        return None
    first, last, doubt, used = base.first, base.last, 1.0 - base.weight, [base.kind]
    for each in rest:
        if max(first, each.first) >= min(last, each.last):
            factor *= _CONTRADICTION
            used.append(f"not_{each.kind}")
            continue
        doubt *= 1.0 - each.weight
        used.append(each.kind)
        if not named:
            first, last = max(first, each.first), min(last, each.last)
    if entity.side and entity.anatomy and anatomies()[entity.anatomy].sided and "side" not in used:
        doubt *= 1.0 - _SAID_SIDE
        used.append("said_side")
    if entity.status == "uncertain":
        factor *= _DOUBT
    confidence = round((1.0 - doubt) * factor, 4)
    return StudySample("entity_based", confidence, number, place, (first, last), tuple(used))


def _named(entity: Entity, place: int, series: Sequence[SeriesFacts]) -> _Evidence | None:
    """The slices that the report names, if this series has all of them: the range that they span."""
    if not entity.slices:
        return None
    indices: list[int] = []
    weight = 1.0
    for reference in entity.slices:
        if reference.series is not None and reference.series != series[place].series:
            return None
        wanted = {reference.first, reference.last}
        if not wanted <= set(series[place].numbers):
            return None
        indices += [
            index for index, number in enumerate(series[place].numbers) if reference.first <= number <= reference.last
        ]
        if reference.series is not None:
            weight = min(weight, _SERIES_IMAGE)
        else:
            # A number alone may be meant of any series that has it.
            having = sum(wanted <= set(each.numbers) for each in series)
            weight = min(weight, _IMAGE / having)
    return _Evidence("image", weight, min(indices), max(indices) + 1)


def _anatomy(entity: Entity, one: SeriesFacts) -> _Evidence | None:
    """The slices where the place of the finding usually is, in an axial series of its region."""
    if one.plane != "axial" or not one.region or not (entity.named or entity.levels):
        return None
    known = [anatomies()[code] for code in (*entity.levels, entity.anatomy) if code]
    fitting = [each for each in known if each.region == one.region]
    if not fitting:
        return None
    narrow = min(fitting, key=lambda each: each.extent[1] - each.extent[0])
    low, high = narrow.extent
    weight = _LANDMARK if narrow.level else _PLACE * (1.0 - (high - low))
    count = len(one.numbers)
    # Extents count from the head end; an ascending series begins at the feet.
    first, last = (1.0 - high, 1.0 - low) if one.ascending else (low, high)
    begin = min(int(first * count), count - 1)
    return _Evidence(
        "level" if narrow.level else "place", weight, begin, max(begin + 1, min(count, round(last * count)))
    )


def _side(entity: Entity, one: SeriesFacts) -> _Evidence | None:
    """The half of a sagittal series on the side that is said: DICOM's x axis runs to the patient's left."""
    count = len(one.numbers)
    if one.plane != "sagittal" or entity.side not in {"left", "right"} or count < 2:
        return None
    middle = (count + 1) // 2
    later = (entity.side == "left") == one.ascending
    return _Evidence("side", _SIDE, count - middle if later else 0, count if later else middle)

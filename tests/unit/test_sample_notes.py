"""The committed sample notes: reproducible, exactly labelled, varied."""

import collections
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from curation.sample_notes import generate, pools

FOLDER = Path(generate.__file__).parent
WORD = re.compile(r"[a-z0-9]+|[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def notes() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / "notes.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def kept() -> dict[str, list[dict[str, Any]]]:
    rows = [json.loads(line) for line in (FOLDER / "must_survive.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row["keep"] for row in rows}


def shingles(note: dict[str, Any]) -> set[tuple[str, ...]]:
    text = note["text"]
    for span in reversed(note["spans"]):
        text = text[: span["start"]] + " " + text[span["end"] :]
    words = WORD.findall(text.lower())
    return {tuple(words[place : place + 5]) for place in range(len(words) - 4)}


def test_regeneration_gives_the_same_bytes(tmp_path: Path) -> None:
    generate.main(tmp_path)
    for name in ("notes.jsonl", "must_survive.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
    assert (FOLDER / "notes.jsonl").stat().st_size < 1_000_000


def test_there_are_enough_notes_in_each_language(notes: list[dict[str, Any]]) -> None:
    assert len(notes) >= 200
    assert len({note["id"] for note in notes}) == len(notes)
    shares = collections.Counter(note["lang"] for note in notes)
    assert shares["en"] > shares["zh"] > shares["mixed"] > 0


def test_spans_are_exact_ordered_and_of_every_kind(notes: list[dict[str, Any]]) -> None:
    seen = set()
    for note in notes:
        end = 0
        for span in note["spans"]:
            value = note["text"][span["start"] : span["end"]]
            assert span["start"] >= end, (note["id"], span)
            assert value, (note["id"], span)
            assert value == value.strip(), (note["id"], span)
            end = span["end"]
            seen.add(span["kind"])
    assert seen == set(generate.KINDS)


def test_the_patient_of_a_note_is_labelled_wherever_shown(
    notes: list[dict[str, Any]], kept: dict[str, list[dict[str, Any]]]
) -> None:
    for note in notes:
        known = note["spans"] + kept.get(note["id"], [])  # 罗恩 is a patient, and a part of 克罗恩病
        for key in ("name", "mrn", "phone"):
            value = note["patient"][key].lower()
            for hit in re.finditer(generate.bounded(value), note["text"].lower()):
                labelled = [s["start"] <= hit.start() and hit.end() <= s["end"] for s in known]
                assert any(labelled), (note["id"], key)


def test_checked_numbers_are_well_formed_and_ages_are_over_89(notes: list[dict[str, Any]]) -> None:
    for note in notes:
        for span in note["spans"]:
            value = note["text"][span["start"] : span["end"]]
            if span["kind"] == "BANK_CARD":
                number = value.replace(" ", "").replace("-", "")
                assert pools.luhn(number[:-1]) == number, value
            elif span["kind"] == "CN_ID":
                weighted = sum(int(char) * (2 ** (17 - place) % 11) for place, char in enumerate(value[:17]))
                assert len(value) == 18, value
                assert value[17].upper() == "10X98765432"[weighted % 11], value
            elif span["kind"] == "AGE_OVER_89":
                assert int(value) > 89


def test_words_that_must_survive_lie_outside_every_span(
    notes: list[dict[str, Any]], kept: dict[str, list[dict[str, Any]]]
) -> None:
    assert len(kept) >= 40
    for note in notes:
        for keep in kept.get(note["id"], []):
            assert note["text"][keep["start"] : keep["end"]] == keep["text"]
            assert all(span["end"] <= keep["start"] or keep["end"] <= span["start"] for span in note["spans"])


def test_no_two_notes_are_near_copies(notes: list[dict[str, Any]]) -> None:
    sets = [(note["id"], shingles(note)) for note in notes]
    for (one, left), (two, right) in combinations(sets, 2):
        assert len(left & right) <= 0.9 * len(left | right), (one, two)

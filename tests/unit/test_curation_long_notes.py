"""Long and hostile notes: nothing is missed at a border, and time and memory grow with the length and no faster."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from importlib.resources import files
from pathlib import Path

import pytest

from curation.deid import long_text
from curation.deid.kinds import Kind
from curation.deid.long_text import redact_any, windows
from curation.deid.text import redact
from curation.deid.validate import Roster, scan, validate_text

NOTES = [
    json.loads(line)["text"]
    for line in files("curation.sample_notes").joinpath("notes.jsonl").read_text(encoding="utf-8").splitlines()
]
NOBODY = Roster(frozenset(), frozenset())


def long_note(least: int, every: int = 1) -> str:
    """Sample notes one after the other, at least so many characters."""
    text = "\n\n".join(NOTES[::every]) + "\n\n"
    return text * (least // len(text) + 1)


@pytest.mark.parametrize(
    "text", [long_note(50_000), "a" * 50_000, "患者" * 20_000, "word " * 10_000, "\n" * 50_000, "", "x\n\n" * 9_000]
)
def test_windows_cover_a_text_once_with_their_margins_around(text: str) -> None:
    place = 0
    for left, start, end, right in windows(text):
        assert left <= start < end <= right
        assert start == place
        assert left == 0 or start - left >= 512
        assert right == len(text) or right - end >= 512
        assert right - left < 8_000
        place = end
    assert place == len(text)


def test_in_windows_hardly_anything_is_missed_that_a_whole_reading_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n\n".join(NOTES[:60])
    whole = redact(text, -400)
    monkeypatch.setattr(long_text, "LONG", 1000)
    parts = redact_any(text, -400)
    covered = bytearray(len(text))
    for span in parts.spans:
        covered[span.start : span.end] = b"\1" * (span.end - span.start)
    missed = [span for span in whole.spans if not all(covered[span.start : span.end])]
    # A window may hold only notes in one case, which other rules read than a text of both.
    assert len(missed) <= 0.03 * len(whole.spans), f"{len(missed)} of {len(whole.spans)}"


def test_an_identifier_on_each_border_is_found() -> None:
    """A phone number every 40 characters, of which many lie over a border, also where there is no line or blank."""
    for between in (" call now, then wait. ", "\n", "，请联系，"):
        text = between.join(f"tel 415-555-{number % 10_000:04d}" for number in range(8_000))
        assert len(text) > long_text.LONG
        assert "415-555" not in redact_any(text, -400).text


def test_what_was_found_in_one_place_is_found_in_all_others() -> None:
    filler = "The wound is dry and the patient walks without help. " * 4_000
    text = f"MRN: QX-448812\nPatient name: Agnes Whitmore\n{filler}\n\nQX-448812 again, and Whitmore.\n"
    cleaned = redact_any(text, -400).text
    assert "448812" not in cleaned
    assert "Whitmore" not in cleaned
    text = f"患者姓名：欧阳建国\n{'伤口干燥，可自行活动。' * 12_000}\n\n欧阳建国再次复查。\n"
    assert "欧阳建国" not in redact_any(text, -400, [(Kind.NAME, "欧阳建国")]).text


def test_rows_far_below_the_heading_of_their_table_are_clean() -> None:
    rows = "".join(f"| {number} | Zzyx{number}q Vlorn | stable |\n" for number in range(6_000))
    assert "Vlorn" not in redact_any("| No | Name | State |\n" + rows, -400).text


def test_the_second_pass_finds_what_is_left_anywhere_in_a_long_text() -> None:
    filler = "The wound is dry and the patient walks. " * 10_000
    left = validate_text("", filler + "QX-448812" + filler, [("mrn", "QX-448812")], {}, NOBODY)
    assert left.phi_counts["mrn"] == {"original": 1, "redacted": 1}
    assert not left.passed
    assert validate_text("", filler, [("mrn", "QX-448812")], {}, NOBODY).passed
    assert scan(filler + "4155550143" + filler)
    assert not scan(("2024-01-10 BP 120/80, temperature 37.2. " * 20_000) + "\n")


def seconds(text: str) -> float:
    begin = time.process_time()
    result = redact_any(text, -400)
    found = [(span.kind.value, text[span.start : span.end]) for span in result.spans]
    validate_text(text, result.text, found, {}, NOBODY)
    return time.process_time() - begin


# Of each, 20 000 characters.
HOSTILE = {
    "letters": "a", "digits": "1", "names": "Smith ", "initials": "A. ", "capitals": "John ", "brackets": "([{",
    "blanks": " ", "lines": "\n", "dashes": "1-", "bars": "|", "mails": "a@", "dots": "a.", "han": "王",
    "colons": "姓名：", "numbers": "".join(f"tel 138{number:08d}\n" for number in range(1250)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
def test_no_text_takes_more_than_a_share_of_time_for_its_length(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the text takes about four times as long; the square would be sixteen."""
    monkeypatch.setattr(long_text, "LONG", 1000)
    text = (HOSTILE[case] * 20_000)[:20_000]
    seconds("Seen by Dr. 王建国.\n" * 60)  # word lists and models are loaded once
    few, many = seconds(text[:5_000]), seconds(text)
    assert many < max(8 * few, 1.0), f"{few:.2f} s, {many:.2f} s"


@pytest.mark.slow
def test_memory_grows_with_the_length_and_no_faster() -> None:
    """Bytes of the process's peak for each byte of a note, beyond what it takes without one."""
    script = """
        import resource
        from pathlib import Path
        from tests.unit.test_curation_long_notes import long_note
        from curation.deid.handlers import HANDLERS, Given, Patient, Run, Seen
        from curation.deid.keys import PseudonymKey
        from curation.deid.validate import Roster
        key = PseudonymKey(b"k" * 32)
        patient, run = Patient(Path(), "A", "p", -400, {}), Run(key, Roster(frozenset(), frozenset()), Seen())
        def peak(size):
            data = long_note(size, 2).encode()
            HANDLERS[".txt"](Given(data, Path("note.txt"), "note.txt"), patient, run)
            return len(data), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        (few, before), (many, after) = peak(200_000), peak(700_000)
        print((after - before) / (many - few))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=600, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert float(done.stdout) < 60

"""The labelled set for de-identification: its markup, what it holds, and its scores."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from benchmarks.deid import score
from benchmarks.deid.checks import cn_id_check, is_bank_card, is_cn_id, luhn_check
from benchmarks.deid.counts import README_TABLE, SEED, table
from benchmarks.deid.labelled import CLOSE, HARD, IDENTIFIERS, LANGUAGES, OPEN, Note, Span, load, load_hard, note, parse
from benchmarks.deid.templates import TEMPLATES, make_notes
from medllm.errors import UserError

README = HARD.parent / "README.md"

COMMON = ("NAME", "DATE", "PHONE", "MRN", "ADDRESS", "WARD", "OTHER_ID", "KEEP")
# Nobody writes these in that language.
ABSENT = {("en", "CN_ID"), ("zh", "SSN")}


@cache
def hard() -> tuple[Note, ...]:
    return load_hard()


@cache
def made() -> tuple[Note, ...]:
    return make_notes(SEED)


# --- Markup


def test_labels_become_spans() -> None:
    text, spans = parse("Mr ⟦NAME:Li\nNa⟧, ⟦KEEP:120/80⟧.")
    assert text == "Mr Li\nNa, 120/80."
    assert spans == (Span(3, 8, "NAME"), Span(10, 16, "KEEP"))


def test_text_without_labels_is_itself() -> None:
    assert parse("120/80 [x]") == ("120/80 [x]", ())


@pytest.mark.parametrize(
    ("marked", "line", "rule"),
    [
        ("a\n⟦NAME:Li", 2, "not closed"),
        ("a\n\nb⟧ ⟦NAME:Li⟧", 3, "closes nothing"),
        ("⟦NAME:Li⟧ x⟧", 1, "closes nothing"),
        ("x\n⟦NAME:Li ⟦DATE:5/3⟧⟧", 2, "inside a label"),
        ("⟦NAME Li⟧", 1, "no ':'"),
        ("⟦NAMES:Li⟧", 1, "unknown kind 'NAMES'"),
        ("⟦name:Li⟧", 1, "unknown kind 'name'"),
        ("⟦NAME:⟧", 1, "no letter or digit"),
        ("⟦DATE: / ⟧", 1, "no letter or digit"),
        ("⟦NAME: Li⟧", 1, "begins or ends with a space"),
        ("⟦NAME:Li\n⟧", 1, "begins or ends with a space"),
    ],
)
def test_bad_markup_is_named_with_its_line(marked: str, line: int, rule: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(marked, Path("en-001-x.txt"))
    problem = caught.value.problems[0]
    assert rule in problem.rule
    assert problem.line == line
    assert problem.file == Path("en-001-x.txt")
    assert problem.fix


def test_a_file_names_its_language(tmp_path: Path) -> None:
    file = tmp_path / "fr-001-x.txt"
    file.write_text("x")
    with pytest.raises(UserError, match="unknown language 'fr'"):
        load(file)


def test_a_file_is_utf8(tmp_path: Path) -> None:
    file = tmp_path / "zh-001-x.txt"
    file.write_bytes("姓名".encode("gb18030"))
    with pytest.raises(UserError, match="not UTF-8"):
        load(file)


# --- What the set holds


def test_the_hard_notes_are_as_many_as_promised() -> None:
    languages = Counter(note.language for note in hard())
    assert len(hard()) == len(list(HARD.iterdir())) >= 150
    assert languages["en"] >= 60
    assert languages["zh"] >= 60
    assert languages["mix"] >= 30
    assert sum(len(note.keeps()) for note in hard()) >= 400


def test_the_templates_make_a_thousand_notes() -> None:
    assert len(TEMPLATES) >= 40
    assert len(made()) >= 1000
    assert {note.language for note in made()} == set(LANGUAGES)


def test_the_same_seed_makes_the_same_notes() -> None:
    assert make_notes(SEED, 200) == made()[:200]
    assert make_notes(SEED + 1, 200) != made()[:200]


def test_no_note_comes_twice() -> None:
    texts = Counter(re.sub(r"\s+", "", note.text) for note in (*hard(), *made()))
    assert not [text[:40] for text, number in texts.items() if number > 1]
    assert len({note.name for note in hard()}) == len(hard())


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", COMMON)
def test_each_language_has_hard_notes_of_each_common_kind(language: str, kind: str) -> None:
    holding = [note for note in hard() if note.language == language and any(span.kind == kind for span in note.spans)]
    assert len(holding) >= 8


@pytest.mark.parametrize("kind", IDENTIFIERS)
def test_each_kind_is_in_eight_hard_notes(kind: str) -> None:
    assert sum(any(span.kind == kind for span in note.spans) for note in hard()) >= 8


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", IDENTIFIERS)
def test_each_language_has_made_notes_of_each_kind(language: str, kind: str) -> None:
    holding = [note for note in made() if note.language == language and any(span.kind == kind for span in note.spans)]
    assert len(holding) >= 8 or (language, kind) in ABSENT


@pytest.mark.parametrize("notes", [hard, made])
def test_spans_are_in_order_within_the_text_and_apart(notes: Callable[[], tuple[Note, ...]]) -> None:
    for one in notes():
        end = 0
        for span in one.spans:
            assert end <= span.start < span.end <= len(one.text), one.name
            end = span.end
        assert OPEN not in one.text
        assert CLOSE not in one.text


@pytest.mark.parametrize("notes", [hard, made])
def test_check_digits_are_right(notes: Callable[[], tuple[Note, ...]]) -> None:
    values = [(span.kind, note.value(span), note.name) for note in notes() for span in note.spans]
    assert not [value for value in values if value[0] == "CN_ID" and not is_cn_id(value[1])]
    assert not [value for value in values if value[0] == "BANK_CARD" and not is_bank_card(value[1])]


def test_the_check_digits_of_published_examples() -> None:
    # The number printed in GB 11643-1999, and the Luhn example of ISO/IEC 7812.
    assert cn_id_check("11010519491231002") == "X"
    assert luhn_check("7992739871") == "3"
    assert not is_cn_id("110105194912310021")
    assert not is_bank_card("4556737586899850")


def test_a_labelled_age_is_over_89() -> None:
    for one in (*hard(), *made()):
        for span in one.spans:
            value = one.value(span)
            if span.kind == "AGE" and value.isascii() and value.isdigit():
                assert int(value) >= 90, one.name


def test_the_readme_has_the_true_counts() -> None:
    text = README.read_text(encoding="utf-8")
    assert README_TABLE in text
    assert table(hard(), made()) in text, "write the table anew: python -m benchmarks.deid.counts"


# --- Scores

# Positions:         0         10        20
MARKED = "Mr ⟦NAME:Li Na⟧ on ⟦DATE:5/3⟧ BP ⟦KEEP:120/80⟧"


def example() -> Note:
    made = note("x", "en", MARKED)
    assert made.text == "Mr Li Na on 5/3 BP 120/80"
    return made


def test_nothing_predicted() -> None:
    total = score.tally(example(), [])
    assert score.recall(total) == 0.0
    assert score.character_precision(total) == 1.0
    assert score.span_precision(total) == 1.0
    assert score.keeps_touched(total) == 0.0
    assert score.over_redaction(total) == 0.0


def test_all_predicted_exactly() -> None:
    total = score.tally(example(), example().identifiers())
    assert score.recall(total) == score.named_recall(total) == 1.0
    assert score.character_precision(total) == score.span_precision(total) == 1.0
    assert score.keeps_touched(total) == score.over_redaction(total) == 0.0


def test_spaces_and_punctuation_need_no_cover() -> None:
    total = score.tally(example(), [Span(3, 5, "NAME"), Span(6, 8, "NAME"), Span(12, 13, "DATE"), Span(14, 15, "DATE")])
    assert score.recall(total) == 1.0


def test_one_letter_left_is_a_miss() -> None:
    total = score.tally(example(), [Span(3, 7, "NAME")])
    assert score.recall(total, "NAME") == 0.0
    assert score.character_precision(total, "NAME") == 1.0
    assert score.missed(example(), [Span(3, 7, "NAME")]) == example().identifiers()


def test_another_kind_covers_but_does_not_name() -> None:
    total = score.tally(example(), [Span(3, 8, "WARD")])
    assert score.recall(total, "NAME") == 1.0
    assert score.named_recall(total, "NAME") == 0.0
    assert score.character_precision(total, "WARD") == 1.0
    assert score.character_precision(total, "NAME") == 1.0, "no span of that kind was predicted"


def test_over_redaction_is_counted() -> None:
    # "Mr Li Na on": M r L i N a o n count, 4 of the 8 are the name's; then the measurement's last digit.
    predictions = [Span(0, 11, "NAME"), Span(24, 25, "DATE")]
    total = score.tally(example(), predictions)
    assert score.character_precision(total, "NAME") == 4 / 8
    assert score.character_precision(total, "DATE") == 0.0
    assert score.character_precision(total) == 4 / 9
    assert score.span_precision(total, "NAME") == 1.0, "half is enough"
    assert score.span_precision(total, "DATE") == 0.0
    assert score.span_precision(total) == 1 / 2
    assert score.keeps_touched(total) == 1.0
    # Harmless: Mr, on, BP, 120, 80 = 11 characters; covered: M r o n 0.
    assert score.over_redaction(total) == 5 / 11
    assert score.touched(example(), predictions) == example().keeps()


def test_overlapping_predictions_count_once() -> None:
    total = score.tally(example(), [Span(3, 8, "NAME"), Span(3, 8, "NAME"), Span(3, 8, "DATE")])
    assert total.all_characters == 4
    assert total.characters == {"NAME": 4, "DATE": 4}


def test_notes_add_up() -> None:
    total = score.tally_all([(example(), example().identifiers()), (example(), [])])
    assert score.recall(total) == 1 / 2
    assert total.keeps == 2


@pytest.mark.parametrize("span", [Span(0, 0, "NAME"), Span(-1, 3, "NAME"), Span(3, 99, "NAME")])
def test_a_span_outside_the_text_is_refused(span: Span) -> None:
    with pytest.raises(ValueError, match="is no stretch"):
        score.tally(example(), [span])

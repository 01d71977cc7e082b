"""Identifiers that only their column tells, and forms that no label introduces. All people here are invented."""

from __future__ import annotations

import pytest

from curation.deid.text import redact


def left(text: str) -> str:
    return redact(text, -400).text


def test_fields_of_a_segment_are_replaced_and_its_observation_stays() -> None:
    text = left(
        "PID|1||4410 22^^^MRN||Quill^Ottilie||19510704|F|||9 Elm Row^^Tarn||555 0199\n"
        "PV1|1|I|7C^12\nOBX|1|TX|NOTE||Foley catheter in place||||||F"
    )
    for value in ("4410", "Quill", "Ottilie", "Elm Row", "7C", "0199", "19510704"):
        assert value not in text
    assert "Foley catheter in place" in text


def test_cells_under_a_heading_are_replaced_and_the_others_stay() -> None:
    text = left("| Name | Bed | DOB | Problem |\n|---|---|---|---|\n| hope winter | 12 | 3/4 | 5/5 strength |\n")
    assert "hope" not in text
    assert "12" not in text
    assert "3/4" not in text
    assert "5/5 strength" in text


def test_a_table_without_identifying_headings_stays() -> None:
    text = "| Test | Value | Unit |\n| Sodium | 140 | mmol/L |\n"
    assert left(text) == text


def test_a_chinese_table() -> None:
    text = left("| 姓名 | 床 | 诊断 |\n| 温方便 | 加3 | 肺炎 |\n")
    assert "温方便" not in text
    assert "加3" not in text
    assert "肺炎" in text


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("Seen on the 3rd of July for cough.", "3rd of July"),
        ("DOB: 6/1  no fever", "6/1"),
        ("于2/27至我院", "2/27"),
        ("refund to DE44 5001 0517 5407 3249 31 please", "5001 0517"),
        ("ssn 307.72.5887", "307.72.5887"),
        ("She lives at 4 Elm Row, Tarn, SO77 8EX.", "8EX"),
        ("Moved to room ICU-8 today", "ICU-8"),
        ("Police report 171992 is filed", "171992"),
        ("护理 病区3A 床加8", "加8"),
    ],
)
def test_forms(text: str, gone: str) -> None:
    assert gone not in left(text)


def test_tagged_words_stay_in_place_behind_sentences_that_end_a_line() -> None:
    text = "患者好转。\n今日复查。\n一般情况可。\n"
    assert all(span.end <= len(text) for span in redact(text, -400).spans)


@pytest.mark.parametrize(
    "name", ["hope winter", "WINTER, HOPE", "tomasz o'neill", "Brooke Stone Jr.", "Quist, Amina B"]
)
def test_a_name_of_everyday_words_goes_whatever_its_case(name: str) -> None:
    assert name not in left(f"Lung sounds are clear today. The patient: {name} slept ok after 40 mg of furosemide.")


@pytest.mark.parametrize("age", ["ninety-three", "97 y/o", "101st birthday", "turned 94"])
def test_ages_over_89_in_words_and_phrases(age: str) -> None:
    assert age not in left(f"The lady, {age}, is well.")


@pytest.mark.parametrize(
    "text", ["签名：马和平", "驾驶员温方便，血压正常", "患者申屠和平因咳嗽入院", "姓名 周 黄 河 男"]
)
def test_a_labelled_chinese_name_may_be_a_word(text: str) -> None:
    assert not any(part in left(text) for part in ("和平", "方便", "黄 河"))

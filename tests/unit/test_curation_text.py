"""Text: what identifies goes, what is clinical stays, dates keep their distance. Examples of our own, all invented."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.deid.checks import bank_card, luhn, mod_11_2, resident_id
from curation.deid.kinds import Kind, Note, Span, apply, merge
from curation.deid.names_zh import _tag
from curation.deid.text import known_identifiers, redact

SHIFT = -400


def clean(text: str) -> str:
    return redact(text, SHIFT).text


@pytest.mark.parametrize(
    ("text", "secret", "tag"),
    [
        ("Seen by Dr. Sarah Connelly today.", "Connelly", "[NAME_REDACTED]"),
        ("Attending: Whitmore, Agnes P.", "Whitmore", "[NAME_REDACTED]"),
        ("Signed by Marcus T. Whitfield, MD", "Whitfield", "[NAME_REDACTED]"),
        ("His wife Susan was present.", "Susan", "[NAME_REDACTED]"),
        ("dr. connelly spoke with mrs whitmore about the plan for the coming week.", "connelly", "[NAME_REDACTED]"),
        ("Discussed with Ivette Brannigan by phone.", "Brannigan", "[NAME_REDACTED]"),
        ("姓名：王建国 性别：男", "王建国", "[NAME_REDACTED]"),
        ("患者张丽华，女，因胸痛入院。", "张丽华", "[NAME_REDACTED]"),
        ("由李医生收治。", "李医", "[NAME_REDACTED]医生"),
        ("联系人：欧阳雪梅", "欧阳雪梅", "[NAME_REDACTED]"),
        ("SSN 123-45-6789", "6789", "[SSN_REDACTED]"),
        ("MRN: 00-44-2219", "2219", "[MRN_REDACTED]"),
        ("住院号ZY20230001", "20230001", "[MRN_REDACTED]"),
        ("call (415) 555-2671 ext 12", "555", "[PHONE_REDACTED]"),
        # `\b` of `re` is Unicode and would miss these.
        ("电话13812345678转内科", "13812345678", "[PHONE_REDACTED]"),
        ("手机号１３８１２３４５６７８。", "１３８", "[PHONE_REDACTED]"),
        ("身份证11010519491231002X号", "11010519491231002X", "[NATIONAL_ID_REDACTED]"),
        ("卡6222021234567890128付款", "6222021234567890128", "[BANK_CARD_REDACTED]"),
        ("write to a.b@example.org.", "a.b@", "[EMAIL_REDACTED]"),
        ("see https://portal.example.com/p/17", "portal", "[URL_REDACTED]"),
        ("from 192.0.2.14 at night", "192.0.2", "[IP_REDACTED]"),
        ("a 94-year-old man", "94", "[AGE_REDACTED]-year-old"),
        ("患者93岁", "93", "[AGE_REDACTED]岁"),
        ("lives at 12 Oak Street, Apt 4B, Springfield, IL 62704.", "Springfield", "[ADDRESS_REDACTED]"),
        ("家住浙江省杭州市西湖区文三路478号3幢201室，", "文三路", "[ADDRESS_REDACTED]"),
        ("transferred from Mercy General Hospital", "Mercy", "[FACILITY_REDACTED]"),
        ("车牌号京A·12345", "12345", "[PLATE_REDACTED]"),
        ("on Ward 7B, bed 12", "7B", "[WARD_REDACTED]"),
    ],
)  # fmt: skip
def test_an_identifier_goes(text: str, secret: str, tag: str) -> None:
    result = clean(text)
    assert secret not in result
    assert tag in result


@pytest.mark.parametrize(
    "text",
    [
        "BP 120/80 mmHg, HR 72, strength 5/5, murmur 2/6, pain 3/10, EF 55%.",
        "Parkinson's disease, Crohn disease, Hodgkin lymphoma, Babinski sign negative, Murphy sign positive.",
        "Foley catheter, Jackson-Pratt drain, Austin Flint murmur, Swan-Ganz catheter, Glasgow Coma Scale 15.",
        "Metoprolol 25 mg, lisinopril 10 mg daily, 6 units, 500 mL over 8 h, vitamin C.",
        "WBC 11.2, Hgb 13.4, platelets 250,000, glucose 140 mg/dL, troponin 0.04.",
        "A 67-year-old man, smoker for 40 years, T2N0M0, L4-L5 stenosis, C5-C6.",
        "帕金森病，墨菲征阳性，麦氏点压痛，克罗恩病。血压120/80mmHg，白细胞11.2。",
        "高血压病史10年，予阿司匹林100mg口服，当地医院治疗，转入我院心内科。",
    ],
)
def test_clinical_words_stay(text: str) -> None:
    assert clean(text) == text


def test_a_person_and_a_disease_of_one_name_are_told_apart() -> None:
    result = clean("Dr. Parkinson explained Parkinson's disease; Parkinson will call.")
    assert result == "Dr. [NAME_REDACTED] explained Parkinson's disease; [NAME_REDACTED] will call."


def test_a_name_once_found_is_found_again() -> None:
    result = clean("Patient: Margaret Holloway. Later HOLLOWAY slept; Margaret ate.")
    assert "olloway" not in result.lower().replace("[name_redacted]", "")
    assert "Margaret" not in result


@given(st.dates(date(1990, 1, 1), date(2030, 1, 1)), st.integers(0, 3000), st.integers(-2200, -366))
@settings(max_examples=60, deadline=None)
def test_intervals_stay(first: date, days: int, shift: int) -> None:
    second = date.fromordinal(first.toordinal() + days)
    text = redact(f"Admitted {first.isoformat()}, seen again on {second:%m/%d/%Y}.", shift).text
    one = date.fromisoformat(text.split()[1].rstrip(","))
    month, day, year = map(int, text.rstrip(".").split()[-1].split("/"))
    assert (date(year, month, day) - one).days == days
    assert (one - first).days == shift


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-01-15", "2021-12-11"),
        ("1/15/2023", "12/11/2021"),
        ("January 15, 2023", "December 11, 2021"),
        ("15 Jan 2023", "11 Dec 2021"),
        ("2023年1月15日", "2021年12月11日"),
        ("二〇二三年一月十五日", "2021年12月11日"),
        ("DOB: 03/04/1950", "DOB: [DATE_REDACTED]"),
        ("出生日期：1950年3月4日", "出生日期：[DATE_REDACTED]"),
        ("on 3/14 he fell", "on [DATE_REDACTED] he fell"),
        ("1月20日手术", "[DATE_REDACTED]手术"),
    ],
)
def test_dates(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_structured_records_help() -> None:
    text = "Zq Xv came. Number 77."
    known = known_identifiers({"name": "Zq Xv", "sex": "M", "phone": ""})
    assert redact(text, SHIFT, known).text.startswith("[NAME_REDACTED] came")


@given(st.text(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_text_is_taken(text: str) -> None:
    result = redact(text, SHIFT)
    assert apply(text, result.spans) == result.text
    assert len(Note(text).view) == len(text)
    for before, after in zip(result.spans, result.spans[1:], strict=False):
        assert before.end <= after.start


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20), st.sampled_from(list(Kind))), max_size=20))
def test_merging_covers_all(raw: list[tuple[int, int, Kind]]) -> None:
    spans = [Span(start, start + length, kind) for start, length, kind in raw]
    merged = merge(spans)
    covered = {place for span in merged for place in range(span.start, span.end)}
    assert covered == {place for span in spans for place in range(span.start, span.end)}


def test_check_digits() -> None:
    assert mod_11_2("11010519491231002X")
    assert not mod_11_2("110105194912310021")
    assert resident_id("110105194912310021"), "a slip in the check digit is still somebody's number"
    assert not resident_id("110105194913310021"), "there is no month 13"
    assert luhn("79927398713")
    assert not luhn("79927398710")
    assert not bank_card("0000000000000")


def test_the_taggers_words_stand_where_it_says_on_every_line() -> None:
    """Each line end after a full stop once moved all that follows by one character."""
    text = "复查头颅CT未见出血。\n" * 6 + "下午由欧阳志远陪同外出散步。\r\n夜间安静。\n\n次日赵明辉来电询问。"
    words = [(text[start:end], tag) for start, end, tag in _tag(Note(text).view)]
    assert "".join(word for word, _ in words) == text.replace("\r\n", "").replace("\n", "")
    assert {"欧阳志远", "赵明辉"} <= {word for word, tag in words if tag == "PER"}


@given(st.text(alphabet="张伟明来。\n\r ，A1\u2028\x0b\x85", max_size=60))
def test_no_span_leaves_the_text(text: str) -> None:
    assert all(0 <= span.start < span.end <= len(text) for span in redact(text, -400).spans)

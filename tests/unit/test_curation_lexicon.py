"""Word lists from published dictionaries, and what the detectors find by them."""

from __future__ import annotations

import gzip
from importlib.resources import files

import pytest

from curation.deid import codes, structured
from curation.deid.kinds import Kind
from curation.deid.names_en import is_given, is_surname, is_unknown, ordinary
from curation.deid.patterns import Family, compiled
from curation.deid.text import redact
from curation.deid.words import lexicon
from curation.lexicon import sources
from medllm.errors import UserError

LISTS = (
    "vocabulary_en", "surnames_census", "surnames_frequent", "given_names_census", "names_and_words", "towns",
    "terms_capitalised", "places_zh", "words_zh", "simplified_zh",
)  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_as_its_builder_writes_it(name: str) -> None:
    """Sorted, each entry once, no empty one; and no time in the file, so that the same words are the same bytes."""
    packed = files("curation.deid").joinpath("data", f"{name}.txt.gz").read_bytes()
    entries = gzip.decompress(packed).decode().splitlines()
    assert entries == sorted(set(entries))
    assert all(entry.strip() for entry in entries)
    assert packed[4:8] == bytes(4)


def test_names_and_words_are_told_apart() -> None:
    assert is_given("Susan")
    assert is_surname("O'Dowd")
    assert is_surname("Okeke-Brown")
    assert all(ordinary(word) for word in ("metformin", "subcarinal", "bilateral", "augmentin"))
    assert is_unknown("Xhafaj")
    assert not is_unknown("MoCA")
    assert len(lexicon("vocabulary_en")) > 150_000


def test_without_its_packages_the_builder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="uv sync --group lexicon"):
        sources.towns()


def test_a_family_finds_the_patterns_that_match_by_themselves() -> None:
    patterns = [compiled(pattern) for pattern in (r"\d{3}", "[{U}][{L}]+", r"\p{Han}")]
    family = Family(patterns)
    for text in ("", "a", "123", "Anna 7", "安 Anna 123"):
        alone = [number for number, pattern in enumerate(patterns) if pattern.search(text)]
        assert list(family.matching(text)) == alone
    rules = (*structured.RULES, *codes.RULES)
    text = "MRN 0044-918, call 555-0143; 住院号ZY20230001, bed 12A, born 1931"
    expected = [number for number, rule in enumerate(rules) if rule.pattern.search(text)]
    assert list(Family(rule.pattern for rule in rules).matching(text)) == expected


FOUND = [
    ("Seen 3/14 and the 5th.", Kind.DATE, ["3/14", "5th"]),
    ("Since mid-March; Tues 12 May; Christmas Eve.", Kind.DATE, ["March", "Tues 12 May", "Christmas Eve"]),
    ("In Nov '09 and on the third.", Kind.DATE, ["Nov '09", "third"]),
    ("农历三月十六入院，腊月廿一出院，十八号复查", Kind.DATE, ["三月十六", "腊月廿一", "十八号"]),
    ("6.2入 6.11出", Kind.DATE, ["6.2", "6.11"]),
    ("Lives in Sheboygan, grew up near Ballymena.", Kind.ADDRESS, ["Sheboygan", "Ballymena"]),
    ("found at the corner of 5th and Alder", Kind.ADDRESS, ["5th and Alder"]),
    ("家住绍兴柯桥区华舍街道。", Kind.ADDRESS, ["绍兴柯桥区华舍街道"]),
    ("住九龍彌敦道580號，", Kind.ADDRESS, ["九龍彌敦道580號"]),
    ("booking 23-40018, PPS 7654321TA", Kind.MRN, ["23-40018", "7654321TA"]),
    ("SSN last 4 8821", Kind.SSN, ["8821"]),
    ("red pickup 481-KPT", Kind.PLATE, ["481-KPT"]),
    ("call five five five oh one four two", Kind.PHONE, ["five five five oh one four two"]),
    ("mail thuy.n77 at bigpond dot com", Kind.EMAIL, ["thuy.n77 at bigpond dot com"]),
    ("moved to resus 2, then 7 West and ICU 14", Kind.WARD, ["resus 2", "7 West", "ICU 14"]),
    ("His mother, 91, and a 102yo man", Kind.AGE, ["91", "102"]),
    ("今年九十有三", Kind.AGE, ["九十有三"]),
    ("术者卜主任 麻醉晏。器械小田", Kind.NAME, ["卜", "晏", "小田"]),
    ("参加者童、龚、褚卫东。", Kind.NAME, ["童", "龚", "褚卫东"]),
    ("Dr 秦 saw 孔祥和 today", Kind.NAME, ["秦", "孔祥和"]),
    ("[09:12] mkowalczyk: Hargreaves is brady", Kind.NAME, ["mkowalczyk", "Hargreaves"]),
    ("We spoke about Will, his first love.", Kind.NAME, ["Will"]),
    ("LPN Story; wife Posy; alias Smoke", Kind.NAME, ["Story", "Posy", "Smoke"]),
]


@pytest.mark.parametrize(("text", "kind", "values"), FOUND)
def test_an_identifier_of_this_form_is_found_whole(text: str, kind: Kind, values: list[str]) -> None:
    found = redact(text, -400).spans
    for value in values:
        start = text.index(value)
        assert any(span.start <= start and start + len(value) <= span.end for span in found), value
    assert kind in {span.kind for span in found}


KEPT = [
    "Strength 4/5, GCS 9/15, pain 7/10, vision 20/40, BP 120/80.", "The 5th metatarsal and the 4th rib.",
    "She may walk; march in place.", "Wells score 4.5, CURB-65 2, Fazekas 2, Hoehn and Yahr 2.",
    "Known Crohn's, Barrett's C2M4, Kerley B lines.", "Foley removed. Romberg positive.",
    "Lasix 40 mg IV, Zosyn 3.375 g q6h, D5 1/2NS at 75.", "T4N1M0, HER2 2+, CD4 350, C5-C6 disc.",
    "Subcarinal node 11 mm.", "头孢曲松2g静滴，坦索罗辛0.2mg qn，英夫利西单抗5mg/kg",
    "双侧侧脑室旁见9个病灶", "麻醉满意，术后3日拔管",
]  # fmt: skip


@pytest.mark.parametrize("text", KEPT)
def test_clinical_text_of_such_form_stays(text: str) -> None:
    assert redact(text, -400).text == text

"""What a report says is found with place, side and status, in both languages; what it denies is not asserted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.prepare.entities import extract


def _told(text: str) -> list[tuple[str, str, str, str]]:
    return [(each.finding, each.anatomy, each.side, each.status) for each in extract(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A 9 mm nodule in the right upper lobe.", [("nodule", "lung_upper_lobe", "right", "present")]),
        ("Small left pleural effusion.", [("pleural_effusion", "pleura", "left", "present")]),
        ("Right lower lobe consolidation.", [("consolidation", "lung_lower_lobe", "right", "present")]),
        ("RUL nodules.", [("nodule", "lung_upper_lobe", "right", "present")]),
        ("Bilateral pleural effusions.", [("pleural_effusion", "pleura", "both", "present")]),
        ("Cysts in the left and right kidneys.", [("cyst", "kidney", "both", "present")]),
        ("右肺上叶见结节影。", [("nodule", "lung_upper_lobe", "right", "present")]),
        ("双侧胸腔积液。", [("pleural_effusion", "pleura", "both", "present")]),
        ("左侧基底节区脑出血。", [("hemorrhage", "basal_ganglia", "left", "present")]),
        ("肝右叶囊肿。", [("cyst", "liver_right_lobe", "", "present")]),
        ("肝囊肿，左肾结石。", [("cyst", "liver", "", "present"), ("stone", "kidney", "left", "present")]),
        ("右肺 upper lobe 见 nodule。", [("nodule", "lung_upper_lobe", "right", "present")]),
        ("Left hip hematoma.", [("hematoma", "hip", "left", "present")]),
    ],
)  # fmt: skip
def test_place_and_side(text: str, expected: list[tuple[str, str, str, str]]) -> None:
    assert _told(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "No evidence of pleural effusion.",
        "No pleural effusion, pneumothorax, or focal consolidation.",
        "There is no left effusion, right effusion or pneumothorax.",
        "Pleural effusion is not seen.",
        "The lungs are free of nodules.",
        "No evidence of\npleural effusion",
        "NO NODULE OR MASS.",
        "Without pericardial effusion.",
        "Pulmonary embolism has been ruled out.",
        "The pneumothorax has resolved.",
        "双肺未见结节及肿块影。",
        "未见胸腔积液、气胸。",
        "无胸腔积液。",
        "胸腔积液未见。",
        "未见明显骨折、脱位及骨质破坏征象。",
        "否认肺结核",
        "双肺未见肿块，结节，实变。",
        "未见\n胸腔积液。",
        "右侧胸腔积液已吸收。",
        "纵隔内无肿大淋巴结，无占位。",
        "肺栓塞：阴性。",
        "CT 未见 pleural effusion 及 nodule。",
    ],
)
def test_what_is_denied_is_absent(text: str) -> None:
    found = extract(text)
    assert found
    assert {each.status for each in found} == {"absent"}


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("No pneumothorax, but a small left effusion.", "effusion"),
        ("No change in the nodule of the left lung.", "nodule"),
        ("Nodule unchanged.", "nodule"),
        ("双肺未见实变，右侧胸腔积液。", "pleural_effusion"),
        ("未见气胸，但右肺可见结节。", "nodule"),
        ("右肺结节未见明显变化。", "nodule"),
        ("No effusion. There is a nodule in the left lung.", "nodule"),
        ("密度不均匀肿块。", "mass"),
    ],
)
def test_a_negation_ends_where_another_statement_begins(text: str, finding: str) -> None:
    assert [each.finding for each in extract(text) if each.status == "present"] == [finding]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Possible pneumonia.", "uncertain"),
        ("Findings suspicious for malignancy.", "uncertain"),
        ("Pneumonia cannot be excluded.", "uncertain"),
        ("Pneumonia?", "uncertain"),
        ("考虑肺炎。", "uncertain"),
        ("肺结核不除外。", "uncertain"),
        ("不能排除转移。", "uncertain"),
        ("肺癌待排", "uncertain"),
        ("History of pneumonia.", "past"),
        ("Indication: pneumonia. Cough.", "past"),
        ("临床诊断：肺炎。", "past"),
        ("既往肺结核。", "past"),
        ("Indication: cough.\nFindings: consolidation in the left lung.", "present"),
        ("病史：肺癌。\n影像所见 / Findings: 未提及。\n【印象】左肺实变。", "past present"),
        ("检查目的：咳嗽。\n影像所见：左肺实变。", "present"),
    ],
)
def test_doubt_and_the_past_are_told_apart(text: str, status: str) -> None:
    assert [each.status for each in extract(text)] == status.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Nodule in the right lung (series 4, image 45).", (4, 45, 45)),
        ("Nodule, se 3 im 12-18.", (3, 12, 18)),
        ("Nodule on slices 30 to 34.", (None, 30, 34)),
        ("右肺结节（序列4图像45）。", (4, 45, 45)),
        ("右肺结节，第30-34层。", (None, 30, 34)),
        ("右肺结节（Se4 Im45）。", (4, 45, 45)),
        ("层面 22 见结节。", (None, 22, 22)),
    ],
)
def test_slices_that_are_named_go_with_the_finding(text: str, expected: tuple[int | None, int, int]) -> None:
    [entity] = extract(text)
    [reference] = entity.slices
    assert (reference.series, reference.first, reference.last) == expected


def test_each_reference_goes_with_the_finding_before_it() -> None:
    nodule, cyst = extract("Nodule in the left lung (image 12) and cyst in the liver (image 90).")
    assert [each.first for each in nodule.slices] == [12]
    assert [each.first for each in cyst.slices] == [90]


def test_spans_give_the_words_back() -> None:
    text = "所见：右肺上叶见磨玻璃结节，No PNEUMOTHORAX. İstanbul: nodules."
    spans = [text[each.span[0] : each.span[1]] for each in extract(text)]
    assert spans == ["磨玻璃结节", "PNEUMOTHORAX", "nodules"]


def test_words_inside_other_words_are_not_findings() -> None:
    assert extract("Massachusetts, masseter, cystoscopy, stoner, opacityless") == []


@given(st.text(alphabet="no 未见无结节右肺,，.。effusion nodule but\n;第5层(", max_size=80))
def test_any_text_is_read_and_spans_stay_inside(text: str) -> None:
    for each in extract(text):
        assert 0 <= each.span[0] < each.span[1] <= len(text)


def test_what_is_no_sentence_is_left_out() -> None:
    assert extract("nodule, " * 1000) == []
    assert len(extract("nodule. " * 1000)) == 1000

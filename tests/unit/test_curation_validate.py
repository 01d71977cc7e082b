"""The second pass: finds planted leftovers by its own means, keeps quiet on clean clinical text."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from curation.deid.validate import Roster, known_values, scan, validate_known, validate_text

ROSTER = Roster(frozenset({"Ruth Tallis", "王建国"}), frozenset({"white", "long"}))
PATIENT = {"name": "Agnes Whitmore", "mrn": "448812-A", "birth_date": "1951-03-04", "phone": "415-555-0143", "sex": "F"}


@pytest.mark.parametrize(
    ("left", "finding"),
    [
        ("Ms Whitmore rested", "known_name_part"),
        ("AGNES WHITMORE", "known_value"),
        ("number 448812 a", "known_value"),
        ("born March 4, 1951", "known_value"),
        ("1951年3月4日", "known_value"),
        ("ring 415 555 0143", "known_number"),
        ("seen by Tallis, Ruth", "roster_name"),
        ("王建国诉", "roster_name"),
        ("x@y.org", "at_sign"),
        ("ｘ＠ｙ.org", "at_sign"),
        ("http://x", "web_address"),
        ("13900001111", "long_number"),
        ("１３９００００１１１１", "long_number"),
        ("(212) 555-0147", "grouped_number"),
        ("AB1234567", "code"),
        ("deadbeef0123456789abcdef", "code"),
    ],
)
def test_a_leftover_is_found(left: str, finding: str) -> None:
    verdict = validate_text("whatever", f"Clean text. {left} more.", [], PATIENT, ROSTER)
    assert not verdict.passed
    assert verdict.findings[finding]
    assert left not in str(verdict.as_json())


@pytest.mark.parametrize(
    "text",
    [
        "[NAME_REDACTED] was admitted on 2021-12-11 10:30 and seen 12/11/2021. BP 120/80, WBC 11.2, 250,000 platelets.",
        "White cells rose for a long time. 100000IU heparin, 5, 10, 15 mg, L4-L5, T2N0M0, ratio 1:2.",
        "[NAME_REDACTED]，2021年12月11日入院，血压120/80mmHg，白细胞11.2。",
    ],
)
def test_clean_text_passes(text: str) -> None:
    verdict = validate_text(text, text, [], PATIENT, ROSTER)
    assert verdict.passed, dict(verdict.findings)


def test_what_was_found_must_be_gone_everywhere() -> None:
    verdict = validate_text("a b", "still 448-7712 here", [("phone", "448-7712"), ("age", "93")], {}, ROSTER)
    assert verdict.phi_counts == {"phone": {"original": 1, "redacted": 1}, "age": {"original": 1, "redacted": 0}}
    assert not verdict.passed
    report = verdict.as_json()
    assert (report["original_length"], report["redacted_length"], report["validation_passed"]) == (3, 19, False)


def test_bytes_are_searched_in_each_encoding() -> None:
    for coding in ("utf-8", "gb18030", "utf-16-le"):
        assert not validate_known(9, b"\0\1" + "王建国".encode(coding), ["王建国"]).passed
    assert not validate_known(9, b"whitmore^agnes", ["Agnes Whitmore"]).passed
    assert validate_known(9, b"nothing", ["Agnes Whitmore", "ab"]).passed


def test_a_birth_date_is_known_in_each_form() -> None:
    assert {"1951-03-04", "03/04/1951", "1951年3月4日", "march 4, 1951"} <= set(
        known_values({"birth_date": "1951-03-04"})
    )


def test_nothing_is_shared_with_the_first_pass() -> None:
    """Neither its modules nor regular expressions are imported."""
    for name in ("validate.py", "validate_dicom.py", "validate_pixels.py"):
        tree = ast.parse((Path(__file__).parents[2] / "curation" / "deid" / name).read_text())
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        ours = {module for module in imported if module and module.startswith("curation")}
        assert ours <= {"curation.deid.validate", "curation.deid.validate_pixels"}
        assert not imported & {"re", "re2"}


def test_scan_of_nothing() -> None:
    assert not scan("")

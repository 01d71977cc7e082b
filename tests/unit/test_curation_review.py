"""The review by a person: nothing counts as reviewed before every drawn note was judged; what came of it is signed."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from curation.commands import app
from curation.deid.report import render
from curation.sample import _recording
from medllm.errors import UserError
from medllm.manifest import load_private_key, verify_manifest

NOTE = "Patient: Agnes Whitmore, MRN: MR-77{n}.\nCreatinine <b>1.{n}</b> & rising; stable.\n"


class Page(HTMLParser):
    """What a browser would load, run and show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.marks: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "mark":
            self.marks.append(dict(attrs)["class"] or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def alone(html: str) -> Page:
    """The page, known to need nothing from elsewhere and to run nothing."""
    page = Page(html)
    assert not {"script", "img", "link", "iframe", "object", "form", "base"} & set(page.tags)
    assert not {name for name, _ in page.attributes if name in {"src", "href", "action"} or name.startswith("on")}
    assert any(name == "content" and value.startswith("default-src 'none'") for name, value in page.attributes)
    assert "url(" not in html
    assert "@import" not in html
    return page


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def data(*arguments: str | Path, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)


def deid(home: Path, patients: int = 3, *options: str) -> Path:
    for number in range(patients):
        folder = home / "raw" / "patients" / f"ID-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        who = {"name": "Agnes Whitmore", "mrn": f"MR-77{number}"}
        (folder / "meta.json").write_text(json.dumps({"patient_id": f"ID-{number}", "lang": "en", "patient": who}))
        (folder / "note.txt").write_text(NOTE.format(n=number))
        (folder / "Whitmore.pdf").write_bytes(b"scan")
    done = data("deid", home / "raw", home / "clean", *options)
    assert done.exit_code == 0, done.output
    assert "review NOT_DONE" in done.output
    return home / "clean"


def part(clean: Path) -> dict[str, Any]:
    review: dict[str, Any] = json.loads((clean / "report.json").read_text())["review"]
    return review


def start(clean: Path, *options: str | Path) -> tuple[Path, Path]:
    done = data("review", clean, "--json", *options)
    assert done.exit_code == 0, (done.output, done.exception)
    facts = json.loads(done.stdout)
    return Path(facts["page"]), Path(facts["verdicts"])


def fill(file: Path, notes: dict[str, Any], **more: Any) -> Path:
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "reviewer": "R. Eader", "notes": {**facts["notes"], **notes}, **more}))
    return file


CLEAN: dict[str, Any] = {"1": {}, "2": {}, "3": {}}


def signed_status(home: Path, clean: Path) -> str:
    key = load_private_key(home / "state" / "medllm-cluster" / "keys" / "deid.key").public_key()
    status: str = verify_manifest(clean, key).meta["summary"]["review"]
    return status


def test_a_new_tree_says_that_nobody_has_reviewed_it(home: Path) -> None:
    clean = deid(home)
    review = part(clean)
    assert (review["status"], review["population"], review["size"]) == ("NOT_DONE", 3, 3)
    assert signed_status(home, clean) == "NOT_DONE"
    page = alone((clean / "report.html").read_text())
    assert "NOT_DONE" in page.text


def test_the_report_page_tells_counts_and_reasons_and_no_text(home: Path) -> None:
    (home / "raw" / "patients" / "ID-0").mkdir(parents=True)
    (home / "raw" / "patients" / "ID-0" / "note-2.txt").write_text("编号 A1B2C3D4E5F6 复查，代码 9f86d081884c7d65。")
    clean = deid(home)
    html = (clean / "report.html").read_text()
    page = alone(html)
    files = json.loads((clean / "report.json").read_text())["files"]
    found = sum(
        count["original"] for entry in files if entry["validation_passed"] for count in entry["phi_counts"].values()
    )
    assert f"{found}identifiers found in the input" in page.text
    assert re.search(r"unsupported_file\s*3\s", page.text)
    for word in ("original_length", "redacted_length", "mrn", "name"):
        assert word in page.text
    assert not re.search(r"Whitmore|Agnes|MR-77|ID-\d|Creatinine|A1B2C3", html)


def test_the_page_to_read_shows_coloured_tags_and_escapes_the_text(home: Path) -> None:
    clean = deid(home)
    file, verdicts = start(clean)
    html = file.read_text()
    page = alone(html)
    assert page.marks.count("name") == page.marks.count("mrn") == 3
    assert page.text.count("[NAME_REDACTED]") == 3
    assert "b" not in page.tags
    assert "<b>1." in page.text, "the note's own mark-up is shown as text"
    assert html.count("<article") == 3
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (file, verdicts)} == {0o600}
    assert clean not in file.parents
    assert json.loads(verdicts.read_text())["notes"] == dict.fromkeys("123")


def test_reading_without_a_miss_passes_and_the_outcome_is_signed(home: Path) -> None:
    clean = deid(home)
    before = {path: path.read_bytes() for path in clean.rglob("*") if path.is_file() and path.parent != clean}
    page, verdicts = start(clean)
    done = data("review", clean, "--record", fill(verdicts, CLEAN))
    assert done.exit_code == 0, (done.output, done.exception)
    review = part(clean)
    assert (review["status"], review["all_notes_read"], review["reviewer"]) == ("PASS", True, "R. Eader")
    assert signed_status(home, clean) == "PASS"
    assert {path: path.read_bytes() for path in clean.rglob("*") if path.is_file() and path.parent != clean} == before
    assert "PASS" in alone((clean / "report.html").read_text()).text
    assert not page.exists(), "the page goes when it is no longer needed"
    assert not list(home.glob(".clean*"))
    again = data("review", clean, "--record", verdicts)
    assert "reviewed already" in str(again.exception)


def test_a_file_system_without_links_is_served_by_copies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    clean = deid(home)
    _, verdicts = start(clean)
    monkeypatch.setattr("curation.review.tree.os.link", refuse)
    assert data("review", clean, "--record", fill(verdicts, CLEAN)).exit_code == 0
    assert signed_status(home, clean) == "PASS"


def test_the_report_page_escapes_and_stays_a_page() -> None:
    held = [
        {"patient": f"p{n}", "file": "<script>", "validation_passed": False, "reason": "r<img src=x>"}
        for n in range(700)
    ]
    review = {
        "status": "NOT_DONE",
        "size": 0,
        "population": 0,
        "seed": 0,
        "sample_id": "",
        "limit": 0.05,
        "confidence": 0.95,
    }
    page = alone(render(held, review))
    assert page.text.count("<script>") == 500
    assert "200 more in report.json" in page.text
    assert "not passed" in page.text, "a tree without a file that passed"


def test_a_miss_fails_and_a_second_try_can_not_undo_it(home: Path) -> None:
    clean = deid(home)
    _, verdicts = start(clean)
    done = data("review", clean, "--record", fill(verdicts, {**CLEAN, "2": {"name": 2, "date": 1}}))
    assert done.exit_code == 1
    review = part(clean)
    assert (review["status"], review["missed"]) == ("FAIL", {"date": 1, "name": 2})
    assert review["identifiers_missed"]["count"] == 3
    assert review["identifiers_missed"]["of"] > 3
    assert review["notes_with_a_miss"]["count"] == 1
    assert signed_status(home, clean) == "FAIL"
    assert not {"verdicts", "1", "2"} & set(review), "the report doesn't say which note has the miss"
    undo = data("review", clean, "--record", fill(verdicts, CLEAN))
    assert "reviewed already: FAIL" in str(undo.exception)
    assert part(clean)["status"] == "FAIL"
    assert part(deid(home, 3, "--review-seed", "1"))["status"] == "NOT_DONE"


def pack(home: Path, clean: Path, *options: str) -> Result:
    return data("pack", clean, home / "set", "--heldout", "500", "--vocabulary", "512", *options)


def test_only_a_reviewed_tree_is_packed_or_one_with_a_signed_reason(home: Path) -> None:
    clean = deid(home, 12)
    refused = pack(home, clean)
    assert isinstance(refused.exception, UserError)
    assert "nobody has read a sample of this tree" in str(refused.exception)
    assert not (home / "set").exists()
    for reason in ("", " ", "two\nlines", "x" * 201):
        assert "no single line" in str(pack(home, clean, "--unreviewed", reason).exception)
    done = pack(home, clean, "--unreviewed", "the patients are invented")
    assert done.exit_code == 0, (done.output, done.exception)
    stated = json.loads((home / "set" / "manifest.json").read_text())["meta"]["deidentification"]
    assert (stated["review"], stated["unreviewed_because"]) == ("NOT_DONE", "the patients are invented")
    _, verdicts = start(clean)
    sample = {str(number): {} for number in range(1, part(clean)["size"] + 1)}
    assert data("review", clean, "--record", fill(verdicts, sample)).exit_code == 0
    done = pack(home, clean)
    assert done.exit_code == 0, (done.output, done.exception)
    stated = json.loads((home / "set" / "manifest.json").read_text())["meta"]["deidentification"]
    assert stated["review"] == "PASS"
    assert "unreviewed_because" not in stated


def test_no_reason_helps_a_tree_whose_review_failed(home: Path) -> None:
    clean = deid(home)
    _, verdicts = start(clean)
    data("review", clean, "--record", fill(verdicts, {**CLEAN, "2": {"name": 2}}))
    for options in ((), ("--unreviewed", "the patients are invented")):
        assert "the review of this tree's sample failed" in str(pack(home, clean, *options).exception)
    assert not (home / "set").exists()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"notes": {"1": {}, "2": {}, "3": None}}, "notes.3: the note was not judged"),
        ({"notes": {"1": {}}}, "notes.3: the note was not judged"),
        ({"notes": {**CLEAN, "4": {}}}, "more than the 3 notes"),
        ({"notes": {**CLEAN, "1": {"Whitmore": 1}}}, "notes.1: this is no count"),
        ({"notes": {**CLEAN, "1": {"name": -1}}}, "notes.1: this is no count"),
        ({"notes": {**CLEAN, "1": {"name": True}}}, "notes.1: this is no count"),
        ({"notes": {**CLEAN, "1": {"name": "Whitmore"}}}, "notes.1: this is no count"),
        ({"notes": {**CLEAN, "1": "Whitmore"}}, "notes.1: this is no count"),
        ({"notes": [{}, {}, {}]}, "these are no verdicts"),
        ({"notes": CLEAN, "reviewer": " "}, "the reviewer is no printable line"),
        ({"notes": CLEAN, "reviewer": 7}, "the reviewer is no printable line"),
        ({"notes": CLEAN, "sample_id": "0" * 64}, "on another sample"),
    ],
)
def test_verdicts_that_are_not_whole_leave_the_tree_unreviewed(home: Path, change: dict[str, Any], rule: str) -> None:
    clean = deid(home)
    before = {path: path.read_bytes() for path in clean.rglob("*") if path.is_file()}
    _, verdicts = start(clean)
    facts = {**json.loads(verdicts.read_text()), "reviewer": "R. Eader", **change}
    verdicts.write_text(json.dumps(facts))
    done = data("review", clean, "--record", verdicts)
    assert isinstance(done.exception, UserError), done.output
    assert rule in str(done.exception)
    assert "Whitmore" not in done.output + str(done.exception)
    assert {path: path.read_bytes() for path in clean.rglob("*") if path.is_file()} == before


def test_a_verdict_that_stands_twice_is_refused_not_the_last_one_taken(home: Path) -> None:
    clean = deid(home)
    _, verdicts = start(clean)
    sample = part(clean)["sample_id"]
    twice = '{"1": {"name": 1}, "1": {}, "2": {}, "3": {}}'
    for content in (f'{{"sample_id": "{sample}", "reviewer": "R", "notes": {twice}}}', "[" * 9999, "", "\udce4"):
        verdicts.write_text(content, errors="surrogateescape")
        assert "these are no verdicts" in str(data("review", clean, "--record", verdicts).exception)
    assert "no such file" in str(data("review", clean, "--record", home / "none").exception)


def test_verdicts_on_an_older_release_do_not_count_for_the_next(home: Path) -> None:
    clean = deid(home)
    _, verdicts = start(clean)
    fill(verdicts, CLEAN)
    (home / "raw" / "patients" / "ID-1" / "note.txt").write_text("Now the patient is well again.\n")
    assert data("deid", home / "raw", clean).exit_code == 0
    assert "on another sample" in str(data("review", clean, "--record", verdicts).exception)


def test_an_altered_tree_is_neither_shown_nor_recorded(home: Path) -> None:
    clean = deid(home)
    _, verdicts = start(clean)
    fill(verdicts, CLEAN)
    note = next(clean.rglob("note.txt"))
    good = note.read_bytes()
    note.write_text("Agnes Whitmore")
    assert "altered" in str(data("review", clean).exception)
    assert "altered" in str(data("review", clean, "--record", verdicts).exception)
    note.write_bytes(good)
    (clean / "more.txt").write_text("smuggled")
    assert "not listed" in str(data("review", clean, "--record", verdicts).exception)
    (clean / "more.txt").unlink()
    report = json.loads((clean / "report.json").read_text())
    report["review"]["status"] = "PASS"
    (clean / "report.json").write_text(json.dumps(report))
    assert "altered" in str(data("review", clean).exception), "a PASS can't be written by hand"


def test_a_place_that_others_can_read_or_that_is_published_is_refused(home: Path) -> None:
    clean = deid(home)
    (home / "open").mkdir(mode=0o755)
    (home / "link").symlink_to(home / "open")
    (home / "file").touch()
    for place, rule in (
        (clean, "inside the published tree"),
        (clean / "patients" / "review", "inside the published tree"),
        (home / "open", "others can read this directory"),
        (home / "link", "no directory"),
        (home / "file", "no directory"),
    ):
        done = data("review", clean, "--to", place)
        assert rule in str(done.exception)
    assert not list(home.rglob("review.html"))
    mask = os.umask(0)
    try:
        page, _ = start(clean, "--to", home / "mine")
    finally:
        os.umask(mask)
    assert page.parent.stat().st_mode & 0o777 == 0o700


def test_making_the_page_again_keeps_the_verdicts_so_far(home: Path) -> None:
    clean = deid(home)
    _, verdicts = start(clean)
    fill(verdicts, {"1": {"name": 1}})
    start(clean)
    assert json.loads(verdicts.read_text())["notes"]["1"] == {"name": 1}


def test_the_answers_at_the_prompt_are_recorded_and_leaving_early_records_nothing(home: Path) -> None:
    clean = deid(home)
    left = data("review", clean, "--ask", "--reviewer", "R. Eader", typed="0\n0\n")
    assert left.exit_code == 1
    assert part(clean)["status"] == "NOT_DONE"
    done = data("review", clean, "--ask", "--reviewer", "R. Eader", typed="0\nWhitmore\nname\nname=2 date=1\n0\n")
    assert done.exit_code == 1, done.output
    assert part(clean)["missed"] == {"date": 1, "name": 2}
    for options, rule in (
        (["--ask"], "go together"),
        (["--reviewer", "R"], "go together"),
        (["--ask", "--reviewer", ""], "no printable line"),
        (["--ask", "--reviewer", "R", "--record", "x"], "exclude each other"),
    ):
        assert rule in str(data("review", clean, *options).exception)


def test_no_tree_no_key_and_no_note_are_told(home: Path) -> None:
    assert "no private key" in str(data("review", home / "nothing").exception)
    clean = deid(home)
    assert "no manifest" in str(data("review", home / "nothing").exception)
    assert "no manifest" in str(data("review", home / "raw").exception)
    for note in (home / "raw").rglob("note.txt"):
        note.unlink()
        note.with_name("ecg.csv").write_bytes(
            _recording(0, "ID-0", {"name": "Agnes Whitmore", "mrn": "MR-770", "birth_date": "1951-03-04"})
        )
    assert data("deid", home / "raw", clean).exit_code == 0
    assert part(clean)["status"] == "NOT_DONE"
    assert "no note to read" in str(data("review", clean).exception)


@pytest.mark.parametrize("limit", ["0", "-0.1", "0.51", "1", "nan", "1e-300"])
def test_a_limit_that_is_no_share_is_refused_before_any_work(home: Path, limit: str) -> None:
    clean = deid(home)
    before = (clean / "report.json").read_bytes()
    done = data("deid", home / "raw", clean, "--review-limit", limit)
    assert isinstance(done.exception, UserError)
    assert "--review-limit: the limit is no share" in str(done.exception)
    assert (clean / "report.json").read_bytes() == before

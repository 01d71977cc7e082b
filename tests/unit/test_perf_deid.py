"""The comparison with Presidio: names, scores, refusals, and what a worker says when it fails."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.deid.labelled import IDENTIFIERS, Note, Span, note
from benchmarks.perf.deid import __main__ as command
from benchmarks.perf.deid.growth import growth_of, measure, text_of
from benchmarks.perf.deid.peer import Found, serve
from benchmarks.perf.deid.scores import ENTITIES, quality, spans
from benchmarks.perf.deid.worker import Answer, Worker
from benchmarks.perf.environment import locked_environment
from medllm.errors import UserError

_OURS = [sys.executable, "-m", "benchmarks.perf.deid.ours"]


def _note() -> Note:
    return note("en-1", "en", "Seen by ⟦NAME:Ann Lee⟧ on ⟦DATE:3 May⟧; mild ⟦KEEP:asthma⟧.")


def test_each_entity_becomes_a_kind_of_the_set_and_others_keep_their_name() -> None:
    assert set(ENTITIES.values()) <= set(IDENTIFIERS)
    assert spans([(0, 3, "PERSON", 0.85), (4, 6, "NRP", 0.5)]) == [Span(0, 3, "NAME"), Span(4, 6, "NRP")]


def test_spans_below_the_least_score_are_left_out() -> None:
    found = [(0, 3, "PERSON", 0.85), (4, 9, "US_DRIVER_LICENSE", 0.01)]
    assert spans(found, 0.35) == [Span(0, 3, "NAME")]
    assert len(spans(found)) == 2


def test_recall_takes_any_kind_and_named_recall_the_right_one_alone() -> None:
    text = _note().text
    name, date = text.index("Ann"), text.index("3 May")
    # The date is covered, but as a place.
    found = [[[name, name + 7, "PERSON", 0.9], [date, date + 5, "LOCATION", 0.9]]]
    scores = quality([_note()], found)
    assert (scores["recall"], scores["named_recall"]) == (1.0, 0.5)
    assert (scores["span_precision"], scores["over_redaction"], scores["keeps_touched"]) == (1.0, 0.0, 0.0)
    assert not any(key.endswith("_per_second") for key in scores)


def test_harmless_text_that_is_taken_lowers_precision() -> None:
    start = _note().text.index("asthma")
    scores = quality([_note()], [[[start, start + 6, "ORGANIZATION", 0.9]]])
    assert (scores["recall"], scores["span_precision"], scores["keeps_touched"]) == (0.0, 0.0, 1.0)
    assert scores["over_redaction"] > 0


def test_a_missing_answer_is_no_empty_answer() -> None:
    with pytest.raises(ValueError, match="shorter"):
        quality([_note(), _note()], [[]])


def test_our_worker_finds_what_the_engine_finds() -> None:
    with Worker("ours", _OURS) as worker:
        answer = worker.ask(["Mr. John Smith, phone 415-555-0123."])
        again = worker.ask(["Nothing here.", "SSN 078-05-1120"])
    assert {span[2] for span in answer.spans[0]} >= {"NAME", "PHONE"}
    assert [len(found) for found in again.spans] == [0, 1]
    assert answer.processor_s > 0


def test_a_failing_engine_names_the_failure_and_never_the_text() -> None:
    def engine(text: str) -> Found:
        raise ValueError(f"cannot read {text}")

    out = io.StringIO()
    serve(engine, {"model": "m"}, io.StringIO(json.dumps({"texts": ["John Smith"]}) + "\n"), out)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [{"model": "m"}, {"error": "ValueError"}]


def test_a_worker_that_cannot_start_says_why() -> None:
    # Our own environment has no Presidio.
    peer = Path(command.__file__).with_name("peer.py")
    with pytest.raises(RuntimeError, match="presidio failed: ModuleNotFoundError"):
        Worker("presidio", [sys.executable, peer])
    with pytest.raises(RuntimeError, match="ended before its answer"):
        Worker("ours", [sys.executable, "-c", "raise SystemExit(3)"])


def test_an_environment_without_a_lock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"uv\.lock: there is no lock\. Fix: make one"):
        locked_environment(tmp_path, "none")


def _unreachable(project: Path) -> None:
    """A lock of a package whose index nobody serves."""
    (project / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["nothing==1"]\n'
        "[tool.uv]\npackage = false\n"
    )
    (project / "uv.lock").write_text(
        'version = 1\nrequires-python = ">=3.11"\n'
        '[[package]]\nname = "nothing"\nversion = "1"\nsource = { registry = "http://127.0.0.1:9/simple" }\n'
        'wheels = [{ url = "http://127.0.0.1:9/nothing-1-py3-none-any.whl", hash = "sha256:' + "0" * 64 + '" }]\n'
        '[[package]]\nname = "p"\nversion = "0"\nsource = { virtual = "." }\ndependencies = [{ name = "nothing" }]\n'
        '[package.metadata]\nrequires-dist = [{ name = "nothing", specifier = "==1" }]\n'
    )


def test_the_command_refuses_in_one_line_when_the_environment_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _unreachable(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setattr(command, "_HERE", tmp_path)
    record = tmp_path / "result.json"
    assert command.main(["--made", "0", "--rounds", "1", "--record", str(record)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "uv.lock: the environment deid-peers cannot be made (" in line
    assert ". Fix: let this machine reach a package index" in line
    assert not record.exists()


@pytest.mark.parametrize(
    "words", [["--rounds", "0"], ["--made", "-1"], ["growth", "--megabytes", "0"], ["growth", "--limit", "0"]]
)
def test_numbers_that_measure_nothing_are_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*words, "--record", str(tmp_path / "result.json")]) == 2
    assert ". Fix: give " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    def answers(*seconds: float) -> list[Answer]:
        return [Answer(each, each, []) for each in seconds]

    found = command.ratio(answers(1, 1, 2), answers(60, 40, 200))
    assert (found["ours_is_times"], found["least"], found["largest"], found["goal_reached"]) == (60, 40, 100, True)
    assert command.ratio(answers(1), answers(49))["goal_reached"] is False


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_growing_text_has_its_size_and_the_same_beginning(language: str) -> None:
    small, large = text_of(language, 0.01), text_of(language, 0.5)
    assert 10_000 - 3 <= len(small.encode()) <= 10_000
    assert 500_000 - 3 <= len(large.encode()) <= 500_000
    assert large.startswith(small)


def test_growth_measures_one_size(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = measure("en", 0.002)
    assert found["spans"] > 0
    assert found["peak_rss_mb"] >= found["peak_rss_mb_before"] > 0
    record = tmp_path / "result.json"
    record.write_text('{"compare": 1}')
    assert command.main(["growth", "--megabytes", "0.002", "--limit", "0.01", "--record", str(record)]) == 0
    kept: dict[str, Any] = json.loads(record.read_text())
    # Nothing starts in a hundredth of a second: that is said, and what was measured before stays.
    assert kept["growth"]["en"]["not_finished_mb"] == [0.002]
    assert kept["compare"] == 1
    assert kept["growth"]["machine"]["load_average"]


def test_growth_exponents_tell_linear_from_square() -> None:
    def size(characters: int, seconds: float, added: int) -> dict[str, Any]:
        return {"characters": characters, "processor_s": seconds, "peak_rss_mb": 20 + added, "peak_rss_mb_before": 20}

    linear = growth_of([size(1000, 1.0, 10), size(4000, 4.0, 40)])
    assert linear == {"time_exponent": 1.0, "memory_exponent": 1.0}
    assert growth_of([size(1000, 1.0, 0), size(4000, 16.0, 40)]) == {"time_exponent": 2.0}
    assert growth_of([size(1000, 1.0, 10)]) == {}

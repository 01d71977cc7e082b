"""Outcomes and thresholds: what may be a PASS, and which values physics forbids."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medllm.errors import UserError
from medllm.site.model import ThresholdOverride
from medllm.thresholds import load_thresholds
from medllm.verdict import REHEARSED, Evidence, Measurement, Outcome, Threshold, judge, label, worst
from tests.unit.acceptance_inputs import CHECK_IDS, ROOT, site, thresholds


def measurement(value: float | str, unit: str = "s", **more: str) -> Measurement:
    return Measurement(value, unit, "node1", "", "probe", datetime(2026, 1, 1, tzinfo=UTC), ("0" * 64,), **more)


def threshold(op: str = "<", value: float | str = 10, low: float = 0, high: float = 100) -> Threshold:
    return Threshold("t", "duration", op, value, "s", "asked", "source", "derivation", low, high)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "value", "outcome"),
    [
        ("<", 9.9, Outcome.PASS),
        ("<", 10, Outcome.FAIL),
        ("<=", 10, Outcome.PASS),
        (">", 10, Outcome.FAIL),
        (">=", 10, Outcome.PASS),
        ("==", 10, Outcome.PASS),
        ("==", 9, Outcome.FAIL),
    ],
)
def test_operators(op: str, value: float, outcome: Outcome) -> None:
    assert judge(measurement(value), threshold(op)).outcome is outcome


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("op", ["==", "<", "<=", ">", ">="])
def test_no_finite_number_fails(op: str, value: float) -> None:
    assert judge(measurement(value), threshold(op)).outcome is Outcome.FAIL


def test_impossible_values_decide_nothing() -> None:
    judgement = judge(measurement(120.0), threshold(">=", 10))
    assert judgement.outcome is Outcome.INCONCLUSIVE
    assert "physically impossible" in judgement.reason


def test_units_and_types_are_not_guessed() -> None:
    assert judge(measurement(1, "ms"), threshold()).outcome is Outcome.INCONCLUSIVE
    assert judge(measurement("1"), threshold()).outcome is Outcome.INCONCLUSIVE


def test_refuted_beats_the_number_and_unsure_is_no_pass() -> None:
    assert judge(measurement(1, refuted="lost"), threshold()).outcome is Outcome.FAIL
    assert judge(measurement(1, unsure="busy"), threshold()).outcome is Outcome.INCONCLUSIVE


@given(st.lists(st.sampled_from(Outcome)))
def test_a_group_passes_only_if_it_has_members_and_all_pass(outcomes: list[Outcome]) -> None:
    assert (worst(outcomes) is Outcome.PASS) == (bool(outcomes) and set(outcomes) == {Outcome.PASS})


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("evidence", [*Evidence, None])
def test_only_real_evidence_is_called_a_pass(outcome: Outcome, evidence: Evidence | None) -> None:
    real = evidence in (Evidence.MEASURED, Evidence.ATTESTED)
    assert label(outcome, evidence) == (REHEARSED if outcome is Outcome.PASS and not real else outcome.value)


@pytest.mark.parametrize("inventory", ["lab", "h200", "a100_roce", "t8"])
def test_the_catalogue_serves_every_site_and_every_check(inventory: str) -> None:
    bound = thresholds(site(inventory), inventory)
    assert sorted(bound) == sorted(CHECK_IDS)
    for key, found in bound.items():
        assert found is not None or key == "hca_link"
        assert found is None or found.source
    assert (bound["hca_link"] is None) == (inventory == "t8")


def catalogue(folder: Path, body: str) -> Path:
    path = folder / "own.yml"
    path.write_text(
        "id: own\nthresholds:\n  key:\n    - {asked: what was asked, source: a source, derivation: a way, "
        + body
        + "}\n"
    )
    return path


IMPOSSIBLE = [
    ("quantity: port_rate, unit: Gb/s, op: '>=', value: 201", "200 Gb/s"),
    ("quantity: matmul_bf16, unit: TFLOPS, op: '>', value: 1000", "989 TFLOPS"),
    ("quantity: nvlink_duplex, unit: GB/s, op: '>', value: 957", "956"),
    ("quantity: temperature, unit: °C, op: '<', value: 200", "125 °C"),
    ("quantity: count, unit: GPUs, op: '==', value: -1", "not negative"),
    ("quantity: duration, unit: s, op: '<', value: .inf", "month"),
    ("quantity: duration, unit: s, op: '<', value: .nan", "month"),
]


@pytest.mark.parametrize(("body", "why"), IMPOSSIBLE)
def test_impossible_thresholds_are_refused_with_their_line(tmp_path: Path, body: str, why: str) -> None:
    with pytest.raises(UserError, match="physically impossible") as caught:
        load_thresholds(catalogue(tmp_path, body), site())
    assert why in str(caught.value)
    assert caught.value.problems[0].line == 4


@pytest.mark.parametrize(
    "body",
    [
        "quantity: count, unit: GPUs, op: '==', value: 1, value_from: gpu.per_node",
        "quantity: count, unit: GPUs, op: '=='",
        "quantity: count, unit: GPUs, op: '~', value: 1",
        "quantity: count, unit: GPUs, op: '==', value: 1, typo: 1",
        "quantity: furlongs, unit: GPUs, op: '==', value: 1",
        "quantity: count, unit: GPUs, op: '==', value_from: gpu.colour",
        "quantity: count, unit: GPUs, op: '==', value_from: gpu.__class__",
        "quantity: count, unit: GPUs, op: '==', value: 1, when: {gpu.colour: red}",
    ],
)
def test_a_bad_catalogue_is_refused_with_its_file(tmp_path: Path, body: str) -> None:
    path = catalogue(tmp_path, body)
    with pytest.raises(UserError) as caught:
        load_thresholds(path, site())
    assert caught.value.problems[0].file == path
    assert caught.value.problems[0].line


def test_an_override_of_the_site_counts_and_is_bound_by_physics(tmp_path: Path) -> None:
    path = ROOT / "inventory" / "thresholds" / "h200-2026.11.yml"

    def overridden(key: str, value: float) -> Threshold | None:
        override = {key: ThresholdOverride(value=value, source="the makers' letter")}
        return load_thresholds(path, site().model_copy(update={"threshold_overrides": override}))[key]

    changed = overridden("gpu_temperature", 70)
    assert changed is not None
    assert (changed.value, changed.source) == (70, "the makers' letter")
    with pytest.raises(UserError, match="physically impossible"):
        overridden("hca_link", 400)
    with pytest.raises(UserError, match="no threshold"):
        overridden("gpu_temprature", 70)

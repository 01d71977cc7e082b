"""Checkpoints: whole or not there, never trusted without their hashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer.checkpoint import store
from trainer.checkpoint.state import Progress, TrainerState, digest, val_loss_of


def _publish(run: Path, step: int, content: bytes = b"weights") -> store.Checkpoint:
    draft = store.new_draft(run, step)
    (draft / "engine").mkdir()
    files = [draft / "engine" / f"part{number}" for number in range(4)]
    for number, file in enumerate(files):
        file.write_bytes(content * (number + 1))
    return store.commit(run, step, store.seal(draft, files))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def test_what_was_published_is_good_and_newest_first(tmp_path: Path) -> None:
    for step in (20, 100, 40):
        _publish(tmp_path, step)
    assert [checkpoint.step for checkpoint in store.published(tmp_path)] == [100, 40, 20]
    assert all(store.problem_of(checkpoint.path) is None for checkpoint in store.published(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").glob(".*")] == []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: _flip(path / "engine/part2"), "engine/part2 has another sha256"),
        (lambda path: (path / "engine/part2").write_bytes(b""), "engine/part2 has another size"),
        (lambda path: (path / "engine/part2").unlink(), "engine/part2 can't be read"),
        (lambda path: (path / store.MARKER).unlink(), "COMPLETE is missing"),
        (lambda path: (path / store.HASHES).unlink(), "hashes.json is missing"),
        (lambda path: _flip(path / store.HASHES), "does not fit"),
        (lambda path: (path / store.MARKER).write_bytes(b"\xff"), "can't be read"),
    ],
)
def test_a_spoiled_one_is_noticed(tmp_path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    path = _publish(tmp_path, 20).path
    spoil(path)
    assert reason in (store.problem_of(path) or "")
    if "part2" in reason:
        verdicts = [store.problem_of(path, rank, 4) for rank in range(4)]
        assert sum(verdict is not None for verdict in verdicts) == 1, "each rank hashes its share"


def test_a_crash_while_writing_leaves_no_checkpoint(tmp_path: Path) -> None:
    _publish(tmp_path, 20)
    draft = store.new_draft(tmp_path, 40)
    (draft / "half").write_bytes(b"x")
    assert [checkpoint.step for checkpoint in store.published(tmp_path)] == [20]
    store.new_draft(tmp_path, 40)
    assert list(store.draft_path(tmp_path, 40).iterdir()) == [], "the next try starts clean"


def test_a_file_that_nobody_hashed_is_not_published(tmp_path: Path) -> None:
    draft = store.new_draft(tmp_path, 20)
    (draft / "seen").write_bytes(b"x")
    sealed = store.seal(draft, [draft / "seen"])
    (draft / "unseen").write_bytes(b"x")
    with pytest.raises(RuntimeError, match="unseen"):
        store.commit(tmp_path, 20, sealed)


def test_a_bad_one_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    (_publish(tmp_path, 20).path / store.MARKER).unlink()
    again = _publish(tmp_path, 20, b"again")
    assert store.problem_of(again.path) is None
    assert (again.path / "engine/part0").read_bytes() == b"again"


def test_pruning_keeps_the_newest_good_ones(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        _publish(tmp_path, step)
    _flip(store.published(tmp_path)[0].path / "engine/part0")
    deleted = store.prune(tmp_path, 2)
    assert sorted(checkpoint.step for checkpoint in deleted) == [10, 20]
    assert [checkpoint.step for checkpoint in store.published(tmp_path)] == [50, 40, 30]


def test_pruning_never_deletes_the_only_good_one(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        _publish(tmp_path, step)
    for checkpoint in store.published(tmp_path)[:2]:
        _flip(checkpoint.path / "engine/part0")
    assert store.prune(tmp_path, 1) == []
    for checkpoint in store.published(tmp_path):
        if checkpoint.step == 10:
            _flip(checkpoint.path / "engine/part0")
    assert store.prune(tmp_path, 1) == [], "none is good: none may be deleted"


def test_pruning_keeps_the_best_beside_the_newest(tmp_path: Path) -> None:
    losses = {10: 2.0, 20: 1.0, 30: 3.0, 40: None, 50: 1.0, 60: 4.0, 70: 5.0}
    for step in losses:
        _publish(tmp_path, step)

    def loss_of(path: Path) -> float | None:
        return losses[int(path.name.removeprefix("step-"))]

    deleted = store.prune(tmp_path, 2, 2, loss_of)
    assert [checkpoint.step for checkpoint in store.published(tmp_path)] == [70, 60, 50, 20]
    assert sorted(checkpoint.step for checkpoint in deleted) == [10, 30, 40]
    assert store.prune(tmp_path, 2, 2, loss_of) == []
    _flip(store.published(tmp_path)[2].path / "engine/part0")
    store.prune(tmp_path, 2, 2, loss_of)
    assert [checkpoint.step for checkpoint in store.published(tmp_path)] == [70, 60, 20], (
        "a spoiled one is not the best"
    )
    assert [checkpoint.step for checkpoint in store.prune(tmp_path, 2)] == [20]


def test_pruning_keeps_all_while_too_few_are_good(tmp_path: Path) -> None:
    for step in (10, 20):
        _publish(tmp_path, step)
    assert store.prune(tmp_path, 3, 1, lambda _: 1.0) == []


def test_the_state_remembers_its_loss_and_reads_older_ones(tmp_path: Path) -> None:
    TrainerState(Progress(3, 4, 5), 1, ("a",), 1.5).write(tmp_path)
    assert val_loss_of(tmp_path) == 1.5
    older = json.loads((tmp_path / "trainer_state.json").read_text())
    del older["val_loss"]
    (tmp_path / "trainer_state.json").write_text(json.dumps(older))
    assert val_loss_of(tmp_path) is None


def test_the_digest_sees_a_single_bit() -> None:
    state = {"step": 3, "weights": [torch.ones(4), torch.zeros(2)], "name": "x"}
    same = {"name": "x", "weights": [torch.ones(4), torch.zeros(2)], "step": 3}
    assert digest(state) == digest(same)
    changed = {**state, "weights": [torch.ones(4), torch.tensor([0.0, -0.0])]}
    assert digest(state) != digest(changed), "minus zero is another bit pattern"
    assert digest(state) != digest({**state, "step": 4})
    assert digest({"a": [torch.ones(2), torch.ones(2)]}) != digest({"a": [torch.ones(4)]})

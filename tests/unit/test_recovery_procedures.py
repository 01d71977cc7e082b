"""Procedures as data: what is refused, what the site decides, and pages that say the same as the engine does."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
from recovery_fakes import LAB, PROCEDURES, ROOT, site_with

from medllm.errors import UserError
from medllm.site.source import plain, read_document
from runbooks import pages
from runbooks.engine.model import Slot
from runbooks.engine.policy import load_policy
from runbooks.engine.procedure import load_procedures, schema

GOOD = (ROOT / "runbooks" / "procedures" / "gpu_fallen_off.yml").read_text()


def load(directory: Path, text: str, name: str = "gpu_fallen_off") -> UserError:
    (directory / f"{name}.yml").write_text(text)
    with pytest.raises(UserError) as raised:
        load_procedures(directory)
    return raised.value


def test_every_procedure_fits_its_schema_and_names_playbooks_that_exist() -> None:
    for path in (ROOT / "runbooks" / "procedures").glob("*.yml"):
        jsonschema.validate(plain(read_document(path).data), schema())
    for procedure in PROCEDURES.values():
        for slot in Slot:
            for attempt in range(1, procedure.attempts + 1):
                for work in procedure.steps(slot, LAB, attempt):
                    assert bool(work.playbook) != bool(work.checks)
                    if work.playbook:
                        assert (ROOT / "playbooks" / work.playbook).is_file(), work.playbook


def test_every_fault_class_of_the_policy_and_the_pages_has_a_procedure() -> None:
    policy = load_policy(ROOT / "runbooks")
    of_pages = {name for classes in policy.alerts.values() for name in classes}
    of_kernel = {policy.classes[xid.action] for xid in policy.xids.values()} | {
        one.fault_class for one in policy.messages
    }
    assert of_pages | ((of_kernel | set(policy.classes.values())) - {""}) <= set(PROCEDURES)


def test_attempts_come_in_their_order_and_the_site_decides_how_long_heat_settles() -> None:
    procedure = PROCEDURES["gpu_fallen_off"]
    books = [procedure.steps(Slot.ACT, LAB, attempt)[0].playbook for attempt in (1, 2)]
    assert books == ["reboot.yml", "power_cycle.yml"]
    assert procedure.steps(Slot.ACT, LAB, 3) == ()
    (work,) = PROCEDURES["gpu_overheat"].steps(Slot.REVALIDATE, site_with(overheat_settle_s=77))
    assert work.settle_s == 77


def test_what_restarts_a_machine_or_a_gpu_asks_and_what_ends_a_job_comes_first() -> None:
    for procedure in PROCEDURES.values():
        for work in procedure.act:
            restarts = work.playbook in {"reboot.yml", "power_cycle.yml", "power_on.yml", "reset_gpu.yml"}
            assert work.approval is restarts, (procedure.fault_class, work.playbook)
            assert not restarts or procedure.quiesce is not None


@pytest.mark.parametrize(
    ("old", "new", "line", "rule"),
    [
        ("deadline_s: 240", "deadline_s: soon", 13, "valid integer"),
        ("deadline_s: 240", "deadlines_s: 240", 13, "unknown"),
        ("deadline_s: 240", "deadline_s: 3601", 13, "less than or equal to 3600"),
        ("deadline_s: 240", "deadline_s: 0", 13, "greater than or equal to 5"),
        ("playbook: drain.yml", "playbook: ../drain.yml", 9, "match pattern"),
        ("recovery_grace_s: 0", "ansible_user: root", 12, "match pattern"),
        ("nvlink, gpu_ecc", "nvlink, gpu_eec", 24, "no check 'gpu_eec'"),
        ("fault_class: gpu_fallen_off", "fault_class: gpu_lost", 2, "not the file's name"),
        ("title: A GPU", "title: {{ A GPU", None, ""),
        ("rank: 20", "rank: 20\nrank: 30", 6, "rank"),
    ],
)
def test_a_bad_procedure_is_refused_with_its_place(
    tmp_path: Path, old: str, new: str, line: int | None, rule: str
) -> None:
    assert old in GOOD
    error = load(tmp_path, GOOD.replace(old, new, 1))
    assert any(rule in problem.rule for problem in error.problems), str(error)
    assert error.problems[0].file == tmp_path / "gpu_fallen_off.yml"
    if line is not None:
        assert line in {problem.line for problem in error.problems}, str(error)


def test_a_playbook_that_does_not_exist_is_refused_where_playbooks_are(tmp_path: Path) -> None:
    directory = tmp_path / "runbooks" / "procedures"
    directory.mkdir(parents=True)
    (directory / "gpu_fallen_off.yml").write_text(GOOD)
    assert set(load_procedures(directory)) == {"gpu_fallen_off"}, "an installed package has no playbooks beside it"
    (tmp_path / "playbooks").mkdir()
    for book in ("drain", "reboot", "return_to_service", "resume_training", "isolate"):
        (tmp_path / "playbooks" / f"{book}.yml").touch()
    (problem,) = load(directory, GOOD).problems
    line = GOOD.splitlines().index("  - playbook: power_cycle.yml") + 1
    assert (problem.line, problem.key) == (line, "act.1.playbook")
    assert "'power_cycle.yml'" in problem.rule


def test_where_nothing_is_known_to_help_the_page_says_that_a_person_is_told() -> None:
    section = pages.render(("gpu_support",), PROCEDURES)
    assert "1. Drain the node; what runs on it goes on (`isolate.yml`" in section
    assert "2. When the person says that it is mended: Check" in section
    assert "If nothing helped" not in section


@pytest.mark.parametrize("slot", ["revalidate", "return", "isolate"])
def test_what_a_persons_repair_needs_is_not_left_out(tmp_path: Path, slot: str) -> None:
    text = (ROOT / "runbooks" / "procedures" / "gpu_support.yml").read_text()
    (problem,) = load(tmp_path, without(text, slot), "gpu_support").problems
    assert slot in problem.rule


def without(text: str, slot: str) -> str:
    """The procedure's text without one slot."""
    lines, skipped = [], False
    for line in text.splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            skipped = line.startswith(f"{slot}:")
        if not skipped:
            lines.append(line)
    return "".join(lines)


@pytest.mark.parametrize(
    ("slot", "rule"),
    [
        ("revalidate", "nothing would prove"),
        ("quiesce", "takes the machine from its jobs"),
        ("isolate", "isolate for when it does not help"),
        ("return", "would stay out of service"),
        ("vendor", "missing"),
    ],
)
def test_a_procedure_without_a_needed_slot_is_refused(tmp_path: Path, slot: str, rule: str) -> None:
    assert rule in str(load(tmp_path, without(GOOD, slot)))


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("fault_class: b\n")
    error = load(tmp_path, GOOD.replace("rank: 20", "rank: 0"))
    assert len({problem.file for problem in error.problems}) == 2


def test_an_empty_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no procedure"):
        load_procedures(tmp_path)


def test_the_pages_and_the_schema_are_current() -> None:
    stale = [str(path) for path, text in pages.wanted(ROOT / "runbooks").items() if path.read_text() != text]
    assert stale == [], "run: python -m runbooks.pages --write"


def test_a_page_without_front_matter_or_with_an_unknown_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "procedures").mkdir()
    (tmp_path / "procedures" / "gpu_fallen_off.yml").write_text(GOOD)
    page = tmp_path / "GpuMissing.md"
    page.write_text("# GpuMissing\n")
    with pytest.raises(UserError, match=r"fault.classes"):
        pages.wanted(tmp_path)
    page.write_text("---\nfault_classes: [gpu_melted]\n---\n\n# GpuMissing\n")
    with pytest.raises(UserError, match="no procedure for gpu_melted"):
        pages.wanted(tmp_path)


def test_writing_a_page_again_changes_nothing_and_keeps_what_people_wrote(tmp_path: Path) -> None:
    page = tmp_path / "X.md"
    once = pages.with_section(page, "# X\n\nBy hand.\n", "## By itself\n\nA")
    assert once.startswith("# X\n\nBy hand.\n")
    assert (
        pages.with_section(page, once + "Below.\n", "## By itself\n\nB") == once.replace("\n\nA", "\n\nB") + "Below.\n"
    )
    with pytest.raises(UserError, match="marks"):
        pages.with_section(page, once.replace(pages.END, ""), "x")

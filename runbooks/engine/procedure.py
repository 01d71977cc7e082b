"""Procedures: what is done about a fault class, as data that fills the slots of the one state machine.

`runbooks/procedures/<fault_class>.yml`; its JSON schema is `schema.json` beside it. There is no workflow language: no
conditions, no loops. A value that a site decides is named (`settle_s: overheat_settle_s`), never computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medllm.checks import CHECKS
from medllm.errors import Problem, UserError, user_error
from medllm.site.model import Site
from medllm.site.source import Document, dotted, plain, read_document
from runbooks.engine.model import Slot, Work

Scalar = str | int | float | bool
Playbook = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*\.yml$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Deadline = Annotated[int, Field(ge=5, le=3600, description="Seconds that it may take; then it is ended.")]
Settle = Annotated[int, Field(ge=0, le=3600)] | Literal["overheat_settle_s"]
Sentence = Annotated[str, Field(min_length=10)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PlaybookWork(_Strict):
    """A playbook of `playbooks/` with its extra variables. `approval`: a person agrees first where the site declares
    `reboot_approval: ask`.
    """

    playbook: Playbook
    does: Annotated[str, Field(min_length=5, description="What it does, for people; starts with a verb.")]
    variables: dict[Annotated[str, Field(pattern=r"^recovery_[a-z0-9_]+$")], Scalar] = {}
    deadline_s: Deadline
    approval: bool = False


class CheckWork(_Strict):
    """Checks of `medllm/checks/`, by id, repeated until all pass. `settle_s`: seconds to wait before the first look, a
    number or the key of `site_recovery` that says it.
    """

    checks: Annotated[list[str], Field(min_length=1)]
    deadline_s: Deadline
    settle_s: Settle = 0

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = {check.id for check in CHECKS}
        if unknown := [name for name in self.checks if name not in known]:
            raise ValueError(f"there is no check {unknown[0]!r}; there are: {', '.join(sorted(known))}")
        return self


class Procedure(_Strict):
    """What is done about one fault class.

    `rank`: a smaller one explains more, so it replaces a larger one on the same node while nothing was started.
    `restarts_node`: its first attempt starts the machine anew. `on_node_loss`: the node's work may go on elsewhere
    before it is back (`site_recovery.on_node_loss`). `alert_memory_s`: an alert that fired before the last incident
    ended and still does counts again only so long after that. Without `act`, a node is isolated and a person is told.
    """

    fault_class: Name
    title: Sentence
    scope: Literal["node", "run"]
    rank: Annotated[int, Field(ge=1, le=100)]
    restarts_node: bool = False
    on_node_loss: bool = False
    alert_memory_s: Annotated[int, Field(ge=60, le=86400)] = 300
    quiesce: PlaybookWork | None = None
    act: list[PlaybookWork] = []
    revalidate: CheckWork | None = None
    return_: Annotated[list[PlaybookWork], Field(alias="return")] = []
    resume: PlaybookWork | None = None
    isolate: PlaybookWork | None = None
    vendor: Annotated[str, Field(min_length=10, description="What to give to support when all of it did not help.")]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.act and self.revalidate is None:
            raise ValueError("act without revalidate: nothing would prove that it helped")
        if self.quiesce is None and any(work.approval for work in self.act):
            raise ValueError("an act that needs an approval takes the machine from its jobs: fill quiesce")
        if self.scope == "node" and self.isolate is None:
            raise ValueError("a node's fault needs isolate for when it does not help")
        if self.scope == "node" and not self.act and (self.quiesce or self.resume):
            raise ValueError("without act a person is told at once: leave out quiesce and resume")
        if self.scope == "node" and not self.act and (self.revalidate is None or not self.return_):
            raise ValueError("without act, revalidate and return are for the person's repair: fill both")
        if self.scope == "run" and (self.act or self.return_ or self.isolate or self.resume is None):
            raise ValueError("a run's fault is mended by quiesce and resume; no node is acted on")
        if self.scope == "node" and self.quiesce is not None and not self.return_:
            raise ValueError("quiesce without return: the node would stay out of service")
        return self

    @property
    def attempts(self) -> int:
        """How often it is tried before a person must act."""
        return max(1, len(self.act))

    @property
    def takes_node_out(self) -> bool:
        """Whether it takes its node out of service before anything failed."""
        return self.scope == "node" and self.quiesce is not None

    def steps(self, slot: Slot, site: Site, attempt: int = 1) -> tuple[Work, ...]:
        """The work of one slot, in its order; empty where the procedure leaves it out. `attempt` counts from 1."""
        if slot is Slot.REVALIDATE:
            if self.revalidate is None:
                return ()
            settle = self.revalidate.settle_s
            settle_s = settle if isinstance(settle, int) else int(getattr(site.recovery, settle))
            checks = tuple(self.revalidate.checks)
            return (Work(slot, checks=checks, deadline_s=self.revalidate.deadline_s, settle_s=settle_s),)
        chosen: dict[Slot, list[PlaybookWork | None]] = {
            Slot.QUIESCE: [self.quiesce],
            Slot.ACT: [*self.act[attempt - 1 : attempt]],
            Slot.RETURN: [*self.return_],
            Slot.RESUME: [self.resume],
            Slot.ISOLATE: [self.isolate],
        }
        return tuple(
            Work(slot, work.playbook, dict(work.variables), deadline_s=work.deadline_s, approval=work.approval)
            for work in chosen[slot]
            if work is not None
        )


def load_procedures(directory: Path) -> dict[str, Procedure]:
    """Read all procedures, by fault class. Their playbooks must be in `playbooks/` beside the directory `runbooks/`,
    where there is one: an installed package has none.

    Raises:
        UserError: with every problem found, each with file, line, key, rule and fix.
    """
    paths = sorted(directory.glob("*.yml"))
    if not paths:
        raise user_error("there is no procedure in it", "give the directory runbooks/procedures", file=directory)
    found: dict[str, Procedure] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            document = read_document(path)
            procedure = _validated(document)
        except UserError as error:
            problems += error.problems
            continue
        if procedure.fault_class != path.stem:
            rule = f"fault_class {procedure.fault_class!r} is not the file's name"
            line = document.line_of(("fault_class",))
            problems.append(Problem(rule, f"write fault_class: {path.stem}", path, line, "fault_class"))
        problems += _missing_playbooks(document, procedure, directory.absolute().parent.parent / "playbooks")
        found[procedure.fault_class] = procedure
    if problems:
        raise UserError(*problems)
    return found


def schema() -> dict[str, Any]:
    """The JSON schema of a procedure."""
    described = Procedure.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}


def _missing_playbooks(document: Document, procedure: Procedure, playbooks: Path) -> list[Problem]:
    if not playbooks.is_dir():
        return []
    lists = {"act": procedure.act, "return": procedure.return_}
    single = {"quiesce": procedure.quiesce, "resume": procedure.resume, "isolate": procedure.isolate}
    works: list[tuple[tuple[str | int, ...], PlaybookWork]] = [
        *(((slot, "playbook"), work) for slot, work in single.items() if work is not None),
        *(((slot, index, "playbook"), work) for slot, listed in lists.items() for index, work in enumerate(listed)),
    ]
    return [
        Problem(
            f"there is no playbook {work.playbook!r}",
            "name one of playbooks/, without its path",
            document.path,
            document.line_of(keys),
            dotted(keys),
        )
        for keys, work in works
        if not (playbooks / work.playbook).is_file()
    ]


def _validated(document: Document) -> Procedure:
    try:
        return Procedure.model_validate(plain(document.data))
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            # A union's branches stand in the place too, as names that no file has.
            keys = tuple(key for key in detail["loc"] if isinstance(key, int) or key.replace("_", "").isalnum())
            message = detail["msg"].removeprefix("Value error, ")
            rule = {"missing": "the key is missing", "extra_forbidden": "the key is unknown"}.get(
                detail["type"], message
            )
            fix = "see runbooks/procedures/schema.json and the other procedures"
            problems.append(Problem(rule, fix, document.path, document.line_of(keys), dotted(keys) or None))
        raise UserError(*problems) from None

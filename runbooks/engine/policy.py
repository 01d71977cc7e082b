"""What an observation means: kernel messages by `runbooks/policy.yml`, alerts by the front matter of their pages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from medllm.errors import Problem, UserError, user_error
from medllm.site.source import plain, read_document
from runbooks.engine.model import Signal

Action = Literal["RESTART_BM", "RESET_GPU", "SUPPORT", "RESTART_APP", "IGNORE"]
FaultClass = Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]*)?$")]

# "NVRM: Xid (PCI:0000:18:00): 79, pid=…": NVIDIA's XID documentation, "Understanding XID messages".
_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)")
_CHANGED = re.compile(r"recovery action changed from .*? to 0x[0-9a-fA-F]+ \(([^)]+)\)")
_DETAIL = 200


def _compiles(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Xid(_Strict):
    """One XID: the first action, and who says so."""

    action: Action
    source: Annotated[str, Field(min_length=5)]


class Message(_Strict):
    """Another kernel message that is acted on."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    pattern: Annotated[str, Field(min_length=5), AfterValidator(_compiles)]
    fault_class: Annotated[FaultClass, Field(alias="class")]
    source: Annotated[str, Field(min_length=5)]


class Policy(_Strict):
    """`alerts`: fault classes of each alert that has a page; an alert without one is unknown and never acted on."""

    catalogue: str
    classes: dict[Action, FaultClass]
    xids: dict[int, Xid]
    recovery_actions: dict[str, Action]
    messages: tuple[Message, ...]
    alerts: dict[str, tuple[FaultClass, ...]] = Field(default_factory=dict)

    @property
    def kernel_pattern(self) -> str:
        """One extended regular expression that finds every message of the policy, for `journalctl --grep`."""
        return "|".join(["NVRM: Xid", *(message.pattern for message in self.messages)])

    def signal_of(self, line: str, node: str, time: datetime) -> Signal | None:
        """The signal in a kernel message; None for one that the policy does not know."""
        detail = " ".join(line.split())[:_DETAIL]
        if found := _XID.search(line):
            name = f"xid-{found[2]}"
            if found[2] == "154" and (changed := _CHANGED.search(line)):
                action = self.recovery_actions.get(changed[1])
                name = f"xid-154-{action}" if action else name
            return Signal("kernel", name, time, node=node, device=found[1].lower(), detail=detail)
        for message in self.messages:
            if re.search(message.pattern, line):
                return Signal("kernel", message.name, time, node=node, detail=detail)
        return None

    def fault_classes_of(self, signal: Signal) -> tuple[str, ...]:
        """The fault classes that a signal speaks for; none for one that is only recorded."""
        if signal.kind == "alert":
            return self.alerts.get(signal.name, ())
        if signal.kind != "kernel":
            return ()
        if signal.name.startswith("xid-"):
            number, _, carried = signal.name.removeprefix("xid-").partition("-")
            xid = self.xids.get(int(number))
            fault_class = self.classes.get(carried or (xid.action if xid else "IGNORE"), "")  # type: ignore[call-overload]
        else:
            fault_class = next((one.fault_class for one in self.messages if one.name == signal.name), "")
        return (fault_class,) if fault_class else ()


def load_policy(runbooks: Path) -> Policy:
    """Read `policy.yml` and the pages beside it.

    Raises:
        UserError: with file, line and key of what is wrong.
    """
    path = runbooks / "policy.yml"
    document = read_document(path)
    try:
        policy = Policy.model_validate(plain(document.data))
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            keys = tuple(key for key in detail["loc"] if key != "[key]")
            name = ".".join(map(str, keys))
            problems.append(Problem(detail["msg"], "see the file's comments", path, document.line_of(keys), name))
        raise UserError(*problems) from None
    missing = {"RESTART_BM", "RESET_GPU", "SUPPORT", "RESTART_APP", "IGNORE"} - set(policy.classes)
    if missing:
        raise user_error(f"no class for {', '.join(sorted(missing))}", 'name one, or ""', file=path, key="classes")
    return policy.model_copy(update={"alerts": read_alerts(runbooks)})


def read_alerts(runbooks: Path) -> dict[str, tuple[str, ...]]:
    """Alert → its fault classes, from the front matter of each page (none for a page without).

    Raises:
        UserError: front matter that is no YAML mapping with a list of names.
    """
    return {page.stem: _classes_of(page) for page in sorted(runbooks.glob("[A-Z]*.md"))}


def _classes_of(page: Path) -> tuple[str, ...]:
    text = page.read_text(encoding="utf-8")
    if not text.startswith("---\n"):
        return ()
    head, mark, _ = text[4:].partition("\n---\n")
    try:
        data: Mapping[str, Any] = YAML(typ="safe").load(head) if mark else {}
        listed = data.get("fault_classes", [])
    except (YAMLError, AttributeError):
        listed = None
    names = listed if isinstance(listed, list) else [None]
    if not all(isinstance(one, str) and re.fullmatch(r"[a-z][a-z0-9_]*", one) for one in names):
        raise user_error(
            "its front matter is not `fault_classes: [names]` between two lines of ---", "correct it", file=page
        )
    return tuple(str(one) for one in names)

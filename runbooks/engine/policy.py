"""What an observation means: kernel messages by `runbooks/policy.yml`, alerts by the front matter of their pages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from medllm.errors import Problem, UserError, user_error
from medllm.site.source import plain, read_document
from runbooks.engine.model import Signal

Action = Literal["RESTART_BM", "RESET_GPU", "SUPPORT", "RESTART_APP", "IGNORE"]
FaultClass = Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]*)?$")]
Seconds = Annotated[int, Field(ge=0)]

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
    """Another kernel message that is acted on. `valid_s` as in Policy."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    pattern: Annotated[str, Field(min_length=5), AfterValidator(_compiles)]
    fault_class: Annotated[FaultClass, Field(alias="class")]
    valid_s: Seconds
    source: Annotated[str, Field(min_length=5)]


class Policy(_Strict):
    """`alerts`: fault classes of each alert that has a page; an alert without one is unknown and never acted on.

    `sticky_alerts` may speak of what was mended. `valid_s`: seconds for which a kernel line speaks for its fault class,
    0 as long as the boot lasts; `ended_valid_s` the same of a job's bad end.
    """

    catalogue: str
    watchdog: str
    sticky_alerts: frozenset[str]
    classes: dict[Action, FaultClass]
    valid_s: dict[Action, Seconds]
    ended_valid_s: Seconds
    xids: dict[int, Xid]
    recovery_actions: dict[str, Action]
    messages: tuple[Message, ...]
    alerts: dict[str, tuple[FaultClass, ...]] = Field(default_factory=dict)

    @property
    def kernel_pattern(self) -> str:
        """One expression of PCRE2 that finds what may be acted on or is unknown, for `journalctl --grep`.

        XIDs of applications come in floods, which would hide the one that counts: they are left out.
        """
        quiet = sorted(number for number, xid in self.xids.items() if not self.classes[xid.action])
        xid = rf"NVRM: Xid \(PCI:[0-9a-fA-F:.]+\): (?!(?:{'|'.join(map(str, quiet))})\b)" if quiet else "NVRM: Xid "
        return "|".join([xid, *(message.pattern for message in self.messages)])

    def signal_of(self, line: str, node: str, time: datetime) -> Signal | None:
        """The signal in a kernel message; None for one that the policy does not know."""
        detail = " ".join(line.split())[:_DETAIL]
        if found := _XID.search(line):
            name = f"xid-{found[2]}"
            if found[2] == "154" and (changed := _CHANGED.search(line)):
                # Words that are not known ask for something that is not known.
                name = f"xid-154-{self.recovery_actions.get(changed[1].strip(), 'SUPPORT')}"
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
            fault_class = self.classes.get(self._action_of(signal), "")
        else:
            fault_class = next((one.fault_class for one in self.messages if one.name == signal.name), "")
        return (fault_class,) if fault_class else ()

    def is_valid(self, signal: Signal, now: datetime) -> bool:
        """Whether a kernel line is young enough to speak for its fault class; anything else is a present condition."""
        if signal.kind != "kernel":
            return True
        if signal.name.startswith("xid-"):
            seconds = self.valid_s.get(self._action_of(signal), 0)
        else:
            seconds = next((one.valid_s for one in self.messages if one.name == signal.name), 0)
        return not seconds or now - signal.since <= timedelta(seconds=seconds)

    def class_of_xid(self, number: int) -> str:
        """The fault class of an XID of which only the number is known; "" for none."""
        xid = self.xids.get(number)
        return self.classes[xid.action] if xid else ""

    def _action_of(self, signal: Signal) -> Action:
        number, _, carried = signal.name.removeprefix("xid-").partition("-")
        xid = self.xids.get(int(number))
        return cast(Action, carried) if carried else xid.action if xid else "IGNORE"


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
    for key, given in (("classes", policy.classes), ("valid_s", policy.valid_s)):
        if missing := sorted(set(get_args(Action)) - set(given)):
            word = "class" if key == "classes" else "time"
            raise user_error(f"no {word} for {', '.join(missing)}", "name one for each action", file=path, key=key)
    return policy.model_copy(update={"alerts": read_alerts(runbooks)})


def read_alerts(runbooks: Path) -> dict[str, tuple[str, ...]]:
    """Alert → its fault classes, from the front matter of each page.

    Raises:
        UserError: a page without front matter, or with one that is no YAML mapping with a list of names.
    """
    return {page.stem: _classes_of(page) for page in sorted(runbooks.glob("[A-Z]*.md")) if page.stem != "README"}


def _classes_of(page: Path) -> tuple[str, ...]:
    text = page.read_text(encoding="utf-8")
    head, mark, _ = text.removeprefix("---\n").partition("\n---\n")
    try:
        data: Mapping[str, Any] = YAML(typ="safe").load(head) if mark and text.startswith("---\n") else {}
        listed = data.get("fault_classes")
    except (YAMLError, AttributeError):
        listed = None
    names = listed if isinstance(listed, list) else [None]
    if not all(isinstance(one, str) and re.fullmatch(r"[a-z][a-z0-9_]*", one) for one in names):
        raise user_error(
            "it names no fault classes: its front matter is not `fault_classes: [names]` between two lines of ---",
            "correct it",
            file=page,
        )
    return tuple(str(one) for one in names)

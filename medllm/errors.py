"""Errors that a user can mend: each names the place, the rule that it breaks and the fix."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input. `fix` says what to do, in the imperative."""

    rule: str
    fix: str
    file: Path | None = None
    line: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        place = str(self.file) if self.file else ""
        if self.file and self.line:
            place += f":{self.line}"
        head = ": ".join(part for part in (place, self.key or "") if part)
        return f"{head + ': ' if head else ''}{self.rule}. Fix: {self.fix}"


class UserError(Exception):
    """Bad input or wrong usage. The command line prints each problem on a line and exits with 2."""

    def __init__(self, *problems: Problem) -> None:
        if not problems:
            raise ValueError("a UserError carries at least one problem")
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


def user_error(
    rule: str, fix: str, *, file: Path | None = None, line: int | None = None, key: str | None = None
) -> UserError:
    """A `UserError` with one problem."""
    return UserError(Problem(rule=rule, fix=fix, file=file, line=line, key=key))


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_WRONG_PATH = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP}
)


def system_error(error: OSError) -> tuple[str, int]:
    """What the system refused, as a line with a fix, and the exit code: 2 where another path helps, else 1."""
    place = error.filename2 or error.filename
    rule = error.strerror or str(error) or type(error).__name__
    if error.errno in _FULL:
        fix, code = "make room there, then do it again", 1
    elif error.errno in _FORBIDDEN:
        fix, code = "give a path that you may read and write, or change its rights", 2
    elif error.errno in _WRONG_PATH:
        fix, code = "correct the path", 2
    else:
        fix, code = "mend what it names, then do it again", 1
    head = f"{place}: " if isinstance(place, str | Path) else ""
    return f"{head}{rule}. Fix: {fix}", code

"""Reading a declaration: YAML with line numbers, no duplicate keys, no templates.

Ansible reads the same files as YAML 1.1, so they are read as 1.1 here too: `on` is a boolean for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean
from ruamel.yaml.scalarfloat import ScalarFloat
from ruamel.yaml.scalarint import ScalarInt

from medllm.errors import Problem, UserError, user_error

_MOST_VALUES = 100_000
_TEMPLATE_MARKS = ("{{", "{%", "{#")


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML file: its data with the positions of its keys."""

    path: Path
    data: CommentedMap

    def line_of(self, keys: Sequence[str | int]) -> int | None:
        """Line (from 1) of the deepest part of this key path that the file has."""
        node: Any = self.data
        line: int | None = None
        for key in keys:
            try:
                if isinstance(node, CommentedMap) and key in node:
                    line = node.lc.key(key)[0] + 1
                elif isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node):
                    line = node.lc.item(key)[0] + 1
                else:
                    break
            except (KeyError, AttributeError, TypeError):
                break
            node = node[key]
        return line


def read_document(path: Path) -> Document:
    """Parse one file.

    Raises:
        UserError: the file is missing, not UTF-8, not a mapping, has a duplicate key, a syntax error or a template.
    """
    yaml = YAML(typ="rt", pure=True)
    yaml.version = (1, 1)
    yaml.allow_duplicate_keys = False
    if path.exists() and not path.is_file():  # reading a pipe would never end
        raise user_error("this is not a plain file", "put a YAML file there", file=path)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise user_error("the file does not exist", "create it, or correct the path", file=path) from None
    except OSError as error:
        raise user_error(f"the file can't be read ({error.strerror})", "change its rights", file=path) from None
    except UnicodeDecodeError as error:
        raise user_error(f"this is not UTF-8 text ({error.reason})", "save it as UTF-8", file=path) from None
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise user_error(_first_line(error.problem), "keep one of the two", file=path, line=line) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise user_error(
            f"not valid YAML: {_first_line(error.problem)}", "correct the syntax", file=path, line=line
        ) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise user_error(f"not valid YAML: {_first_line(str(error))}", "correct the syntax", file=path) from None
    if not isinstance(data, CommentedMap):
        raise user_error("the file is not a mapping of keys to values", "write `key: value` lines", file=path)
    document = Document(path, data)
    values = list(islice(_scalars(data), _MOST_VALUES + 1))
    if len(values) > _MOST_VALUES:  # a few aliases of aliases make billions
        raise user_error(f"more than {_MOST_VALUES} values", "write fewer, and no aliases of aliases", file=path)
    problems = [
        Problem(
            rule=f"{value!r} is a template or has a tag, and the declaration is plain data",
            fix="write the value itself; Ansible, Pulumi and the engine must all read the same",
            file=path,
            line=document.line_of(keys),
            key=dotted(keys),
        )
        for keys, value in values
        if _is_template(value)
    ]
    if problems:
        raise UserError(*problems)
    return document


def plain(value: Any) -> Any:
    """ruamel's annotated values as plain Python ones, so that strict validation sees int, float, bool, str."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, ScalarBoolean):
        return bool(value)
    if isinstance(value, ScalarFloat):
        return float(value)
    if isinstance(value, ScalarInt):
        return int(value)
    return str(value) if isinstance(value, str) else value


def dotted(keys: Sequence[str | int]) -> str:
    """`("site_gpu", "per_node")` as `site_gpu.per_node`."""
    return ".".join(str(key) for key in keys)


def _is_template(value: object) -> bool:
    if isinstance(value, str):
        return any(mark in value for mark in _TEMPLATE_MARKS)
    return not isinstance(value, (bool, int, float, ScalarBoolean, type(None)))


def _scalars(node: Any, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*keys, str(key)), str(key)
            yield from _scalars(value, (*keys, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _scalars(value, (*keys, index))
    else:
        yield keys, node


def _first_line(text: str | None) -> str:
    return (text or "unknown problem").strip().splitlines()[0]

"""The little of a TOML writer that a containerd configuration needs (the standard library only reads TOML)."""

from __future__ import annotations

import re
from typing import Any

BARE = re.compile(r"^[A-Za-z0-9_-]+$")


def dumps(document: dict[str, Any]) -> str:
    """`document` with its tables nested and indented, as containerd and go-toml print it."""
    return "\n".join(_table(document, [])).strip("\n") + "\n"


def _table(table: dict[str, Any], path: list[str]) -> list[str]:
    indent = "  " * max(0, len(path) - 1)
    lines = [
        f"{indent}{'  ' if path else ''}{_key(k)} = {_value(v)}" for k, v in table.items() if not isinstance(v, dict)
    ]
    for key, value in table.items():
        if isinstance(value, dict):
            name = [*path, key]
            lines += ["", f"{'  ' * (len(name) - 1)}[{'.'.join(map(_key, name))}]", *_table(value, name)]
    return lines


def _key(key: str) -> str:
    return key if BARE.match(key) else f'"{key}"'


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'

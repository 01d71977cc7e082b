"""Break the declaration in hundreds of ways: each is refused with a place, none accepted, none a traceback."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from medllm.errors import UserError
from medllm.site import load_site

REPOSITORY = Path(__file__).parents[2]
LAB = REPOSITORY / "inventory" / "lab"
FILES = [*sorted((LAB / "group_vars" / "all").glob("*.yml")), LAB / "hosts.yml"]
Keys = tuple[Any, ...]
# Maps whose keys the user chooses: a new or a missing key is a change of the site, not an error.
FREE_MAPS = {("site_sysctl",), ("site_lustre", "params"), ("site_threshold_overrides",)}
# Optional for Ansible's connection, so that leaving them out is legal.
OPTIONAL = {
    "ansible_user", "ansible_become", "ansible_ssh_private_key_file", "ansible_ssh_common_args", "vars",
    "ansible_python_interpreter",
}  # fmt: skip


def _leaves(node: Any, keys: Keys = ()) -> Iterator[Keys]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*keys, key)
            yield from _leaves(value, (*keys, key))


def _at(data: Any, keys: Keys) -> Any:
    for key in keys:
        data = data[key]
    return data


def _mutations(data: Any) -> Iterator[tuple[str, Any]]:
    """Each edit of each key: renamed, deleted, of another type, a template."""
    for keys in list(_leaves(data)):
        parent, name = keys[:-1], keys[-1]
        value = _at(data, keys)
        host_name = len(keys) == 5 and keys[3] == "hosts"
        if parent not in FREE_MAPS and not host_name:
            changed = copy.deepcopy(data)
            _at(changed, parent)[f"{name}_x"] = _at(changed, parent).pop(name)
            yield f"{'.'.join(map(str, keys))} renamed", changed
            if name not in OPTIONAL:
                changed = copy.deepcopy(data)
                del _at(changed, parent)[name]
                yield f"{'.'.join(map(str, keys))} deleted", changed
        wrong: list[Any] = [["a", ["b"]], "{{ lookup('pipe', 'id') }}"]
        if isinstance(value, bool | int | float):
            wrong += [-7, "seven"]
        if name not in OPTIONAL and value is not None and not isinstance(value, str):
            wrong.append(None)
        for replacement in wrong:
            if name in OPTIONAL and not isinstance(replacement, str):
                continue
            changed = copy.deepcopy(data)
            _at(changed, parent)[name] = replacement
            yield f"{'.'.join(map(str, keys))} = {replacement!r}", changed


def _cases() -> list[Any]:
    yaml = YAML(typ="safe", pure=True)
    cases = []
    for path in FILES:
        for name, changed in _mutations(yaml.load(path.read_text())):
            cases.append(pytest.param(path.relative_to(LAB), changed, id=f"{path.stem}: {name}"))
    return cases


CASES = _cases()


def test_there_are_at_least_a_hundred_mutations() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize(("file", "changed"), CASES)
def test_a_mutated_declaration_is_refused_with_its_place(file: Path, changed: Any, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "inventory" / "versions", tmp_path / "versions")
    shutil.copytree(REPOSITORY / "inventory" / "thresholds", tmp_path / "thresholds")
    shutil.copytree(LAB, tmp_path / "lab")
    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(changed, stream)
    (tmp_path / "lab" / file).write_text(stream.getvalue())
    with pytest.raises(UserError) as caught:
        load_site(tmp_path / "lab")
    for problem in caught.value.problems:
        assert problem.file is not None
        assert problem.fix


# Damage to the text itself, which no edit of keys makes.
@pytest.mark.parametrize(
    "text",
    [
        b"", b"---\n", b"- a\n- b\n", b"\xff\xfe\x00", b"site_name: [\n", b"site_name: !!python/object:os.system x\n",
        b"site_name: &a [*a]\n", b"? {a: b}\n: c\n", b"site_name: !vault |\n  abc\n", b"a: b: c\n", b"\t- x\n",
        b"site_name: 2024-01-01\n", b"1: 2\n", b"site_name: lab\nsite_name: lab\n", b"site_name: {{ x }}\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "file", ["group_vars/all/site_cluster.yml", "hosts.yml", "../versions/debian12-lab-2026.11.yml"]
)
def test_damaged_text_is_refused_and_never_a_traceback(file: str, text: bytes, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "inventory", tmp_path / "inventory")
    (tmp_path / "inventory" / "lab" / file).write_bytes(text)
    with pytest.raises(UserError):
        load_site(tmp_path / "inventory" / "lab")

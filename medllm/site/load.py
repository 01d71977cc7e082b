"""From an inventory directory to a `Site`, or to a list of what is wrong with it."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from medllm.errors import Problem, UserError, user_error
from medllm.site.hosts import read_hosts
from medllm.site.lock import Lock, known_bad
from medllm.site.model import Host, Site
from medllm.site.source import Document, plain, read_document
from medllm.site.validate import site_problems

PREFIX = "site_"
SCHEMA = 1


def load_site(inventory: Path) -> Site:
    """Read and validate a site, for example `inventory/lab`.

    Raises:
        UserError: with every problem found, each with file, line, key, rule and fix.
    """
    if not inventory.is_dir():
        raise user_error(
            "the inventory directory does not exist", "give an existing one, as inventory/lab", file=inventory
        )
    directory = inventory / "group_vars" / "all"
    documents = [read_document(path) for path in sorted(directory.glob("*.yml"))]
    if not documents:
        raise user_error("there is no site_*.yml in it", "copy those of inventory/lab and edit them", file=directory)
    _refuse_other_sources(inventory)
    values, origin = _merge(documents)
    hosts_document = read_document(inventory / "hosts.yml")
    hosts, hosts_origin = _validated_hosts(hosts_document)
    lock, lock_document = _read_lock(inventory, values, origin)
    try:
        site = Site.model_validate({**values, "hosts": tuple(hosts), "lock": lock})
    except ValidationError as error:
        raise UserError(*(_problem(detail, origin, directory) for detail in error.errors())) from None

    def locate(keys: tuple[str | int, ...]) -> tuple[Path, int | None]:
        if keys[0] == "hosts":
            place = hosts_origin[int(keys[1])] if len(keys) > 1 else ("all",)
            return hosts_document.path, hosts_document.line_of((*place, *keys[2:]))
        if keys[0] == "lock":
            return lock_document.path, lock_document.line_of(keys[1:])
        document = origin[str(keys[0])]
        return document.path, document.line_of((PREFIX + str(keys[0]), *keys[1:]))

    problems = site_problems(site, locate)
    catalogue = inventory.parent / "thresholds" / f"{site.thresholds_catalogue}.yml"
    if not catalogue.is_file():
        file, line = locate(("thresholds_catalogue",))
        problems.append(
            Problem(
                f"there is no thresholds catalogue {catalogue.name}", _choices(catalogue.parent), file, line,
                PREFIX + "thresholds_catalogue",
            )
        )  # fmt: skip
    if problems:
        raise UserError(*problems)
    return site.model_copy(update={"sha256": _digest(site)})


def load_site_json(path: Path) -> Site:
    """Read a `site.json` that `medllm site export` wrote.

    Raises:
        UserError: missing, not JSON, of another schema, or its hash does not fit its content.
    """
    fix = "write it again with `medllm site export`"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise user_error("the exported site does not exist", fix, file=path) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise user_error(f"not a readable export ({error})", fix, file=path) from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise user_error(f"the export is not of schema {SCHEMA}", fix, file=path)
    try:
        site = Site.model_validate_json(json.dumps(data.get("site")))
    except ValidationError as error:
        raise user_error(
            f"the export does not fit this version ({error.error_count()} errors)", fix, file=path
        ) from None
    if _digest(site) != data.get("sha256"):
        raise user_error("the export was changed after it was written: its hash does not fit", fix, file=path)
    return site.model_copy(update={"sha256": data["sha256"]})


def site_json(site: Site) -> str:
    """The canonical export: sorted keys, a schema number, the hash of the content; no key that opens a machine."""
    return (
        json.dumps({"schema": SCHEMA, "sha256": _digest(site), "site": _content(site)}, indent=1, sort_keys=True) + "\n"
    )


def _content(site: Site) -> dict[str, Any]:
    # How one controller reaches the hosts is no property of the site.
    controller = {"private_key_file", "known_hosts_file"}
    return site.model_dump(mode="json", exclude={"sha256": True, "hosts": {"__all__": controller}})


def _digest(site: Site) -> str:
    return hashlib.sha256(json.dumps(_content(site), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _merge(documents: list[Document]) -> tuple[dict[str, Any], dict[str, Document]]:
    values: dict[str, Any] = {}
    origin: dict[str, Document] = {}
    problems = []
    for document in documents:
        for key, value in plain(document.data).items():
            line = document.line_of((key,))
            name = str(key).removeprefix(PREFIX)
            if not document.path.name.startswith(PREFIX) or not str(key).startswith(PREFIX):
                problems.append(
                    Problem(
                        "only site_* keys in site_*.yml files stand here",
                        "rename or move it",
                        document.path,
                        line,
                        str(key),
                    )
                )
            elif name in origin:
                problems.append(
                    Problem(
                        f"the key stands also in {origin[name].path.name}:{origin[name].line_of((key,))}",
                        "keep one of the two", document.path, line, str(key),
                    )
                )  # fmt: skip
            else:
                values[name], origin[name] = value, document
    if problems:
        raise UserError(*problems)
    return values, origin


def _refuse_other_sources(inventory: Path) -> None:
    """A `site_*` set for one group or host would let Ansible see another value than everybody else."""
    others = [*inventory.glob("host_vars/**/*"), *inventory.glob("group_vars/**/*")]
    problems = []
    for path in sorted(others):
        if (
            path.is_file()
            and path.parent != inventory / "group_vars" / "all"
            and path.suffix in {".yml", ".yaml", ".json", ""}
        ):
            document = read_document(path)
            problems += [
                Problem(
                    "the declaration is one for the whole site", f"move it to group_vars/all/{PREFIX}*.yml", path,
                    document.line_of((key,)), str(key),
                )
                for key in document.data
                if str(key).startswith(PREFIX)
            ]  # fmt: skip
        elif path.is_file() and path.parent == inventory / "group_vars" / "all" and path.suffix != ".yml":
            problems.append(Problem("Ansible may read this file and the site does not", "name it site_*.yml", path))
    if problems:
        raise UserError(*problems)


def _validated_hosts(document: Document) -> tuple[list[Host], list[tuple[str | int, ...]]]:
    hosts, places, problems = [], [], []
    for arguments, place in read_hosts(document):
        try:
            hosts.append(Host.model_validate(arguments))
            places.append(place)
        except ValidationError as error:
            for detail in error.errors():
                key = "ansible_host" if detail["loc"] == ("address",) else str(detail["loc"][0])
                rule, fix = _explain(detail, Host)
                line = document.line_of((*place, key))
                problems.append(Problem(rule, fix, document.path, line, f"{arguments['name']}.{key}"))
    if problems:
        raise UserError(*problems)
    return hosts, places


def _read_lock(inventory: Path, values: dict[str, Any], origin: dict[str, Document]) -> tuple[Lock, Document]:
    name = values.get("versions")
    directory = inventory.parent / "versions"
    path = directory / f"{name}.yml"
    if not isinstance(name, str) or "/" in name or not path.is_file():
        document = origin.get("versions")
        raise user_error(
            f"there is no versions lock {name!r}", _choices(directory),
            file=document.path if document else inventory, key=PREFIX + "versions",
            line=document.line_of((PREFIX + "versions",)) if document else None,
        )  # fmt: skip
    document = read_document(path)
    try:
        lock = Lock.model_validate(plain(document.data))
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            rule, fix = _explain(detail, Lock)
            keys = tuple(detail["loc"])
            problems.append(Problem(rule, fix, path, document.line_of(keys), ".".join(map(str, keys))))
        raise UserError(*problems) from None
    bad = [
        Problem(problem.rule, problem.fix, path, document.line_of((problem.key or "").split(".")), problem.key)
        for problem in known_bad(lock)
    ]
    if lock.id != name:
        bad.append(
            Problem(
                f"id {lock.id!r} is not the file's name", f"write id: {name}", path, document.line_of(("id",)), "id"
            )
        )
    if bad:
        raise UserError(*bad)
    return lock, document


def _choices(directory: Path) -> str:
    names = sorted(path.stem for path in directory.glob("*.yml"))
    return f"use one of: {', '.join(names) or 'none there yet'}"


def _problem(detail: ErrorDetails, origin: dict[str, Document], directory: Path) -> Problem:
    rule, fix = _explain(detail, Site)
    name, *rest = detail["loc"]
    document = origin.get(str(name))
    key = ".".join([PREFIX + str(name), *map(str, rest)])
    if document is None:
        return Problem(rule, fix, file=directory, key=key)
    return Problem(rule, fix, file=document.path, line=document.line_of((PREFIX + str(name), *rest)), key=key)


def _explain(detail: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    """Pydantic's finding as a rule and a fix."""
    message = detail["msg"].removeprefix("Value error, ")
    match detail["type"]:
        case "missing":
            return "the key is missing", "add it (see inventory/lab for an example)"
        case "extra_forbidden":
            near = difflib.get_close_matches(str(detail["loc"][-1]), _field_names(model), n=1)
            return "the key is unknown", f"did you mean {near[0]!r}?" if near else "remove it, or correct its name"
        case "literal_error":
            return f"{detail['input']!r} is not allowed here", f"use one of: {detail['ctx']['expected']}"
        case _:
            return f"{detail['input']!r}: {message}", "write a value of the right type and range"


def _field_names(model: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _field_names(field.annotation)
    return names

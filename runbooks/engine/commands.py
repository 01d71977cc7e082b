"""`medllm recover`: the engine, what it would do, what it did, and what a person tells it."""

from __future__ import annotations

import getpass
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from medllm.errors import Problem, UserError, user_error
from medllm.remote import Remote, RemoteError
from medllm.site import load_site
from runbooks.drill.commands import drill

if TYPE_CHECKING:
    from runbooks.engine.store import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

# Where role `recovery_engine` puts them on mgmt.
STATE = Path("/var/lib/medllm/recover")
SECRETS = Path("/etc/medllm/recover")
COMMAND = "ops/current/medllm"
REMOTE_S = 30.0
LAB = Path("inventory/lab")

T = TypeVar("T")

Inventory = Annotated[
    Path, typer.Option("--inventory", "-i", help="The site's inventory directory.", envvar="MEDLLM_INVENTORY")
]
State = Annotated[
    Path | None,
    typer.Option("--state", help="A state directory of this machine, instead of mgmt's over SSH.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
By = Annotated[str, typer.Option("--by", help="Who says so.", show_default="your login name")]
Name = Annotated[str, typer.Argument(metavar="INCIDENT", help="As `medllm recover history` names it.")]


@app.command()
def serve(
    inventory: Inventory = LAB,
    state: Annotated[Path, typer.Option("--state", help="Where incidents and steps are kept.")] = STATE,
    secrets: Annotated[Path, typer.Option("--secrets", help="Key, token and certificate.")] = SECRETS,
    listen: Annotated[str, typer.Option("--listen", help="Address of the HTTPS port.")] = "0.0.0.0",
) -> None:
    """Watch the cluster and mend it, until SIGTERM. systemd runs this on mgmt."""
    from runbooks.engine import serve as engine

    # The journal has the time and the unit.
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    engine.serve(inventory, state, secrets, listen=listen)
    sys.stderr.flush()
    # All is stored; threads that a dead machine holds up would delay the end.
    os._exit(0)


@app.command()
def plan(
    alert: Annotated[str, typer.Argument(metavar="ALERT", help="An alert, or a fault class.")],
    node: Annotated[str, typer.Option("--node", help="The node that it fires for.", show_default=False)] = "",
    inventory: Inventory = LAB,
    as_json: Json = False,
) -> None:
    """Show what would be done about an alert: step by step, with deadlines and guards. Asks no machine."""
    from runbooks.engine import plan as planned

    site = load_site(inventory)
    names = [host.name for host in site.gpu_nodes]
    if node and node not in names:
        raise user_error(f"the site has no GPU node {node!r}", f"use one of: {', '.join(names)}", key="--node")
    outlook = planned.outlook(site, alert, node)
    if as_json:
        print(json.dumps(outlook, indent=1, ensure_ascii=False))
    else:
        planned.show(outlook)


@app.command()
def history(
    incident: Annotated[str | None, typer.Argument(metavar="[INCIDENT]", show_default=False)] = None,
    inventory: Inventory = LAB,
    state: State = None,
    as_json: Json = False,
) -> None:
    """List the incidents, or show one: its steps, their results and its time line."""
    from runbooks.engine import history as told

    if state is None:
        text, found = _on_mgmt(inventory, told.parse, "history", *([incident] if incident else []))
    else:
        with _store(state) as store:
            name = incident
            found = told.read(store) if name is None else _named(store, name, lambda one: told.read(store, one))
        text = found.dump()
    if as_json:
        print(text.strip())
    else:
        told.show(found, one=incident is not None)


@app.command()
def approve(
    incident: Name, by: By = "", inventory: Inventory = LAB, state: State = None, as_json: Json = False
) -> None:
    """Agree to what an incident waits for: the reboot or power cycle that its plan names."""
    who = by or getpass.getuser()
    if state is None:
        _relay(inventory, as_json, "approve", incident, "--by", who)
        return
    with _store(state) as store:
        found = _named(store, incident, store.incident)
        _must(not _over(found.state), f"{incident} is {found.state}: there is nothing to approve")
        store.approve(incident, who, datetime.now(UTC))
    _say(as_json, f"{incident}: approved by {who}", incident=incident, by=who)


@app.command()
def resolve(
    incident: Name, by: By = "", inventory: Inventory = LAB, state: State = None, as_json: Json = False
) -> None:
    """Say that an escalated incident's cause is mended: the engine checks the node and returns it to service."""
    who = by or getpass.getuser()
    if state is None:
        _relay(inventory, as_json, "resolve", incident, "--by", who)
        return
    with _store(state) as store:
        found = _named(store, incident, store.incident)
        _must(found.state == "escalated", f"{incident} is {found.state}: only an escalated incident waits for a person")
        store.request_resolve(incident, who, datetime.now(UTC))
    _say(as_json, f"{incident}: to be checked and returned, says {who}", incident=incident, by=who)


@app.command()
def pause(
    reason: Annotated[str, typer.Option("--reason", help="Why; it is shown to whoever looks.")],
    by: By = "",
    inventory: Inventory = LAB,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Let the engine begin nothing new until `unpause`. Steps under way end; nodes that are well return."""
    who = by or getpass.getuser()
    _must(bool(reason.strip()), "a pause without a reason tells nobody when to end it")
    if state is None:
        _relay(inventory, as_json, "pause", "--reason", reason, "--by", who)
        return
    with _store(state) as store:
        store.set_paused(f"{who}: {reason.strip()}")
    _say(as_json, f"paused by {who}: {reason.strip()}", by=who, reason=reason.strip())


@app.command()
def unpause(inventory: Inventory = LAB, state: State = None, as_json: Json = False) -> None:
    """End a pause."""
    if state is None:
        _relay(inventory, as_json, "unpause")
        return
    with _store(state) as store:
        was = store.paused()
        store.set_paused("")
    _say(as_json, f"it goes on; it was paused by {was}" if was else "it was not paused", was=was)


# Its own module, with what it needs of those who can break things.
app.command()(drill)


def _store(state: Path) -> Store:
    """The incidents of a state directory. Raises UserError when an engine never ran on it."""
    from runbooks.engine.store import Store

    if not (state / "incidents.db").exists():
        raise user_error("there is no incidents.db: no engine ran here", "name its directory with --state", file=state)
    return Store(state / "incidents.db")


def _named(store: Store, incident: str, read: Callable[[str], T]) -> T:
    try:
        return read(incident)
    except KeyError:
        open_ones = ", ".join(one.id for one in store.incidents(open_only=True)) or "none is open"
        rule, fix = (
            f"there is no incident {incident!r}",
            f"use a name that `medllm recover history` shows ({open_ones})",
        )
        raise user_error(rule, fix, key="INCIDENT") from None


def _over(state: str) -> bool:
    return state in ("closed", "escalated")


def _must(good: bool, rule: str) -> None:
    if not good:
        raise user_error(rule, "look at `medllm recover history` first")


def _say(as_json: bool, text: str, **values: str) -> None:
    print(json.dumps({"said": text, **values}, ensure_ascii=False) if as_json else text)


def _relay(inventory: Path, as_json: bool, *words: str) -> None:
    text, said = _on_mgmt(inventory, lambda answer: str(json.loads(answer)["said"]), *words)
    print(text.strip() if as_json else said)


def _on_mgmt(inventory: Path, read: Callable[[str], T], *words: str) -> tuple[str, T]:
    """What the same command prints on mgmt, as JSON and as `read` reads it. Raises UserError for what is refused
    there; ends with 1 when there is no answer.
    """
    site = load_site(inventory)
    command = shlex.join([f"{site.paths.app}/{COMMAND}", "recover", *words, "--state", str(STATE), "--json"])
    try:
        with Remote(site.mgmt) as remote:
            result = remote.run(command, deadline_s=REMOTE_S, sudo=True)
        if result.rc == 2 and result.stdout.strip():
            found = json.loads(result.stdout)["problems"]
            raise UserError(*(Problem(one["rule"], one["fix"], key=one["key"]) for one in found))
        text = result.check().stdout
        return text, read(text)
    except (RemoteError, ValueError, KeyError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None

"""`medllm recover drill`: break something on purpose and prove that the engine mends it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from medllm.errors import user_error

app = typer.Typer(add_completion=False)


@app.command()
def drill(
    name: Annotated[
        str | None, typer.Argument(metavar="[CLASS]", help="The fault to put in.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Each fault that can be put in here.")] = False,
    runs: Annotated[int, typer.Option("--runs", min=1, max=100, help="How often each.")] = 1,
    record: Annotated[
        Path | None, typer.Option("--record", help="Write the figures here too.", show_default=False)
    ] = None,
    inventory: Annotated[
        Path, typer.Option("--inventory", "-i", help="The site's inventory directory.", envvar="MEDLLM_INVENTORY")
    ] = Path("inventory/lab"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Put a fault in while a training run is under way, watch the engine mend it, and prove what it did.

    Exits 0 when every proof holds and the goals are met, 1 when not, 2 when nothing can be drilled here.
    """
    # Here and not above, so that `--help` stays quick.
    from rich.console import Console

    from medllm.files import write_atomic
    from medllm.remote import RemoteError
    from medllm.site import load_site
    from runbooks.drill.alerts import alerts_by_class
    from runbooks.drill.injector import load_injectors
    from runbooks.drill.report import report, table
    from runbooks.drill.session import Session
    from runbooks.drill.show import Show

    injectors = load_injectors()
    names = ", ".join(injectors)
    if everything == (name is not None):
        raise user_error("a drill needs one fault class, or --all", f"name one of: {names}", key="CLASS")
    if name is not None and name not in injectors:
        raise user_error(f"there is no drill {name!r}", f"name one of: {names}", key="CLASS")
    site = load_site(inventory)
    if site.recovery.mode != "act":
        raise user_error(
            f"the engine only says what it would do (mode {site.recovery.mode}): a fault would stay in",
            "set site_recovery.mode to act, run the playbook recovery.yml, and drill then",
            file=inventory,
            key="site_recovery.mode",
        )
    chosen = [each for each in injectors.values() if everything or each.name == name]
    alerts = alerts_by_class(Path(__file__).parents[1])
    console = Console(stderr=True)
    with Show(console) as show:
        session = Session(site, alerts, show)
        try:
            outcomes = session.run(chosen, runs)
        except RemoteError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
    words = ["--all"] if everything else [str(name)]
    answer = report(site, outcomes, f"medllm recover drill {' '.join(words)} --runs {runs}")
    text = json.dumps(answer, indent=1, ensure_ascii=False) + "\n"
    if record is not None:
        write_atomic(record, text)
    if as_json:
        print(text, end="")
    else:
        Console().print(table(answer))
    if not answer["good"]:
        raise typer.Exit(1)

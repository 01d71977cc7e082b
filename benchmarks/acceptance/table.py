"""A dossier on the terminal: one line a check, one column a host, then the reasons."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.dossier.model import Dossier
from medllm.verdict import REHEARSED, Outcome

STYLES = {
    "PASS": "bold green",
    REHEARSED: "cyan",
    "FAIL": "bold red",
    "NOT_RUN": "yellow",
    "INCONCLUSIVE": "magenta",
}
# More columns do not fit on a terminal; then the hosts are counted.
COLUMNS = 8


def print_table(dossier: Dossier, console: Console) -> None:
    """Print the outcomes and, below them, the reason of each that is no PASS."""
    judged = {item.host for item in dossier.items}
    hosts = [host.name for host in dossier.hosts if host.name in judged]
    table = Table(title=f"Acceptance of {dossier.site.name}", title_justify="left", header_style="bold")
    table.add_column("check")
    wide = len(hosts) > COLUMNS
    for name in ["hosts"] if wide else hosts:
        table.add_column(name)
    for check in dict.fromkeys(item.check for item in dossier.items):
        labels = {item.host: item.label for item in dossier.items if item.check == check}
        if wide:
            cells = [", ".join(f"{_styled(name)} {count}" for name, count in Counter(labels.values()).items())]
        else:
            cells = [_styled(labels[host]) if host in labels else "" for host in hosts]
        table.add_row(check, *cells)
    console.print(table)
    for item in dossier.items:
        if item.outcome is not Outcome.PASS:
            console.print(f"{_styled(item.label)} {item.check} on {item.host}: {escape(item.reason)}", soft_wrap=True)
    counts = Counter(item.label for item in dossier.items)
    shown = ", ".join(f"{_styled(name)} {count}" for name, count in counts.items())
    console.print(f"{len(dossier.items)} items in {dossier.duration_s:.1f} s: {shown}")


def _styled(name: str) -> str:
    style = STYLES.get(name, "")
    return f"[{style}]{name}[/]" if style else name

"""All probes of a host in one SSH session: a shell script runs them side by side and frames what they print.

A probe that hangs (a dead mount holds its process in the kernel, where no signal reaches it) costs only its own
result: the script waits for the others and says which did not end.
"""

from __future__ import annotations

import base64
import binascii
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from medllm.checks.base import Probe
from medllm.remote import Remote, Result
from medllm.site.model import Host

_HEAD = """\
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
d=$(mktemp -d) || exit 70
trap 'rm -rf "$d"' EXIT
probe() {
  s=$(date +%s%N)
  $3 timeout -k 1 "$2" sh -c "$4" >"$d/$1.out" 2>"$d/$1.err" </dev/null
  r=$?
  echo "$r $(( ($(date +%s%N) - s) / 1000000 ))" >"$d/$1.part"
  mv "$d/$1.part" "$d/$1.end"
}
settle() {
  left=$1
  shift
  for i in "$@"; do
    while [ ! -e "$d/$i.end" ] && [ "$left" -gt 0 ]; do sleep 0.1; left=$((left - 1)); done
  done
}
"""
_TAIL = """\
i=0
while [ "$i" -lt {count} ]; do
  if [ -e "$d/$i.end" ]; then read -r end <"$d/$i.end"; else end=unfinished; fi
  echo "@@ $i $end"
  base64 -w0 "$d/$i.out"; echo
  base64 -w0 "$d/$i.err"; echo
  i=$((i + 1))
done
echo "@@ end"
"""


def script(probes: Sequence[Probe]) -> str:
    """The shell script that runs the probes side by side, then the timed ones alone, and prints a frame for each."""
    lines = [_start(index, probe) for index, probe in enumerate(probes) if not probe.timed]
    ends = " ".join(str(index) for index, probe in enumerate(probes) if not probe.timed)
    lines.append(f"settle {_ticks(probe.deadline_s for probe in probes if not probe.timed)} {ends}")
    for index, probe in enumerate(probes):
        if probe.timed:
            lines += [_start(index, probe), f"settle {_ticks([probe.deadline_s])} {index}"]
    return _HEAD + "\n".join(lines) + "\n" + _TAIL.format(count=len(probes))


def _start(index: int, probe: Probe) -> str:
    sudo = shlex.quote("sudo -n" if probe.sudo else "")
    return f"probe {index} {probe.deadline_s:g} {sudo} {shlex.quote(probe.command)} >/dev/null 2>&1 &"


def _ticks(deadlines: Iterable[float]) -> int:
    """Tenths of a second after which a probe that did not end is left behind."""
    return math.ceil((max(deadlines, default=0) + 2) * 10)


def parse_frames(text: str, probes: Sequence[Probe], host: str, started: datetime) -> dict[str, Result]:
    """The results in what the script printed, by command; a probe without its whole frame gets an error."""
    found = {}
    lines = text.splitlines()
    for index, probe in enumerate(probes):
        missing = Result(host, probe.command, None, "", "", started, 0.0, "the session ended before it answered")
        found[probe.command] = missing
        head = next((at for at, line in enumerate(lines) if line.startswith(f"@@ {index} ")), None)
        # The next frame's head (or "@@ end") proves that this frame is whole.
        if head is None or head + 3 >= len(lines) or not lines[head + 3].startswith("@@ "):
            continue
        words = lines[head].split()
        if words[2:] == ["unfinished"]:
            found[probe.command] = replace(missing, error=f"timed out after {probe.deadline_s:g} s (it can't be ended)")
            continue
        try:
            rc, milliseconds = (int(word) for word in words[2:])
            out, err = (base64.b64decode(lines[head + k], validate=True).decode("utf-8", "replace") for k in (1, 2))
        except (ValueError, binascii.Error):
            continue
        ended = rc not in (124, 137)
        found[probe.command] = Result(
            host,
            probe.command,
            rc if ended else None,
            out,
            err,
            started,
            milliseconds / 1000,
            None if ended else f"timed out after {probe.deadline_s:g} s",
        )
    return found


def run_probes(host: Host, probes: Sequence[Probe], *, connect_deadline_s: float = 10) -> Mapping[str, Result]:
    """Run the probes on a host, each command once; their results by command. Never raises for what the host does."""
    unique = list({probe.command: probe for probe in probes}.values())
    if not unique:
        return {}
    # Side by side at first, then one timed probe after the other; each may overrun its own `timeout` a little.
    longest = max((probe.deadline_s for probe in unique if not probe.timed), default=0)
    longest += sum(probe.deadline_s + 2 for probe in unique if probe.timed)
    with Remote(host, connect_deadline_s=connect_deadline_s) as remote:
        session = remote.run("sh -s", deadline_s=longest + 20, stdin=script(unique))
    started = session.started.astimezone(UTC)
    results = parse_frames(session.stdout, unique, host.name, started)
    if session.error is None and session.rc == 0:
        return results
    why = session.error or f"the probe script ended with {session.rc}"
    return {
        command: replace(result, error=why) if result.error and result.rc is None and not result.stdout else result
        for command, result in results.items()
    }

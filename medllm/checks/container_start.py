"""Does a container with all GPUs start in time?"""

from __future__ import annotations

import re
import shlex

from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View, last_line
from medllm.parsers.nvidia_smi import parse_list
from medllm.site.model import Host, Site

RUN = "ctr run"
# `ctr run` may lose the last lines of a container that ends at once: without this mark the list is no measurement.
WHOLE = "medllm-whole-list"
_SECONDS = re.compile(r"^seconds=(\d+\.\d+)$")


def _probes(site: Site, _host: Host, _subject: Subject) -> tuple[Probe, ...]:
    image = shlex.quote(site.container.smoke_image)
    command = f"""
command -v ctr >/dev/null && command -v nvidia-container-runtime >/dev/null || exit 127
for attempt in 1 2 3; do
  s=$(date +%s%N)
  out=$(ctr --namespace default run --rm --runc-binary /usr/bin/nvidia-container-runtime \\
    --env NVIDIA_VISIBLE_DEVICES=all {image} medllm-accept-$$-$attempt sh -c 'nvidia-smi -L && echo {WHOLE}') || exit 1
  n=$(( $(date +%s%N) - s ))
  case $out in *{WHOLE}) break ;; esac
done
printf '%s\\n' "$out"
printf 'seconds=%d.%09d\\n' $((n / 1000000000)) $((n % 1000000000))
""".strip()
    return (Probe(RUN, command, deadline_s=30, sudo=True, timed=True),)


def _read(view: View) -> list[Reading]:
    result = view.result(RUN)
    if result.rc == 127:
        raise NotRun("ctr or nvidia-container-runtime is not installed")
    image = view.site.container.smoke_image
    if result.rc != 0:
        return [Reading(image, 0, refuted=f"it does not start: {last_line(result.stderr or result.stdout)}")]
    *listed, last = result.stdout.strip().splitlines() or [""]
    found = _SECONDS.match(last)
    if not found:
        raise NotRun(f"ctr run: {last!r} is no time")
    if not listed or listed.pop() != WHOLE:
        raise NotRun("ctr run lost the end of the container's output three times")
    gpus = parse_list("\n".join(listed) + "\n")
    seen = len([gpu for gpu in gpus.gpus if gpu.name == view.site.gpu.model])
    wanted = view.site.gpu.per_node
    refuted = None if seen == wanted else f"{seen} GPUs inside, {wanted} declared"
    return [Reading(image, float(found[1]), f"{seen} GPUs inside", refuted)]


CHECK = Check(
    id="container_start",
    title="A container with GPUs starts",
    proves="A container starts through the NVIDIA runtime in time and sees all GPUs.",
    group="software",
    tags=frozenset({"node", "container"}),
    where="gpu_nodes",
    probes=_probes,
    read=_read,
    clears=("container_runtime",),
    binaries=("ctr", "nvidia-container-runtime"),
)

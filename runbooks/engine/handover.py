"""What a person gets who must go on where the engine gave up: what it is, what was tried, what to give the vendor."""

from __future__ import annotations

from collections.abc import Sequence

from runbooks.engine.model import Incident, Slot, Step
from runbooks.engine.procedure import Procedure

_KERNEL_LINES = 10
# Names under which playbooks and checks report what identifies a part.
_IDENTITY = ("serial", "uuid", "bus_id", "bmc", "chassis")


def hand_over(incident: Incident, steps: Sequence[Step], procedure: Procedure, why: str) -> str:
    """A text of several lines, without anything of a patient's."""
    place = ", ".join(
        part for part in (
            incident.node, incident.device and f"device {incident.device}", incident.run and f"run {incident.run}"
        ) if part
    )  # fmt: skip
    lines = [f"{incident.fault_class} of {place}: {why}", f"Seen as: {incident.reason}"]
    if identity := _identity(incident, steps):
        lines.append(f"Part: {identity}")
    kernel = [signal for signal in incident.signals if signal.kind == "kernel"]
    lines += [f"Kernel: {one.since:%Y-%m-%dT%H:%M:%SZ} {one.detail or one.name}" for one in kernel[:_KERNEL_LINES]]
    if len(kernel) > _KERNEL_LINES:
        lines.append(f"Kernel: {len(kernel) - _KERNEL_LINES} more lines of that boot in its journal")
    tried = [f"Tried: {_tried(step)}" for step in steps if step.work.slot is not Slot.ISOLATE]
    lines += tried or ["Tried: nothing was started"]
    lines += [f"Isolated: {_tried(step)}" for step in steps if step.work.slot is Slot.ISOLATE]
    lines.append(f"Boot ids: {' → '.join(_boots(incident, steps)) or 'not known'}")
    lines.append(f"For the vendor: {procedure.vendor}")
    lines.append(f"When it is mended: medllm recover resolve {incident.id} --by NAME")
    return "\n".join(lines)


def _tried(step: Step) -> str:
    what = step.work.playbook or f"checks {', '.join(step.work.checks)}"
    return f"{step.number}. {step.work.slot} {what}: {step.status}" + (f" ({step.summary})" if step.summary else "")


def _identity(incident: Incident, steps: Sequence[Step]) -> str:
    found = {"device": incident.device} if incident.device else {}
    for step in steps:
        found |= {name: str(value) for name, value in step.facts.items() if name in _IDENTITY and value}
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _boots(incident: Incident, steps: Sequence[Step]) -> list[str]:
    """The boot ids in the order in which they were seen, each once in a row."""
    seen = [incident.before.get("boot_id")]
    for step in steps:
        seen += [step.facts.get("boot_id_before"), step.facts.get("boot_id_after")]
    known = [str(boot) for boot in seen if boot]
    return [boot for index, boot in enumerate(known) if index == 0 or boot != known[index - 1]]

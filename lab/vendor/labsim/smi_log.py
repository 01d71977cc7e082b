"""`nvidia-smi -q` as text and as XML: one tree of (label, tag, value or children), printed twice."""

from __future__ import annotations

import time
from xml.sax.saxutils import escape

from . import driver
from .driver import Gpu, answering
from .smi_tree import Node, tree

CUDA_VERSION = "13.0"
WIDTH = 42  # column of the colon

# What `-d` prints of the tree, by its keyword.
SECTIONS = {
    "MEMORY": ["FB Memory Usage", "BAR1 Memory Usage", "Conf Compute Protected Memory Usage"],
    "UTILIZATION": ["Utilization"],
    "ECC": ["ECC Mode", "ECC Errors"],
    "TEMPERATURE": ["Temperature"],
    "POWER": ["GPU Power Readings", "GPU Memory Power Readings", "Module Power Readings"],
    "CLOCK": ["Clocks", "Applications Clocks", "Default Applications Clocks", "Max Clocks"],
    "COMPUTE": ["Compute Mode"],
    "PIDS": ["Processes"],
    "PERFORMANCE": ["Performance State", "Clocks Event Reasons", "Sparse Operation Mode"],
    "ROW_REMAPPER": ["Remapped Rows"],
}


def text(gpus: list[Gpu], version: str, display: str | None) -> str:
    """`-q [-d SECTION,…]`."""
    wanted = _wanted(display)
    lines = ["", "==============NVSMI LOG==============", ""]
    lines += [_line(0, label, value) for label, value in _head(version)]
    lines += ["", _line(0, "Attached GPUs", str(len(driver.gpus())))]
    for gpu in answering(gpus):
        lines.append(f"GPU {gpu.data['pci']}")
        for node in tree(gpu, version):
            if not wanted or node[0] in wanted:
                lines += _text_node(node, 1)
        lines.append("")
    return "\n".join(lines)


def xml(gpus: list[Gpu], version: str) -> str:
    """`-q -x`."""
    lines = [
        '<?xml version="1.0" ?>',
        '<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v13.dtd">',
        "<nvidia_smi_log>",
        *(
            f"\t<{tag}>{value}</{tag}>"
            for tag, value in zip(("timestamp", "driver_version", "cuda_version"), _values(version), strict=True)
        ),
        f"\t<attached_gpus>{len(driver.gpus())}</attached_gpus>",
    ]
    for gpu in answering(gpus):
        lines.append(f'\t<gpu id="{gpu.data["pci"]}">')
        for node in tree(gpu, version):
            lines += _xml_node(node, 2)
        lines.append("\t</gpu>")
    return "\n".join([*lines, "</nvidia_smi_log>"])


def _wanted(display: str | None) -> set[str]:
    return {title for key in (display or "").split(",") if key for title in SECTIONS.get(key.strip().upper(), [])}


def _values(version: str) -> list[str]:
    return [time.strftime("%a %b %e %H:%M:%S %Y"), version, CUDA_VERSION]


def _head(version: str) -> list[tuple[str, str]]:
    return list(zip(("Timestamp", "Driver Version", "CUDA Version"), _values(version), strict=True))


def _line(depth: int, label: str, value: str) -> str:
    return f"{'    ' * depth + label:<{WIDTH}}: {value}"


def _text_node(node: Node, depth: int) -> list[str]:
    label, _tag, value = node
    if not label:  # in the XML only
        return []
    if isinstance(value, str):
        return [_line(depth, label, value)]
    return [f"{'    ' * depth}{label}", *(line for child in value for line in _text_node(child, depth + 1))]


def _xml_node(node: Node, depth: int) -> list[str]:
    _label, tag, value = node
    indent = "\t" * depth
    if not tag:
        return []
    if isinstance(value, str):
        return [f"{indent}<{tag}>{escape(value)}</{tag}>"]
    inner = [line for child in value for line in _xml_node(child, depth + 1)]
    return [f"{indent}<{tag}>", *inner, f"{indent}</{tag}>"]

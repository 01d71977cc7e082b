"""`nvidia-smi` without arguments: the table of driver 550 and later (layout of public H100 and GH200 captures)."""

from __future__ import annotations

import time

from . import driver, smi_log
from .driver import Gpu, answering

RULE = "+-----------------------------------------+------------------------+----------------------+"
WIDE = "+" + "-" * 89 + "+"


def table(gpus: list[Gpu], version: str) -> str:
    """The whole table; GPUs that don't answer are reported on stderr and left out."""
    header = f"NVIDIA-SMI {version:<22} Driver Version: {version:<14} CUDA Version: {smi_log.CUDA_VERSION:<9}"
    lines = [
        time.strftime("%a %b %e %H:%M:%S %Y"),
        WIDE,
        f"| {header}|",
        RULE,
        "| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |",
        "| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |",
        "|                                         |                        |               MIG M. |",
        "|=========================================+========================+======================|",
    ]
    for gpu in answering(gpus):
        lines += [*_gpu(gpu), RULE]
    lines += [
        "",
        WIDE,
        f"| {'Processes:':<88}|",
        "|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |",
        "|        ID   ID                                                               Usage      |",
        "|" + "=" * 89 + "|",
        f"|  {'No running processes found':<87}|",
        WIDE,
    ]
    return "\n".join(lines)


def _gpu(gpu: Gpu) -> list[str]:
    data = gpu.data
    persistence = "On" if driver.persistence_enabled(gpu.index) else "Off"
    power = f"{float(data['power_w']):.0f}W / {float(data['power_limit_w']):>4.0f}W"
    used = f"{data.get('memory_used_mib', 0)}MiB / {data['memory_mib']:>6}MiB"
    errors, busy = data["ecc"]["dbe_volatile"], data["utilization"]
    return [
        f"| {gpu.index:>3}  {data['model']:<27}{persistence:>6}  |   {data['pci']} Off |{errors:>21} |",
        f"| N/A  {data['temperature_c']:>3}C    P0   {power:>21} | {used:>22} | {busy:>6}%      Default |",
        "|                                         |                        |             Disabled |",
    ]

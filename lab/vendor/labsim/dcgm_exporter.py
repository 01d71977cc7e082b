"""`dcgm-exporter`: Prometheus text on :9400, one line a counter of the CSV file and GPU.

Names, order, types and help texts are those of dcgm-exporter's etc/default-counters.csv; labels as 4.5.2 writes them
(`Hostname`, capital, up to 4.5.2). A counter that is commented out in the CSV is not exported, as on a real node.
"""

from __future__ import annotations

import argparse
import csv
import io
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from . import driver
from .driver import Gpu

Value = Callable[[Gpu], "float | int"]
STARTED = time.monotonic()
FABRIC_STATUS = {"Not Started": 1, "In Progress": 2, "Completed": 3}  # dcgmFabricManagerStatus_t
XID_TEXT = {
    0: "No Error",
    48: "Double Bit ECC Error",
    63: "Row remapper: New row marked for remapping",
    64: "Row remapper: Error",
    74: "NVLINK Error",
    79: "GPU has fallen off the bus",
    94: "Contained ECC error",
    95: "Uncontained ECC error",
    119: "GSP RPC Timeout",
}


def _ecc(name: str) -> Value:
    return lambda gpu: int(gpu.data["ecc"].get(name, 0))


def _link_errors(name: str) -> Value:
    return lambda gpu: sum(int(link.get(name, 0)) for link in gpu.data["nvlinks"])


def _zero(_gpu: Gpu) -> int:
    return 0


def _energy(gpu: Gpu) -> int:
    return int(float(gpu.data["power_w"]) * 1000 * (time.monotonic() - STARTED))


def _health(gpu: Gpu) -> int:
    bad = gpu.lost or gpu.data["remapped"]["failure"] or gpu.data["ecc"]["dbe_volatile"]
    return 20 if bad else 0  # DCGM_HEALTH_RESULT_FAIL, _PASS


VALUES: dict[str, Value] = {
    "DCGM_FI_DEV_SM_CLOCK": lambda gpu: int(gpu.data["clocks_sm_mhz"]),
    "DCGM_FI_DEV_MEM_CLOCK": lambda _gpu: 3201,
    "DCGM_FI_DEV_MEMORY_TEMP": lambda gpu: int(gpu.data["memory_temperature_c"]),
    "DCGM_FI_DEV_GPU_TEMP": lambda gpu: int(gpu.data["temperature_c"]),
    "DCGM_FI_DEV_POWER_USAGE": lambda gpu: float(gpu.data["power_w"]),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT": lambda gpu: float(gpu.data["power_limit_w"]),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": _energy,
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": _zero,
    "DCGM_FI_DEV_GPU_UTIL": lambda gpu: int(gpu.data["utilization"]),
    "DCGM_FI_DEV_MEM_COPY_UTIL": lambda gpu: int(gpu.data["utilization"]),
    "DCGM_FI_DEV_ENC_UTIL": _zero,
    "DCGM_FI_DEV_DEC_UTIL": _zero,
    "DCGM_FI_DEV_XID_ERRORS": lambda gpu: int(gpu.data["last_xid"]),
    "DCGM_FI_DEV_POWER_VIOLATION": _zero,
    "DCGM_FI_DEV_THERMAL_VIOLATION": lambda gpu: (
        int(float(gpu.data["temperature_c"]) >= 87) * int(time.monotonic() - STARTED)
    ),
    "DCGM_FI_DEV_SYNC_BOOST_VIOLATION": _zero,
    "DCGM_FI_DEV_BOARD_LIMIT_VIOLATION": _zero,
    "DCGM_FI_DEV_LOW_UTIL_VIOLATION": _zero,
    "DCGM_FI_DEV_RELIABILITY_VIOLATION": _zero,
    "DCGM_FI_DEV_FB_FREE": lambda gpu: int(gpu.data["memory_mib"]) - int(gpu.data.get("memory_used_mib", 0)) - 612,
    "DCGM_FI_DEV_FB_USED": lambda gpu: int(gpu.data.get("memory_used_mib", 0)),
    "DCGM_FI_DEV_FB_RESERVED": lambda _gpu: 612,
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": _ecc("sbe_volatile"),
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": _ecc("dbe_volatile"),
    "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": _ecc("sbe_aggregate"),
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": _ecc("dbe_aggregate"),
    "DCGM_FI_DEV_RETIRED_SBE": _zero,
    "DCGM_FI_DEV_RETIRED_DBE": _zero,
    "DCGM_FI_DEV_RETIRED_PENDING": _zero,
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": lambda gpu: int(gpu.data["remapped"]["uncorrectable"]),
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": lambda gpu: int(gpu.data["remapped"]["correctable"]),
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": lambda gpu: int(bool(gpu.data["remapped"]["failure"])),
    "DCGM_FI_DEV_ROW_REMAP_PENDING": lambda gpu: int(bool(gpu.data["remapped"]["pending"])),
    "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL": _link_errors("crc_flit"),
    "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL": _link_errors("crc"),
    "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": _link_errors("replay"),
    "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL": _link_errors("recovery"),
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": _zero,
    "DCGM_FI_DEV_VGPU_LICENSE_STATUS": _zero,
    "DCGM_FI_DEV_FABRIC_MANAGER_STATUS": lambda gpu: FABRIC_STATUS[driver.fabric(gpu)[0]],
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": lambda gpu: float(gpu.data["utilization"]) / 100,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": lambda gpu: float(gpu.data["utilization"]) / 200,
    "DCGM_FI_PROF_DRAM_ACTIVE": lambda gpu: float(gpu.data["utilization"]) / 300,
    "DCGM_FI_PROF_PCIE_TX_BYTES": _zero,
    "DCGM_FI_PROF_PCIE_RX_BYTES": _zero,
    "DCGM_EXP_XID_ERRORS_COUNT": lambda gpu: int(int(gpu.data["last_xid"]) != 0),
    "DCGM_EXP_GPU_HEALTH_STATUS": _health,
}
LABELS: dict[str, Callable[[], str]] = {"DCGM_FI_DRIVER_VERSION": driver.loaded_version}
OF_LOST_GPUS = {"DCGM_FI_DEV_XID_ERRORS", "DCGM_EXP_XID_ERRORS_COUNT", "DCGM_EXP_GPU_HEALTH_STATUS"}


class CounterError(ValueError):
    """A line of the CSV that the exporter refuses; it does not start then."""


def counters(text: str) -> list[tuple[str, str, str]]:
    """(field, Prometheus type, help) of each line that is not commented out."""
    found = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        cells = [cell.strip() for cell in row]
        if not cells or not cells[0] or cells[0].startswith("#"):
            continue
        if len(cells) != 3:
            raise CounterError(f"malformed CSV record; err: failed to parse line ({row}), expected 3 fields")
        if cells[0] not in (LABELS if cells[1] == "label" else VALUES):
            raise CounterError(f"could not find DCGM field; field: {cells[0]}")
        found.append((cells[0], cells[1], cells[2]))
    return found


def metrics(known: list[tuple[str, str, str]]) -> Iterator[str]:
    """The exposition, family by family; rows of type `label` become labels of all others, as DCGM_FI_DRIVER_VERSION.

    A GPU that fell off the bus has no readings; its last XID stays (the gauge is sticky).
    """
    gpus, host = driver.gpus(), socket.gethostname()
    static = "".join(f',{name}="{LABELS[name]()}"' for name, kind, _ in known if kind == "label")
    for name, kind, text in known:
        if kind == "label":
            continue
        yield f"# HELP {name} {text}"
        yield f"# TYPE {name} {kind}"
        for gpu in gpus:
            if gpu.lost and name not in OF_LOST_GPUS:
                continue
            data = gpu.data
            labels = (
                f'gpu="{gpu.index}",UUID="{data["uuid"]}",pci_bus_id="{data["pci"]}",device="nvidia{gpu.index}",'
                f'modelName="{data["model"]}",Hostname="{host}"{static}'
            )
            if name == "DCGM_FI_DEV_XID_ERRORS":
                xid = int(data["last_xid"])
                labels += f',err_code="{xid}",err_msg="{XID_TEXT.get(xid, "Unknown Error")}"'
            value = VALUES[name](gpu)
            yield f"{name}{{{labels}}} {value:.6f}" if isinstance(value, float) else f"{name}{{{labels}}} {value}"


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM; 1 when the driver can't be reached or the CSV is wrong, as the real one exits."""
    parser = argparse.ArgumentParser(prog="dcgm-exporter", allow_abbrev=False)
    parser.add_argument("-f", "--collectors", default="/etc/dcgm-exporter/default-counters.csv")
    parser.add_argument("-a", "--address", default=":9400")
    parser.add_argument("-c", "--collect-interval", type=int, default=30000)
    parser.add_argument("-r", "--remote-hostengine-info")
    options = parser.parse_args(arguments)
    try:
        driver.require_driver()
        known = counters(Path(options.collectors).read_text())
    except (driver.DriverError, CounterError, OSError) as error:
        print(f'level=ERROR msg="Failed to initialize the exporter: {error}"', file=sys.stderr)
        return 1

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in ("/metrics", "/health"):
                self.send_error(404)
                return
            body = "KO" if self.path == "/health" and not driver.loaded_version() else "OK"
            if self.path == "/metrics":
                body = "\n".join(metrics(known)) + "\n"
            payload = body.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_arguments: object) -> None:
            """The real exporter logs no requests."""

    host, _, port = options.address.rpartition(":")
    server = ThreadingHTTPServer((host or "0.0.0.0", int(port)), Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f'level=INFO msg="Starting webserver" address={options.address}', file=sys.stderr, flush=True)
    server.serve_forever()
    return 0

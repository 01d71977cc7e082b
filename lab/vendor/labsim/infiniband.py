"""`ibstat`, `ibv_devinfo`, `ibv_devices`, `perfquery`: the HCAs of hardware.json.

Layouts: rdma-core (libibverbs/examples/devinfo.c) and infiniband-diags (src/ibstat.c, src/perfquery.c), checked
against captures of ConnectX-6 and ConnectX-7 machines (tests/data/vendor/README.md).
"""

from __future__ import annotations

import argparse
import os
import sys

from lab.hardware import Json

from . import hardware

PORT_STATES = {
    "Down": ("PORT_DOWN", 1),
    "Initializing": ("PORT_INIT", 2),
    "Armed": ("PORT_ARMED", 3),
    "Active": ("PORT_ACTIVE", 4),
}
CAPABILITY_INFINIBAND, CAPABILITY_ETHERNET = "0xa651e848", "0x00010000"


def ibstat(arguments: list[str]) -> int:
    """`ibstat [-l|-p|-s] [CA [port]]`."""
    parser = argparse.ArgumentParser(prog="ibstat", allow_abbrev=False)
    parser.add_argument("-l", "--list_of_cas", action="store_true")
    parser.add_argument("-s", "--short", action="store_true")
    parser.add_argument("-p", "--port_list", action="store_true")
    parser.add_argument("ca", nargs="?")
    parser.add_argument("port", nargs="?", type=int)
    options = parser.parse_args(arguments)
    hcas = hardware.read()["hcas"]
    chosen = [hca for hca in hcas if options.ca in (None, hca["name"])]
    if options.ca and not chosen:
        print(
            f"ibpanic: [{_pid()}] main: stat of IB device '{options.ca}' failed: No such file or directory",
            file=sys.stderr,
        )
        return 255
    for hca in chosen:
        if options.list_of_cas:
            print(hca["name"])
        elif options.port_list:
            print(*(_hex(hca["guid"]) for _ in hca["ports"]), sep="\n")
        else:
            _stat(hca, options)
    return 0


def _stat(hca: Json, options: argparse.Namespace) -> None:
    if options.port is None:
        print(f"CA '{hca['name']}'\n\tCA type: {hca['model']}\n\tNumber of ports: {len(hca['ports'])}")
        print(f"\tFirmware version: {hca['fw']}\n\tHardware version: 0")
        print(f"\tNode GUID: {_hex(hca['guid'])}\n\tSystem image GUID: {_hex(hca['guid'])}")
        if options.short:
            return
    for port in hca["ports"]:
        if options.port not in (None, port["port"]):
            continue
        indent = "\t\t" if options.port is None else ""
        head = f"\tPort {port['port']}:" if options.port is None else f"CA: '{hca['name']}'\nPort {port['port']}:"
        print(head)
        infiniband = port["link_layer"] == "InfiniBand"
        up = port["physical"] == "LinkUp"
        for label, value in (
            ("State", port["state"]),
            ("Physical state", port["physical"]),
            ("Rate", port["rate_gbps"] if up else 10),  # a port that is down reports SDR 4X
            ("Base lid", port["base_lid"] if up else 65535 if infiniband else 0),
            ("LMC", 0),
            ("SM lid", port["sm_lid"] if up else 0),
            ("Capability mask", CAPABILITY_INFINIBAND if infiniband else CAPABILITY_ETHERNET),
            ("Port GUID", _hex(hca["guid"])),
            ("Link layer", port["link_layer"]),
        ):
            print(f"{indent}{label}: {value}")


def ibv_devices(_arguments: list[str]) -> int:
    """`ibv_devices`."""
    print("    device          \t   node GUID\n    ------          \t----------------")
    for hca in hardware.read()["hcas"]:
        print(f"    {hca['name']:<16}\t{hca['guid'].replace(':', '')}")
    return 0


def ibv_devinfo(arguments: list[str]) -> int:
    """`ibv_devinfo [-l] [-d DEVICE] [-i PORT]`."""
    parser = argparse.ArgumentParser(prog="ibv_devinfo", allow_abbrev=False)
    parser.add_argument("-d", "--ib-dev")
    parser.add_argument("-i", "--ib-port", type=int)
    parser.add_argument("-l", "--list", action="store_true")
    options = parser.parse_args(arguments)
    hcas = hardware.read()["hcas"]
    if options.list:
        print(f"{len(hcas)} HCAs found:", *(f"\t{hca['name']}" for hca in hcas), "", sep="\n")
        return 0
    if not hcas:
        print("No IB devices found", file=sys.stderr)
        return 255
    chosen = [hca for hca in hcas if options.ib_dev in (None, hca["name"])]
    if not chosen:
        print(f"IB device '{options.ib_dev}' wasn't found", file=sys.stderr)
        return 255
    for hca in chosen:
        _devinfo(hca, options.ib_port)
    return 0


def _devinfo(hca: Json, wanted_port: int | None) -> None:
    part = hca["model"].removeprefix("MT")
    print(f"hca_id:\t{hca['name']}\n\ttransport:\t\t\tInfiniBand (0)\n\tfw_ver:\t\t\t\t{hca['fw']}")
    print(f"\tnode_guid:\t\t\t{hca['guid']}\n\tsys_image_guid:\t\t\t{hca['guid']}\n\tvendor_id:\t\t\t0x02c9")
    print(f"\tvendor_part_id:\t\t\t{part}\n\thw_ver:\t\t\t\t0x0\n\tboard_id:\t\t\tMT_0000000223")
    print(f"\tphys_port_cnt:\t\t\t{len(hca['ports'])}")
    for port in hca["ports"]:
        if wanted_port not in (None, port["port"]):
            continue
        name, number = PORT_STATES[port["state"]]
        up = port["physical"] == "LinkUp"
        print(f"\t\tport:\t{port['port']}")
        for label, tabs, value in (
            ("state", 3, f"{name} ({number})"),
            ("max_mtu", 2, "4096 (5)"),
            ("active_mtu", 2, "4096 (5)"),
            ("sm_lid", 3, port["sm_lid"] if up else 0),
            ("port_lid", 2, port["base_lid"] if up else 65535),
            ("port_lmc", 2, "0x00"),
            ("link_layer", 2, port["link_layer"]),
        ):
            tab = "\t"
            print(f"\t\t\t{label}:{tab * tabs}{value}")
    print()


def perfquery(arguments: list[str]) -> int:
    """`perfquery -C CA -P port`: the error counters of a local port."""
    parser = argparse.ArgumentParser(prog="perfquery", allow_abbrev=False)
    parser.add_argument("-C", "--Ca")
    parser.add_argument("-P", "--Port", type=int, default=1)
    parser.add_argument("-x", "--extended", action="store_true")
    options = parser.parse_args(arguments)
    for hca in hardware.read()["hcas"]:
        for port in hca["ports"]:
            if options.Ca in (None, hca["name"]) and options.Port == port["port"]:
                _counters(port)
                return 0
    print(f"ibwarn: [{_pid()}] mad_rpc_open_port: can't open UMAD port ({options.Ca}:{options.Port})", file=sys.stderr)
    return 1


def _counters(port: Json) -> None:
    counters = port["counters"]
    print(f"# Port counters: Lid {port['base_lid']} port {port['port']} (CapMask: 0x5A00)")
    for label, value in (
        ("PortSelect", port["port"]),
        ("CounterSelect", "0x0000"),
        ("SymbolErrorCounter", counters["symbol_error"]),
        ("LinkErrorRecoveryCounter", counters["link_error_recovery"]),
        ("LinkDownedCounter", counters["link_downed"]),
        ("PortRcvErrors", counters["port_rcv_errors"]),
        ("PortRcvRemotePhysicalErrors", 0),
        ("PortRcvSwitchRelayErrors", 0),
        ("PortXmitDiscards", counters.get("port_xmit_discards", 0)),
        ("PortXmitConstraintErrors", 0),
        ("PortRcvConstraintErrors", 0),
        ("CounterSelect2", "0x00"),
        ("LocalLinkIntegrityErrors", 0),
        ("ExcessiveBufferOverrunErrors", 0),
        ("VL15Dropped", 0),
        ("PortXmitData", counters.get("port_xmit_data", 0)),
        ("PortRcvData", counters.get("port_rcv_data", 0)),
        ("PortXmitPkts", counters.get("port_xmit_packets", 0)),
        ("PortRcvPkts", counters.get("port_rcv_packets", 0)),
        ("PortXmitWait", 0),
    ):
        print(f"{label + ':':.<33}{value}")


def mlnx_qos(arguments: list[str]) -> int:
    """`mlnx_qos -i IF [--trust pcp|dscp] [--pfc 0,0,0,1,0,0,0,0]`: settings live until the next boot, as in the NIC."""
    parser = argparse.ArgumentParser(prog="mlnx_qos", allow_abbrev=False)
    parser.add_argument("-i", "--interface", required=True)
    parser.add_argument("--trust", choices=["pcp", "dscp"])
    parser.add_argument("-f", "--pfc")
    options = parser.parse_args(arguments)
    if not hardware.rooted(f"/sys/class/net/{options.interface}").exists():
        print(f"Interface {options.interface} does not exist!")
        return 1
    name = f"qos-{options.interface}.json"
    state = {"trust": "pcp", "pfc": [0] * 8, **hardware.read_state(name)}
    if options.trust:
        state["trust"] = options.trust
    if options.pfc:
        flags = options.pfc.split(",")
        if len(flags) != 8 or set(flags) - {"0", "1"}:
            print("Bad PFC value: 8 comma separated 0/1 are needed")
            return 1
        state["pfc"] = [int(flag) for flag in flags]
    hardware.write_json(hardware.state_file(name), state)
    print(f"DCBX mode: OS controlled\nPriority trust state: {state['trust']}\nPFC configuration:")
    print("\tpriority    0   1   2   3   4   5   6   7")
    print("\tenabled     " + "".join(f"{flag}   " for flag in state["pfc"]))
    return 0


def _hex(guid: str) -> str:
    return "0x" + guid.replace(":", "")


def _pid() -> int:
    return os.getpid()

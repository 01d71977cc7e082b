"""The fields of `nvidia-smi -q` for one GPU, as a tree of (label, XML tag, value or children).

Labels and order: `nvidia-smi -q` of driver 580.119.02 and of 550.127.05 on Hopper; tags: `-q -x` of 590.44.01
(tests/data/vendor/README.md).
"""

from __future__ import annotations

from . import driver
from .driver import Gpu

Node = tuple[str, str, "str | list[Node]"]


def _na(*names: tuple[str, str]) -> list[Node]:
    return [(label, tag, "N/A") for label, tag in names]


def _hex(label: str, tag: str, digits: str) -> list[Node]:
    """A number that the text prints with 0x and the XML without."""
    return [(label, "", f"0x{digits}"), ("", tag, digits)]


def _current_pending(value: str, suffix: str) -> list[Node]:
    return [("Current", f"current_{suffix}", value), ("Pending", f"pending_{suffix}", value)]


def tree(gpu: Gpu, version: str) -> list[Node]:
    data = gpu.data
    bus = str(data["pci"]).split(":")[1].upper()
    return [
        ("Product Name", "product_name", str(data["model"])),
        ("Product Brand", "product_brand", "NVIDIA"),
        ("Product Architecture", "product_architecture", "Hopper"),
        ("Display Mode", "display_mode", "Requested functionality has been deprecated"),
        ("Display Attached", "display_attached", "No"),
        ("Display Active", "display_active", "Disabled"),
        ("Persistence Mode", "persistence_mode", "Enabled" if driver.persistence_enabled(gpu.index) else "Disabled"),
        ("Addressing Mode", "addressing_mode", "HMM"),
        ("MIG Mode", "mig_mode", _current_pending("Disabled", "mig")),
        ("Accounting Mode", "accounting_mode", "Disabled"),
        ("Accounting Mode Buffer Size", "accounting_mode_buffer_size", "4000"),
        ("Driver Model", "driver_model", _current_pending("N/A", "dm")),
        ("Serial Number", "serial", str(data["serial"])),
        ("GPU UUID", "uuid", str(data["uuid"])),
        ("GPU PDI", "pdi", f"0x{int(data['serial']) * 2654435761 % 2**64:016x}"),
        ("Minor Number", "minor_number", str(data["index"])),
        ("VBIOS Version", "vbios_version", "96.00.D0.00.01"),
        ("MultiGPU Board", "multigpu_board", "No"),
        ("Board ID", "board_id", f"0x{bus.lower()}00"),
        ("Board Part Number", "board_part_number", "692-2G520-0280-501"),
        ("GPU Part Number", "gpu_part_number", "2335-885-A1"),
        ("FRU Part Number", "gpu_fru_part_number", "N/A"),
        ("Platform Info", "platformInfo", _platform(gpu)),
        ("Inforom Version", "inforom_version", _inforom()),
        (
            "Inforom BBX Object Flush",
            "inforom_bbx_flush",
            _na(("Latest Timestamp", "latest_timestamp"), ("Latest Duration", "latest_duration")),
        ),
        ("GPU Operation Mode", "gpu_operation_mode", _current_pending("N/A", "gom")),
        ("GPU C2C Mode", "c2c_mode", "Disabled"),
        (
            "GPU Virtualization Mode",
            "gpu_virtualization_mode",
            [
                ("Virtualization Mode", "virtualization_mode", "None"),
                ("Host VGPU Mode", "host_vgpu_mode", "N/A"),
                ("vGPU Heterogeneous Mode", "vgpu_heterogeneous_mode", "N/A"),
            ],
        ),
        ("GPU Recovery Action", "gpu_recovery_action", _recovery(gpu)),
        ("GSP Firmware Version", "gsp_firmware_version", version),
        ("IBMNPU", "ibmnpu", _na(("Relaxed Ordering Mode", "relaxed_ordering_mode"))),
        ("PCI", "pci", _pci(gpu, bus)),
        ("Fan Speed", "fan_speed", "N/A"),
        ("Performance State", "performance_state", "P0"),
        ("Clocks Event Reasons", "clocks_event_reasons", _reasons(gpu)),
        ("Clocks Event Reasons Counters", "clocks_event_reasons_counters", _reason_counters()),
        ("Sparse Operation Mode", "sparse_operation_mode", "Disabled"),
        ("FB Memory Usage", "fb_memory_usage", _memory(gpu)),
        ("BAR1 Memory Usage", "bar1_memory_usage", _amounts("262144 MiB", "1 MiB", "262143 MiB")),
        ("Conf Compute Protected Memory Usage", "cc_protected_memory_usage", _amounts("0 MiB", "0 MiB", "0 MiB")),
        ("Compute Mode", "compute_mode", "Default"),
        ("Utilization", "utilization", _utilization(gpu)),
        ("Encoder Stats", "encoder_stats", _sessions()),
        ("FBC Stats", "fbc_stats", _sessions()),
        ("DRAM Encryption Mode", "dram_encryption_mode", _current_pending("Disabled", "dram_encryption")),
        ("ECC Mode", "ecc_mode", _current_pending("Enabled", "ecc")),
        ("ECC Errors", "ecc_errors", _ecc(gpu)),
        (
            "Retired Pages",
            "retired_pages",
            _na(
                ("Single Bit ECC", "multiple_single_bit_retirement"),
                ("Double Bit ECC", "double_bit_retirement"),
                ("Pending Page Blacklist", "pending_blacklist"),
            ),
        ),
        ("Remapped Rows", "remapped_rows", _remapped(gpu)),
        ("Temperature", "temperature", _temperature(gpu)),
        ("GPU Power Readings", "gpu_power_readings", _power(gpu)),
        ("GPU Memory Power Readings ", "gpu_memory_power_readings", _readings(f"{float(data['power_w']) * 0.3:.2f} W")),
        ("Module Power Readings", "module_power_readings", [*_readings("N/A"), *_limits("N/A", "N/A", "N/A", "N/A")]),
        ("Power Smoothing", "power_smoothing", "Disabled"),
        (
            "Workload Power Profiles",
            "power_profiles",
            _na(
                ("Requested Profiles", "power_profile_requested_profiles"),
                ("Enforced Profiles", "power_profile_enforced_profiles"),
            ),
        ),
        ("Clocks", "clocks", _clocks(int(data["clocks_sm_mhz"]))),
        ("Applications Clocks", "applications_clocks", _application_clocks()),
        ("Default Applications Clocks", "default_applications_clocks", _application_clocks()),
        ("Deferred Clocks", "deferred_clocks", _na(("Memory", "mem_clock"))),
        ("Max Clocks", "max_clocks", _clocks(1980)),
        ("Max Customer Boost Clocks", "max_customer_boost_clocks", [("Graphics", "graphics_clock", "1980 MHz")]),
        (
            "Clock Policy",
            "clock_policy",
            _na(("Auto Boost", "auto_boost"), ("Auto Boost Default", "auto_boost_default")),
        ),
        ("Fabric", "fabric", _fabric(gpu)),
        ("Processes", "processes", "None"),
        ("Capabilities", "capabilities", [("EGM", "egm", "disabled")]),
    ]


def _recovery(gpu: Gpu) -> str:
    return "Reset" if gpu.data["remapped"]["pending"] else "None"


def _platform(gpu: Gpu) -> list[Node]:
    return [
        ("Chassis Serial Number", "chassis_serial_number", "N/A"),
        ("Slot Number", "slot_number", "N/A"),
        ("Tray Index", "tray_index", "N/A"),
        ("Host ID", "host_id", "N/A"),
        ("Peer Type", "peer_type", "Switch Connected"),
        ("Module Id", "module_id", str(gpu.index + 1)),
        ("GPU Fabric GUID", "gpu_fabric_guid", f"0x{int(gpu.data['serial']) * 40503 % 2**64:016x}"),
    ]


def _inforom() -> list[Node]:
    return [
        ("Image Version", "img_version", "G520.0280.00.05"),
        ("OEM Object", "oem_object", "2.1"),
        ("ECC Object", "ecc_object", "7.16"),
        ("Power Management Object", "pwr_object", "N/A"),
    ]


def _pci(gpu: Gpu, bus: str) -> list[Node]:
    widths: list[Node] = [("Max", "max_link_width", "16x"), ("Current", "current_link_width", "16x")]
    generations: list[Node] = [
        ("Max", "max_link_gen", "5"),
        ("Current", "current_link_gen", "5"),
        ("Device Current", "device_current_link_gen", "5"),
        ("Device Max", "max_device_link_gen", "5"),
        ("Host Max", "max_host_link_gen", "5"),
    ]
    return [
        *_hex("Bus", "pci_bus", bus),
        *_hex("Device", "pci_device", "00"),
        *_hex("Domain", "pci_domain", "0000"),
        *_hex("Base Classcode", "pci_base_class", "3"),
        *_hex("Sub Classcode", "pci_sub_class", "2"),
        *_hex("Device Id", "pci_device_id", "233510DE"),
        ("Bus Id", "pci_bus_id", str(gpu.data["pci"])),
        *_hex("Sub System Id", "pci_sub_system_id", "18BE10DE"),
        (
            "GPU Link Info",
            "pci_gpu_link_info",
            [
                ("PCIe Generation", "pcie_gen", generations),
                ("Link Width", "link_widths", widths),
            ],
        ),
        ("Bridge Chip", "pci_bridge_chip", _na(("Type", "bridge_chip_type"), ("Firmware", "bridge_chip_fw"))),
        ("Replays Since Reset", "replay_counter", "0"),
        ("Replay Number Rollovers", "replay_rollover_counter", "0"),
        ("Tx Throughput", "tx_util", "523 KB/s"),
        ("Rx Throughput", "rx_util", "523 KB/s"),
        ("Atomic Caps Outbound", "atomic_caps_outbound", "N/A"),
        ("Atomic Caps Inbound", "atomic_caps_inbound", "FETCHADD_32 FETCHADD_64 SWAP_32 SWAP_64 CAS_32 CAS_64 "),
    ]


def _reasons(gpu: Gpu) -> list[Node]:
    hot = float(gpu.data["temperature_c"]) >= 87
    state = {True: "Active", False: "Not Active"}
    return [
        ("Idle", "clocks_event_reason_gpu_idle", state[gpu.clocks_idle]),
        ("Applications Clocks Setting", "clocks_event_reason_applications_clocks_setting", "Not Active"),
        ("SW Power Cap", "clocks_event_reason_sw_power_cap", "Not Active"),
        ("HW Slowdown", "clocks_event_reason_hw_slowdown", state[hot]),
        ("    HW Thermal Slowdown", "clocks_event_reason_hw_thermal_slowdown", state[hot]),
        ("    HW Power Brake Slowdown", "clocks_event_reason_hw_power_brake_slowdown", "Not Active"),
        ("Sync Boost", "clocks_event_reason_sync_boost", "Not Active"),
        ("SW Thermal Slowdown", "clocks_event_reason_sw_thermal_slowdown", state[hot]),
        ("Display Clock Setting", "clocks_event_reason_display_clocks_setting", "Not Active"),
    ]


def _reason_counters() -> list[Node]:
    names = (
        ("SW Power Capping", "sw_power_cap"),
        ("Sync Boost", "sync_boost"),
        ("SW Thermal Slowdown", "sw_therm_slowdown"),
        ("HW Thermal Slowdown", "hw_therm_slowdown"),
        ("HW Power Braking", "hw_power_brake"),
    )
    return [(label, f"clocks_event_reasons_counters_{tag}", "0 us") for label, tag in names]


def _sessions() -> list[Node]:
    names = (
        ("Active Sessions", "session_count"),
        ("Average FPS", "average_fps"),
        ("Average Latency", "average_latency"),
    )
    return [(label, tag, "0") for label, tag in names]


def _amounts(total: str, used: str, free: str) -> list[Node]:
    return [("Total", "total", total), ("Used", "used", used), ("Free", "free", free)]


def _memory(gpu: Gpu) -> list[Node]:
    total, used, reserved = int(gpu.data["memory_mib"]), int(gpu.data.get("memory_used_mib", 0)), 612
    return [
        ("Total", "total", f"{total} MiB"),
        ("Reserved", "reserved", f"{reserved} MiB"),
        ("Used", "used", f"{used} MiB"),
        ("Free", "free", f"{total - used - reserved} MiB"),
    ]


def _utilization(gpu: Gpu) -> list[Node]:
    busy = f"{gpu.data['utilization']} %"
    units = (
        ("GPU", "gpu_util"),
        ("Memory", "memory_util"),
        ("Encoder", "encoder_util"),
        ("Decoder", "decoder_util"),
        ("JPEG", "jpeg_util"),
        ("OFA", "ofa_util"),
    )
    return [(label, tag, busy if tag == "gpu_util" else "0 %") for label, tag in units]


def _ecc(gpu: Gpu) -> list[Node]:
    ecc = gpu.data["ecc"]

    def block(kind: str, sram: int) -> list[Node]:
        return [
            ("SRAM Correctable", "sram_correctable", "0"),
            ("SRAM Uncorrectable Parity", "sram_uncorrectable_parity", "0"),
            ("SRAM Uncorrectable SEC-DED", "sram_uncorrectable_secded", str(sram)),
            ("DRAM Correctable", "dram_correctable", str(ecc[f"sbe_{kind}"])),
            ("DRAM Uncorrectable", "dram_uncorrectable", str(ecc[f"dbe_{kind}"])),
        ]

    sram = int(ecc["sram_uncorrectable_aggregate"])
    threshold: Node = ("SRAM Threshold Exceeded", "sram_threshold_exceeded", "Yes" if sram > 4 else "No")
    sources = ("L2", "SM", "Microcontroller", "PCIE", "Other")
    return [
        ("Volatile", "volatile", block("volatile", 0)),
        ("Aggregate", "aggregate", [*block("aggregate", sram), threshold]),
        (
            "Aggregate Uncorrectable SRAM Sources",
            "aggregate_uncorrectable_sram_sources",
            [(f"SRAM {name}", f"sram_{name.lower()}", str(sram) if name == "L2" else "0") for name in sources],
        ),
        ("Channel Repair Pending", "channel_repair_pending", "No"),
        ("TPC Repair Pending", "tpc_repair_pending", "No"),
    ]


def _remapped(gpu: Gpu) -> list[Node]:
    rows = gpu.data["remapped"]
    used = int(rows["correctable"]) + int(rows["uncorrectable"])
    full = bool(rows["failure"])
    counts = {"Max": 2560 - used - full, "High": used, "Partial": 0, "Low": 0, "None": int(full)}
    return [
        ("Correctable Error", "remapped_row_corr", str(rows["correctable"])),
        ("Uncorrectable Error", "remapped_row_unc", str(rows["uncorrectable"])),
        ("Pending", "remapped_row_pending", "Yes" if rows["pending"] else "No"),
        ("Remapping Failure Occurred", "remapped_row_failure", "Yes" if full else "No"),
        (
            "Bank Remap Availability Histogram",
            "row_remapper_histogram",
            [(name, f"row_remapper_histogram_{name.lower()}", f"{count} bank(s)") for name, count in counts.items()],
        ),
    ]


def _temperature(gpu: Gpu) -> list[Node]:
    current = int(gpu.data["temperature_c"])
    return [
        ("GPU Current Temp", "gpu_temp", f"{current} C"),
        ("GPU T.Limit Temp", "gpu_temp_tlimit", f"{87 - current} C"),
        ("GPU Shutdown T.Limit Temp", "gpu_temp_max_tlimit_threshold", "-8 C"),
        ("GPU Slowdown T.Limit Temp", "gpu_temp_slow_tlimit_threshold", "-2 C"),
        ("GPU Max Operating T.Limit Temp", "gpu_temp_max_gpu_tlimit_threshold", "0 C"),
        ("GPU Target Temperature", "gpu_target_temperature", "N/A"),
        ("Memory Current Temp", "memory_temp", f"{int(gpu.data['memory_temperature_c'])} C"),
        ("Memory Max Operating T.Limit Temp", "gpu_temp_max_mem_tlimit_threshold", "0 C"),
    ]


def _readings(watts: str) -> list[Node]:
    return [
        ("Average Power Draw", "average_power_draw", watts),
        ("Instantaneous Power Draw", "instant_power_draw", watts),
    ]


def _limits(current: str, default: str, low: str, high: str) -> list[Node]:
    return [
        ("Current Power Limit", "current_power_limit", current),
        ("Requested Power Limit", "requested_power_limit", current),
        ("Default Power Limit", "default_power_limit", default),
        ("Min Power Limit", "min_power_limit", low),
        ("Max Power Limit", "max_power_limit", high),
    ]


def _power(gpu: Gpu) -> list[Node]:
    draw, now, low, high = (
        f"{float(gpu.data[key]):.2f} W"
        for key in ("power_w", "power_limit_w", "power_limit_min_w", "power_limit_max_w")
    )
    return [*_readings(draw), *_limits(now, high, low, high)]


def _clocks(sm: int) -> list[Node]:
    return [
        ("Graphics", "graphics_clock", f"{sm} MHz"),
        ("SM", "sm_clock", f"{sm} MHz"),
        ("Memory", "mem_clock", "3201 MHz"),
        ("Video", "video_clock", f"{max(345, sm * 78 // 100)} MHz"),
    ]


def _application_clocks() -> list[Node]:
    return [("Graphics", "graphics_clock", "1980 MHz"), ("Memory", "mem_clock", "3201 MHz")]


def _fabric(gpu: Gpu) -> list[Node]:
    state, status = driver.fabric(gpu)
    known = state == "Completed"
    return [
        ("State", "state", state),
        ("Status", "status", status),
        ("CliqueId", "cliqueId", "0" if known else "N/A"),
        # All zero on a single HGX board, which is no multi-node NVLink domain.
        ("ClusterUUID", "clusterUuid", "00000000-0000-0000-0000-000000000000" if known else "N/A"),
        (
            "Health",
            "health",
            _na(
                ("Summary", "summary"),
                ("Bandwidth", "bandwidth"),
                ("Route Recovery in progress", "route_recovery_in_progress"),
                ("Route Unhealthy", "route_unhealthy"),
                ("Access Timeout Recovery", "access_timeout_recovery"),
                ("Incorrect Configuration", "incorrect_configuration"),
            ),
        ),
    ]

"""Parsers on captures of real tools (tests/data/acceptance/README.md): what they read, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medllm.parsers import apt, driver, ibstat, lustre, nvidia_smi, openpgp, prometheus, slurm, sums, training
from tests.unit.acceptance_inputs import KEYRING, VENDOR, query_xml, read, site, targets
from tests.unit.acceptance_inputs import ibstat as good_ibstat


def test_query_of_an_h100() -> None:
    log = nvidia_smi.parse_query(read("nvidia-smi-q-x.h100.xml"))
    (gpu,) = log.gpus
    assert (log.driver_version, log.attached_gpus) == ("580.105.08", 1)
    assert (gpu.bus_id, gpu.name, gpu.serial) == ("00000000:53:00.0", "NVIDIA H100 80GB HBM3", "1650000000001")
    assert (gpu.temperature_c, gpu.memory_temperature_c, gpu.memory_mib) == (29, 37, 81559)
    assert (gpu.uncorrectable, gpu.remap_pending, gpu.remap_failure, gpu.persistence) == (0, False, False, True)
    assert (gpu.fabric_state, gpu.fabric_status) == ("Completed", "Success")


def test_query_of_a_lost_gpu_gives_no_values() -> None:
    (gpu,) = nvidia_smi.parse_query(read("nvidia-smi-q-x.lost.xml")).gpus
    assert gpu.uuid == "GPU-b200b200-0000-0000-0000-000000000001"
    assert (gpu.temperature_c, gpu.uncorrectable, gpu.remap_pending, gpu.memory_mib) == (None, None, None, None)
    assert (gpu.fabric_state, gpu.fabric_status) == (None, None)


def test_query_counts_the_errors_of_both_memories() -> None:
    text = query_xml(1).replace("<sram_uncorrectable_parity>0<", "<sram_uncorrectable_parity>2<", 1)
    text = text.replace("<dram_uncorrectable>0<", "<dram_uncorrectable>3<", 1)
    assert nvidia_smi.parse_query(text).gpus[0].uncorrectable == 5


def test_query_with_fewer_gpus_than_attached_and_the_reverse() -> None:
    fewer = nvidia_smi.parse_query(query_xml(7).replace("<attached_gpus>7<", "<attached_gpus>8<"))
    assert (fewer.attached_gpus, len(fewer.gpus)) == (8, 7)
    with pytest.raises(ValueError, match="7 GPUs attached, 8 described"):
        nvidia_smi.parse_query(query_xml(8).replace("<attached_gpus>8<", "<attached_gpus>7<"))


def test_a_document_with_entities_is_refused() -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]><nvidia_smi_log>&a;</nvidia_smi_log>'
    with pytest.raises(ValueError, match="entity"):
        nvidia_smi.parse_query(bomb)


def test_listing_with_lost_gpus_in_the_forms_that_were_reported() -> None:
    text = (
        "GPU 0: NVIDIA H200 (UUID: GPU-00000000-0000-0000-0000-000000000000)\n"
        "Unable to determine the device handle for GPU3: 00000000:5D:00.0: Unknown Error\n"
        "Unable to determine the device handle for GPU 0000:0B:00.0: Unknown Error\n"
        "Unable to determine the device handle for GPU0000:20:00.0: Unknown Error\n"
        "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost. "
        "Reboot the system to recover this GPU\n"
    )
    listing = nvidia_smi.parse_list(text)
    assert len(listing.gpus) == 1
    assert [gpu.bus_id for gpu in listing.lost] == ["00000000:5D:00.0", "0000:0B:00.0", "0000:20:00.0", "0000:02:00.0"]
    assert nvidia_smi.parse_list("No devices were found\n") == nvidia_smi.Listing((), ())


def test_nvlinks_up_and_inactive() -> None:
    first, second = nvidia_smi.parse_nvlink(read("nvlink-s.h100.txt"))
    assert [speed for _, speed in first.links] == [26.562] * 18
    assert second.index == 1
    (bridged,) = nvidia_smi.parse_nvlink(read("nvlink-s.h100-pcie.txt"))
    assert [number for number, speed in bridged.links if speed is None] == [4, 5, 10, 11, 16, 17]
    (dead,) = nvidia_smi.parse_nvlink(read("nvlink-s.all-inactive.txt"))
    assert (dead.index, dead.links) == (6, ())


def test_ibstat_states() -> None:
    (waiting,) = ibstat.parse_ibstat(read("ibstat.hdr200-initializing.txt"))
    assert (waiting.model, waiting.ports[0].rate_gbps, waiting.ports[0].up) == ("MT4123", 200, False)
    node = {hca.name: hca.ports[0] for hca in ibstat.parse_ibstat(read("ibstat.h100-some-down.txt"))}
    assert node["mlx5_0"].up
    assert (node["mlx5_11"].physical, node["mlx5_11"].up, node["mlx5_5"].physical) == ("Polling", False, "Disabled")
    with pytest.raises(ValueError, match=r"line 8.*Rate"):
        ibstat.parse_ibstat(good_ibstat().replace("                Rate: 200\n", "", 1))


def test_module_versions_of_both_kinds() -> None:
    assert driver.parse_module_version(read("proc-driver-nvidia-version.txt")) == "580.95.05"
    closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.135  Fri Jan 10 20:00:00 UTC 2025\n"
    assert driver.parse_module_version(closed) == "550.135"


def test_lustre_answers() -> None:
    # lfs(1) getname; lfs check servers as in the Lustre manual and its users' notes.
    assert lustre.parse_getname("testfs-ffff8800376ed800 /mnt/testfs\n") == {"/mnt/testfs": "testfs"}
    text = "lustre-MDT0000-mdc-ffff880232f40800 active.\nlustre-OST0001-osc-ffff880232f40800: inactive.\n"
    states = lustre.parse_servers(text)
    assert list(states.values()) == ["active", "inactive"]
    dead = "lfs check: error: check 'lustre-OST0000-osc-ffff880232f40800': Resource temporarily unavailable (11)\n"
    assert lustre.parse_servers(dead) == {
        "lustre-OST0000-osc-ffff880232f40800": "Resource temporarily unavailable (11)"
    }


def test_slurm_answers() -> None:
    nodes = slurm.parse_sinfo("node1|idle|gpu:h200:8|none\nnode2|down*|gpu:h200:8|Not responding\n")
    assert (nodes["node1"].state, nodes["node2"].state, nodes["node2"].reason) == ("idle", "down", "Not responding")
    (answer,) = slurm.parse_answers("node=node1 memlock=8192 gpus=\n")
    assert (answer.memlock, answer.gpus) == ("8192", 0)


def test_targets_are_aged_by_the_servers_clock() -> None:
    found = prometheus.parse_targets(targets(site()))
    assert {target.health for target in found} == {"up"}
    assert found[0].age_s == pytest.approx(1.876544, abs=1e-5)
    never = targets(site(), scraped="0001-01-01T00:00:00Z", health="unknown")
    assert prometheus.parse_targets(never)[0].age_s > 1e9


def test_sums() -> None:
    digest = "ab" * 32
    assert sums.parse_sha256sums(f"{digest}  ./a b.tar\n{digest} *c\n") == {"a b.tar": digest, "c": digest}
    with pytest.raises(ValueError, match="line 1"):
        sums.parse_sha256sums(f"\\{digest}  a\\nb\n")


def test_losses_after_a_kill_and_a_resume() -> None:
    text = (
        '{"step": 1, "loss": 10.5}\n{"step": 2, "loss": 10.1}\n{"step": 3, "lo\n'
        '{"step": 2, "loss": 10.0}\n{"step": 3, "loss": 9.5}\n'
    )
    assert [(loss.step, loss.value) for loss in training.parse_losses(text, "loss")] == [(1, 10.5), (2, 10.0), (3, 9.5)]
    with pytest.raises(ValueError, match="line 1"):
        training.parse_losses('{"step": true, "loss": 1}\n', "loss")
    with pytest.raises(ValueError, match="is not a number"):
        training.parse_losses('{"step": 1, "loss": "low"}\n', "loss")


def test_policy_and_sources() -> None:
    installed, origins = apt.parse_policy(read("apt-policy.bash.txt"))
    assert installed.startswith("5.2.15-2+b8")
    assert origins == ()  # a newer version is offered, the installed one by no repository
    one_line = (
        "# comment\ndeb [arch=amd64 signed-by=/etc/apt/keyrings/a.gpg] https://a.example/apt/ stable main extra\n"
    )
    (source,) = apt.parse_sources(one_line, deb822=False)
    assert source.signed_by == ("/etc/apt/keyrings/a.gpg",)
    assert source.offers(apt.Origin("https://a.example/apt", "stable/extra"))
    assert not source.offers(apt.Origin("https://a.example/apt", "stable/other"))
    assert not source.offers(apt.Origin("https://b.example/apt", "stable/main"))
    flat = apt.parse_sources("deb [signed-by=/k.gpg] https://n.example/cuda/x86_64 /\n", deb822=False)[0]
    cuda = " *** 580.95.05-1 500\n        500 https://n.example/cuda/x86_64  Packages\n"
    _, (origin,) = apt.parse_policy(cuda)
    assert flat.offers(origin)
    assert not source.offers(origin)


def test_deb822_sources() -> None:
    text = (
        "# made by hand\nTypes: deb deb-src\nURIs: https://a.example/apt\nSuites: stable testing\nComponents: main\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n -----END PGP PUBLIC KEY BLOCK-----\n\n"
        "Enabled: no\nTypes: deb\nURIs: https://off.example\nSuites: x\n\n"
        "Types: deb\nURIs: https://c.example\nSuites: y\nTrusted: yes\n"
    )
    first, third = apt.parse_sources(text, deb822=True)
    assert first.suites == ("stable", "testing")
    assert len(first.signed_by) == 1
    assert "BEGIN PGP" in first.signed_by[0]
    assert not first.unchecked
    assert third.unchecked
    assert third.signed_by == ()


def test_fingerprints_binary_armored_and_several() -> None:
    import base64

    assert openpgp.fingerprints(KEYRING) == (VENDOR,)
    body = base64.encodebytes(KEYRING).decode()
    block = f"-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: x\n\n{body}=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
    assert openpgp.fingerprints(block.encode()) == (VENDOR,)
    assert openpgp.fingerprints((block + block).encode()) == (VENDOR, VENDOR)
    assert openpgp.fingerprints(KEYRING + KEYRING) == (VENDOR, VENDOR)


@pytest.mark.parametrize("data", [b"", b"hello", KEYRING[:40], b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc"])
def test_no_key_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="keyring"):
        openpgp.fingerprints(data)


def test_recordings_of_the_real_programs() -> None:
    nodes = slurm.parse_sinfo(read("lab/sinfo.txt"))
    assert {name: node.state for name, node in nodes.items()} == {
        "node1": "idle",
        "node2": "down",
        "node3": "idle",
        "node4": "idle",
    }
    found = prometheus.parse_targets(read("lab/targets.txt"))
    node_exporters = {target.host: target for target in found if target.port == 9100}
    assert {target.health for host, target in node_exporters.items() if host != "10.89.77.12"} == {"up"}
    assert all(-1 < target.age_s < 10 for target in found)  # the clock is read in whole seconds
    version, (origin,) = apt.parse_policy(read("lab/apt-policy.txt"))
    assert (version, origin) == ("580.95.05-1", apt.Origin("http://10.89.77.10:8081/vendor", "stable/main"))


EVERY: dict[str, Callable[[str], object]] = {
    "nvidia-smi -L": nvidia_smi.parse_list,
    "nvidia-smi -q -x": nvidia_smi.parse_query,
    "nvidia-smi nvlink -s": nvidia_smi.parse_nvlink,
    "module": driver.parse_module_version,
    "packages": driver.parse_packages,
    "ibstat": ibstat.parse_ibstat,
    "getname": lustre.parse_getname,
    "servers": lustre.parse_servers,
    "read back": lustre.parse_read_back,
    "sinfo": slurm.parse_sinfo,
    "srun": slurm.parse_answers,
    "targets": prometheus.parse_targets,
    "sha256sum": sums.parse_sha256sums,
    "losses": lambda text: training.parse_losses(text, "loss"),
    "restore": training.parse_restore,
    "policy": apt.parse_policy,
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("text", ["", "\n", "command not found\n", "{}", "null", json.dumps({"status": "error"})])
def test_foreign_text_is_an_error(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        EVERY[name](text)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=40)
@given(text=st.text(max_size=200))
def test_any_text_is_read_or_refused(name: str, text: str) -> None:
    """Nothing but ValueError ever leaves a parser."""
    try:
        EVERY[name](text)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - the other case is no error at all

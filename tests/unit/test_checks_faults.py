"""Every check fails for its fault, and tells what is wrong; what decides nothing is INCONCLUSIVE or NOT_RUN."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from benchmarks.acceptance import suite
from benchmarks.dossier.model import Item
from medllm.manifest import MANIFEST_NAME, SIGNATURE_NAME
from medllm.site.model import Site
from medllm.verdict import Outcome
from tests.unit.acceptance_inputs import (
    CHECK_IDS,
    DEID_REPORT,
    RESTORE,
    SUBJECT,
    DataSet,
    change,
    check,
    command_of,
    good,
    good_results,
    listing,
    losses,
    nvlink,
    query_xml,
    read,
    site,
    targets,
    thresholds,
)

SITE = site()
THRESHOLDS = thresholds(SITE)
GOOD = good_results(SITE)
TEXT = good(SITE)
LOST = "Unable to determine the device handle for GPU3: 00000000:48:00.0: Unknown Error\n"


def run(identifier: str, probe: str, *, of: Site = SITE, **fields: object) -> Item:
    """The check's item on its first host when one probe gives something else."""
    host = of.group(check(identifier).where)[0]
    changed = change(GOOD, host.name, command_of(of, host, check(identifier), probe), **fields)
    plan = suite.plan(of, THRESHOLDS, [check(identifier)], SUBJECT)
    dossier, _ = suite.assess(plan, changed, created=datetime.now(UTC), duration_s=1)
    return dossier.items[0]


QUERY = "nvidia-smi -q -x"
FAULTS: list[tuple[str, str, dict[str, object], Outcome, str]] = [
    ("gpu_count", "nvidia-smi -L", {"stdout": listing(7), "stderr": LOST}, Outcome.FAIL, "lost: GPU 00000000:48:00.0"),
    ("gpu_count", "nvidia-smi -L", {"stdout": listing(7)}, Outcome.FAIL, "7 GPUs, wanted == 8"),
    ("gpu_count", "nvidia-smi -L", {"stdout": listing(8, "NVIDIA GH200")}, Outcome.FAIL, "0 GPUs"),
    ("gpu_count", "nvidia-smi -L", {"stdout": "No devices were found\n", "rc": 6}, Outcome.FAIL, "0 GPUs"),
    (
        "gpu_temperature",
        QUERY,
        {"stdout": query_xml().replace("<gpu_temp>29 C", "<gpu_temp>92 C", 1)},
        Outcome.FAIL,
        "92 °C",
    ),
    (
        "gpu_temperature",
        QUERY,
        {"stdout": query_xml().replace("<gpu_temp>29 C", "<gpu_temp>429 C", 1)},
        Outcome.INCONCLUSIVE,
        "physically impossible",
    ),
    (
        "gpu_temperature",
        QUERY,
        {"stdout": query_xml().replace("<gpu_temp>29 C", "<gpu_temp>N/A", 1)},
        Outcome.NOT_RUN,
        "no temperature",
    ),
    ("gpu_temperature", QUERY, {"stdout": query_xml(7)}, Outcome.NOT_RUN, "7 GPUs answer, 8 are declared"),
    (
        "gpu_ecc",
        QUERY,
        {"stdout": query_xml().replace("<dram_uncorrectable>0", "<dram_uncorrectable>1", 1)},
        Outcome.FAIL,
        "1 uncorrectable errors",
    ),
    (
        "gpu_ecc",
        QUERY,
        {
            "stdout": query_xml()
            .replace("_pending>No<", "_pending>Yes<")
            .replace("repair_pending>Yes<", "repair_pending>No<")
        },
        Outcome.FAIL,
        "waits to be remapped",
    ),
    (
        "gpu_ecc",
        QUERY,
        {"stdout": query_xml().replace("<dram_uncorrectable>0", "<dram_uncorrectable>N/A", 1)},
        Outcome.NOT_RUN,
        "is ECC on?",
    ),
    (
        "gpu_persistence",
        QUERY,
        {"stdout": query_xml().replace("<persistence_mode>Enabled", "<persistence_mode>Disabled", 1)},
        Outcome.FAIL,
        "7 GPUs",
    ),
    (
        "nvlink",
        "nvidia-smi nvlink -s",
        {"stdout": nvlink().replace("26.562 GB/s", "13.281 GB/s", 1)},
        Outcome.FAIL,
        "link 0",
    ),
    (
        "nvlink",
        "nvidia-smi nvlink -s",
        {"stdout": nvlink().replace("Link 17: 26.562 GB/s", "Link 17: <inactive>", 1)},
        Outcome.FAIL,
        "link 17 inactive",
    ),
    (
        "hca_link",
        "ibstat",
        {"stdout": TEXT["hca_link"]["ibstat"].replace("Active", "Initializing", 1)},
        Outcome.FAIL,
        "mlx5_0/1",
    ),
    (
        "hca_link",
        "ibstat",
        {"stdout": TEXT["hca_link"]["ibstat"].replace("Rate: 200", "Rate: 100", 1)},
        Outcome.FAIL,
        "100 Gb/s",
    ),
    (
        "hca_link",
        "ibstat",
        {"stdout": TEXT["hca_link"]["ibstat"].replace("Rate: 200", "Rate: 400", 1)},
        Outcome.INCONCLUSIVE,
        "physically impossible",
    ),
    (
        "hca_link",
        "ibstat",
        {"stdout": read("ibstat.h100-some-down.txt")},
        Outcome.FAIL,
        "Ethernet, InfiniBand is declared",
    ),
    (
        "driver_fabricmanager_match",
        "loaded module",
        {"stdout": read("proc-driver-nvidia-version.txt").replace("580.95.05", "580.82.07")},
        Outcome.FAIL,
        "module 580.82.07 is loaded",
    ),
    (
        "driver_fabricmanager_match",
        "installed packages",
        {"stdout": TEXT["driver_fabricmanager_match"]["installed packages"].replace("580.95.05", "580.82.07", 1)},
        Outcome.FAIL,
        "580.82.07-1 is installed",
    ),
    (
        "driver_fabricmanager_match",
        "installed packages",
        {
            "stdout": TEXT["driver_fabricmanager_match"]["installed packages"].replace(
                "\tinstalled", "\tconfig-files", 1
            )
        },
        Outcome.FAIL,
        "is not installed",
    ),
    (
        "driver_fabricmanager_match",
        QUERY,
        {"stdout": query_xml().replace("<state>Completed", "<state>In Progress", 1)},
        Outcome.FAIL,
        "fabric In Progress",
    ),
    (
        "driver_fabricmanager_match",
        QUERY,
        {"stdout": query_xml().replace("<status>Success", "<status>Insufficient Resources", 1)},
        Outcome.FAIL,
        "Insufficient Resources",
    ),
    (
        "driver_fabricmanager_match",
        QUERY,
        {"stdout": query_xml().replace("<state>Completed", "<state>In Progress").replace(">Success<", ">N/A<")},
        Outcome.FAIL,
        "fabric In Progress / N/A",
    ),
    (
        "driver_fabricmanager_match",
        QUERY,
        {"stdout": query_xml().replace(">Success<", ">N/A<", 1)},
        Outcome.NOT_RUN,
        "no fabric state",
    ),
    (
        "lustre_readiness",
        "write and read back",
        {"rc": None, "error": "timed out after 10 s"},
        Outcome.FAIL,
        "no answer in 10 s",
    ),
    (
        "lustre_readiness",
        "lfs getname",
        {"rc": 25, "stdout": "", "stderr": "lfs getname: '/mnt/lustre' is not on a mounted Lustre filesystem\n"},
        Outcome.FAIL,
        "not mounted",
    ),
    ("lustre_readiness", "lfs getname", {"stdout": "other-ffff8800376ed800 /mnt/lustre\n"}, Outcome.FAIL, "but other"),
    (
        "lustre_readiness",
        "lfs check servers",
        {"stdout": TEXT["lustre_readiness"]["lfs check servers"].replace(" active", ": inactive", 1)},
        Outcome.FAIL,
        "inactive",
    ),
    (
        "lustre_readiness",
        "write and read back",
        {"rc": 1, "stdout": "", "stderr": "dd: fsync failed: Input/output error\n"},
        Outcome.FAIL,
        "Input/output error",
    ),
    (
        "lustre_readiness",
        "write and read back",
        {"stdout": f"written={'ab' * 32} read={'cd' * 32} seconds=0.1\n"},
        Outcome.FAIL,
        "not what was written",
    ),
    ("container_start", "ctr run", {"stdout": listing() + "medllm-whole-list\nseconds=12.5\n"}, Outcome.FAIL, "12.5 s"),
    (
        "container_start",
        "ctr run",
        {"stdout": listing(7) + "medllm-whole-list\nseconds=1.5\n"},
        Outcome.FAIL,
        "7 GPUs inside",
    ),
    ("container_start", "ctr run", {"stdout": listing(7) + "seconds=1.5\n"}, Outcome.NOT_RUN, "lost the end"),
    (
        "container_start",
        "ctr run",
        {"rc": 1, "stdout": "", "stderr": "ctr: image not found\n"},
        Outcome.FAIL,
        "image not found",
    ),
    ("scheduler", "sinfo", {"stdout": "node1|drained|gpu:h200:8|xid79\n"}, Outcome.FAIL, "node1 drained (xid79)"),
    ("scheduler", "srun", {"rc": 1, "stdout": "", "stderr": "srun: error: gres\n"}, Outcome.FAIL, "did not run"),
    (
        "scheduler",
        "srun",
        {"stdout": TEXT["scheduler"]["srun"].replace("gpus=8", "gpus=4", 1)},
        Outcome.FAIL,
        "node1 got 4 GPUs",
    ),
    ("scheduler", "srun", {"stdout": TEXT["scheduler"]["srun"].split("\n", 1)[1]}, Outcome.FAIL, "3 nodes"),
    (
        "job_memlock",
        "srun",
        {"stdout": TEXT["job_memlock"]["srun"].replace("8192", "4096", 1)},
        Outcome.FAIL,
        "node1 4096 KiB",
    ),
    (
        "job_memlock",
        "srun",
        {"stdout": TEXT["job_memlock"]["srun"].split("\n", 1)[1]},
        Outcome.NOT_RUN,
        "no answer from node1",
    ),
    ("prometheus_targets", "targets", {"stdout": targets(SITE, health="down")}, Outcome.FAIL, "9 missing targets"),
    (
        "prometheus_targets",
        "targets",
        {"stdout": targets(SITE, scraped="2026-11-22T11:50:00Z")},
        Outcome.NOT_RUN,
        "stale: mgmt:9100 was scraped 600 s ago",
    ),
    (
        "prometheus_targets",
        "targets",
        {"stdout": targets(SITE, scraped="0001-01-01T00:00:00Z", health="unknown")},
        Outcome.INCONCLUSIVE,
        "not scraped yet",
    ),
    (
        "prometheus_targets",
        "targets",
        {"stdout": '2026-11-22T12:00:00Z\n{"status":"success","data":{"activeTargets":[]}}'},
        Outcome.FAIL,
        "is not scraped",
    ),
    ("deid_validated", SIGNATURE_NAME, {"stdout": DataSet().signature}, Outcome.FAIL, "signature"),
    (
        "deid_validated",
        MANIFEST_NAME,
        {"stdout": TEXT["deid_validated"][MANIFEST_NAME] + " "},
        Outcome.FAIL,
        "signature",
    ),
    (
        "shards_verified",
        "sha256sum",
        {"stdout": TEXT["shards_verified"]["sha256sum"].split("\n", 1)[1]},
        Outcome.FAIL,
        "missing",
    ),
    (
        "shards_verified",
        "sha256sum",
        {"stdout": TEXT["shards_verified"]["sha256sum"] + f"{'ab' * 32}  ./shards/extra.tar\n"},
        Outcome.FAIL,
        "extra.tar is not listed",
    ),
    (
        "shards_verified",
        "sha256sum",
        {"stdout": "ab" * 32 + TEXT["shards_verified"]["sha256sum"][64:]},
        Outcome.FAIL,
        "is altered",
    ),
    ("loss_falls", "metrics.jsonl", {"stdout": losses("loss", 6.0, 6.5)}, Outcome.FAIL, "training loss"),
    ("loss_falls", "metrics.jsonl", {"stdout": '{"step": 1, "loss": NaN}\n'}, Outcome.FAIL, "nan at step 1"),
    ("loss_falls", "metrics.jsonl", {"stdout": losses("loss", count=5)}, Outcome.INCONCLUSIVE, "5 steps"),
    ("loss_falls", "eval.jsonl", {"stdout": losses("val_loss", 6.0, 7.0, 4)}, Outcome.FAIL, "validation loss"),
    ("loss_falls", "eval.jsonl", {"stdout": '{"step": 20, "val_loss": 9.0}\n'}, Outcome.INCONCLUSIVE, "one evaluation"),
    ("loss_falls", "run.json", {"stdout": '{"manifest_sha256": "00"}'}, Outcome.NOT_RUN, "another data set"),
    (
        "checkpoint_restore",
        "verify_restore",
        {"rc": 1, "stdout": json.dumps({**RESTORE, "match": False, "problem": "shard 0 was altered"})},
        Outcome.FAIL,
        "shard 0 was altered",
    ),
    (
        "checkpoint_restore",
        "verify_restore",
        {"stdout": json.dumps({**RESTORE, "seconds": 301.0})},
        Outcome.FAIL,
        "301 s",
    ),
    (
        "checkpoint_restore",
        "verify_restore",
        {"rc": 2, "stdout": "", "stderr": "error: the run has no checkpoint yet\n"},
        Outcome.NOT_RUN,
        "no checkpoint yet",
    ),
    ("checkpoint_restore", "verify_restore", {"rc": 1, "stdout": json.dumps(RESTORE)}, Outcome.NOT_RUN, "disagree"),
]


@pytest.mark.parametrize(
    ("identifier", "probe", "fields", "outcome", "reason"), FAULTS, ids=[f"{f[0]}-{f[4][:24]}" for f in FAULTS]
)
def test_fault(identifier: str, probe: str, fields: dict[str, object], outcome: Outcome, reason: str) -> None:
    item = run(identifier, probe, **fields)
    assert (item.outcome, reason in item.reason) == (outcome, True), item.reason


def test_every_check_can_fail() -> None:
    assert {fault[0] for fault in FAULTS if fault[3] is Outcome.FAIL} == set(CHECK_IDS)


@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        (DEID_REPORT, Outcome.PASS),
        ({**DEID_REPORT, "validation_passed": False}, Outcome.FAIL),
        ({**DEID_REPORT, "phi_counts": {"name": {"original": 12, "redacted": 2}}}, Outcome.FAIL),
        ({**DEID_REPORT, "phi_counts": {}}, Outcome.INCONCLUSIVE),
        ({**DEID_REPORT, "validation_passed": "yes"}, Outcome.NOT_RUN),
        ({**DEID_REPORT, "phi_counts": {"name": {"original": 12}}}, Outcome.NOT_RUN),
        ({**DEID_REPORT, "phi_counts": {"name": 12}}, Outcome.NOT_RUN),
        ({"validation_passed": True}, Outcome.NOT_RUN),
        (None, Outcome.NOT_RUN),
    ],
)
def test_the_deid_report_is_read_as_it_is(report: object, outcome: Outcome) -> None:
    data = DataSet({"deidentification": report})
    item = check("deid_validated")
    mgmt = SITE.mgmt.name
    results = GOOD
    for probe, text in ((MANIFEST_NAME, data.manifest), (SIGNATURE_NAME, data.signature), ("data.pub", data.key)):
        results = change(results, mgmt, command_of(SITE, SITE.mgmt, item, probe), stdout=text)
    plan = suite.plan(SITE, THRESHOLDS, [item], SUBJECT)
    dossier, _ = suite.assess(plan, results, created=datetime.now(UTC), duration_s=1)
    assert dossier.items[0].outcome is outcome

"""Good inputs for every acceptance check, made from the captures in tests/data/acceptance; tests then break them."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from medllm.checks import CHECKS
from medllm.checks.base import Check, Subject
from medllm.checks.provenance import provenance_probe
from medllm.manifest import MANIFEST_NAME, SIGNATURE_NAME, public_key_pem, sign_manifest
from medllm.remote import Result
from medllm.site import load_site
from medllm.site.lock import VendorKey
from medllm.site.model import Host, Site
from medllm.thresholds import thresholds_of
from medllm.verdict import Threshold

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "acceptance"
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
SUBJECT = Subject("medllm-sample", "medllm-tiny")
KEYRING = (DATA / "debian-bookworm-stable.gpg").read_bytes()
VENDOR = "4D64FEC119C2029067D6E791F8D2585B8783D481"
CHECK_IDS = [check.id for check in CHECKS]


def read(name: str) -> str:
    """A transcript."""
    return (DATA / name).read_text()


def site(inventory: str = "lab") -> Site:
    """A real site whose lock trusts the key of KEYRING, so that a PASS can be a measured one."""
    loaded = load_site(ROOT / "inventory" / inventory)
    keys = [VendorKey(owner="test", fingerprint=VENDOR)]
    return loaded.model_copy(update={"lock": loaded.lock.model_copy(update={"vendor_keys": keys})})


def thresholds(of: Site, inventory: str = "lab") -> Mapping[str, Threshold | None]:
    """The site's thresholds."""
    return thresholds_of(ROOT / "inventory" / inventory, of)


def check(identifier: str) -> Check:
    """One check of the registry."""
    return next(item for item in CHECKS if item.id == identifier)


def result(
    host: str, command: str, stdout: str = "", *, rc: int | None = 0, stderr: str = "", error: str | None = None
) -> Result:
    """What a command did."""
    return Result(host, command, rc, stdout, stderr, NOW, 0.5, error)


def query_xml(count: int = 8, *, model: str = "NVIDIA H200", driver: str = "580.95.05") -> str:
    """The captured GPU `count` times, as GPUs of this model under this driver."""
    text = read("nvidia-smi-q-x.h100.xml")
    head, block = text[: text.index("\t<gpu id")], text[text.index("\t<gpu id") : text.index("</nvidia_smi_log>")]
    head = head.replace("580.105.08", driver).replace("<attached_gpus>1<", f"<attached_gpus>{count}<")
    block = block.replace("NVIDIA H100 80GB HBM3", model).replace("580.105.08", driver)
    blocks = [
        block.replace("00000000:53:00.0", f"00000000:{0x18 + number * 16:02X}:00.0").replace(
            "GPU-00000000-0000-0000-0000-000000000000", uuid(number)
        )
        for number in range(count)
    ]
    return head + "".join(blocks) + "</nvidia_smi_log>\n"


def uuid(number: int) -> str:
    """A GPU's UUID."""
    return f"GPU-00000000-0000-0000-0000-{number:012d}"


def listing(count: int = 8, model: str = "NVIDIA H200") -> str:
    """`nvidia-smi -L`."""
    return "".join(f"GPU {number}: {model} (UUID: {uuid(number)})\n" for number in range(count))


def nvlink(count: int = 8) -> str:
    """`nvidia-smi nvlink -s`: the links of the capture's first GPU, for each GPU."""
    links = read("nvlink-s.h100.txt").splitlines()[1:19]
    return "".join(
        f"GPU {number}: NVIDIA H200 (UUID: {uuid(number)})\n" + "\n".join(links) + "\n" for number in range(count)
    )


def ibstat(names: Iterable[str] = ("mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3")) -> str:
    """`ibstat`: the captured 200 Gb/s adapter, its port Active, under these names."""
    text = read("ibstat.hdr200-initializing.txt").replace("State: Initializing", "State: Active")
    return "".join(text.replace("mlx5_5", name) for name in names)


def packages(of: Site) -> str:
    """`dpkg-query`: what the lock says."""
    locked = {**of.lock.nvidia_driver.packages, **of.lock.nvidia_fabricmanager.packages}
    return "".join(f"{name}\t{version}\tinstalled\n" for name, version in locked.items())


def targets(of: Site, *, scraped: str = "2026-11-22T11:59:58.123456789Z", health: str = "up") -> str:
    """The server's clock and `/api/v1/targets` with every exporter, in Prometheus 2.42's format."""
    wanted = [(host, of.ports.node_exporter, "node-exporter") for host in of.hosts]
    wanted += [(host, of.ports.dcgm_exporter, "dcgm-exporter") for host in of.gpu_nodes]
    active = [
        {
            "discoveredLabels": {"__address__": f"{host.address}:{port}", "job": job},
            "labels": {"instance": host.name, "job": job},
            "scrapePool": job,
            "scrapeUrl": f"http://{host.address}:{port}/metrics",
            "globalUrl": f"http://{host.address}:{port}/metrics",
            "lastError": "" if health == "up" else "connection refused",
            "lastScrape": scraped,
            "lastScrapeDuration": 0.004,
            "health": health,
            "scrapeInterval": "5s",
            "scrapeTimeout": "5s",
        }
        for host, port, job in wanted
    ]
    body = {"status": "success", "data": {"activeTargets": active, "droppedTargets": []}}
    return "2026-11-22T12:00:00Z\n" + json.dumps(body)


def losses(name: str, first: float = 10.8, last: float = 6.2, count: int = 40) -> str:
    """A JSON Lines file of a falling loss."""
    step = (first - last) / (count - 1)
    return "".join(json.dumps({"step": number + 1, name: first - step * number}) + "\n" for number in range(count))


class DataSet:
    """A signed data set of two files; its texts as the probes print them."""

    def __init__(self, meta: dict[str, object] | None = None) -> None:
        key = Ed25519PrivateKey.generate()
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary)
            (place / "shards").mkdir()
            (place / "shards" / "train-000000.tar").write_bytes(b"shard")
            (place / "tokenizer.json").write_bytes(b"{}")
            sign_manifest(place, key, DEID_META if meta is None else meta)
            self.manifest = (place / MANIFEST_NAME).read_text()
            self.signature = (place / SIGNATURE_NAME).read_text()
        self.key = public_key_pem(key.public_key()).decode()
        self.sums = "".join(
            f"{hashlib.sha256(content).hexdigest()}  ./{path}\n"
            for path, content in (("shards/train-000000.tar", b"shard"), ("tokenizer.json", b"{}"))
        )
        self.sha256 = hashlib.sha256(self.manifest.encode()).hexdigest()


DEID_REPORT: dict[str, object] = {
    "files_passed": 4,
    "files_quarantined": 0,
    "phi_counts": {"name": {"original": 12, "redacted": 0}, "mrn": {"original": 3, "redacted": 0}},
    "validation_passed": True,
}
DEID_META: dict[str, object] = {"stage": "pack", "deidentification": DEID_REPORT}
RESTORE = {"step": 40, "seconds": 3.5, "state_sha256": "ab" * 32, "match": True, "parameters": 1000, "problem": None}


def good(of: Site) -> dict[str, dict[str, str]]:
    """What each probe of each check prints on a healthy site: by check and probe name."""
    data = DataSet()
    manifest = {MANIFEST_NAME: data.manifest, SIGNATURE_NAME: data.signature, "data.pub": data.key}
    query = {"nvidia-smi -q -x": query_xml()}
    answers = "".join(f"node={host.name} memlock={of.limits.memlock} gpus={of.gpu.per_node}\n" for host in of.gpu_nodes)
    servers = "medllm-MDT0000-mdc-ffff880232f40800 active.\nmedllm-OST0000-osc-ffff880232f40800 active.\n"
    return {
        "gpu_count": {"nvidia-smi -L": listing()},
        "gpu_temperature": query,
        "gpu_ecc": query,
        "gpu_persistence": query,
        "nvlink": {"nvidia-smi nvlink -s": nvlink()},
        "hca_link": {"ibstat": ibstat()},
        "driver_fabricmanager_match": {
            **query,
            "loaded module": read("proc-driver-nvidia-version.txt"),
            "installed packages": packages(of),
        },
        "lustre_readiness": {
            "lfs getname": f"medllm-ffff8800376ed800 {of.lustre.mount_point}\n",
            "lfs check servers": servers,
            "write and read back": f"written={'ab' * 32} read={'ab' * 32} seconds=0.041000000\n",
        },
        "container_start": {"ctr run": listing() + "medllm-whole-list\nseconds=1.204000000\n"},
        "scheduler": {
            "sinfo": "".join(f"{host.name}|idle|gpu:h200:8|none\n" for host in of.gpu_nodes),
            "srun": answers,
        },
        "job_memlock": {"srun": answers},
        "prometheus_targets": {"targets": targets(of)},
        "deid_validated": manifest,
        "shards_verified": {**manifest, "sha256sum": data.sums},
        "loss_falls": {
            "run.json": json.dumps({"manifest_sha256": data.sha256}),
            "metrics.jsonl": losses("loss"),
            "eval.jsonl": losses("val_loss", count=4),
            "sha256sum manifest.json": f"{data.sha256}  /mnt/lustre/datasets/medllm-sample/manifest.json\n",
        },
        "checkpoint_restore": {"verify_restore": json.dumps(RESTORE) + "\n"},
    }


def facts(binaries: Iterable[str]) -> str:
    """What the provenance probe prints when every binary is the vendor's own."""
    policy = (
        "vendor-tools:\n  Installed: 1.0-1\n  Candidate: 1.0-1\n  Version table:\n *** 1.0-1 1001\n"
        "        500 https://vendor.example/apt stable/main amd64 Packages\n        100 /var/lib/dpkg/status\n"
    )
    source = (
        "Types: deb\nURIs: https://vendor.example/apt\nSuites: stable\nComponents: main\n"
        "Signed-By: /etc/apt/keyrings/vendor.gpg\n"
    )
    lines = [f"binary\t{name}\t/usr/bin/{name}\tvendor-tools\t{'0' * 32}\t{'0' * 32}" for name in sorted(set(binaries))]
    lines += [
        "policy\tvendor-tools\t" + base64.b64encode(policy.encode()).decode(),
        "source\t/etc/apt/sources.list.d/vendor.sources\t" + base64.b64encode(source.encode()).decode(),
        "key\t/etc/apt/keyrings/vendor.gpg\t" + base64.b64encode(KEYRING).decode(),
    ]
    return "\n".join(lines) + "\n"


def good_results(of: Site, checks: Iterable[Check] = CHECKS) -> dict[str, dict[str, Result]]:
    """Results by host and command, as `suite.collect` returns them, all good and measured."""
    texts = good(of)
    results: dict[str, dict[str, Result]] = {host.name: {} for host in of.hosts}
    binaries: dict[str, set[str]] = {host.name: set() for host in of.hosts}
    for item in checks:
        for host in of.group(item.where):
            binaries[host.name] |= set(item.binaries)
            for probe in item.probes(of, host, SUBJECT):
                results[host.name][probe.command] = result(host.name, probe.command, texts[item.id][probe.name])
        for host in of.gpu_nodes:
            binaries[host.name] |= set(item.node_binaries)
    for host in of.hosts:
        if binaries[host.name]:
            probe = provenance_probe(binaries[host.name])
            results[host.name][probe.command] = result(host.name, probe.command, facts(binaries[host.name]))
    return results


def command_of(of: Site, host: Host, item: Check, probe_name: str) -> str:
    """The command of one probe."""
    return next(probe.command for probe in item.probes(of, host, SUBJECT) if probe.name == probe_name)


def change(
    results: dict[str, dict[str, Result]], host: str, command: str, **fields: object
) -> dict[str, dict[str, Result]]:
    """A copy in which one result is different."""
    changed = {name: dict(by_command) for name, by_command in results.items()}
    changed[host][command] = replace(changed[host][command], **fields)  # type: ignore[arg-type]
    return changed

"""A host's inventory for the dossier, from probes that ran anyway; what they did not say stays empty."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from benchmarks.dossier.model import GpuPart, HcaPart, HostPart
from medllm.checks.gpu import QUERY
from medllm.checks.hca_link import IBSTAT
from medllm.parsers.ibstat import parse_ibstat
from medllm.parsers.nvidia_smi import parse_query
from medllm.remote import Result
from medllm.site.model import Host


def host_part(host: Host, results: Mapping[str, Result]) -> HostPart:
    """The host's GPUs and adapters with their serial numbers."""
    driver, gpus, hcas = None, [], []
    query, ibstat = results.get(QUERY.command), results.get(IBSTAT.command)
    if query is not None and query.ok:
        # What can't be parsed is said by the checks that read it.
        with contextlib.suppress(ValueError):
            log = parse_query(query.stdout)
            driver = log.driver_version
            gpus = [
                GpuPart(bus_id=gpu.bus_id, name=gpu.name, uuid=gpu.uuid, serial=gpu.serial, vbios=gpu.vbios)
                for gpu in log.gpus
            ]
    if ibstat is not None and ibstat.ok:
        with contextlib.suppress(ValueError):
            hcas = [
                HcaPart(name=hca.name, model=hca.model, firmware=hca.firmware, guid=hca.guid)
                for hca in parse_ibstat(ibstat.stdout)
            ]
    errors = {result.error for result in results.values()}
    unreachable = bool(results) and None not in errors and all(result.rc is None for result in results.values())
    return HostPart(
        name=host.name,
        address=host.address,
        groups=list(host.groups),
        problem="; ".join(sorted(error for error in errors if error)) if unreachable else None,
        driver=driver,
        gpus=gpus,
        hcas=hcas,
    )

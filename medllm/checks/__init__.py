"""The registry: every check once, in the order in which a dossier shows them."""

from __future__ import annotations

from medllm.checks import (
    checkpoint_restore,
    container_start,
    deid_validated,
    driver_fabricmanager_match,
    gpu_count,
    gpu_ecc,
    gpu_persistence,
    gpu_temperature,
    hca_link,
    job_memlock,
    loss_falls,
    lustre_readiness,
    nvlink,
    prometheus_targets,
    scheduler,
    shards_verified,
)
from medllm.checks.base import Check

CHECKS: tuple[Check, ...] = (
    gpu_count.CHECK,
    gpu_temperature.CHECK,
    gpu_ecc.CHECK,
    nvlink.CHECK,
    hca_link.CHECK,
    lustre_readiness.CHECK,
    driver_fabricmanager_match.CHECK,
    gpu_persistence.CHECK,
    container_start.CHECK,
    scheduler.CHECK,
    job_memlock.CHECK,
    prometheus_targets.CHECK,
    deid_validated.CHECK,
    shards_verified.CHECK,
    loss_falls.CHECK,
    checkpoint_restore.CHECK,
)

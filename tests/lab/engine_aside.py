"""Tests that break training or nodes by hand do so without the recovery engine, which would mend them meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medllm.remote import Remote

UNIT = "medllm-recover.service"


@contextmanager
def engine_stopped(mgmt: Remote) -> Iterator[None]:
    """Stop the engine, if it runs, and start it again afterwards."""
    ran = mgmt.run(f"systemctl is-active {UNIT}", deadline_s=20).stdout.strip() in {"active", "activating"}
    if ran:
        mgmt.run(f"systemctl stop {UNIT}", deadline_s=60, sudo=True).check()
    try:
        yield
    finally:
        if ran:
            mgmt.run(f"systemctl reset-failed {UNIT}; systemctl start {UNIT}", deadline_s=60, sudo=True).check()

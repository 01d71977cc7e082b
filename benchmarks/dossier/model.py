"""The dossier: what was found, on what evidence, against which threshold, from which raw text. Schema version 1."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from medllm.verdict import Evidence, Operator, Outcome

SCHEMA = "medllm-dossier-1"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """Unknown fields are errors: a dossier of another version is not half understood."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SitePart(Part):
    """The declaration that was judged; `sha256` is that of its canonical export."""

    name: str
    profile: str
    versions: str
    thresholds: str
    sha256: str


class Selection(Part):
    """What was asked to run; empty lists mean everything."""

    tags: list[str]
    hosts: list[str]


class GpuPart(Part):
    bus_id: str
    name: str | None
    uuid: str | None
    serial: str | None
    vbios: str | None


class HcaPart(Part):
    name: str
    model: str
    firmware: str
    guid: str


class HostPart(Part):
    """One machine; `problem` says why it could not be reached."""

    name: str
    address: str
    groups: list[str]
    problem: str | None
    driver: str | None
    gpus: list[GpuPart]
    hcas: list[HcaPart]


class ThresholdPart(Part):
    """What was wanted; `asked` is what the users' documents ask; `low` and `high` are the physical bounds."""

    quantity: str
    op: Operator
    value: int | float | str
    unit: str
    asked: str
    source: str
    derivation: str
    low: float
    high: float


class MeasurementPart(Part):
    device: str
    value: int | float | str
    unit: str
    detail: str
    refuted: str | None
    unsure: str | None
    command: str
    time: datetime
    outcome: Outcome


class Item(Part):
    """One check on one host. `evidence` is None when nothing could be read. `artifacts` are hashes of raw texts."""

    check: str
    title: str
    proves: str
    group: str
    host: str
    outcome: Outcome
    evidence: Evidence | None
    evidence_reason: str
    label: str
    reason: str
    clears: list[str]
    threshold: ThresholdPart
    measurements: list[MeasurementPart]
    artifacts: list[Sha256]


class NotApplicable(Part):
    check: str
    title: str
    why: str


class Waiver(Part):
    """Somebody answers for an item that did not pass, until a day. Never covers simulated evidence."""

    check: str
    host: str | None
    reason: Annotated[str, Field(min_length=10)]
    approver: Annotated[str, Field(min_length=2)]
    created: datetime
    expires: datetime

    def covers(self, item: Item, now: datetime) -> bool:
        """Whether it stands for this item now."""
        return (
            item.check == self.check
            and self.host in (None, item.host)
            and self.created <= now < self.expires
            and item.outcome in (Outcome.FAIL, Outcome.NOT_RUN)
            and item.evidence is not Evidence.SIMULATED
        )


class Artifact(Part):
    """A raw text that was read: file `raw/<sha256>.txt` beside the dossier, hashed as it lies there."""

    sha256: Sha256
    host: str
    probe: str
    command: str
    started: datetime
    duration_s: float
    rc: int | None
    error: str | None


class Dossier(Part):
    """One acceptance run. `complete`: every applicable check on every host was asked for."""

    schema_version: Literal["medllm-dossier-1"]
    created: datetime
    duration_s: float
    tool_version: str
    site: SitePart
    dataset: str
    run: str
    complete: bool
    selection: Selection
    hosts: list[HostPart]
    items: list[Item]
    not_applicable: list[NotApplicable]
    waivers: list[Waiver]
    artifacts: list[Artifact]


class Statement(Part):
    """What a signer signs: this dossier, in this role, relying on these waivers."""

    statement_version: Literal["medllm-acceptance-1"] = "medllm-acceptance-1"
    dossier_sha256: Sha256
    signer: Annotated[str, Field(min_length=2)]
    role: Annotated[str, Field(min_length=2)]
    time: datetime
    waivers: list[Waiver]


class Signature(Part):
    """An Ed25519 signature (base64) over the statement's canonical JSON; the key as PEM."""

    statement: Statement
    public_key: str
    signature: str


class Signatures(Part):
    signatures: list[Signature]


class Seal(Part):
    """What `medllm accept run` leaves beside dossier.json: its Ed25519 signature (base64) over that file's bytes by the
    key (PEM) of the machine that ran the checks. It accepts nothing; it shows that nobody edited the findings."""

    public_key: str
    signature: str

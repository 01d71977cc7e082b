"""The thresholds catalogue: read, checked against physics, and bound to one site."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medllm.errors import Problem, UserError, user_error
from medllm.site.model import Site
from medllm.site.source import Document, plain, read_document
from medllm.verdict import Threshold, Value

# Dense BF16 peak in TFLOPS (NVIDIA data sheets; the H200's at 1830 MHz as in stas00's accelerator README).
PEAK_BF16_TFLOPS = {"NVIDIA H200": 989.0, "NVIDIA A100-SXM4-80GB": 312.0}

Quantity = Literal["count", "temperature", "port_rate", "duration", "loss_change", "matmul_bf16", "nvlink_duplex"]


def physical_bounds(quantity: Quantity, site: Site) -> tuple[float, float, str]:
    """Lowest and highest possible value of a quantity on this site, and why.

    Units: count 1, temperature °C, port_rate Gb/s, duration s, loss_change nats, matmul_bf16 TFLOPS a GPU,
    nvlink_duplex GB/s a GPU, both directions.
    """
    if quantity == "count":
        return 0, 1e9, "a count is not negative"
    if quantity == "temperature":
        return -40, 125, "silicon is rated from -40 to 125 °C"
    if quantity == "port_rate":
        return 0, site.fabric.rate_gbps, f"the ports are declared at {site.fabric.rate_gbps} Gb/s"
    if quantity == "duration":
        return 0, 30 * 86400, "a check takes between nothing and a month"
    if quantity == "loss_change":
        return -100, 100, "a cross entropy over any vocabulary lies below 100 nats"
    if quantity == "matmul_bf16":
        peak = PEAK_BF16_TFLOPS[site.gpu.model]
        return 0, peak, f"{site.gpu.model} peaks at {peak:g} TFLOPS dense BF16"
    duplex = 2 * site.gpu.nvlinks * site.gpu.nvlink_gbs
    return 0, duplex, f"{site.gpu.nvlinks} links of {site.gpu.nvlink_gbs:g} GB/s each way carry {duplex:g} GB/s"


class _Variant(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    when: dict[str, str | int | float | list[str | int | float]] = {}
    quantity: Quantity
    unit: Annotated[str, Field(min_length=1)]
    op: Literal["==", "<", "<=", ">", ">="]
    value: int | float | str | None = None
    value_from: Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)+$")] | None = None
    asked: Annotated[str, Field(min_length=3)]
    source: Annotated[str, Field(min_length=3)]
    derivation: Annotated[str, Field(min_length=3)]

    @model_validator(mode="after")
    def _one_value(self) -> _Variant:
        if (self.value is None) == (self.value_from is None):
            raise ValueError("give either value or value_from")
        return self


class _Catalogue(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str
    thresholds: dict[str, Annotated[list[_Variant], Field(min_length=1)]]


def load_thresholds(path: Path, site: Site) -> Mapping[str, Threshold | None]:
    """All thresholds of a catalogue, bound to a site; None where no variant applies to it.

    Raises:
        UserError: unreadable, unknown keys, a physically impossible value, or an override of a key that is not there.
    """
    document = read_document(path)
    try:
        catalogue = _Catalogue.model_validate(plain(document.data))
    except ValidationError as error:
        raise UserError(
            *(
                Problem(
                    detail["msg"].removeprefix("Value error, "),
                    "see the other entries of this file",
                    path,
                    document.line_of(detail["loc"]),
                    ".".join(map(str, detail["loc"])),
                )
                for detail in error.errors()
            )
        ) from None
    if catalogue.id != path.stem:
        raise user_error(
            f"id {catalogue.id!r} is not the file's name", f"write id: {path.stem}", file=path, line=1, key="id"
        )
    unknown = sorted(set(site.threshold_overrides) - set(catalogue.thresholds))
    if unknown:
        raise user_error(
            f"site_threshold_overrides names {unknown[0]!r}, which is no threshold",
            f"use one of: {', '.join(sorted(catalogue.thresholds))}",
            key="site_threshold_overrides",
        )
    return {key: _bind(key, variants, site, document) for key, variants in catalogue.thresholds.items()}


def thresholds_of(inventory: Path, site: Site) -> Mapping[str, Threshold | None]:
    """The catalogue that the site names, from beside its inventory."""
    return load_thresholds(inventory.parent / "thresholds" / f"{site.thresholds_catalogue}.yml", site)


def site_value(site: Site, dotted: str) -> Value:
    """A plain value of the site by its dotted name; `derived.slurm_nodes` counts the nodes under Slurm.

    Raises:
        KeyError: no such value.
    """
    if dotted == "derived.slurm_nodes":
        return sum(host.scheduler == "slurm" for host in site.gpu_nodes)
    node: Any = site
    for part in dotted.split("."):
        if part not in type(node).model_fields:
            raise KeyError(dotted)
        node = getattr(node, part)
    if not isinstance(node, int | float | str):
        raise KeyError(dotted)
    return node


def _bind(key: str, variants: list[_Variant], site: Site, document: Document) -> Threshold | None:
    for index, variant in enumerate(variants):
        place = ("thresholds", key, index)

        def refuse(rule: str, fix: str, name: str, place: tuple[str | int, ...] = place) -> UserError:
            line = document.line_of((*place, name))
            return user_error(rule, fix, file=document.path, line=line, key=f"{key}.{name}")

        try:
            fits = all(_fits(site_value(site, name), wanted) for name, wanted in variant.when.items())
        except KeyError as error:
            raise refuse(f"{error.args[0]!r} is no plain value of the site", "name one that is", "when") from None
        if not fits:
            continue
        value: Value
        source = variant.source
        if key in site.threshold_overrides:
            value, source = site.threshold_overrides[key].value, site.threshold_overrides[key].source
        elif variant.value_from is not None:
            try:
                value = site_value(site, variant.value_from)
            except KeyError:
                raise refuse(
                    f"{variant.value_from!r} is no plain value of the site", "name one that is", "value_from"
                ) from None
        else:
            assert variant.value is not None
            value = variant.value
        low, high, why = physical_bounds(variant.quantity, site)
        if isinstance(value, str) or not math.isfinite(value) or not low <= value <= high:
            raise refuse(
                f"{value} {variant.unit} is physically impossible: {why}",
                f"set a value from {low:g} to {high:g}",
                "value_from" if variant.value_from else "value",
            )
        return Threshold(
            key, variant.quantity, variant.op, value, variant.unit, variant.asked, source, variant.derivation, low, high
        )
    return None


def _fits(value: Value, wanted: str | int | float | list[str | int | float]) -> bool:
    return value in wanted if isinstance(wanted, list) else value == wanted

"""Which layouts of a training run can work: the rules, each with its source, and the nearest layout that keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from planner.model_size import ModelShape, padded_vocabulary

Family = Literal["zero3", "3d"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How ranks share a model: `tensor` · `pipeline` · `data` of them, and the batch between them.

    Attributes:
        zero: which of the optimizer's states (1), gradients (2) and weights (3) the data-parallel ranks share
        micro: samples that a rank takes forward at once
        accumulation: such passes in a step
    """

    tensor: int
    pipeline: int
    data: int
    zero: int
    micro: int
    accumulation: int

    @property
    def world(self) -> int:
        """Ranks."""
        return self.tensor * self.pipeline * self.data

    @property
    def global_batch(self) -> int:
        """Samples a step."""
        return self.data * self.micro * self.accumulation

    @property
    def family(self) -> Family:
        """`zero3` shares out weights over all ranks; `3d` cuts the model, and shares out no more than ZeRO-1 does."""
        return "zero3" if self.zero == 3 else "3d"

    def __str__(self) -> str:
        parts = f"TP{self.tensor}·PP{self.pipeline}·DP{self.data} ZeRO-{self.zero}"
        return f"{parts}, micro {self.micro}, accumulation {self.accumulation}"


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a layout breaks: what it says of this one, where the rule is from, what to do."""

    rule: str
    source: str
    fix: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is: GPUs of a node, nodes; `gpus_per_node` on a CPU site is its ranks per node."""

    gpus_per_node: int
    nodes: int

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.gpus_per_node * self.nodes


def broken_rules(layout: Layout, shape: ModelShape, machine: Machine, global_batch: int) -> list[Broken]:
    """All rules that `layout` breaks; none when it can run.

    Args:
        global_batch: samples a step that the run is to have
    """
    return [*_of_deepspeed(layout), *_of_the_model(layout, shape), *_of_the_machine(layout, machine, global_batch)]


def _of_deepspeed(layout: Layout) -> Iterator[Broken]:
    if layout.pipeline > 1 and layout.zero > 1:
        yield Broken(
            f"ZeRO-{layout.zero} and {layout.pipeline} pipeline stages exclude each other",
            "DeepSpeed asserts it, runtime/pipe/engine.py (#1629, #3589)",
            "take ZeRO-1 with the pipeline, or ZeRO-3 without one",
        )
    if layout.tensor > 1 and layout.zero > 1:
        yield Broken(
            f"ZeRO-{layout.zero} and {layout.tensor} tensor-parallel ranks: our layers keep a rank's part whole",
            "DeepSpeed #8168, #8185: with its own tensor parallelism exports lost parts",
            "take ZeRO-1 with tensor parallelism, or ZeRO-3 without",
        )
    if layout.zero not in (1, 3):
        yield Broken(
            f"ZeRO-{layout.zero} is no layout of ours",
            "ZeRO-2 saves gradients that ZeRO-3 saves too, and the pipeline refuses it",
            "take ZeRO-1 or ZeRO-3",
        )


def _of_the_model(layout: Layout, shape: ModelShape) -> Iterator[Broken]:
    for name, value in (("heads", shape.heads), ("feed_forward", shape.feed_forward), ("vocabulary", shape.vocabulary)):
        if value % layout.tensor:
            fix = "take a divisor of it"
            if name == "vocabulary":
                fix = f"pad model.vocabulary to {padded_vocabulary(value, layout.tensor)}"
            yield Broken(
                f"{layout.tensor} tensor-parallel ranks can't share model.{name} {value} evenly",
                "Shoeybi et al. 2019 (Megatron-LM), section 3: each rank takes whole heads, columns and rows",
                fix,
            )
    if shape.layers % layout.pipeline:
        yield Broken(
            f"{layout.pipeline} stages can't share {shape.layers} layers evenly",
            "Narayanan et al. 2021 (arXiv:2104.04473), section 2.2: the largest stage sets the pace",
            "take a divisor of model.layers",
        )


def _of_the_machine(layout: Layout, machine: Machine, global_batch: int) -> Iterator[Broken]:
    if layout.world != machine.gpus:
        yield Broken(
            f"{layout.tensor}·{layout.pipeline}·{layout.data} are {layout.world} ranks, there are {machine.gpus}",
            "one rank a GPU",
            "let tensor·pipeline·data be the number of GPUs",
        )
    if layout.tensor > machine.gpus_per_node or machine.gpus_per_node % layout.tensor:
        yield Broken(
            f"{layout.tensor} tensor-parallel ranks do not fit into nodes of {machine.gpus_per_node} GPUs",
            "Narayanan et al. 2021, section 3.2: their all-reduce in each layer needs the links inside a node",
            "take a divisor of a node's GPUs",
        )
    if layout.global_batch != global_batch:
        need = global_batch / (layout.data * layout.micro)
        fix = (
            f"accumulate {need:.0f} micro-batches"
            if need == int(need)
            else f"take a global batch that is a multiple of {layout.data * layout.micro}"
        )
        yield Broken(
            f"{layout.data} replicas · {layout.micro} samples · {layout.accumulation} passes are "
            f"{layout.global_batch} samples a step, not {global_batch}",
            "DeepSpeed: train_batch_size = micro-batch · accumulation · data-parallel size",
            fix,
        )
    if layout.pipeline > 1 and layout.accumulation < layout.pipeline:
        yield Broken(
            f"{layout.accumulation} micro-batches can't fill {layout.pipeline} stages",
            "Narayanan et al. 2021, section 2.2.1: a bubble of (stages - 1)/micro-batches",
            f"accumulate at least {layout.pipeline} micro-batches; 4 a stage keep the bubble below a fifth",
        )


def possible(shape: ModelShape, machine: Machine, global_batch: int, micros: Iterable[int]) -> list[Layout]:
    """All layouts that break no rule, by family, tensor and pipeline size."""
    found = []
    divisors = [number for number in range(1, machine.gpus + 1) if machine.gpus % number == 0]
    for tensor, pipeline, zero, micro in product(divisors, divisors, (1, 3), sorted(set(micros))):
        data, left = divmod(machine.gpus, tensor * pipeline)
        passes, rest = divmod(global_batch, max(1, data) * micro)
        layout = Layout(tensor, pipeline, data, zero, micro, passes)
        if not left and not rest and passes and not broken_rules(layout, shape, machine, global_batch):
            found.append(layout)
    return found


def nearest(layout: Layout, shape: ModelShape, machine: Machine, global_batch: int) -> Layout | None:
    """The layout that breaks no rule and differs least: first in its family, then in its factors, then in the batch.

    None when the global batch can't be shared out at all.
    """
    micros = {layout.micro, *(number for number in (1, 2, 4, 8, 16, 32) if number <= max(32, layout.micro))}

    def distance(other: Layout) -> tuple[float, ...]:
        factors = ((layout.tensor, other.tensor), (layout.pipeline, other.pipeline), (layout.data, other.data))
        return (
            float(layout.family != other.family),
            sum(max(a, b) / max(1, min(a, b)) - 1 for a, b in factors),
            max(layout.micro, other.micro) / min(layout.micro, other.micro),
        )

    return min(possible(shape, machine, global_batch, micros), key=distance, default=None)


def shrunk(layout: Layout, gpus: int) -> Layout | None:
    """The largest layout of the same tensor and pipeline size on at most `gpus` ranks with the same global batch."""
    cut = layout.tensor * layout.pipeline
    for data in range(gpus // cut, 0, -1):
        passes, rest = divmod(layout.global_batch, data * layout.micro)
        if not rest and passes >= layout.pipeline:
            return replace(layout, data=data, accumulation=passes)
    return None

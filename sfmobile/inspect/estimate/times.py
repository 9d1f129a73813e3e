"""Where the time of a bundle goes on a device: per component and block, estimated or measured, against a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sfmobile.files import StrictModel
from sfmobile.inspect.estimate.cost import CallEstimate, CostModel, cost_model, estimate_call
from sfmobile.inspect.estimate.fusion import Segment, fuse
from sfmobile.inspect.lint.attention import long_products
from sfmobile.inspect.lint.rule import rule_book
from sfmobile.mlpackage.graph import Graph

if TYPE_CHECKING:
    from sfmobile.bundle.choices import Runs
    from sfmobile.bundle.manifest import ComponentName, Manifest
    from sfmobile.inspect.estimate.devices import Device
    from sfmobile.inspect.estimate.measured import DeviceFactors, MeasuredTime
    from sfmobile.inspect.operations.compute_plan import ComputePlan
    from sfmobile.mlpackage.program import Program

# SnapFusion's promise: a picture within two seconds (arXiv 2306.00980).
BUDGET_MS = 2000.0

Basis = Literal["estimated", "estimated, scaled", "measured"]


class BlockTime(StrictModel):
    """One block of one call. arithmetic, memory and cpu: shares of its time by what bounds it (0 to 1)."""

    block: str
    milliseconds: float
    share: float
    arithmetic: float
    memory: float
    cpu: float


class ComponentTime(StrictModel):
    """One component. calls: per picture. basis: where call_ms comes from; `source` says what measured it, or how far
    the estimate may be off. Blocks add up to call_ms; how it divides between them is always estimated."""

    component: str
    calls: int
    call_ms: float
    picture_ms: float
    basis: Basis
    source: str
    dispatches: int
    blocks: tuple[BlockTime, ...]
    off_engine: dict[str, int]


class DeviceTime(StrictModel):
    """All components on one device, against a budget. `label` says how much of it is measured."""

    kind: Literal["time"] = "time"
    device: str
    device_name: str
    chip: str
    rate_basis: str
    label: str
    budget_ms: float
    picture_ms: float
    components: tuple[ComponentTime, ...]

    @property
    def within_budget(self) -> bool:
        """Whether a picture takes no longer than the budget."""
        return self.picture_ms <= self.budget_ms


@dataclass(frozen=True)
class Part:
    """A component to be timed: its program (or those of its chunks) and how often a picture calls it."""

    name: str
    programs: tuple[Program, ...]
    calls: int


def calls_per_picture(manifest: Manifest, component: ComponentName, steps: int | None = None) -> int:
    """How often a guided picture calls a component: the prompt and its negative are encoded one by one.

    A picture of a prompt alone, if the bundle draws those; what runs for a given picture, or for
    a preview, isn't called then.
    """
    count = manifest.pipeline.default_steps if steps is None else steps
    guided = manifest.guidance.default_scale > 1 and not manifest.pipeline.takes_guidance
    return calls(manifest.components[component].runs, count, guided, manifest.guidance.batch, manifest.can_draw)


def calls(runs: Runs, steps: int, guided: bool, batch: int, draws: bool = True) -> int:
    """How often a picture of so many steps calls what runs so. batch: of guidance. draws: from a prompt alone."""
    match runs:
        case "per_prompt":
            return 2 if guided else 1
        case "per_step":
            return steps * (2 // batch if guided else 1)
        case "per_given_picture" | "per_preview" if draws:
            return 0
        case _:
            return 1


def segments_of(program: Program) -> list[Segment]:
    """The fused segments of a program, CPU operations and attention over long sequences by the linter's rules."""
    graph, book = Graph(program), rule_book()
    long = long_products(graph, book.rule("long-queries"))
    return fuse(graph, frozenset(book.rule("cpu-operation").kinds), long=long)


def estimate_programs(programs: Sequence[Program], chip: str, model: CostModel) -> CallEstimate:
    """One call of a component: of its only program, or of all its chunks."""
    calls = [estimate_call(segments_of(program), chip, model) for program in programs]
    return CallEstimate(
        milliseconds=sum(call.milliseconds for call in calls),
        dispatch_ms=sum(call.dispatch_ms for call in calls),
        dispatches=sum(call.dispatches for call in calls),
        blocks=tuple(block for call in calls for block in call.blocks),
    )


def device_time(
    parts: Sequence[Part],
    device: Device,
    *,
    rate_basis: str,
    budget_ms: float = BUDGET_MS,
    measured: Mapping[str, MeasuredTime] | None = None,
    factors: DeviceFactors | None = None,
    plans: Mapping[str, ComputePlan] | None = None,
    model: CostModel | None = None,
) -> DeviceTime:
    """Time of every part: measured where it was, else estimated, times the device's factors if there are any.

    plans: Core ML's own relative costs per operation divide a component's time between its blocks in place of ours.
    """
    model = model or cost_model()
    components = tuple(
        _component(
            part,
            device,
            model,
            (measured or {}).get(part.name),
            factors,
            (plans or {}).get(part.name),
        )
        for part in parts
    )
    count = sum(component.basis == "measured" for component in components)
    if count == len(components):
        label = "measured"
    else:
        label = "estimated" if count == 0 else f"estimated, {count} of {len(components)} components measured"
    return DeviceTime(
        device=device.id,
        device_name=device.name,
        chip=device.chip,
        rate_basis=rate_basis,
        label=label,
        budget_ms=budget_ms,
        picture_ms=sum(component.picture_ms for component in components),
        components=components,
    )


def _component(
    part: Part,
    device: Device,
    model: CostModel,
    measured: MeasuredTime | None,
    factors: DeviceFactors | None,
    plan: ComputePlan | None,
) -> ComponentTime:
    call = estimate_programs(part.programs, device.chip, model)
    basis: Basis
    if measured is not None:
        basis, call_ms, source = "measured", measured.milliseconds, measured.source
    elif factors is not None:
        basis, call_ms = "estimated, scaled", call.milliseconds * factors.factor(part.name)
        source = f"scaled by measurements on {factors.device}: {'; '.join(factors.sources)}"
    else:
        basis, call_ms, source = "estimated", call.milliseconds, error_label(model)
    off_engine: dict[str, int] = {}
    if plan is not None:
        off_engine = plan.off_engine()
    elif measured is not None and measured.placement is not None:
        off_engine = measured.placement.off_neural_engine
    return ComponentTime(
        component=part.name,
        calls=part.calls,
        call_ms=call_ms,
        picture_ms=call_ms * part.calls,
        basis=basis,
        source=source,
        dispatches=call.dispatches,
        blocks=_blocks(call, call_ms, None if plan is None else plan.shares(part.programs)),
        off_engine=off_engine,
    )


def _blocks(call: CallEstimate, call_ms: float, planned: Mapping[str, float] | None) -> tuple[BlockTime, ...]:
    """The call's time divided between its blocks; dispatches are spread with it."""
    total = sum(block.milliseconds for block in call.blocks) or 1.0
    rows = []
    for block in call.blocks:
        share = block.milliseconds / total if planned is None else planned.get(block.block, 0.0)
        spent = block.milliseconds or 1.0
        rows.append(
            BlockTime(
                block=block.block,
                milliseconds=share * call_ms,
                share=share,
                arithmetic=block.by_bound.get("arithmetic", 0.0) / spent,
                memory=block.by_bound.get("memory", 0.0) / spent,
                cpu=block.by_bound.get("cpu", 0.0) / spent,
            )
        )
    return tuple(rows)


def error_label(model: CostModel) -> str:
    """What an estimate is worth, in a few words."""
    errors = model.errors.network_left_out
    return (
        f"on networks left out of its fit the estimate is off by {errors.median_percent:.0f} % in the median, "
        f"{errors.worst_percent:.0f} % at worst"
    )

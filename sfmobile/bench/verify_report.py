"""`verify.json` as data: what a bundle is, what it lost, what it rounds, how its checkpoint was read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from sfmobile.bench.records import (
    REPORT_VERSION,
    BundleReference,
    Decibels,
    MachineRecord,
    ProducerRecord,
    RuntimeRecord,
)
from sfmobile.bundle.choices import ComponentName
from sfmobile.files import StrictModel
from sfmobile.tables import Table, as_text


class Agreement(StrictModel):
    """How close a result is to its reference.

    psnr_db: 20 log10(peak / rms error), see `sfmobile.signal.psnr`; null where it has no finite value, which
    is where `identical` (infinite) or where `nonfinite` values are NaN or infinite on either side (then it fails any
    gate).
    """

    psnr_db: Decibels | None
    identical: bool
    max_abs_error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    nonfinite: int = Field(ge=0)

    def reaches(self, gate_db: float) -> bool:
        """Whether the result is at least as close as the gate asks."""
        return self.closeness >= gate_db and self.closeness > -math.inf

    @property
    def closeness(self) -> float:
        """A number to sort by: -inf for what has no distance, inf for what is identical."""
        if self.identical:
            return math.inf
        return -math.inf if self.psnr_db is None or self.nonfinite else self.psnr_db

    def __str__(self) -> str:
        if self.nonfinite:
            return f"{self.nonfinite} values NaN or infinite"
        if self.identical:
            return "identical"
        return "-" if self.psnr_db is None else f"{self.psnr_db:.1f} dB"


class OperationDivergence(StrictModel):
    """The first operation of a program whose output leaves its reference, and what it was compared with."""

    position: int = Field(ge=0, description="index in the program's order of operations")
    operations: int = Field(ge=1, description="how many operations the program has")
    op: str
    name: str
    agreement: Agreement
    reference: str
    previous: str | None = None
    weight_psnr_db: Decibels | None = None

    @property
    def place(self) -> str:
        """Which operation it is."""
        return f"operation {self.position + 1} of {self.operations}, {self.op} '{self.name}'"

    def __str__(self) -> str:
        weight = "" if self.weight_psnr_db is None else f"; its stored weight has {self.weight_psnr_db:.1f} dB"
        before = f"; good until {self.previous}" if self.previous else ""
        return f"the error appears at {self.place}: {self.agreement} against {self.reference}{weight}{before}."


class SampleAgreement(StrictModel):
    """One input of a component: where in the pipeline it comes from, and how close the output is."""

    input: str
    agreement: Agreement


class ComponentAgreement(StrictModel):
    """One component: the worst of its samples, its gate, and where it went wrong if it did."""

    worst: Agreement
    gate_db: Decibels
    passed: bool
    samples: tuple[SampleAgreement, ...]
    first_divergence: OperationDivergence | None = None


class StepAgreement(StrictModel):
    """The latents behind one step of the loop, errors of all steps before it included; the worst of all runs."""

    step: int = Field(ge=1)
    agreement: Agreement


class EvaluationAgreement(StrictModel):
    """All components in one evaluation, each fed what the reference was fed, and the loop of the whole bundle.

    steps: the latents behind each of the loop's steps, with one gate. picture: over 8-bit pixels; null if the bundle
    lacks a component. A loop that broke off counts all its values as not finite; broke_off says where.
    """

    runtime: RuntimeRecord
    components: dict[ComponentName, ComponentAgreement]
    steps: tuple[StepAgreement, ...] = ()
    steps_gate_db: Decibels | None = None
    picture: Agreement | None
    picture_gate_db: Decibels | None = None
    broke_off: str | None = None
    passed: bool

    @property
    def picture_passed(self) -> bool:
        """Whether the picture reaches its gate, if there are both."""
        return self.picture is None or self.picture_gate_db is None or self.picture.reaches(self.picture_gate_db)

    @property
    def first_step_off(self) -> StepAgreement | None:
        """The first step under the gate."""
        if self.steps_gate_db is None:
            return None
        return next((one for one in self.steps if not one.agreement.reaches(self.steps_gate_db)), None)

    @property
    def worst_step(self) -> StepAgreement | None:
        """The step furthest off."""
        return min(self.steps, key=lambda one: one.agreement.closeness, default=None)

    def failures(self) -> Iterator[str]:
        """What is under its gate, in words."""
        label = self.runtime.label
        for name, component in self.components.items():
            if not component.passed:
                fault = component.first_divergence
                where = "" if fault is None else f", first at {fault.place}"
                yield f"{name} {component.worst} of {component.gate_db:g} dB in {label}{where}"
        if self.broke_off is not None:
            yield f"the loop breaks off in {label}: {self.broke_off}"
            return
        step = self.first_step_off
        if step is not None:
            yield f"latents {step.agreement} of {self.steps_gate_db:.1f} dB from step {step.step} on in {label}"
        if not self.picture_passed:
            yield f"picture {self._picture_text()} of {self.picture_gate_db:.1f} dB in {label}"

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Rows of the report's table."""
        label = self.runtime.label
        for name, component in self.components.items():
            inputs = f"{len(component.samples)} inputs"
            yield label, name, inputs, str(component.worst), f"{component.gate_db:g} dB", _verdict(component.passed)
        worst = self.worst_step
        if worst is not None:
            verdict = _verdict(self.first_step_off is None)
            count = f"{len(self.steps)} steps"
            yield label, "latents", count, str(worst.agreement), _gate(self.steps_gate_db), verdict
        if self.picture is None:
            yield label, "picture", "-", "not compared", "-", ""
        else:
            verdict = "not gated" if self.picture_gate_db is None else _verdict(self.picture_passed)
            yield label, "picture", "-", self._picture_text(), _gate(self.picture_gate_db), verdict

    def _picture_text(self) -> str:
        return "not compared" if self.picture is None else str(self.picture)


def _verdict(passed: bool) -> str:
    return "ok" if passed else "FAILED"


def _gate(decibels: float | None) -> str:
    return "-" if decibels is None else f"{decibels:.1f} dB"


class StoredWeightsRecord(StrictModel):
    """A component's weights as its packages store them, against the checkpoint's.

    worst_error: relative error (root mean square) of the parameter furthest off; null if all are the source's to the
    bit. faults: weights that aren't stored as they should be, in words.
    """

    parameters: int = Field(ge=0)
    compressed: int = Field(ge=0)
    worst_parameter: str | None
    worst_error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    faults: tuple[str, ...] = ()


class ExactAgreement(StrictModel):
    """A component in fp32 against its network with the very weights it stores: no loss stands between the two.

    weights_alone: of an .aimodel the weights alone are compared here; its evaluation is held to the network in what was
    lost. worst: null then, and if the network couldn't be built from what is stored. attributes: epsilons, axes and
    scales that aren't their module's, in words. operations: how many the program has; null if they weren't looked at
    one by one.
    unreached: those among them whose result was the same everywhere for every input, so that nothing is proved of what
    they read.
    """

    weights: StoredWeightsRecord
    weights_alone: bool = False
    attributes: tuple[str, ...] = ()
    worst: Agreement | None
    gate_db: Decibels
    samples: tuple[SampleAgreement, ...]
    operations: int | None = Field(default=None, ge=0)
    unreached: tuple[str, ...] = ()
    first_divergence: OperationDivergence | None = None
    passed: bool

    def failures(self, name: str) -> Iterator[str]:
        """What is wrong with the component `name`, in words."""
        yield from (f"{name} {fault}" for fault in (*self.weights.faults, *self.attributes))
        if self.worst is not None and not self.worst.reaches(self.gate_db):
            fault = self.first_divergence
            where = "" if fault is None else f", first at {fault.place}"
            yield f"{name} is not its network: {self.worst} of {self.gate_db:g} dB{where}"


class Exactness(StrictModel):
    """Whether the bundle is what it claims to be: its programs, its weights, its constants.

    constants: constants of the manifest that aren't what the checkpoint says, or that the golden vectors contradict,
    in words. against: what they were compared with.
    """

    components: dict[ComponentName, ExactAgreement]
    constants: tuple[str, ...] = ()
    against: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.constants and all(component.passed for component in self.components.values())

    def failures(self) -> Iterator[str]:
        """What is wrong, in words."""
        yield from self.constants
        for name, component in self.components.items():
            yield from component.failures(name)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Rows of the report's table."""
        for name, component in self.components.items():
            if component.weights_alone:
                faults = len(component.weights.faults)
                differ = f"{faults} differ" if faults else "all as recorded"
                weights = f"{component.weights.parameters} weights"
                yield "as stored", name, weights, differ, "equal", _verdict(component.passed)
                continue
            stored = f"{component.weights.parameters} weights, {len(component.samples)} inputs"
            worst = "not comparable" if component.worst is None else str(component.worst)
            yield "mil fp32", name, stored, worst, f"{component.gate_db:g} dB", _verdict(component.passed)
        if self.against:
            found = f"{len(self.constants)} differ" if self.constants else "all equal"
            yield "", "manifest", f"by {' and '.join(self.against)}", found, "equal", _verdict(not self.constants)


class ReferenceAgreement(StrictModel):
    """One reference against another, stage by stage: tokens, embeddings, steps, a picture, or a component's calls.

    left, right: which two, in words. first_divergence: the operation at which they part, where that can be told.
    """

    left: str
    right: str
    stages: tuple[SampleAgreement, ...] = ()
    gate_db: Decibels
    first_divergence: OperationDivergence | None = None

    @property
    def worst(self) -> SampleAgreement | None:
        """The stage furthest off."""
        return min(self.stages, key=lambda stage: stage.agreement.closeness, default=None)

    @property
    def passed(self) -> bool:
        """Whether every stage reaches the gate."""
        return all(stage.agreement.reaches(self.gate_db) for stage in self.stages)

    def failures(self) -> Iterator[str]:
        """The first stage that is off, in words."""
        for stage in self.stages:
            if not stage.agreement.reaches(self.gate_db):
                where = "" if self.first_divergence is None else f", first at {self.first_divergence.place}"
                yield (
                    f"{self.left} and {self.right} disagree from '{stage.input}' on: {stage.agreement} of "
                    f"{self.gate_db:g} dB{where}"
                )
                return

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Rows of the report's table."""
        worst = self.worst
        if worst is not None:
            stages = f"{len(self.stages)} stages"
            yield self.left, self.right, stages, str(worst.agreement), f"{self.gate_db:g} dB", _verdict(self.passed)


ReferenceName = Literal["nets", "diffusers", "coreai", "golden"]


class ReferenceRecord(StrictModel):
    """A reference that was asked for or could have been: what it is, and why it wasn't used if it wasn't."""

    name: ReferenceName
    description: str
    skipped: str | None = None

    def __str__(self) -> str:
        return self.name if self.skipped is None else f"not {self.name}: {self.skipped}"


class VerifyReport(StrictModel):
    """`verify.json`: what a bundle is and what it lost, by the references that were there.

    Exact (`exact`): is it the network it claims to be? Lost (`evaluations`): what did storing it cost, against
    `reference`? Rounded (`rounded`): fp16 evaluation against fp32 evaluation of the same packages. Read (`read`):
    references against each other. left_out: what was left undone to be quick, in words.
    """

    kind: Literal["verify"] = "verify"
    schema_version: Literal[1] = REPORT_VERSION
    created_at: datetime
    producer: ProducerRecord
    machine: MachineRecord
    bundle: BundleReference
    passed: bool
    reference: RuntimeRecord
    references: tuple[ReferenceRecord, ...] = ()
    left_out: tuple[str, ...] = ()
    prompts: tuple[str, ...]
    negative_prompt: str
    seed: int
    steps: int
    guidance_scale: float
    sampler: str | None = Field(default=None, description="what walked; null in reports from before it was chosen")
    exact: Exactness | None = None
    evaluations: tuple[EvaluationAgreement, ...]
    rounded: EvaluationAgreement | None = None
    read: tuple[ReferenceAgreement, ...] = ()

    def failures(self) -> list[str]:
        """What is wrong, and what is under its gate in any evaluation, in words."""
        answers = (self.exact, *self.read, *self.evaluations)
        found = [failure for part in answers if part is not None for failure in part.failures()]
        if self.rounded is not None:
            found += [f"rounded: {failure}" for failure in self.rounded.failures()]
        return found

    def faults(self) -> list[str]:
        """Where the errors of failed components appear, a sentence each."""
        exact = {} if self.exact is None else self.exact.components
        found = [(f"exact {name}", component.first_divergence) for name, component in exact.items()]
        for evaluation in self.evaluations:
            label = evaluation.runtime.label
            found += [(f"{label} {name}", one.first_divergence) for name, one in evaluation.components.items()]
        return [f"{place}: {fault}" for place, fault in found if fault is not None]

    def verdict(self) -> str:
        """One sentence: passed, or what is wrong."""
        if self.passed:
            return f"Passed: {self._answers()}."
        return f"FAILED: {'; '.join(self.failures())}."

    def tables(self) -> list[Table]:
        """The figures for people, an answer each."""
        last = f"{len(self.prompts)} prompts, seed {self.seed}, {self.steps} steps, guidance {self.guidance_scale:g}"
        last += "" if self.sampler is None else f", {self.sampler}"
        found = []
        if self.exact is not None:
            title = "Exact: the programs in fp32 against our networks with the weights they store"
            found.append(_table(title, self.exact.rows(), self._unreached()))
        if self.evaluations:
            title = f"Lost: against {self.reference.description}"
            rows = (row for evaluation in self.evaluations for row in evaluation.rows())
            found.append(_table(title, rows, f"{last}; {self.machine.processor}, {self.machine.os}"))
        if self.rounded is not None:
            title = "Rounded: fp16 evaluation against fp32 evaluation of the same packages"
            found.append(_table(title, self.rounded.rows()))
        rows_of_references = [row for one in self.read for row in one.rows()]
        if rows_of_references:
            found.append(_table("Read: references against each other", iter(rows_of_references)))
        return found

    def remarks(self) -> list[str]:
        """Which references there were, and what was left out, a sentence each."""
        found = []
        if self.references:
            found.append(f"References: {'; '.join(map(str, self.references))}.")
        if self.left_out:
            found.append(f"Left out: {'; '.join(self.left_out)}.")
        return found

    def __str__(self) -> str:
        return as_text([f"{self.bundle.name}. {self.verdict()}", *self.tables(), *self.remarks(), *self.faults()])

    def _answers(self) -> str:
        proven = () if self.exact is None else tuple(self.exact.components.values())
        alone = any(component.weights_alone for component in proven)
        answers = (
            ("it is the network it claims to be", bool(proven) and not alone),
            ("it stores the weights it claims to", bool(proven) and alone),
            ("its constants are right", self.exact is not None and not proven),
            ("every component and the picture reach their gates", bool(self.evaluations)),
            ("its references agree", bool([one for one in self.read if one.stages])),
        )
        return ", ".join(words for words, given in answers if given) or "nothing was compared"

    def _unreached(self) -> str | None:
        exact = {} if self.exact is None else self.exact.components
        counted = {name: one for name, one in exact.items() if one.operations is not None}
        if not counted:
            return None
        unreached = [f"{name} {place}" for name, one in counted.items() for place in one.unreached]
        total = sum(one.operations or 0 for one in counted.values())
        words = "none" if not unreached else f"{len(unreached)} ({', '.join(unreached[:3])})"
        return f"Of {total} operations the inputs left at rest: {words}."


def _table(title: str, rows: Iterator[tuple[str, ...]], caption: str | None = None) -> Table:
    columns = ("evaluation", "component", "compared", "worst PSNR", "gate", "")
    return Table(title, columns, tuple(rows), text_columns=(0, 1, 2, 5), caption=caption)

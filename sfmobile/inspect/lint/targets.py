"""What there is to check at a path: the packages of a bundle with what its manifest says of them, or one package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.compress.recipe import FULL_BITS, Recipe
from sfmobile.inspect.lint.linter import Finding, lint
from sfmobile.inspect.lint.rule import LintException, read_exceptions
from sfmobile.inspect.lint.subject import Subject
from sfmobile.inspect.operations.default_shapes import at_default_shapes
from sfmobile.mlpackage.description import describe
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.names import layer_constant, origin
from sfmobile.mlpackage.package import Package
from sfmobile.mlpackage.program import load_program, read_program
from sfmobile.runtime.chunks import part_records

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName, ComponentRecord
    from sfmobile.mlpackage.program import Program


@dataclass(frozen=True)
class LintTarget:
    """One package. label: as inspect shows it ("unet 1/2" for a chunk). uri: path relative to what was named.

    component is the package's name where there is no bundle; `in_bundle` says which.
    """

    label: str
    component: str
    uri: str
    attention: str
    in_bundle: bool
    subject: Subject
    # The program at its default shapes, if some vary, and what is to be said of that.
    sized: Graph | None = None
    note: str = ""

    @property
    def program(self) -> Program:
        """The program to check."""
        return self.subject.program

    @property
    def costed(self) -> Graph:
        """The graph whose types say what a call costs."""
        return self.sized or self.subject.graph


def bundle_targets(
    bundle: Bundle,
    components: Sequence[str] = (),
    magnitudes: Mapping[ComponentName, Mapping[str, float]] | None = None,
) -> list[LintTarget]:
    """The ML Programs of a bundle: all, or those of `components`. ONNX files have nothing to check."""
    targets: list[LintTarget] = []
    for name, record in bundle.manifest.components.items():
        if (components and name not in components) or record.format != "mlprogram":
            continue
        parts = list(part_records(record))
        for number, part in enumerate(parts, start=1):
            program = load_program(bundle.root / part.package, part.function)
            subject = Subject(
                program,
                palettized=record.compression is not None,
                full_width=_left_at_16_bits(bundle, name, record, program),
                magnitudes=None if magnitudes is None else magnitudes.get(name),
            )
            label = f"{name} {number}/{len(parts)}" if len(parts) > 1 else name
            targets.append(LintTarget(label, name, part.package, record.attention, True, subject))
    return targets


def package_target(path: Path) -> LintTarget:
    """A package on its own: nothing is known of it beyond its program."""
    package = Package(path)
    subject = Subject(read_program(package))
    sized = at_default_shapes(subject.program, describe(package.model))
    if sized.program is subject.program:
        return LintTarget(path.name, path.name, path.name, "", False, subject)
    note = "Costs are those at the default shapes of the inputs"
    if sized.unknown:
        note += f"; {sized.unknown} operations have sizes that couldn't be followed and count 1 in each that varies"
    return LintTarget(path.name, path.name, path.name, "", False, subject, Graph(sized.program), f"{note}.")


def _left_at_16_bits(bundle: Bundle, name: ComponentName, record: ComponentRecord, program: Program) -> frozenset[str]:
    """Constants that hold weights which the bundle's recipe leaves at 16 bits."""
    content = bundle.manifest.options.get("compression")
    if record.compression is None or not isinstance(content, dict):
        return frozenset()
    recipe = Recipe.model_validate(content)
    part = recipe.components.get(name)
    kept = [layer for layer, choice in part.layers.items() if choice.bits == FULL_BITS] if part is not None else []
    names = {layer_constant(layer) for layer in kept}
    return frozenset(constant for constant in program.constants if origin(constant, names) is not None)


def lint_targets(targets: Sequence[LintTarget], exceptions: Sequence[LintException] | None = None) -> list[Finding]:
    """Findings of all packages. Exceptions are for bundles; by default those that come with sfmobile."""
    known = read_exceptions() if exceptions is None else exceptions
    findings: list[Finding] = []
    for target in targets:
        applied = known if target.in_bundle else ()
        findings += lint(target.subject, target.component, applied, target.attention, target.label)
    return findings

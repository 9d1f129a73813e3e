"""The stages of a model: one program, or what a pipeline runs one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.mlpackage.container import PIPELINES, Container, no_program, stage_containers
from sfmobile.mlpackage.description import Array, Description, Feature, describe
from sfmobile.mlpackage.package import Package
from sfmobile.mlpackage.program import Program, read_program
from sfmobile.mlpackage.types import TensorType
from sfmobile.runtime.choices import Precision
from sfmobile.runtime.features import default_array, given_array, returned_value
from sfmobile.runtime.glue import GLUES

if TYPE_CHECKING:
    from sfmobile.runtime.mil.evaluate import Evaluator
    from sfmobile.runtime.mil.values import State

Engine = Literal["mil", "onnx"]
States = Mapping[str, "State"]
# A pipeline in a pipeline in a pipeline.
_DEPTH = 8


class Stage(Protocol):
    """What takes values by name and gives values by name."""

    inputs: dict[str, TensorType]
    outputs: dict[str, TensorType]
    description: Description

    def predict(self, values: Mapping[str, Any], states: States | None) -> dict[str, Any]:
        """Run once."""
        ...


class ProgramStage:
    """An ML Program with the description of one of its functions."""

    def __init__(self, package: Package, function: str | None, precision: Precision, engine: Engine) -> None:
        """Raises what `read_program` raises; weights are decoded at the first prediction."""
        self.program: Program = read_program(package, function)
        self.precision = precision
        self.engine = engine
        self.name = package.path.name
        self.description = described(self.program, describe(package.model, function))
        self.inputs: dict[str, TensorType] = dict(self.program.inputs)
        self.outputs: dict[str, TensorType] = self.program.output_types()

    def predict(self, values: Mapping[str, Any], states: States | None) -> dict[str, Any]:
        """Run once. Raises `UsageError` for values that the description doesn't allow."""
        for name in values:
            if name not in self.inputs:
                raise UsageError(f"{self.name} has no input '{name}'; it takes {', '.join(self.inputs)}.")
        if self.program.states and states is None:
            raise UsageError(
                f"{self.name} keeps {', '.join(self.program.states)} between calls; make a state with make_state() and "
                "give it to each."
            )
        ready = {name: self._ready(name, type_, values) for name, type_ in self.inputs.items()}
        found = self._run(ready, states)
        return {
            name: returned_value(self.description.outputs.get(name), self.outputs[name], value)
            for name, value in found.items()
        }

    def _ready(self, name: str, type_: TensorType, values: Mapping[str, Any]) -> np.ndarray:
        feature = self.description.inputs[name]
        if name in values:
            return given_array(f"Input '{name}' of {self.name}", feature, type_, values[name])
        default = default_array(feature, type_)
        if default is None:
            raise UsageError(f"{self.name} lacks its input '{name}' of type {type_}.")
        return default

    def _run(self, ready: dict[str, np.ndarray], states: States | None) -> Mapping[str, Any]:
        if self.engine == "mil":
            return self.evaluator.values(ready, states)
        names = list(self.program.outputs)
        fed = {
            name: value.astype(np.float32 if self.inputs[name].is_float else np.int32, copy=False)
            for name, value in ready.items()
        }
        return dict(zip(names, self._session.run(names, fed), strict=True))

    @cached_property
    def evaluator(self) -> Evaluator:
        """The program on the mil runtime."""
        from sfmobile.runtime.mil.evaluate import Evaluator

        return Evaluator(self.program, self.precision)

    @cached_property
    def _session(self) -> Any:
        """The program on ONNX Runtime."""
        from sfmobile.runtime.onnx.runtime import translated_session
        from sfmobile.runtime.onnx.translate import translate

        if self.program.states or any(None in type_.shape for type_ in self.inputs.values()):
            raise UnavailableError(
                f"{self.name} has states or inputs of varying shape, which have no translation to ONNX; use the mil "
                "runtime."
            )
        return translated_session(translate(self.program))


class GlueStage:
    """A small model between programs."""

    def __init__(self, model: Any, kind: str) -> None:
        self.model = model
        self.kind = kind
        self.description = describe(model)
        self.inputs = {name: feature.kind.type for name, feature in self.description.inputs.items()}
        self.outputs = {name: feature.kind.type for name, feature in self.description.outputs.items()}

    def predict(self, values: Mapping[str, Any], states: States | None) -> dict[str, Any]:
        """Run once."""
        return GLUES[self.kind](self.model, values)


class Pipeline:
    """Stages that hand on what they give by name."""

    def __init__(self, path: Container, stages: list[Stage]) -> None:
        self.name = path.path.name
        self.stages = stages
        self.description = describe(path.model)
        self.inputs = {name: feature.kind.type for name, feature in self.description.inputs.items()}
        self.outputs = {name: feature.kind.type for name, feature in self.description.outputs.items()}

    def predict(self, values: Mapping[str, Any], states: States | None) -> dict[str, Any]:
        """Run every stage once. Raises `UsageError` for unknown inputs, `ArtifactError` for an output nobody gives."""
        for name in values:
            if name not in self.inputs:
                raise UsageError(f"{self.name} has no input '{name}'; it takes {', '.join(self.inputs)}.")
        known = dict(values)
        for stage in self.stages:
            taken = {name: known[name] for name in stage.inputs if name in known}
            for name in stage.inputs:
                feature = stage.description.inputs.get(name)
                if name not in known and not (feature is not None and feature.optional):
                    raise UsageError(f"{self.name} lacks its input '{name}' of type {stage.inputs[name]}.")
            known.update(stage.predict(taken, states))
        for name in self.outputs:
            if name not in known:
                raise ArtifactError(f"{self.name}: no stage gives the output '{name}'.")
        return {name: known[name] for name in self.outputs}


def open_stage(
    container: Container, function: str | None, precision: Precision, engine: Engine, depth: int = 0
) -> Stage:
    """A model ready to predict.

    Raises `ArtifactError` for a model that is no program and no pipeline, `UnavailableError` for a pipeline with a
    stage that isn't executed here.
    """
    if container.kind not in PIPELINES:
        return ProgramStage(Package(container), function, precision, engine)
    if function is not None:
        raise UsageError(f"{container.path} is a pipeline, which has no functions; leave out --function.")
    stages: list[Stage] = []
    for place, part in enumerate(stage_containers(container), start=1):
        if part.kind in GLUES:
            stages.append(GlueStage(part.model, part.kind))
        elif part.kind == "mlProgram" or (part.kind in PIPELINES and depth < _DEPTH):
            stages.append(open_stage(part, None, precision, engine, depth + 1))
        else:
            found = str(no_program(container.path, part.kind)).split(" holds ", 1)[1].split(";", 1)[0]
            raise UnavailableError(
                f"{container.path}: stage {place} of the pipeline is {found}, which isn't executed here; use Core ML "
                "on a Mac."
            )
    if not stages:
        raise ArtifactError(f"{container.path} is a pipeline without stages.")
    return Pipeline(container, stages)


def described(program: Program, description: Description) -> Description:
    """The description with every input of the program: one that it lacks is an array as the program declares it."""
    inputs = {
        name: description.inputs.get(name) or Feature(name, Array(type_.data_type, ()))
        for name, type_ in program.inputs.items()
    }
    return Description(inputs, description.outputs, description.states, description.label, description.scores)

"""Components of several packages, and packages of several functions: every runtime treats them alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ChunkRecord, ComponentRecord, TensorRecord
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.export.options import ExportOptions
from sfmobile.mlpackage.program import load_program
from sfmobile.runtime.chunks import ChunkedComponent, load_packages, part_records
from sfmobile.runtime.component import Component
from sfmobile.runtime.coreml import CoreMLRuntime
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.runtime.opening import open_runtime
from sfmobile.runtime.protocol import Runtime
from sfmobile.sampling.pipeline import Request, TextToImage
from tests.exported import SharedExports
from tests.runtime.mil.programs import build_program, psnr, save_program
from tests.runtime.sample import TABLE, expected_output, sample_inputs
from tests.runtime.test_torch import inputs_of

REQUEST = Request("a red apple", steps=2)
SIZES = ((8, 8), (8, 16))
# What sums in another order agrees to so many dB.
SAME, NEARLY = float("inf"), 100.0


class EvaluatedModel:
    """Stands in for Core ML's model of one function of a package."""

    def __init__(self, package: Path, function: str | None) -> None:
        self.evaluator = Evaluator(load_program(package, function))

    def predict(self, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.evaluator(data)


def coreml(bundle: Bundle) -> Runtime:
    return CoreMLRuntime(bundle, loader=lambda package, unit, function: EvaluatedModel(package, function))


RUNTIMES: dict[str, Callable[[Bundle], Runtime]] = {
    "mil": lambda bundle: open_runtime("mil", bundle),
    "onnx": lambda bundle: open_runtime("onnx", bundle),
    "torch": lambda bundle: open_runtime("torch", bundle),
    "coreml": coreml,
}
OF_PACKAGES = ("mil", "onnx", "coreml")


@pytest.fixture(scope="module")
def chunked(tiny_exports: SharedExports) -> dict[int, Bundle]:
    """The tiny bundle, its UNet in so many chunks."""
    return {count: tiny_exports(ExportOptions(chunks=count)) for count in (2, 5)}


@pytest.fixture(scope="module")
def functions(tiny_exports: SharedExports) -> Bundle:
    """The tiny checkpoint at two sizes and both guidance batches, in one package a component."""
    options = ExportOptions(target="ios18", multifunction=True, multifunction_decoder=True, more_latent_sizes=SIZES[1:])
    return tiny_exports(options)


def draw(bundle: Bundle, runtime: Runtime) -> list[np.ndarray]:
    """Latents behind every step, and the image."""
    with TextToImage.of_bundle(bundle, runtime) as pipeline:
        latents = [step.latents for step in pipeline.steps(REQUEST)]
        return [*latents, pipeline.decode(latents[-1])]


@pytest.mark.parametrize("chunks", [2, 5])
@pytest.mark.parametrize(("kind", "gate"), [("mil", SAME), ("onnx", NEARLY), ("torch", SAME), ("coreml", SAME)])
def test_a_bundle_in_chunks_draws_what_it_draws_whole(
    tiny_bundle: Bundle, chunked: dict[int, Bundle], kind: str, gate: float, chunks: int
) -> None:
    bundle = chunked[chunks]
    assert len(bundle.manifest.components["unet"].chunks) == chunks
    whole, parts = (draw(one, RUNTIMES[kind](one)) for one in (tiny_bundle, bundle))
    for found, expected in zip(parts, whole, strict=True):
        assert psnr(found, expected) >= gate


@pytest.mark.parametrize("chunks", [2, 5])
def test_chunks_agree_between_mil_and_onnx(chunked: dict[int, Bundle], chunks: int) -> None:
    bundle = chunked[chunks]
    inputs = inputs_of(bundle, "unet")
    ours, theirs = (RUNTIMES[kind](bundle).load("unet") for kind in ("mil", "onnx"))
    with ours, theirs:
        assert psnr(*(one.predict(inputs)["model_output"] for one in (theirs, ours))) > NEARLY


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [2, 1])
@pytest.mark.parametrize(("kind", "gate"), [("onnx", NEARLY), ("torch", NEARLY), ("coreml", SAME)])
def test_the_function_asked_for_runs(
    functions: Bundle, kind: str, gate: float, size: tuple[int, int], batch: int
) -> None:
    chosen = functions.for_shapes(size, batch)
    for name in ("unet", "decoder"):
        inputs = inputs_of(chosen, name)  # type: ignore[arg-type]
        found, expected = (RUNTIMES[one](chosen).load(name) for one in (kind, "mil"))  # type: ignore[arg-type]
        with found, expected:
            (output,), (wanted,) = (one.predict(inputs).values() for one in (found, expected))
        assert output.shape == wanted.shape == chosen.manifest.components[name].outputs[0].shape  # type: ignore[index]
        assert psnr(output, wanted) >= gate


def test_core_ml_is_told_the_function_of_a_package_of_several(functions: Bundle, chunked: dict[int, Bundle]) -> None:
    asked: list[tuple[str, str | None]] = []

    def loader(package: Path, unit: Any, function: str | None) -> EvaluatedModel:
        asked.append((package.name, function))
        return EvaluatedModel(package, function)

    chosen = functions.for_shapes((8, 16), 1)
    CoreMLRuntime(chosen, loader=loader).load("unet").close()
    CoreMLRuntime(chunked[2], loader=loader).load("unet").close()
    assert asked[0] == ("UNet.mlpackage", chosen.manifest.components["unet"].function)
    assert [function for _, function in asked[1:]] == [None, None]


@pytest.mark.parametrize("kind", OF_PACKAGES)
def test_a_closed_component_in_chunks_says_so(chunked: dict[int, Bundle], kind: str) -> None:
    unet = RUNTIMES[kind](chunked[2]).load("unet")
    assert isinstance(unet, ChunkedComponent)
    parts = list(unet.parts)
    unet.close()
    unet.close()
    for one in (unet, *parts):
        with pytest.raises(UsageError, match="Component 'unet' is closed"):
            one.predict(inputs_of(chunked[2], "unet"))


def moved(bundle: Bundle, record: ComponentRecord) -> Bundle:
    components = {**bundle.manifest.components, "unet": record}
    return Bundle(bundle.root, bundle.manifest.model_copy(update={"components": components}))


@pytest.mark.parametrize("kind", ["mil", "onnx"])
def test_a_chunk_that_is_missing_or_another_is_named(chunked: dict[int, Bundle], kind: str) -> None:
    record = chunked[2].manifest.components["unet"]
    first, second = record.chunks
    gone = second.model_copy(update={"package": "UNet/chunk-9.mlpackage"})
    with pytest.raises(ArtifactError, match=r"chunk-9\.mlpackage is missing"):
        RUNTIMES[kind](moved(chunked[2], record.model_copy(update={"chunks": (first, gone)}))).load("unet")
    wide = first.inputs[0].model_copy(update={"shape": (9, 4, 8, 8)})
    other = first.model_copy(update={"inputs": (wide, *first.inputs[1:])})
    sentence = (
        rf"{first.package}: inputs are '{wide.name}' \[2, .*\] in the file and '{wide.name}' \[9, 4, 8, 8\] in the man"
    )
    with pytest.raises(ArtifactError, match=sentence):
        RUNTIMES[kind](moved(chunked[2], record.model_copy(update={"chunks": (other, second)}))).load("unet")


def test_what_is_loaded_is_closed_again_if_a_later_chunk_fails(chunked: dict[int, Bundle]) -> None:
    loaded: list[Held] = []

    class Held(Component):
        freed = False

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            raise NotImplementedError

        def free(self) -> None:
            self.freed = True

    def load(record: ComponentRecord) -> Held:
        if len(loaded) == 3:
            raise ArtifactError("The fourth chunk is broken.")
        loaded.append(Held("unet", record))
        return loaded[-1]

    with pytest.raises(ArtifactError, match="fourth chunk"):
        load_packages(chunked[5], "unet", load)
    assert [held.freed for held in loaded] == [True] * 3


def test_a_component_that_the_bundle_lacks_is_named(chunked: dict[int, Bundle]) -> None:
    lone = chunked[2].manifest.model_copy(update={"components": {}})
    with pytest.raises(ArtifactError, match="has no component 'unet'"):
        load_packages(Bundle(chunked[2].root, lone), "unet", pytest.fail)


@pytest.mark.parametrize("kind", OF_PACKAGES)
def test_integers_are_handed_over_as_integers(runtime_bundle: Bundle, tmp_path: Path, kind: str) -> None:
    """A text encoder whose first chunk counts ids back and whose second looks them up."""
    record = runtime_bundle.manifest.components["text_encoder"]
    ids = {"input_ids": np.zeros((1, 77), np.int32)}
    kept = {"kept": ids["input_ids"]}
    save_program(build_program(lambda input_ids: mb.sub(x=39, y=input_ids, name="kept"), ids), tmp_path, name="first")

    def look_up(kept: Any) -> Any:
        rows = mb.gather(x=TABLE, indices=kept, axis=0)
        return mb.transpose(x=mb.expand_dims(x=rows, axes=[2]), perm=[0, 3, 2, 1], name="encoder_hidden_states")

    save_program(build_program(look_up, kept), tmp_path, name="second")
    handed = (TensorRecord(name="kept", shape=(1, 77), dtype="int32"),)
    chunks = (
        ChunkRecord(package="first.mlpackage", inputs=record.inputs, outputs=handed, bytes=1),
        ChunkRecord(package="second.mlpackage", inputs=handed, outputs=record.outputs, bytes=1),
    )
    components = {"text_encoder": record.model_copy(update={"chunks": chunks})}
    bundle = Bundle(tmp_path, runtime_bundle.manifest.model_copy(update={"components": components}))
    inputs = sample_inputs("text_encoder")
    with RUNTIMES[kind](bundle).load("text_encoder") as encoder:
        (found,) = encoder.predict(inputs).values()
    expected = expected_output("text_encoder", {"input_ids": 39 - inputs["input_ids"]})
    np.testing.assert_array_equal(found, expected)


def test_the_records_of_chunks_are_those_of_packages_in_running_order(chunked: dict[int, Bundle]) -> None:
    record = chunked[5].manifest.components["unet"]
    parts = list(part_records(record))
    assert [part.package for part in parts] == [chunk.package for chunk in record.chunks]
    assert not any(part.chunks for part in parts)
    assert list(part_records(parts[0])) == [parts[0]]

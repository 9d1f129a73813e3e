"""What stands around a component's program in Apple's form: its inputs and outputs, and how they become the bundle's.

Names, shapes and data types are those that apple/ml-stable-diffusion's `torch2coreml.py` gives and its Swift pipeline
reads. The pipeline feeds float32 throughout, takes float32 back (a picture in float16 it doesn't convert), asks for no
more than the prediction of two rows and computes no sinusoid: so the timestep's is in the graph here, in float32, as a
sine in float16 is off by 0.27 at timestep 981.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sfmobile.bundle.manifest import ComponentRecord, Manifest, TensorRecord
from sfmobile.sampling.time_embedding import frequencies

if TYPE_CHECKING:
    from sfmobile.bundle.choices import ComponentName, Target
    from sfmobile.export.coremltools_names import Program

# Before the names of operations and values that are added, where they are nobody's input or output.
ADDED = "apple_"


@dataclass(frozen=True)
class Adapter:
    """A component in Apple's form.

    package: file name without suffix. inputs, outputs: as Apple's pipeline names them. renamed: values of the bundle's
    program, and what they are called in this one. front: a program from one of `inputs` to values under these names;
    back: one from these names to `outputs`. as_bundles: the first of `outputs` in the shape of the bundle's.
    """

    package: str
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    renamed: Mapping[str, str]
    back: Callable[[Target], Program]
    front: Callable[[Target], Program] | None = None
    as_bundles: Callable[[np.ndarray], np.ndarray] = lambda output: output


def adapter_of(manifest: Manifest, component: ComponentName) -> Adapter | None:
    """How `component` is adapted; None if Apple's form has none of its kind."""
    pipeline = manifest.pipeline
    makers = {
        **dict.fromkeys(pipeline.text_encoders, _text_encoder),
        pipeline.unet: _unet,
        pipeline.decoder: _decoder,
        pipeline.encoder: _encoder,
    }
    make = makers.get(component)
    return None if make is None else make(manifest, manifest.components[component])


def _text_encoder(manifest: Manifest, record: ComponentRecord) -> Adapter:
    (ids,), (states,) = record.inputs, record.outputs
    _, hidden, _, length = states.shape
    end = manifest.tokenizer.eos_token_id

    def front(target: Target) -> Program:
        mb, types = _builder()

        def program(input_ids: Any) -> Any:
            return mb.cast(x=input_ids, dtype="int32", name=f"{ADDED}input_ids")

        return _program(program, {"input_ids": (ids.shape, types.fp32)}, target)

    def back(target: Target) -> Program:
        mb, types = _builder()
        # Of the first end token alone it is the greatest; without one, position 0 is taken, as transformers does.
        falling = np.arange(length, 0, -1, dtype=np.float16)[None]
        first = np.zeros((1, length), np.float16)
        first[0, 0] = 0.5

        def program(apple_encoder_hidden_states: Any, apple_input_ids: Any) -> Any:
            squeezed = mb.squeeze(x=apple_encoder_hidden_states, axes=[2], name=f"{ADDED}squeezed")
            rows = mb.transpose(x=squeezed, perm=[0, 2, 1], name=f"{ADDED}rows")
            is_end = mb.cast(
                x=mb.equal(x=apple_input_ids, y=np.int32(end), name=f"{ADDED}is_end"),
                dtype="fp16",
                name=f"{ADDED}is_end_half",
            )
            scored = mb.add(x=mb.mul(x=is_end, y=falling, name=f"{ADDED}end_scores"), y=first, name=f"{ADDED}scores")
            best = mb.reduce_max(x=scored, axes=[1], keep_dims=True, name=f"{ADDED}best")
            chosen = mb.cast(
                x=mb.equal(x=scored, y=best, name=f"{ADDED}chosen"), dtype="fp16", name=f"{ADDED}chosen_half"
            )
            weights = mb.expand_dims(x=chosen, axes=[1], name=f"{ADDED}weights")
            row = mb.matmul(x=weights, y=rows, name=f"{ADDED}pooled_row")
            pooled = mb.squeeze(x=row, axes=[1], name=f"{ADDED}pooled")
            return (
                mb.cast(x=rows, dtype="fp32", name="last_hidden_state"),
                mb.cast(x=pooled, dtype="fp32", name="pooled_outputs"),
            )

        given = {
            f"{ADDED}encoder_hidden_states": (states.shape, types.fp16),
            f"{ADDED}input_ids": (ids.shape, types.int32),
        }
        return _program(program, given, target)

    return Adapter(
        package="TextEncoder",
        inputs=(_tensor("input_ids", ids.shape, "float32", "Token ids, with start and end tokens, padded."),),
        outputs=(
            _tensor("last_hidden_state", (1, length, hidden), "float32", "The text embedding (1, tokens, channels)."),
            _tensor("pooled_outputs", (1, hidden), "float32", "The embedding at the end token."),
        ),
        renamed={ids.name: f"{ADDED}input_ids", states.name: f"{ADDED}encoder_hidden_states"},
        as_bundles=lambda output: output.transpose(0, 2, 1)[:, :, None, :],
        front=front,
        back=back,
    )


def _unet(manifest: Manifest, record: ComponentRecord) -> Adapter:
    tensors = {tensor.name: tensor for tensor in (*record.inputs, *record.outputs)}
    latents, states, output = (tensors[name] for name in ("latents", "encoder_hidden_states", "model_output"))
    batch, time = latents.shape[0], manifest.time_embedding

    def front(target: Target) -> Program:
        mb, types = _builder()
        steps = frequencies(time).reshape(1, -1, 1, 1)

        def program(timestep: Any) -> Any:
            column = mb.reshape(x=timestep, shape=(batch, 1, 1, 1), name=f"{ADDED}timestep_column")
            angles = mb.mul(x=column, y=steps, name=f"{ADDED}timestep_angles")
            waves = [mb.sin(x=angles, name=f"{ADDED}timestep_sin"), mb.cos(x=angles, name=f"{ADDED}timestep_cos")]
            if time.flip_sin_to_cos:
                waves.reverse()
            joined = mb.concat(values=waves, axis=1, name=f"{ADDED}timestep_sinusoid")
            return mb.cast(x=joined, dtype="fp16", name=f"{ADDED}time_embedding")

        return _program(program, {"timestep": ((batch,), types.fp32)}, target)

    return Adapter(
        package="Unet",
        inputs=(
            _tensor("sample", latents.shape, "float16", "Noisy latents, twice (batch, channels, height, width)."),
            _tensor("timestep", (batch,), "float32", "The timestep, twice; its sinusoid is computed in float32."),
            _tensor(states.name, states.shape, "float16", states.description),
        ),
        outputs=(_tensor("noise_pred", output.shape, "float32", output.description),),
        renamed={
            latents.name: "sample",
            "time_embedding": f"{ADDED}time_embedding",
            output.name: f"{ADDED}noise_pred",
        },
        front=front,
        back=_in_float32("noise_pred", output.shape),
    )


def _decoder(_: Manifest, record: ComponentRecord) -> Adapter:
    return _renaming("VAEDecoder", record, "z", "image")


def _encoder(_: Manifest, record: ComponentRecord) -> Adapter:
    return _renaming("VAEEncoder", record, "x", "latent")


def _renaming(package: str, record: ComponentRecord, taken: str, given: str) -> Adapter:
    """For a component of one input and one output: Apple's names for them, and the output in float32."""
    (source,), (made,) = record.inputs, record.outputs
    return Adapter(
        package=package,
        inputs=(_tensor(taken, source.shape, "float16", source.description),),
        outputs=(_tensor(given, made.shape, "float32", made.description),),
        renamed={source.name: taken, made.name: f"{ADDED}{given}"},
        back=_in_float32(given, made.shape),
    )


def _tensor(name: str, shape: tuple[int, ...], dtype: str, description: str) -> TensorRecord:
    return TensorRecord.model_validate({"name": name, "shape": shape, "dtype": dtype, "description": description})


def _in_float32(name: str, shape: tuple[int, ...]) -> Callable[[Target], Program]:
    """A program from `ADDED` + name, float16, to `name`, float32."""

    def back(target: Target) -> Program:
        mb, types = _builder()
        source = f"{ADDED}{name}"
        return _program(
            lambda **values: mb.cast(x=values[source], dtype="fp32", name=name), {source: (shape, types.fp16)}, target
        )

    return back


def _builder() -> tuple[Any, Any]:
    """coremltools' builder and its types."""
    from coremltools.converters.mil import Builder

    from sfmobile.export import coremltools_names

    return Builder, coremltools_names.TYPES.load()


def _program(body: Callable[..., Any], given: Mapping[str, tuple[tuple[int, ...], Any]], target: Target) -> Program:
    """The MIL program of `body`, whose arguments are named and typed by `given`."""
    from coremltools.converters.mil import Builder as mb

    from sfmobile.export import coremltools_names
    from sfmobile.export.lowering import coreml_target

    specs = {name: mb.TensorSpec(shape=shape, dtype=dtype) for name, (shape, dtype) in given.items()}
    with coremltools_names.FUNCTION.load()(specs, coreml_target(target)) as function:
        made = body(**function.inputs)
        function.set_outputs(list(made) if isinstance(made, tuple) else [made])
    program: Program = coremltools_names.PROGRAM.load()()
    program.add_function("main", function)
    return program

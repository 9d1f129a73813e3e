"""What fewer bits cost in signal: a checkpoint's network run with palettized weights, against itself.

The UNet is judged by where whole runs end: prompts are denoised step by step with the weights as a recipe stores them,
and the latents compared with those of the weights as they are. The other components are judged by their own output.
Everything runs on the torch networks in fp32, so what is measured is the weights' error alone.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from typing_extensions import Self

from sfmobile.bundle.manifest import ComponentName, TensorRecord
from sfmobile.bundle.pipeline import GuidanceEmbeddingCondition
from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.palettize import palettize_weight, worker_count
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe, compressible_layers
from sfmobile.errors import ArtifactError
from sfmobile.export.component import Setting, component_specs
from sfmobile.export.weights import check_fits_float16
from sfmobile.recipes.sensitivity import SampleCall, SampleRun
from sfmobile.recipes.streamed import WeightStream
from sfmobile.runtime.protocol import Arrays
from sfmobile.sampling.encoding import Encoding, joined, without_text, zeros_for
from sfmobile.sampling.guidance import Guidance, UNetCall, is_guided
from sfmobile.sampling.noise import initial_latents
from sfmobile.sampling.samplers.named import ddim_of
from sfmobile.sampling.samplers.starting import start
from sfmobile.sampling.sizes import OWN_SIZES, added_embedding
from sfmobile.sampling.time_embedding import guidance_sinusoid, sinusoid
from sfmobile.sampling.tokenizer import Tokenizer
from sfmobile.signal import psnr

Float32 = NDArray[np.float32]
# Bytes of float32 weights that a network is loaded into memory with; twice as many with gradients. Stable Diffusion 2's
# UNet has 3.5 GB.
MOST_IN_MEMORY = 5 << 30
Advance = Callable[[int], None]
ORIGINAL = LayerRecipe(bits=FULL_BITS)
# What a signal is of, behind the last step.
Final = Literal["latents", "output"]


@dataclass(frozen=True)
class Runs:
    """The runs that are compared: one for each prompt, prompt i from the noise of seed + i."""

    prompts: tuple[str, ...]
    negative_prompt: str
    seed: int
    steps: int
    guidance_scale: float
    latent_size: tuple[int, int]


@dataclass(frozen=True)
class SignalLevels:
    """PSNR in dB of the final result (latents of the runs, or the output) and of single calls on the same inputs."""

    final_db: float
    call_db: float


class StoredNetwork:
    """One component of a checkpoint in fp32, whose weights can be stored in fewer bits and put back.

    One of more than `MOST_IN_MEMORY` bytes is streamed: its weights stay in mapped files, those stored in fewer bits in
    one of its own, and are read layer by layer.
    """

    def __init__(self, checkpoint: Checkpoint, component: ComponentName) -> None:
        """Raises `ArtifactError` naming a weight that is not finite."""
        spec = component_specs(checkpoint)[component]
        self.name: ComponentName = component
        (self._output,) = (output.name for output in spec.outputs(Setting(checkpoint, checkpoint.latent_size, 1)))
        self._originals = checkpoint.state_dict(component)
        self._changed: dict[str, torch.Tensor] = {}
        self._file: torch.Tensor | None = None
        # Layers are stored by several threads.
        self._opening = threading.Lock()
        self.stream: WeightStream | None = None
        if 4 * checkpoint.parameters(component) > MOST_IN_MEMORY:
            for key, value in self._originals.items():
                check_fits_float16(checkpoint, component, key, value)
            self.net: nn.Module = checkpoint.unfilled(component)
            self.stream = WeightStream(self.net, self._read)
        else:
            self.net = checkpoint.load(component)
            for key, value in self.net.named_parameters():
                if not bool(value.isfinite().all()):
                    raise ArtifactError(
                        f"Weight '{key}' of the {component} holds infinity or NaN, in checkpoint '{checkpoint.root}'; "
                        "use one that is whole."
                    )
        self.net.requires_grad_(False)
        shapes = {key: tuple(weight.shape) for key, weight in self._originals.items()}
        self.shapes = compressible_layers(shapes)
        starts = np.cumsum([0, *map(math.prod, self.shapes.values())])
        self._starts = dict(zip(self.shapes, map(int, starts), strict=False))
        self._stored = dict.fromkeys(self.shapes, ORIGINAL)
        self.other_bytes = sum(2 * math.prod(shape) for key, shape in shapes.items()) - sum(
            2 * math.prod(shape) for shape in self.shapes.values()
        )

    def weights(self) -> dict[str, NDArray[np.float16]]:
        """The weights that can be compressed, by layer, as fp16 (mapped from the checkpoint if it stores them so)."""
        return {name: self._originals[f"{name}.weight"].half().numpy() for name in self.shapes}

    def store(self, storages: Mapping[str, LayerRecipe]) -> None:
        """Give each layer the values it has when it is stored as `storages` says; 16 bits are the original ones."""
        changed = [name for name in self.shapes if storages[name] != self._stored[name]]

        def work(name: str) -> None:
            storage = storages[name]
            original = self._originals[f"{name}.weight"]
            if storage.bits == FULL_BITS:
                self._set(name, original)
            else:
                stored = palettize_weight(original.half().numpy(), storage)
                self._set(name, torch.from_numpy(stored.dense()))

        with ThreadPoolExecutor(worker_count()) as pool:
            list(pool.map(work, changed))
        self._stored.update({name: storages[name] for name in changed})

    def restore(self) -> None:
        """Put the original weights back."""
        self.store(dict.fromkeys(self.shapes, ORIGINAL))

    def _set(self, layer: str, values: torch.Tensor) -> None:
        key = f"{layer}.weight"
        if self.stream is None:
            with torch.no_grad():
                self.net.get_parameter(key).copy_(values)
        elif values is self._originals[key]:
            self._changed.pop(key, None)
        else:
            self._changed[key] = self._place(layer).copy_(values)

    def _read(self, key: str) -> torch.Tensor:
        """The weight that a streamed network computes with now."""
        return self._changed.get(key, self._originals[key])

    def _place(self, layer: str) -> torch.Tensor:
        """A layer's place in the mapped file of weights in fewer bits, which goes when the last view of it does."""
        with self._opening:
            if self._file is None:
                with tempfile.NamedTemporaryFile(prefix="sfmobile-recipe-") as file:
                    total = sum(map(math.prod, self.shapes.values()))
                    self._file = torch.from_file(file.name, shared=True, size=total, dtype=torch.float16)
        shape = self.shapes[layer]
        return self._file[self._starts[layer] : self._starts[layer] + math.prod(shape)].view(shape)

    # What makes it a loaded component to guidance and sampling.
    inputs: tuple[TensorRecord, ...] = ()
    outputs: tuple[TensorRecord, ...] = ()

    def predict(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run the network; its forward takes the inputs by their names."""
        with torch.inference_mode():
            output = self.net(**{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()})
        return {self._output: output.numpy()}

    def close(self) -> None:
        """Nothing is held beyond the object itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def token_ids(checkpoint: Checkpoint, component: ComponentName, texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids (1, S) of each text as that text encoder takes them."""
    part = checkpoint.text(component)
    assert part is not None  # a text encoder of the pipeline
    tokenizer = Tokenizer(part.tokenizer_dir, part.tokenizer)
    return [tokenizer.encode(text) for text in texts]


def encode_prompts(checkpoint: Checkpoint, texts: Sequence[str], picture: tuple[int, int]) -> list[dict[str, Float32]]:
    """What the UNet takes of each text by the names of its inputs, by the checkpoint's own text encoders in fp32.

    picture: height and width in pixels, which a Stable Diffusion XL is told.
    """
    pipeline = checkpoint.pipeline
    found: list[dict[str, Encoding]] = [{} for _ in texts]
    for component in pipeline.text_encoders:
        net = checkpoint.load(component)
        names = [one.name for one in component_specs(checkpoint)[component].outputs(Setting(checkpoint, (1, 1), 1))]
        for encoded, ids in zip(found, token_ids(checkpoint, component, texts), strict=True):
            with torch.inference_mode():
                given = net(torch.from_numpy(ids))
            values = given if isinstance(given, tuple) else (given,)
            outputs = {name: value.numpy() for name, value in zip(names, values, strict=True)}
            encoded[component] = Encoding(outputs["encoder_hidden_states"], outputs)
    conditions = [joined(pipeline, encoded) for encoded in found]
    if (added := pipeline.added) is not None:
        for inputs, encoded in zip(conditions, found, strict=True):
            pooled = encoded[added.component].outputs[added.output]
            numbers = OWN_SIZES.numbers(picture)
            inputs[added.input] = added_embedding(added, pooled, numbers, checkpoint.time_embedding)
    return conditions


class LatentSignal:
    """The UNet's signal: the latents that whole runs end with."""

    final: Final = "latents"

    def __init__(self, checkpoint: Checkpoint, runs: Runs, advance: Advance | None = None) -> None:
        """Runs the reference; `advance` is told of each step, here and in `measure`."""
        self.runs = runs
        self.network = StoredNetwork(checkpoint, checkpoint.pipeline.unet)
        self._checkpoint = checkpoint
        self._advance = advance or (lambda _: None)
        # DDIM whatever the checkpoint's own sampler: its steps are linear and remember nothing, which the sum over
        # calls needs. What bits a layer needs is the network's, and calls lie all over the walk with either.
        self._sampler = ddim_of(checkpoint.sampler)
        self.timesteps = [int(timestep) for timestep in start(self._sampler, runs.steps).timesteps]
        texts = [*runs.prompts, runs.negative_prompt]
        pipeline, factor = checkpoint.pipeline, checkpoint.autoencoder_layout.downsampling
        height, width = runs.latent_size
        *self._conditional, self._unconditional = encode_prompts(checkpoint, texts, (factor * height, factor * width))
        if zeros_for(pipeline, runs.negative_prompt):
            self._unconditional = without_text(pipeline, self._unconditional)
        self._guided = is_guided(runs.guidance_scale) and not pipeline.takes_guidance
        self._others = {
            condition.input: guidance_sinusoid(runs.guidance_scale, condition.dimension)
            for condition in pipeline.conditions
            if isinstance(condition, GuidanceEmbeddingCondition)
        }
        if pipeline.residuals is not None:
            # Under ControlNets that get no picture, as a run from a prompt alone.
            taken = component_specs(checkpoint)[pipeline.unet].inputs(Setting(checkpoint, runs.latent_size, 1))
            shapes = {tensor.name: tensor.shape for tensor in taken}
            self._others |= {name: np.zeros(shapes[name], np.float32) for name in pipeline.residuals.inputs}
        self.calls: list[list[UNetCall]] = []
        self.latents = self._run(self.calls)
        self.peak = float(np.abs(self.latents).max())

    def measure(self, final_db: float | None = None) -> SignalLevels:
        """Runs and single calls with the weights that the network has now; `final_db` if the runs are done already."""
        calls = [call for run in self.calls for call in run]
        outputs = [self.network.predict(call.inputs)["model_output"] for call in calls]
        single = psnr(np.concatenate([call.model_output for call in calls]), np.concatenate(outputs))
        return SignalLevels(self.final_db() if final_db is None else final_db, single)

    def final_db(self) -> float:
        """Runs alone: the PSNR of the latents they end with."""
        return psnr(self.latents, self._run(None))

    def samples(self, prompts: int | None = None) -> list[SampleRun]:
        """The first `prompts` runs as chains of calls; the signal's square sums to the latents' mean squared error."""
        scale = self.runs.guidance_scale
        rows = np.array([1 - scale, scale] if self._guided else [1.0])
        factors = step_factors(self._sampler, self.runs.steps)
        return [
            SampleRun(
                tuple(
                    SampleCall(call.inputs, (gain * rows).astype(np.float32), "latents", carry)
                    for call, (carry, gain) in zip(run, factors, strict=True)
                ),
                scale=1 / math.sqrt(self.latents[0].size),
            )
            for run in self.calls[:prompts]
        ]

    def _conditions(self, text: dict[str, Float32]) -> dict[str, np.ndarray]:
        return {**text, **self._others}

    def _run(self, record: list[list[UNetCall]] | None) -> Float32:
        """Denoise every prompt; (prompts, C, H, W)."""
        runs = self.runs
        shape = (1, self._checkpoint.autoencoder_layout.latent_channels, *runs.latent_size)
        finals = []
        for number, conditional in enumerate(self._conditional):
            latents = initial_latents(runs.seed + number, shape)
            guidance = Guidance(
                batch=2 if self._guided else 1,
                scale=runs.guidance_scale,
                conditional=self._conditions(conditional),
                unconditional=self._conditions(self._unconditional) if self._guided else None,
            )
            calls: list[UNetCall] = []
            sampler = start(self._sampler, runs.steps)
            for timestep in self.timesteps:
                embedding = sinusoid([timestep], self._checkpoint.time_embedding)
                prediction = guidance.predict(self.network, latents, embedding)
                latents = sampler.step(prediction.model_output, latents).latents
                calls += prediction.calls
                self._advance(1)
            finals.append(latents)
            if record is not None:
                record.append(calls)
        return np.concatenate(finals)


class OutputSignal:
    """The signal of a component that is called once for a picture: its own output, for the inputs of real runs."""

    final: Final = "output"

    def __init__(
        self, checkpoint: Checkpoint, component: ComponentName, inputs: Sequence[Arrays], advance: Advance | None = None
    ) -> None:
        """Runs the reference; `advance` is told of each call, here and in `measure`."""
        self.network = StoredNetwork(checkpoint, component)
        self._inputs = inputs
        self._advance = advance or (lambda _: None)
        self.outputs = self._run()
        self.peak = float(np.abs(self.outputs).max())

    def measure(self, final_db: float | None = None) -> SignalLevels:
        """The outputs with the weights that the network has now; here a single call is the final result."""
        found = self.final_db() if final_db is None else final_db
        return SignalLevels(found, found)

    def final_db(self) -> float:
        """PSNR of the outputs."""
        return psnr(self.outputs, self._run())

    def samples(self, prompts: int | None = None) -> list[SampleRun]:
        """One sample for each input; their square sums to the mean squared error of the output."""
        one, scale = np.ones(1, np.float32), 1 / math.sqrt(self.outputs[0].size)
        return [SampleRun((SampleCall(inputs, one),), scale) for inputs in self._inputs[:prompts]]

    def _run(self) -> Float32:
        outputs: list[np.ndarray] = []
        for inputs in self._inputs:
            outputs.append(*self.network.predict(inputs).values())
            self._advance(1)
        return np.concatenate(outputs)


def step_factors(record: DDIMRecord, steps: int) -> list[tuple[float, float]]:
    """DDIM's steps are linear: factors of the latents and of the network's output in the next latents, step by step.

    Clipping of the denoised latents is left out: it changes what happens to errors in few places only.
    """
    sampler = start(record.model_copy(update={"clip_sample": False}), steps)
    latents, output = np.eye(2, dtype=np.float32)
    found = [sampler.step(output, latents).latents for _ in range(sampler.calls)]
    return [(float(carry), float(gain)) for carry, gain in found]

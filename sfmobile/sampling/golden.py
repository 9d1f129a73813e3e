"""Golden vectors: one fixed run recorded with the reference, which every other runtime and the phone must reproduce."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.runtime.opening import open_runtime
from sfmobile.sampling.control import TAKEN
from sfmobile.sampling.noise import initial_latents
from sfmobile.sampling.picture import to_pixels
from sfmobile.sampling.pipeline import Request, Step, TextToImage
from sfmobile.sampling.safety import pixel_values
from sfmobile.sampling.tokenizer import Tokenizer

GOLDEN_REQUEST = Request("a photo of an astronaut riding a horse on mars", seed=42)

# Samples whose ids Python and Swift must agree on: case, contractions, numbers, accents, emoji, CJK, controls, length.
TOKENIZER_SAMPLES = (
    "",
    "a photo of an astronaut riding a horse on mars",
    "It's 2024's BEST café, isn't it?",
    "two   spaces\tand\nlines",
    "😀🎉 emoji 👩‍👩‍👧",
    "红苹果 と 사과",
    "a\u0007b\u0000c",
    "<|endoftext|> inside <|startoftext|>",
    "word " * 100,
)
# The generator takes the lower 32 bits of a seed: both sides of that edge.
NOISE_SEEDS = (0, 1, 42, 2**32 - 1, 2**32 + 1)


@dataclass(frozen=True)
class GoldenRun:
    """Reference vectors by name, and the run they record."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance_scale: float
    vectors: dict[str, np.ndarray]


def golden_run(
    bundle: Bundle,
    source: Checkpoint,
    request: Request = GOLDEN_REQUEST,
    *,
    steps: int | None = None,
    advance: Callable[[int], None] = lambda units: None,
) -> GoldenRun:
    """Record `request` on the torch reference (fp32) of `source`; `bundle` needs no packages yet, only its manifest.

    steps: in place of the request's. advance: told of each step, and of the picture.
    """
    manifest = bundle.manifest
    if steps is not None:
        request = replace(request, steps=steps)
    runtime = open_runtime("torch", bundle, source=source)
    # At full size two networks in float32 are more than a notebook has to spare.
    with TextToImage.of_bundle(bundle, runtime, keep_loaded=False) as pipeline:
        vectors = record_vectors(pipeline, request, advance)
    return GoldenRun(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        steps=manifest.pipeline.default_steps if request.steps is None else request.steps,
        guidance_scale=manifest.guidance.default_scale if request.guidance_scale is None else request.guidance_scale,
        vectors=vectors,
    )


def record_vectors(
    pipeline: TextToImage, request: Request, advance: Callable[[int], None] = lambda units: None
) -> dict[str, np.ndarray]:
    """Run `request` on `pipeline` and return its vectors by file name without `.npy`.

    <component>.<input or output>    inputs and outputs of each component: the prompt's text encoding, the UNet's calls
                                     of the last step (rows unconditional, conditional), the ControlNets' of the picture
                                     that was drawn, the final decoding
    run.timesteps                    int64 (steps,), or float32 where a sampler is told fractions
    run.latents                      float32 (steps + 1, C, H, W): unit noise, then the latents behind each step
    run.model_output                 float32 (steps, C, H, W): the guided output of each step
    noise.seeds, noise.values        int64 (n,), float32 (n, 1, C, H, W): initial latents by seed
    tokenizer.texts                  uint8: UTF-8 of all samples, one behind the other
    tokenizer.offsets                int64 (n + 1,): sample i is bytes offsets[i] to offsets[i + 1]
    <tokenizer>.ids                  int32 (n, max_length)
    """
    noise = initial_latents(request.seed, pipeline.latent_shape())
    steps = []
    for step in pipeline.steps(request, noise):
        steps.append(step)
        advance(1)
    last = steps[-1]
    image = pipeline.decode(last.latents)
    # Of the picture that was drawn, where the bundle can take one.
    given = {}
    if pipeline.manifest.pipeline.encoder in pipeline.manifest.components:
        given = {"encoder.image": image.clip(-1, 1), "encoder.moments": pipeline.moments(image.clip(-1, 1))}
    preview = pipeline.manifest.pipeline.preview
    if preview in pipeline.manifest.components:
        shown = pipeline.component(preview).predict({"latents": last.latents})["image"]
        given |= {f"{preview}.latents": last.latents, f"{preview}.image": shown}
    safety = pipeline.manifest.safety
    if safety is not None:
        checker, pixels = pipeline.manifest.pipeline.safety_checker, to_pixels(image)
        given |= {
            f"{checker}.pixel_values": pixel_values(pixels, safety.picture),
            f"{checker}.image_embeds": pipeline.embed(pixels),
        }
    advance(1)
    vectors = {
        **_texts(pipeline, request.prompt),
        **{f"unet.{name}": np.concatenate([c.inputs[name] for c in last.calls]) for name in last.calls[0].inputs},
        "unet.model_output": np.concatenate([call.model_output for call in last.calls]),
        "decoder.latents": pipeline.decoder_input(last.latents),
        "decoder.image": image,
        **given,
        **_controls(pipeline, last, image),
        "run.timesteps": _timesteps([step.timestep for step in steps]),
        "run.latents": np.concatenate([noise, *(step.latents for step in steps)]),
        "run.model_output": np.concatenate([step.model_output for step in steps]),
        **noise_samples(pipeline.latent_shape()),
        **tokenizer_samples(pipeline.tokenizers),
    }
    return {name: np.ascontiguousarray(vector) for name, vector in vectors.items()}


def _texts(pipeline: TextToImage, prompt: str) -> dict[str, np.ndarray]:
    """What each text encoder takes and gives: of one chunk, however many the UNet reads."""
    found: dict[str, np.ndarray] = {}
    encodings = pipeline.encodings(prompt)
    for text in pipeline.manifest.pipeline.texts:
        found[f"{text.component}.input_ids"] = pipeline.cut(prompt, text=text).chunks[0].ids
        outputs = encodings[text.component].outputs
        found |= {f"{text.component}.{name}": value for name, value in outputs.items()}
    return found


def _controls(pipeline: TextToImage, last: Step, image: np.ndarray) -> dict[str, np.ndarray]:
    """What each ControlNet makes of the picture that was drawn, called as the UNet was at the last step."""
    condition = pipeline.manifest.pipeline.residuals
    picture = np.float32(0.5) * image.clip(-1, 1) + np.float32(0.5)
    found: dict[str, np.ndarray] = {}
    for name in () if condition is None else condition.components:
        calls = []
        for call in last.calls:
            inputs = {**{key: call.inputs[key] for key in TAKEN}, "picture": picture}
            calls.append({**inputs, **pipeline.component(name).predict(inputs)})
        found |= {f"{name}.{key}": np.concatenate([one[key] for one in calls]) for key in calls[0]}
    return found


def _timesteps(values: list[float]) -> np.ndarray:
    return np.array(values, np.int64 if all(float(value).is_integer() for value in values) else np.float32)


def noise_samples(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Initial latents of `shape` for `NOISE_SEEDS`."""
    values = np.stack([initial_latents(seed, shape) for seed in NOISE_SEEDS])
    return {"noise.seeds": np.array(NOISE_SEEDS, np.int64), "noise.values": values}


def tokenizer_samples(tokenizers: Mapping[str, Tokenizer]) -> dict[str, np.ndarray]:
    """`TOKENIZER_SAMPLES` as bytes and as token ids of each tokenizer."""
    texts = [text.encode() for text in TOKENIZER_SAMPLES]
    return {
        "tokenizer.texts": np.frombuffer(b"".join(texts), np.uint8),
        "tokenizer.offsets": np.cumsum([0, *(len(text) for text in texts)], dtype=np.int64),
        **{
            f"{name}.ids": np.concatenate([tokenizer.encode(text) for text in TOKENIZER_SAMPLES])
            for name, tokenizer in tokenizers.items()
        },
    }

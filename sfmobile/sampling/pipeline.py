"""From text to a picture over any runtime: the loop is a generator, so that previews, progress and tests share it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import Self

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, Manifest
from sfmobile.bundle.pipeline import (
    AddedEmbeddingCondition,
    ComponentKey,
    GuidanceEmbeddingCondition,
    TextCondition,
)
from sfmobile.bundle.samplers import SamplerRecord
from sfmobile.errors import UsageError
from sfmobile.observer import Observer
from sfmobile.runtime.opening import RuntimeRequest, open_bundle
from sfmobile.runtime.protocol import LoadedComponent, Runtime
from sfmobile.sampling.choices import DEFAULT_FIT, Fit, PreviewKind
from sfmobile.sampling.control import Control, Residuals, check_controls, parse_control, read_control
from sfmobile.sampling.emphasis import PromptSyntax, check_syntax
from sfmobile.sampling.encoding import Encoding, encodings, joined, without_text, zeros_for
from sfmobile.sampling.given import Given, PictureSource, read_given
from sfmobile.sampling.guidance import Further, Guidance, UNetCall, check_finite, check_scale, is_guided
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.picture import Picture, to_pixels
from sfmobile.sampling.previews import Previews
from sfmobile.sampling.prompt import Prompt, cut
from sfmobile.sampling.safety import SafetyConcepts, Verdict, pixel_values
from sfmobile.sampling.samplers.named import name_of, named, with_eta
from sfmobile.sampling.samplers.sampler import Sampler
from sfmobile.sampling.samplers.starting import start, start_within
from sfmobile.sampling.sizes import OWN_SIZES, Sizes, added_embedding, check_sizes
from sfmobile.sampling.tasks import FromPicture, FromText, check_runs, task_of
from sfmobile.sampling.time_embedding import guidance_sinusoid, sinusoid
from sfmobile.sampling.tokenizer import Tokenizer, tokenizers_of
from sfmobile.tables import shortened

if TYPE_CHECKING:
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.runtime.choices import ComputeUnit, Precision, RuntimeChoice

# What a picture's settings say of the safety checker, of a bundle that has one: passed, flagged or off.
SAFETY_KEY = "safety_checker"
FLAGGED = (
    "The safety checker flags this picture: it is black. Another seed or prompt may pass; --no-safety-checker shows "
    "pictures unchecked."
)


@dataclass(frozen=True)
class Request:
    """What to draw. None takes the model's default; a sampler is one of `sfmobile.sampling.samplers.named.NAMES`.

    eta: of a sampler that has one, see `with_eta` there.
    given: the picture to start from, to repaint or to edit.
    syntax: of both prompts, see `sfmobile.sampling.prompt`.
    controls: pictures for the bundle's ControlNets.
    safety_checker: whether the picture is looked at before it is shown, where the bundle has what it takes.
    sizes: what a model is told of the picture's size, if it is.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    eta: float | None = None
    given: Given | None = None
    syntax: PromptSyntax = "plain"
    controls: tuple[Control, ...] = ()
    safety_checker: bool = True
    sizes: Sizes = OWN_SIZES


@dataclass(frozen=True)
class Step:
    """One network evaluation of the loop, `index` of 0 to `count` - 1; a sampler may take more of them than steps.

    latents, denoised, model_output: float32 (1, C, H, W): the latents behind this step, the picture it predicts, the
    guided output. calls: the UNet calls with their inputs. seconds: wall time of this step.
    """

    index: int
    count: int
    timestep: float
    latents: np.ndarray
    denoised: np.ndarray
    model_output: np.ndarray
    calls: tuple[UNetCall, ...]
    seconds: float


@dataclass(frozen=True)
class Drawing:
    """A picture, the ones that its steps predicted if they were asked for, and the seconds it took.

    safety: what the bundle's safety checker says of it; None if the bundle has none, or it was left out.
    """

    picture: Picture
    previews: tuple[Picture, ...]
    steps_seconds: tuple[float, ...]
    seconds: float
    safety: Verdict | None = None


class TextToImage:
    """The pipeline of one bundle. Components are loaded on first use; close it (or use `with`) to free them.

    With `keep_loaded` False each component is freed as soon as its part is done, which a phone would do.
    """

    def __init__(
        self,
        runtime: Runtime,
        manifest: Manifest,
        tokenizers: Mapping[ComponentKey, Tokenizer],
        *,
        keep_loaded: bool = True,
        safety: SafetyConcepts | None = None,
    ) -> None:
        """tokenizers: by the manifest's names. safety: what pictures are compared with, of a bundle that has a safety
        checker.

        Raises `UsageError` for a bundle of a task that sfmobile can't run.
        """
        check_runs(manifest)
        self._safety = safety
        self.runtime = runtime
        self.manifest = manifest
        self.tokenizers = tokenizers
        self._keep_loaded = keep_loaded
        self._loaded: dict[ComponentName, LoadedComponent] = {}

    @classmethod
    def of_bundle(cls, bundle: Bundle, runtime: Runtime, *, keep_loaded: bool = True) -> TextToImage:
        """The pipeline of `bundle` on `runtime`."""
        tokenizers, safety = tokenizers_of(bundle), SafetyConcepts.of(bundle)
        return cls(runtime, bundle.manifest, tokenizers, keep_loaded=keep_loaded, safety=safety)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the (first) text condition."""
        return self.tokenizers[self.manifest.pipeline.text.tokenizer]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free all components."""
        for name in tuple(self._loaded):
            self._loaded.pop(name).close()

    def component(self, name: ComponentName) -> LoadedComponent:
        """Component `name`, loaded once."""
        if name not in self._loaded:
            self._loaded[name] = self.runtime.load(name)
        return self._loaded[name]

    def cut(self, prompt: str, syntax: PromptSyntax = "plain", text: TextCondition | None = None) -> Prompt:
        """`prompt` in the chunks that this bundle's UNet reads, by the tokenizer of the (first) text condition.

        Raises `UsageError` for one that can't be read.
        """
        text = text or self.manifest.pipeline.text
        return cut(self.tokenizers[text.tokenizer], prompt, syntax, text.chunks)

    def encodings(self, prompt: str, syntax: PromptSyntax = "plain") -> dict[ComponentName, Encoding]:
        """What each text encoder makes of `prompt`. What doesn't fit is cut."""
        return encodings(self.manifest.pipeline, partial(self.cut, prompt, syntax), self.component)

    def encode(self, prompt: str, syntax: PromptSyntax = "plain") -> np.ndarray:
        """Hidden states of `prompt`, float32 (1, C, 1, S) as the UNet takes them."""
        pipeline = self.manifest.pipeline
        return joined(pipeline, self.encodings(prompt, syntax))[pipeline.text.input]

    def conditions(
        self, prompt: str, scale: float, syntax: PromptSyntax = "plain", sizes: Sizes = OWN_SIZES
    ) -> dict[str, np.ndarray]:
        """What steers the UNet beside latents and time, by the name of its input, one row each."""
        pipeline = self.manifest.pipeline
        encoded = self.encodings(prompt, syntax)
        found = joined(pipeline, encoded)
        for condition in pipeline.conditions:
            if isinstance(condition, GuidanceEmbeddingCondition):
                found[condition.input] = guidance_sinusoid(scale, condition.dimension)
            elif isinstance(condition, AddedEmbeddingCondition):
                pooled = encoded[condition.component].outputs[condition.output]
                numbers = sizes.numbers(self.manifest.latents.picture_size)
                found[condition.input] = added_embedding(condition, pooled, numbers, self.manifest.time_embedding)
        return found

    def latent_shape(self) -> tuple[int, int, int, int]:
        """Shape of the latents, batch 1."""
        latents = self.manifest.latents
        return (1, latents.channels, latents.height, latents.width)

    def steps(self, request: Request, latents: np.ndarray | None = None) -> Iterator[Step]:
        """Denoise, step by step; `latents` of unit variance replaces the seed's first noise.

        The request is checked before anything is loaded. Raises `UsageError` for steps, a scale, a seed or a prompt
        out of range or a sampler that can't walk this model, `GateError` for NaN or infinity in an output.
        """
        scale = self.manifest.guidance.default_scale if request.guidance_scale is None else request.guidance_scale
        task = task_of(self.manifest, request.given)
        noise = Noise(request.seed)
        sampler = self._sampler(request, task, noise)
        check_scale(scale)
        check_scale(1.0 if task.picture_guidance is None else task.picture_guidance)
        check_syntax(request.syntax)
        check_controls(request.controls, self.manifest)
        check_sizes(request.sizes, self.manifest)
        for prompt in (request.prompt, request.negative_prompt):
            self.cut(prompt, request.syntax)
        # Drawn in any case: a sampler that draws goes on behind it.
        drawn = task.draw(noise, self.latent_shape())
        return self._denoise(request, task, drawn if latents is None else latents, sampler, scale)

    def sampler_record(self, request: Request) -> SamplerRecord:
        """The constants `request` is walked with.

        Raises `UsageError` for a sampler that can't walk this model, and for an eta that it hasn't.
        """
        own = self.manifest.sampler
        record = own if request.sampler is None else named(own, request.sampler)
        return record if request.eta is None else with_eta(record, request.eta)

    def calls(self, request: Request) -> int:
        """How many evaluations of the UNet `request` takes, each of one call or, with guidance by halves, two."""
        sampler = self._sampler(request, task_of(self.manifest, request.given), None)
        return sampler.calls - sampler.begun

    def _sampler(self, request: Request, task: FromText, noise: Noise | None) -> Sampler:
        """The walk of a request, at the call where its task begins."""
        steps = self.manifest.pipeline.default_steps if request.steps is None else request.steps
        consistency = self.manifest.pipeline.family == "latent-consistency"
        if isinstance(task, FromPicture):
            return start_within(self.sampler_record(request), steps, task.strength, noise, all_steps=consistency)
        return start(self.sampler_record(request), steps, noise)

    def _denoise(
        self, request: Request, task: FromText, unit: np.ndarray, sampler: Sampler, scale: float
    ) -> Iterator[Step]:
        guidance = self._guidance(request, task, scale)
        for name in self.manifest.pipeline.text_encoders:
            self._done_with(name)
        unet = self.component(self.manifest.pipeline.unet)
        residuals = Residuals.of(self.manifest, request.controls, self.component)
        latents = task.begin(sampler, unit)
        count = len(sampler.timesteps) - sampler.begun
        for index, timestep in enumerate(sampler.timesteps[sampler.begun :].tolist()):
            begun = time.perf_counter()
            embedding = sinusoid([timestep], self.manifest.time_embedding)
            further: Further = (lambda _: {}) if residuals is None else partial(residuals, index=index, count=count)
            guided = guidance.predict(unet, sampler.model_input(latents), embedding, further)
            prediction = sampler.step(guided.model_output, latents)
            latents = task.settle(sampler, prediction.latents)
            seconds = time.perf_counter() - begun
            yield Step(
                index=index,
                count=sampler.calls - sampler.begun,
                timestep=timestep,
                latents=latents,
                denoised=prediction.denoised,
                model_output=guided.model_output,
                calls=guided.calls,
                seconds=seconds,
            )
        for name in (self.manifest.pipeline.unet, *(control.component for control in request.controls)):
            self._done_with(name)

    def _guidance(self, request: Request, task: FromText, scale: float) -> Guidance:
        """What steers the UNet: the prompt's and the picture's encodings, by rows."""
        conditional = self.conditions(request.prompt, scale, request.syntax, request.sizes)
        # A model that edits is guided by both of its scales or by none, as in diffusers.
        by_picture = task.picture_guidance
        guided = (
            is_guided(scale) and not self.manifest.pipeline.takes_guidance and (by_picture is None or by_picture >= 1)
        )
        unconditional = None
        if guided and zeros_for(self.manifest.pipeline, request.negative_prompt):
            unconditional = without_text(self.manifest.pipeline, conditional)
        elif guided:
            unconditional = self.conditions(request.negative_prompt, scale, request.syntax, request.sizes)
        task.prepare(self.moments)
        behind = task.behind()
        if behind is None:
            return Guidance(self.manifest.guidance.batch, scale, conditional, unconditional)
        pictured = None if unconditional is None else {**unconditional, "latents": behind}
        if by_picture is None:
            return Guidance(self.manifest.guidance.batch, scale, {**conditional, "latents": behind}, pictured)
        return Guidance(
            batch=self.manifest.guidance.batch,
            scale=scale,
            conditional={**conditional, "latents": behind},
            unconditional=None if unconditional is None else {**unconditional, "latents": np.zeros_like(behind)},
            pictured=pictured,
            picture_scale=by_picture,
        )

    def decoder_input(self, latents: np.ndarray) -> np.ndarray:
        """What the decoder takes: latents of the loop divided by the autoencoder's scaling factor."""
        return latents / np.float32(self.manifest.latents.scaling_factor)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Image of the loop's latents, float32 (1, 3, H, W), about [-1, 1] and not clamped."""
        return self._once(self.manifest.pipeline.decoder, "latents", self.decoder_input(latents), "image")

    def decode_tiny(self, latents: np.ndarray) -> np.ndarray:
        """As `decode`, by the component for previews, which takes the latents as the loop has them."""
        return self._once(self.manifest.pipeline.preview, "latents", latents, "image")

    def moments(self, image: np.ndarray) -> np.ndarray:
        """What the encoder says of an image float32 (1, 3, H, W), -1 to 1: means and log variances (1, 2 C, h, w)."""
        return self._once(self.manifest.pipeline.encoder, "image", image, "moments")

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """What the safety checker's network makes of a picture uint8 (H, W, 3): an embedding float32 (1, D)."""
        record = self.manifest.safety
        assert record is not None  # whoever asks has seen that the bundle has one
        given = pixel_values(pixels, record.picture)
        return self._once(self.manifest.pipeline.safety_checker, "pixel_values", given, "image_embeds")

    def _once(self, name: ComponentName, taken: str, value: np.ndarray, given: str) -> np.ndarray:
        """What a component of one input and one output gives, checked."""
        found = self.component(name).predict({taken: value})[given]
        check_finite(found, name)
        self._done_with(name)
        return found

    def generate(self, request: Request, observe: Callable[[Step], None] | None = None) -> Picture:
        """Draw `request`; `observe` is shown each step."""
        latents: np.ndarray | None = None
        for step in self.steps(request):
            latents = step.latents
            if observe is not None:
                observe(step)
        assert latents is not None  # a run has at least one step
        return self.finished(request, latents)

    def finished(self, request: Request, latents: np.ndarray) -> Picture:
        """The picture of a run's last latents; a black one if the bundle's safety checker flags it."""
        return self.judged(request, latents)[0]

    def judged(self, request: Request, latents: np.ndarray) -> tuple[Picture, Verdict | None]:
        """The picture of a run's last latents, and what the safety checker says of it: None if none looked at it.

        One that is flagged is black, as in diffusers. What is looked at is what would be shown, with the parts that a
        mask leaves put back.
        """
        pixels = task_of(self.manifest, request.given).finish(to_pixels(self.decode(latents)))
        settings = self.settings(request)
        if self.manifest.safety is None:
            return Picture(pixels, settings), None
        if not request.safety_checker:
            return Picture(pixels, {**settings, SAFETY_KEY: "off"}), None
        if self._safety is None:
            raise UsageError("Open the pipeline of a bundle with a safety checker with `TextToImage.of_bundle`.")
        verdict = self._safety.judge(self.embed(pixels))
        shown = np.zeros_like(pixels) if verdict.flagged else pixels
        return Picture(shown, {**settings, SAFETY_KEY: "flagged" if verdict.flagged else "passed"}), verdict

    def settings(self, request: Request) -> dict[str, str | int | float]:
        """What a picture's metadata says: enough to draw it again."""
        manifest = self.manifest
        scale = manifest.guidance.default_scale if request.guidance_scale is None else request.guidance_scale
        settings: dict[str, str | int | float] = {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            "steps": manifest.pipeline.default_steps if request.steps is None else request.steps,
            "guidance_scale": scale,
            "sampler": name_of(self.sampler_record(request)),
            "model": manifest.name,
            "source_sha256": manifest.source.sha256,
            "runtime": self.runtime.describe(),
            **task_of(manifest, request.given).settings(),
            **request.sizes.settings(),
        }
        if request.eta is not None:
            settings["eta"] = request.eta
        for control in request.controls:
            what = {"scale": control.scale, "start": control.start, "end": control.end}
            settings |= {f"{control.component}_{key}": value for key, value in what.items()}
        if request.syntax != "plain":
            settings["prompt_syntax"] = request.syntax
        for key in ("prompt", "negative_prompt"):
            dropped = self.cut(getattr(request, key), request.syntax).dropped
            if dropped:
                settings[f"{key}_tokens_dropped"] = dropped
        return settings

    def _done_with(self, name: ComponentName) -> None:
        if not self._keep_loaded and name in self._loaded:
            self._loaded.pop(name).close()


class Pipeline(TextToImage):
    """A bundle ready to draw: `Pipeline(bundle)("a red apple", seed=0)` is a picture.

    Components are loaded on first use; close it (or use `with`) to free them.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        *,
        runtime: RuntimeChoice = "auto",
        precision: Precision = "fp32",
        compute_unit: ComputeUnit | None = None,
        source: Checkpoint | Path | str | None = None,
        latent_size: tuple[int, int] | None = None,
        guidance_batch: int | None = None,
        keep_loaded: bool = True,
        observer: Observer | None = None,
    ) -> None:
        """Open `bundle`, a path or an opened one, on a runtime; `observer` is told of the checks this takes.

        runtime: what executes the components; auto is coreml on macOS and mil elsewhere. precision: of the mil
        runtime; fp16 rounds every operation's result. compute_unit: of the coreml runtime. source: the checkpoint of
        the torch runtime, if it isn't where the bundle was exported from. latent_size (height, width),
        guidance_batch: of a bundle that was exported for several.

        Raises `UsageError` for options that contradict each other, `ArtifactError` for a bundle that isn't whole,
        `UnavailableError` if this machine can't.
        """
        opened = open_bundle(bundle, latent_size, guidance_batch, observer)
        request = RuntimeRequest.of(opened, runtime, precision, compute_unit, source, observer)
        super().__init__(
            request.open_on(opened),
            opened.manifest,
            tokenizers_of(opened),
            keep_loaded=keep_loaded,
            safety=SafetyConcepts.of(opened),
        )
        self.bundle = opened

    def __call__(
        self,
        prompt: str,
        *,
        negative: str = "",
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        image: PictureSource | None = None,
        mask: PictureSource | None = None,
        strength: float | None = None,
        fit: Fit = DEFAULT_FIT,
        image_guidance: float | None = None,
        paste: bool = True,
        syntax: PromptSyntax = "plain",
        control: Sequence[str] = (),
        safety_checker: bool = True,
        sizes: Sizes = OWN_SIZES,
        observer: Observer | None = None,
    ) -> Picture:
        """Draw `prompt`; the same seed gives the same picture.

        negative: what to keep away from. steps, guidance, sampler: the model's defaults without them; guidance 1 is
        none; samplers are named in the guide, euler-ancestral say. eta: noise drawn on the way, of ddim and tcd.
        image: a file, or pixels uint8 (H, W, 3), to start from, to repaint where `mask` is white, or to edit, as the
        bundle's model does. strength: how much of it is drawn anew, above 0 to 1. fit: how a picture of another size
        is brought to the bundle's. image_guidance: of a model that edits, how close to keep to the picture. paste:
        whether what the mask doesn't cover is put back as it was. syntax: a1111 reads weights, (word:1.3).
        control: pictures for the bundle's ControlNets, "canny=edges.png:0.8". safety_checker: False shows the picture
        whatever the bundle's safety checker would say. sizes: what a Stable Diffusion XL is told of the picture's size.
        Raises `UsageError` for a request out of range, `GateError` for NaN or infinity on the way.
        """
        given = self.given(image, mask, strength, fit, image_guidance, paste, observer)
        request = Request(
            prompt,
            negative,
            seed,
            steps,
            guidance,
            sampler,
            eta,
            given,
            syntax,
            self.controls(control, observer=observer),
            safety_checker,
            sizes,
        )
        return self.draw(request, observer=observer).picture

    def given(
        self,
        image: PictureSource | None,
        mask: PictureSource | None = None,
        strength: float | None = None,
        fit: Fit = DEFAULT_FIT,
        image_guidance: float | None = None,
        paste: bool = True,
        observer: Observer | None = None,
    ) -> Given | None:
        """The picture of a request, of the size that this bundle draws in; `observer` is told what was done to it.

        Raises as `read_given` does, and `UsageError` for what is said of a picture that isn't given.
        """
        if image is None:
            if mask is not None or strength is not None or image_guidance is not None:
                raise UsageError("A mask, a strength and image guidance are of a picture; give one (--image).")
            return None
        given, notes = read_given(
            image,
            self.manifest.latents.picture_size,
            mask=mask,
            fit=fit,
            strength=strength,
            picture_guidance=image_guidance,
            paste=paste,
        )
        for note in notes:
            (observer or Observer()).note(f"{note}.")
        return given

    def controls(
        self, texts: Sequence[str], start: float = 0.0, end: float = 1.0, observer: Observer | None = None
    ) -> tuple[Control, ...]:
        """Control pictures of a request, "canny=edges.png:0.8" each; `observer` is told what was done to them.

        start, end: the share of the steps before and behind which they are left out.
        Raises as `read_control` and `parse_control` do.
        """
        found = []
        for text in texts:
            name, source, scale = parse_control(text)
            control, notes = read_control(name, source, self.manifest.latents.picture_size, scale, start, end)
            for note in notes:
                (observer or Observer()).note(f"{note}.")
            found.append(control)
        check_controls(found, self.manifest)
        return tuple(found)

    def draw(
        self,
        request: Request,
        *,
        preview: PreviewKind | bool = False,
        observer: Observer | None = None,
    ) -> Drawing:
        """Draw `request` and tell how long it took.

        preview: also a picture of what each step predicts: "linear", by the "tiny" decoder that a bundle may hold, or
        by the "decoder", which True is. Raises `UsageError` if the bundle holds no tiny one.
        """
        observer = observer or Observer()
        for what, text in (("prompt", request.prompt), ("negative prompt", request.negative_prompt)):
            for warning in self.cut(text, request.syntax).warnings_of(what):
                observer.note(warning)
        if preview == "tiny" and self.manifest.pipeline.preview not in self.manifest.components:
            raise UsageError(
                "The bundle has no component for previews; export it with --preview DIR, a tiny autoencoder for these "
                "latents, or take --previews-by linear."
            )
        steps = self.steps(request)
        observer.start(shortened(request.prompt), self.calls(request))
        begun = time.perf_counter()
        previews: Previews | None = None
        if preview:
            kind: PreviewKind = "decoder" if preview is True else preview
            decode = self.decode_tiny if kind == "tiny" else self.decode
            previews = Previews(decode, self.manifest.latents, self.settings(request), kind)
        seconds: list[float] = []
        latents: np.ndarray | None = None
        for step in steps:
            latents = step.latents
            seconds.append(step.seconds)
            if previews is not None:
                previews(step)
            observer.advance()
        assert latents is not None  # a run has at least one step
        shown = () if previews is None else tuple(previews.pictures)
        picture, verdict = self.judged(request, latents)
        if verdict is not None and verdict.flagged:
            observer.note(FLAGGED)
            # What led to it shows it too.
            shown = tuple(Picture(np.zeros_like(one.pixels), one.settings) for one in shown)
        return Drawing(picture, shown, tuple(seconds), time.perf_counter() - begun, verdict)

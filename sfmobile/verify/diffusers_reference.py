"""The source checkpoint through diffusers' own pipeline: the reference that shares nothing with our reading of it.

Our networks, tokenizer and sampler read a checkpoint once, for both sides of a comparison with ourselves: a misread
config, an unknown key, a token split in another way make the same mistake on both. diffusers and transformers read the
files themselves. What is compared with theirs is our reading in full: the bundle's manifest, tokenizer and sampler,
our networks in torch fp32 with the source's weights, at every step.

The image is compared as numbers and as the 8-bit picture, each side's by its own rounding. The second is by far the
lowest figure of a large picture and says the least: an image 117 dB close has one pixel in several thousand next to a
half, which falls to the other level (24 + 117/2 = 82.5 dB, see `gates`), and a small picture has none.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sfmobile.bench.verify_report import SampleAgreement
from sfmobile.bundle.pipeline import SAFETY_CHECKER
from sfmobile.checkpoint.config import read_config
from sfmobile.checkpoint.safety_checker import PROCESSOR_FOLDER
from sfmobile.checkpoint.scheduler import scheduler_config
from sfmobile.sampling.guidance import is_guided
from sfmobile.sampling.noise import initial_latents
from sfmobile.sampling.picture import to_pixels
from sfmobile.sampling.safety import pixel_values
from sfmobile.sampling.sizes import Sizes
from sfmobile.verify.signal import agreement

if TYPE_CHECKING:
    from sfmobile.bundle.samplers import SamplerRecord
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.checkpoint.source import EmbeddingChoice
    from sfmobile.sampling.pipeline import Request, TextToImage

# Two readings of one checkpoint in torch fp32 differ by the order of sums; families agree at 92 dB and more.
READING_GATE_DB = 80.0
# How names of the text encoder's layers begin in kohya's LoRAs.
KOHYA_TEXT = "lora_te"
NETWORK_CLASSES = {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL", "AutoencoderTiny")}
# Weights in fp32, and as much again for activations and for both networks' copies in turn.
MEMORY_FACTOR = 2.5


def why_not(checkpoint: Checkpoint) -> str | None:
    """Why diffusers can't run `checkpoint` here, or None if it can: a clause, such as "diffusers isn't installed"."""
    import importlib.util

    import psutil

    for package in ("diffusers", "transformers"):
        if importlib.util.find_spec(package) is None:
            return f"{package} isn't installed"
    unread = _unread_overlay(checkpoint)
    if unread is not None:
        return unread
    for folder, expected in NETWORK_CLASSES.items():
        found = read_config(checkpoint.tokenizer_dir.parent / folder / "config.json").get("_class_name", expected[0])
        if found not in expected:
            return f"its {folder} is of the class {found}, which diffusers doesn't have"
    needed = MEMORY_FACTOR * 4 * sum(checkpoint.parameters(part) for part in checkpoint.parts)
    available = psutil.virtual_memory().available
    if needed > available:
        return f"it needs about {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free"
    return None


def _unread_overlay(checkpoint: Checkpoint) -> str | None:
    """Why diffusers can't lay over a checkpoint what we do, or None if it can."""
    import importlib.util

    from safetensors import safe_open

    source = checkpoint.source
    if source.vae is not None and not source.vae.is_dir():
        return f"the autoencoder '{source.vae.name}' is a single file, whose config diffusers fetches from the Hub"
    if source.loras and importlib.util.find_spec("peft") is None:
        return "diffusers reads a LoRA with peft, which isn't installed"
    for lora in source.loras:
        with safe_open(lora.path, "numpy") as file:
            names = list(file.keys())
            layers = {name.partition(".")[0] for name in names if name.startswith(KOHYA_TEXT)}
            given = [f"{layer}.alpha" for layer in layers]
            alphas = {float(file.get_tensor(name)) if name in names else None for name in given}
        # Where they differ, diffusers 0.42 looks for layers by their names of transformers 4.
        if len(alphas) > 1:
            return f"diffusers gives all of the text encoder one alpha, and '{lora.path.name}' has several"
        if any("hada_" in name or "lokr_" in name for name in names):
            return f"'{lora.path.name}' is of a kind that diffusers doesn't merge"
    return None


def with_tokens(prompt: str, checkpoint: Checkpoint) -> str:
    """`prompt` with the tokens that were laid over the checkpoint, which no other prompt would show."""
    added = [record.tokens[0] for record in checkpoint.laid.records if record.kind == "embedding"]
    return " ".join([prompt, *added])


def _lay(pipeline: Any, checkpoint: Checkpoint) -> None:
    """Lay over diffusers' pipeline what is laid over the checkpoint, by its own means."""
    import diffusers

    source = checkpoint.source
    if source.vae is not None:
        name = read_config(source.vae / "config.json").get("_class_name", "AutoencoderKL")
        pipeline.vae = getattr(diffusers, name).from_pretrained(source.vae, use_safetensors=True)
    for embedding in source.embeddings:
        if len(checkpoint.texts) > 1:
            _lay_over_two(pipeline, embedding)
            continue
        folder, file = str(embedding.path.parent), embedding.path.name
        pipeline.load_textual_inversion(folder, weight_name=file, token=embedding.token, local_files_only=True)
    for lora in source.loras:
        pipeline.load_lora_weights(str(lora.path.parent), weight_name=lora.path.name, local_files_only=True)
        pipeline.fuse_lora(lora_scale=lora.scale)
        pipeline.unload_lora_weights()


def _lay_over_two(pipeline: Any, embedding: EmbeddingChoice) -> None:
    """As diffusers' guide has it for files of two text encoders: one call for each."""
    from safetensors.torch import load_file

    tensors, token = load_file(embedding.path), embedding.token or embedding.path.stem
    pipeline.load_textual_inversion(
        tensors["clip_l"], token=token, text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer
    )
    pipeline.load_textual_inversion(
        tensors["clip_g"], token=token, text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2
    )


def compare_reading(
    checkpoint: Checkpoint, ours: TextToImage, request: Request, advance: Callable[[int], None] = lambda steps: None
) -> list[SampleAgreement]:
    """Run `request` in diffusers and on `ours` (the bundle's pipeline over torch networks of `checkpoint`).

    `advance` is told of each step of either. Stages: tokens and embedding of the prompt (and, where guidance asks for
    it, of the negative prompt), the latents behind every step, the image, the picture of 8 bits; where a bundle
    encodes, the latents of the image.
    """
    manifest = ours.manifest
    steps = manifest.pipeline.default_steps if request.steps is None else request.steps
    scale = manifest.guidance.default_scale if request.guidance_scale is None else request.guidance_scale
    noise = initial_latents(request.seed, ours.latent_shape())
    request = replace(request, prompt=with_tokens(request.prompt, checkpoint))
    texts = {"prompt": request.prompt}
    if is_guided(scale) and not manifest.pipeline.takes_guidance:
        texts["negative prompt"] = request.negative_prompt
    encodes = manifest.pipeline.encoder in manifest.components
    with _quiet():
        theirs = _Theirs(checkpoint, None if request.sampler is None else ours.sampler_record(request))
        skipped = manifest.pipeline.text.skipped_layers
        factor = manifest.latents.pixels_per_latent
        found = theirs.run(texts, request.seed, noise, steps, scale, skipped, factor, advance, encodes, request.sizes)
        del theirs
    stages: list[SampleAgreement] = []

    def compare(name: str, expected: np.ndarray, given: np.ndarray, peak: float | None = None) -> None:
        stages.append(SampleAgreement(input=name, agreement=agreement(expected, given, peak)))

    for name, text in texts.items():
        read = [tokenizer.encode(text) for tokenizer in ours.tokenizers.values()]
        compare(f"{name}: tokens", found[f"{name}: tokens"], np.concatenate(read))
        compare(f"{name}: embedding", found[f"{name}: embedding"], ours.encode(text)[..., : ours.tokenizer.max_length])
        if (added := manifest.pipeline.added) is not None:
            pooled = ours.encodings(text)[added.component].outputs[added.output]
            compare(f"{name}: pooled", found[f"{name}: pooled"], pooled.reshape(1, -1))
    latents = noise
    for step in ours.steps(request, noise):
        latents = step.latents
        if f"step {step.index + 1}" not in found:
            raise AssertionError(f"diffusers made fewer than {step.count} steps")
        compare(f"step {step.index + 1} of {step.count}", found[f"step {step.index + 1}"], latents)
        advance(1)
    image = ours.decode(latents)
    compare("image", found["image"], image)
    compare("picture", found["picture"], to_pixels(image), peak=255)
    if encodes:
        # Of the same pixels: the encoder answers for itself.
        compare("latents of the picture", found["moments"], ours.moments(found["image"].clip(-1, 1)))
    if manifest.safety is not None:
        given, embedding = _checked(checkpoint, found["picture"])
        compare("safety checker: pixels", given, pixel_values(found["picture"], manifest.safety.picture))
        compare("safety checker: embedding", embedding, ours.embed(found["picture"]))
    return stages


def _checked(checkpoint: Checkpoint, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 (H, W, 3) as diffusers' safety checker takes it, (1, 3, S, S), and the embedding that it compares
    with its concepts, (1, D)."""
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from PIL import Image
    from transformers import CLIPImageProcessor

    assert checkpoint.safety is not None  # the bundle has one
    root = checkpoint.safety.root
    checker = StableDiffusionSafetyChecker.from_pretrained(root / SAFETY_CHECKER, torch_dtype=torch.float32)
    processor = CLIPImageProcessor.from_pretrained(root / PROCESSOR_FOLDER)
    given = processor(Image.fromarray(picture), return_tensors="pt").pixel_values
    with torch.inference_mode():
        embedding = checker.visual_projection(checker.vision_model(given)[1])
    return given.numpy(), embedding.numpy()


class _Theirs:
    """diffusers' pipeline of a checkpoint, with its own scheduler, or theirs of what replaces that here.

    sampler: another one than the checkpoint's.
    """

    def __init__(self, checkpoint: Checkpoint, sampler: SamplerRecord | None = None) -> None:
        import diffusers
        import torch

        # Pipelines that begin with a picture, and those of consistency models, hold this one's components.
        self.is_xl = len(checkpoint.texts) > 1
        kind = diffusers.StableDiffusionXLPipeline if self.is_xl else diffusers.StableDiffusionPipeline
        # What it would draw over a picture is no part of the model.
        without = (
            {"add_watermarker": False} if self.is_xl else {"safety_checker": None, "requires_safety_checker": False}
        )
        options: dict[str, Any] = {**without, "local_files_only": True}
        # Beside a single file its configs, which are elsewhere.
        folder = checkpoint.tokenizer_dir.parent
        if checkpoint.root.is_file():
            opened = kind.from_single_file(
                str(checkpoint.root), config=str(folder), torch_dtype=torch.float32, **options
            )
        else:
            opened = kind.from_pretrained(folder, use_safetensors=True, **options)
        _lay(opened, checkpoint)
        self.pipeline = opened.to(torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        encoder = self.pipeline.text_encoder
        if not self.is_xl and not hasattr(encoder, "text_model"):
            # Where diffusers 0.42 looks for the final norm if it skips layers; transformers 5 has it one floor higher.
            object.__setattr__(encoder, "text_model", encoder)
        walked = sampler or checkpoint.sampler
        if sampler is not None or checkpoint.sampler_replaced:
            # Theirs isn't ours: what walks in its place is compared with their class of that.
            config = scheduler_config(walked)
            self.pipeline.scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
        if walked.kind == "ddim" and walked.timestep_spacing == "linspace":
            _walk_own_list(self.pipeline.scheduler)
        self.eta = getattr(walked, "eta", 0.0)

    def run(
        self,
        texts: dict[str, str],
        seed: int,
        noise: np.ndarray,
        steps: int,
        scale: float,
        skipped_layers: int,
        pixels_per_latent: int,
        advance: Callable[[int], None],
        encodes: bool,
        sizes: Sizes,
    ) -> dict[str, np.ndarray]:
        """Tokens (1, S) of each tokenizer, embeddings (1, C, 1, S), latents behind each step, the image (1, 3, H, W)
        and the picture (H, W, 3), by stage; with `encodes` also what the encoder says of that image."""
        import torch

        pipeline = self.pipeline
        found: dict[str, np.ndarray] = {}
        embeddings: dict[str, Any] = {}
        pooled_embeddings: dict[str, Any] = {}
        with torch.inference_mode():
            for name, text in texts.items():
                found[f"{name}: tokens"] = np.asarray([self._ids(one, text) for one in self._tokenizers()], np.int32)
                embedding, *pooled = self._encode(text, skipped_layers or None)
                embeddings[name] = embedding
                found[f"{name}: embedding"] = embedding.permute(0, 2, 1)[:, :, None].numpy()
                for one in pooled:
                    pooled_embeddings[name] = one
                    found[f"{name}: pooled"] = one.numpy()

            # A sampler that draws goes on behind the initial latents.
            generator = torch.Generator().manual_seed(seed)
            torch.randn(noise.shape, generator=generator)

            def keep(_: Any, index: int, __: Any, values: dict[str, Any]) -> dict[str, Any]:
                found[f"step {index + 1}"] = values["latents"].numpy().copy()
                advance(1)
                return {}

            given = _texts(texts, embeddings if skipped_layers else None)
            if skipped_layers and self.is_xl:
                given |= _texts(texts, pooled_embeddings, "_pooled")
            if self.is_xl and not texts.get("negative prompt") and self.pipeline.config.force_zeros_for_empty_prompt:
                # To diffusers one of no words is another than none.
                given = {key: value for key, value in given.items() if not key.startswith("negative")}
            image = pipeline(
                **given,
                **self._told(sizes),
                num_inference_steps=steps,
                guidance_scale=scale,
                latents=torch.from_numpy(noise.copy()),
                generator=generator,
                eta=self.eta,
                height=noise.shape[2] * pixels_per_latent,
                width=noise.shape[3] * pixels_per_latent,
                output_type="latent",
                callback_on_step_end=keep,
            ).images
            decoded = pipeline.vae.decode(image / pipeline.vae.config.scaling_factor).sample
            found["image"] = decoded.numpy()
            (picture,) = pipeline.image_processor.postprocess(decoded, output_type="pil")
            found["picture"] = np.asarray(picture)
            if encodes:
                found["moments"] = pipeline.vae.encode(decoded.clamp(-1, 1)).latent_dist.parameters.numpy()
        return found

    def _tokenizers(self) -> list[Any]:
        return [self.pipeline.tokenizer, *([self.pipeline.tokenizer_2] if self.is_xl else [])]

    def _ids(self, tokenizer: Any, text: str) -> list[int]:
        ids: list[int] = tokenizer(
            self.pipeline.maybe_convert_prompt(text, tokenizer),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
        ).input_ids
        return ids

    def _encode(self, text: str, skipped: int | None) -> tuple[Any, ...]:
        """Hidden states, and a Stable Diffusion XL's pooled one."""
        if self.is_xl:
            states, _, pooled, _ = self.pipeline.encode_prompt(
                text, device="cpu", do_classifier_free_guidance=False, clip_skip=skipped
            )
            return states, pooled
        states, _ = self.pipeline.encode_prompt(text, "cpu", 1, False, clip_skip=skipped)
        return (states,)

    def _told(self, sizes: Sizes) -> dict[str, Any]:
        """What a Stable Diffusion XL is told of the picture."""
        if not self.is_xl:
            return {}
        return {
            "original_size": sizes.original,
            "crops_coords_top_left": sizes.crop,
            "target_size": sizes.target,
        }


def _texts(texts: dict[str, str], embeddings: dict[str, Any] | None, pooled: str = "") -> dict[str, Any]:
    """What diffusers' pipeline is told to draw: texts, or their embeddings, since it skips layers for the prompt alone
    and never for the negative one."""
    given: dict[str, Any] = texts if embeddings is None else embeddings
    ending = "" if embeddings is None else "_embeds"
    words = {"prompt": f"{pooled}_prompt".lstrip("_"), "negative prompt": f"negative{pooled}_prompt"}
    return {f"{words[name]}{ending}": value for name, value in given.items()}


def _walk_own_list(scheduler: Any) -> None:
    """Make diffusers' DDIM step to the next timestep of its own list, as here, where it would step beside it."""
    step = scheduler.step

    @functools.wraps(step)
    def to_the_next(output: Any, timestep: Any, *others: Any, **options: Any) -> Any:
        rest = [*scheduler.timesteps.tolist(), -1]
        # It steps by the first of these divided by the second.
        scheduler.register_to_config(num_train_timesteps=int(timestep) - rest[rest.index(int(timestep)) + 1])
        scheduler.num_inference_steps = 1
        return step(output, timestep, *others, **options)

    scheduler.step = to_the_next


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """diffusers' and transformers' advice is for their users; their errors stay. As it was afterwards."""
    import diffusers
    import transformers

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [logging.get_verbosity() for logging in libraries]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    try:
        for logging in libraries:
            logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        diffusers.utils.logging.disable_progress_bar()
        yield
    finally:
        for logging, level in zip(libraries, before, strict=True):
            logging.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
        diffusers.utils.logging.enable_progress_bar()

"""What people have that is no Stable Diffusion 1 or 2: named for what it is, with the mend that helps in that case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sfmobile.errors import ArtifactError

# Pipeline classes by how their names begin, longer ones first, and what to do.
_TRANSFORMERS = "its network is a transformer, of which sfmobile has none: use a model with a UNet"
_PIPELINES: dict[str, tuple[str, str]] = {
    "StableDiffusionXLInstructPix2Pix": (
        "an editing model of Stable Diffusion XL",
        "sfmobile edits with Stable Diffusion 1 alone: use InstructPix2Pix, or a text-to-image model",
    ),
    "StableDiffusion3": ("Stable Diffusion 3", _TRANSFORMERS),
    "StableDiffusionImageVariation": (
        "a model of image variation",
        "it is steered by a picture and not by text: use a text-to-image model",
    ),
    "StableUnCLIP": ("an unCLIP model", "it is steered by a picture's embedding: use a text-to-image model"),
    "StableDiffusionUpscale": ("an upscaler", "it enlarges pictures and draws none: use a text-to-image model"),
    "StableDiffusionLatentUpscale": ("an upscaler", "it enlarges pictures and draws none: use a text-to-image model"),
    "StableVideoDiffusion": ("a video model", "sfmobile draws single pictures"),
    "AnimateDiff": ("a video model", "sfmobile draws single pictures"),
    "Flux": ("Flux", _TRANSFORMERS),
    "PixArt": ("PixArt", _TRANSFORMERS),
    "Sana": ("Sana", _TRANSFORMERS),
    "HunyuanDiT": ("Hunyuan-DiT", _TRANSFORMERS),
    "Lumina": ("Lumina", _TRANSFORMERS),
    "AuraFlow": ("AuraFlow", _TRANSFORMERS),
    "QwenImage": ("Qwen-Image", _TRANSFORMERS),
    "Kandinsky": ("Kandinsky", "its UNet is steered by a prior that sfmobile doesn't have: use a Stable Diffusion"),
    "Wuerstchen": ("Würstchen", "it draws in three stages that sfmobile doesn't have: use a Stable Diffusion"),
    "StableCascade": ("Stable Cascade", "it draws in three stages that sfmobile doesn't have: use a Stable Diffusion"),
    "IF": ("DeepFloyd IF", "it draws pixels and not latents: use a Stable Diffusion"),
    "DiT": ("a DiT", _TRANSFORMERS),
}
_WEIGHTS = (".safetensors", ".ckpt", ".gguf", ".bin", ".pt")


def refuse_pipeline(file: Path, name: object) -> None:
    """Raise `ArtifactError` if `model_index.json` names a pipeline of a model that is known to be another one."""
    if not isinstance(name, str):
        return
    for start, (model, why) in sorted(_PIPELINES.items(), key=lambda one: -len(one[0])):
        if re.match(rf"{start}($|[^a-z])", name):
            raise ArtifactError(f"{file}: this is {model} ({name}), and {why}.")


def no_pipeline(place: str, names: Sequence[str]) -> str:
    """Why `place`, a directory or repository of files `names`, is no checkpoint without a `model_index.json`."""
    found = set(names)
    lora = next(
        (name for name in ("pytorch_lora_weights.safetensors", "adapter_model.safetensors") if name in found), None
    )
    if lora is not None:
        return (
            f"{place} is a LoRA ({lora}) and no checkpoint; export the model that it was made for, with --lora and the "
            "path of this file."
        )
    if "learned_embeds.safetensors" in found:
        return (
            f"{place} is a textual inversion (learned_embeds.safetensors) and no checkpoint; export the model that it "
            "was made for, with --embedding and the path of this file."
        )
    snapshots = sorted(name for name in names if name.startswith("snapshots/") and name != "snapshots/")
    if snapshots:
        return f"{place} is a model's folder in the Hub's cache; give its snapshot, {place}/{snapshots[-1]}."
    files = [name for name in names if name.endswith(_WEIGHTS) and "/" not in name]
    if "config.json" in found and any(name.startswith(("diffusion_pytorch_model", "model.")) for name in files):
        return (
            f"{place} is one component of a checkpoint; give the directory above, which holds model_index.json, or, if "
            "it is an autoencoder, lay it over a checkpoint with --vae."
        )
    single = [name for name in files if name.endswith(".safetensors")]
    if single:
        return f"{place} holds no model_index.json but the single file {single[0]}; give the path of that file."
    if files:
        return (
            f"{place} holds {files[0]} and no model_index.json; sfmobile reads .safetensors, no pickles and no GGUF: "
            "take the model in diffusers' format, or a .safetensors file."
        )
    return (
        f"{place} is not a diffusers-format checkpoint: model_index.json is missing; give the directory that holds it, "
        "with tokenizer, text_encoder, unet, vae and scheduler beside it."
    )

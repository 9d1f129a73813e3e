"""What a bundle can be made of, as names: components, targets, formats, attention forms. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

# What a component is called: "text_encoder", "unet", "decoder" and whatever else a pipeline has.
ComponentName: TypeAlias = str

# When a component is called; "per_given_picture": once for each picture that is given to start from, to edit or to
# control, so never when a prompt is all there is; "per_preview": for each step whose prediction is to be seen.
Runs = Literal["per_prompt", "per_step", "per_picture", "per_given_picture", "per_preview"]

# Checkpoints that are read and sampled alike.
Family = Literal["stable-diffusion", "latent-consistency", "stable-diffusion-xl"]

# Bundles of the others hold networks that nothing here runs as a whole yet.
Task = Literal["text-to-image", "inpainting", "instructed-editing", "depth-to-image"]

# The earliest system that a package runs on.
Target = Literal["ios16", "ios17", "ios18"]
TARGETS: tuple[Target, ...] = get_args(Target)

Format = Literal["mlprogram", "onnx", "coreai"]
FORMATS: tuple[Format, ...] = get_args(Format)

# A further form of a bundle's packages, for apps that load no bundles: apple/ml-stable-diffusion's.
Form = Literal["apple"]

# What weights and activations are stored and declared as; not to be confused with the runtime's evaluation.
FloatType = Literal["float16", "float32"]
FLOAT_TYPES: tuple[FloatType, ...] = get_args(FloatType)

# See `sfmobile.nets.attention`.
AttentionForm = Literal["original", "split-einsum", "split-einsum-v2"]
ATTENTION_FORMS: tuple[AttentionForm, ...] = get_args(AttentionForm)

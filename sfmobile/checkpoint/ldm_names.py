"""Where a file of LDM's names holds what diffusers and transformers call otherwise: Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "clip": "cond_stage_model.transformer.",
    "open_clip": "cond_stage_model.model.",
    # Of Stable Diffusion XL.
    "xl_clip": "conditioner.embedders.0.transformer.",
    "xl_open_clip": "conditioner.embedders.1.model.",
}
# Constants of the training, the loss, averages beside the weights, and what the text encoder doesn't run.
IGNORED = (
    r"(model_ema\.|betas$|alphas_cumprod|sqrt_|log_one_minus|posterior_|lvlb_weights$|logvar$|global_step$|"
    r"first_stage_model\.loss\.|denoiser\.sigmas$|v_pred$|ztsnr$|scale_factor$|"
    r"cond_stage_model\.model\.(logit_scale$|text_projection$|attn_mask$)|"
    r"conditioner\.embedders\.1\.model\.(logit_scale$|attn_mask$)|"
    r".*position_ids$)"
)


class Place(NamedTuple):
    """A stored name; part: which third of its rows. transposed: whether rows and columns are exchanged."""

    name: str
    part: int | None = None
    transposed: bool = False


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TRANSFORMER_LAYER = (
    *(f"attn{number}.{module}" for number in (1, 2) for module in ("to_q", "to_k", "to_v", "to_out.0")),
    *(f"norm{number}" for number in (1, 2, 3)),
    "ff.net.0.proj",
    "ff.net.2",
)
_VAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "nin_shortcut",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def unet_places(prefix: str, levels: int, layers: int, names: Container[str], depth: int = 1) -> dict[str, Place]:
    """Of a UNet of `levels` resolutions with `layers` ResNets each (one more on the way up), in a file of `names`.

    depth: the most transformer layers of an attention block.
    """
    inner = (f"transformer_blocks.{layer}.{name}" for layer in range(depth) for name in _TRANSFORMER_LAYER)
    transformer = {name: name for name in ("norm", "proj_in", "proj_out", *inner)}

    def modules() -> Iterator[tuple[str, str]]:
        yield "time_embedding.linear_1", "time_embed.0"
        yield "time_embedding.linear_2", "time_embed.2"
        yield "add_embedding.linear_1", "label_emb.0.0"
        yield "add_embedding.linear_2", "label_emb.0.2"
        yield "conv_in", "input_blocks.0.0"
        yield "conv_norm_out", "out.0"
        yield "conv_out", "out.2"
        for level in range(levels):
            first = 1 + level * (layers + 1)
            for layer in range(layers):
                yield from _renamed(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{first + layer}.0", _RESNET)
                yield from _renamed(
                    f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{first + layer}.1", transformer
                )
            yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{first + layers}.0.op"
            for layer in range(layers + 1):
                block = f"output_blocks.{level * (layers + 1) + layer}"
                yield from _renamed(f"up_blocks.{level}.resnets.{layer}", f"{block}.0", _RESNET)
                yield from _renamed(f"up_blocks.{level}.attentions.{layer}", f"{block}.1", transformer)
            # Behind the attention, or in its place.
            last = f"output_blocks.{level * (layers + 1) + layers}"
            second = 2 if f"{prefix}{last}.2.conv.weight" in names else 1
            yield f"up_blocks.{level}.upsamplers.0.conv", f"{last}.{second}.conv"
        yield from _renamed("mid_block.resnets.0", "middle_block.0", _RESNET)
        yield from _renamed("mid_block.attentions.0", "middle_block.1", transformer)
        yield from _renamed("mid_block.resnets.1", "middle_block.2", _RESNET)

    return _places(prefix, modules())


def autoencoder_places(prefix: str, levels: int, layers: int) -> dict[str, Place]:
    """Of an autoencoder of `levels` resolutions; the decoder's are counted from the other end."""

    def modules() -> Iterator[tuple[str, str]]:
        yield "quant_conv", "quant_conv"
        yield "post_quant_conv", "post_quant_conv"
        for half, sampler in (("encoder", "downsample"), ("decoder", "upsample")):
            blocks, way = ("down_blocks", "down") if half == "encoder" else ("up_blocks", "up")
            for name, stored in (("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out")):
                yield f"{half}.{name}", f"{half}.{stored}"
            for level in range(levels):
                stored = f"{half}.{way}.{level if half == 'encoder' else levels - 1 - level}"
                for layer in range(layers + (half == "decoder")):
                    yield from _renamed(
                        f"{half}.{blocks}.{level}.resnets.{layer}", f"{stored}.block.{layer}", _VAE_RESNET
                    )
                yield f"{half}.{blocks}.{level}.{sampler}rs.0.conv", f"{stored}.{sampler}.conv"
            for number in (0, 1):
                yield from _renamed(f"{half}.mid_block.resnets.{number}", f"{half}.mid.block_{number + 1}", _VAE_RESNET)
            yield from _renamed(f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1", _VAE_ATTENTION)

    return _places(prefix, modules())


def clip_places(names: Iterable[str], stem: str) -> dict[str, Place]:
    """Of transformers' text encoder, which keeps its names behind `stem`."""
    return {f"text_model.{name.removeprefix(stem)}": Place(name) for name in names if name.startswith(stem)}


def open_clip_places(prefix: str, layers: int, projects: bool = False) -> dict[str, Place]:
    """Of OpenCLIP's text encoder, whose queries, keys and values are one matrix, and which projects by rows."""

    def modules() -> Iterator[tuple[str, str]]:
        yield "text_model.final_layer_norm", "ln_final"
        for layer in range(layers):
            ours, theirs = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            yield from _renamed(ours, theirs, _OPEN_CLIP_LAYER)

    places = _places(prefix, modules())
    places["text_model.embeddings.token_embedding.weight"] = Place(f"{prefix}token_embedding.weight")
    places["text_model.embeddings.position_embedding.weight"] = Place(f"{prefix}positional_embedding")
    if projects:
        places["text_projection.weight"] = Place(f"{prefix}text_projection", transposed=True)
    for layer in range(layers):
        for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
            for leaf in ("weight", "bias"):
                stored = f"{prefix}transformer.resblocks.{layer}.attn.in_proj_{leaf}"
                places[f"text_model.encoder.layers.{layer}.self_attn.{name}.{leaf}"] = Place(stored, part)
    return places


def _renamed(ours: str, theirs: str, modules: dict[str, str]) -> Iterator[tuple[str, str]]:
    for module, stored in modules.items():
        yield f"{ours}.{module}", f"{theirs}.{stored}"


def _places(prefix: str, modules: Iterable[tuple[str, str]]) -> dict[str, Place]:
    return {
        f"{ours}.{leaf}": Place(f"{prefix}{theirs}.{leaf}") for ours, theirs in modules for leaf in ("weight", "bias")
    }

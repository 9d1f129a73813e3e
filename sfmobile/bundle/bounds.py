"""Between which bounds constants make sense, whichever file holds them: a manifest or a checkpoint's configs.

A number out of them is a mistake or an attack, and costs before it is noticed: a schedule of 500 million steps takes
12 GB, a network of 2^32 blocks is built for ever, a scale of zero draws nothing. The largest known networks stay a
hundred times below the upper bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Bounds(NamedTuple):
    """The least and the largest value, both allowed."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.least:g} to {self.most:g}"


# More than nothing, for what is divided by or multiplied with.
TINY = 1e-9
STEPS = Bounds(1, 100_000)
WIDTH = Bounds(1, 65_536)
BLOCKS = Bounds(0, 256)
BETA = Bounds(TINY, 0.999)
FACTOR = Bounds(TINY, 1e4)
TOKENS = Bounds(1, 2**24)
TOKEN_ID = Bounds(0, 2**24)
# By key, as diffusers, transformers, our layouts and the manifest name them.
BOUNDS: Mapping[str, Bounds] = {
    "added_embedding_dim": WIDTH,
    "addition_time_embed_dim": WIDTH,
    "attention_head_dim": WIDTH,
    "attentions": BLOCKS,
    "beta_end": BETA,
    "beta_start": BETA,
    "block_out_channels": WIDTH,
    "bos_token_id": TOKEN_ID,
    "channels": WIDTH,
    "clip_sample_range": FACTOR,
    "cross_attention_dim": WIDTH,
    "decoder_channels": WIDTH,
    "default_scale": Bounds(0, 1e4),
    "default_steps": STEPS,
    "depths": BLOCKS,
    "dimension": WIDTH,
    "encoder_channels": WIDTH,
    "eos_token_id": TOKEN_ID,
    "frequency_shift": Bounds(-1, 1),
    "freq_shift": Bounds(-1, 1),
    "guidance_embedding_dim": WIDTH,
    "guidance_scale": Bounds(0, 1e4),
    "heads": WIDTH,
    "height": WIDTH,
    "hidden": WIDTH,
    "hidden_size": WIDTH,
    "in_channels": WIDTH,
    "intermediate": Bounds(1, 2**20),
    "intermediate_size": Bounds(1, 2**20),
    # Minus infinity clips nothing: what diffusers writes for that.
    "lambda_min_clipped": Bounds(-math.inf, 100),
    "latent_channels": WIDTH,
    "layer_norm_eps": Bounds(0, 1),
    "layers": BLOCKS,
    "layers_per_block": BLOCKS,
    "max_length": Bounds(2, 65_536),
    "max_period": Bounds(1, 1e9),
    "max_position_embeddings": Bounds(2, 65_536),
    "norm_eps": Bounds(0, 1),
    "norm_groups": WIDTH,
    "norm_num_groups": WIDTH,
    "num_attention_heads": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_train_timesteps": STEPS,
    "out_channels": WIDTH,
    "pad_token_id": TOKEN_ID,
    "pixels_per_latent": Bounds(1, 1024),
    "pooled": WIDTH,
    "projection": WIDTH,
    "projection_class_embeddings_input_dim": WIDTH,
    "projection_dim": WIDTH,
    "resnets": BLOCKS,
    "reverse_transformer_layers_per_block": BLOCKS,
    "sample_size": WIDTH,
    "scaling_factor": FACTOR,
    "shape": Bounds(1, 2**31),
    "state_layers": BLOCKS,
    "steps": STEPS,
    "steps_offset": Bounds(0, 100_000),
    "time_cond_proj_dim": WIDTH,
    "transformer_layers_per_block": BLOCKS,
    "vocab_size": TOKENS,
    "vocabulary": TOKENS,
    "width": WIDTH,
}
# Stages of a network, sides of a tensor, values of one key.
MOST_ENTRIES = 64
# Lists that say how many there are of something.
COUNTED = ("down", "up")


def out_of_bounds(value: Any, key: str = "") -> str | None:
    """What is out of bounds in a JSON-like value, such as "beta_start is 0: expected 1e-09 to 0.999"; None if nothing.

    Looks at the keys that have bounds, and at every number for NaN and infinities.
    """
    if isinstance(value, Mapping):
        found = (out_of_bounds(item, str(name)) for name, item in value.items())
        return next(filter(None, found), None)
    bounds = BOUNDS.get(key)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        # Not a tensor of rank 0, which has a shape without sides, nor a stage that says nothing of its depths.
        least = 0 if key in ("shape", "depths") else 1
        if (bounds is not None or key in COUNTED) and not least <= len(value) <= MOST_ENTRIES:
            return f"{key} has {len(value)} entries: expected {least} to {MOST_ENTRIES}"
        return next(filter(None, (out_of_bounds(item, key) for item in value)), None)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if bounds is None:
        return None if isinstance(value, int) or math.isfinite(value) else f"{key} is {value}: expected a finite number"
    return None if bounds.least <= value <= bounds.most else f"{key} is {value}: expected {bounds}"

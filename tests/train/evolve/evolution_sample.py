"""A run and a plan small enough to evolve in a second, and a lookup table of made-up times."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from sfmobile.bench.records import ProducerRecord, now
from sfmobile.evaluate.metrics.dual_encoder import DualEncoder, DualEncoderLayout
from sfmobile.inspect.lookup.block_keys import BlockOptions, layout_blocks
from sfmobile.inspect.lookup.table import BlockEntry, LookupTable
from sfmobile.inspect.lookup.timers import BlockTiming
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.nets.layout import Stage, UNetLayout
from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.unet import UNet
from sfmobile.train.config import LoopConfig
from sfmobile.train.data.tokens import CaptionTokenizer
from sfmobile.train.evolve.run import EvolutionSettings
from sfmobile.train.evolve.supernet import BlockCounts, with_counts
from sfmobile.train.latents import LatentPool
from sfmobile.train.run import Networks
from tests.tiny import TINY_AUTOENCODER, TINY_TEXT_ENCODER, TINY_UNET
from tests.train.stage_files import write_pool, write_stage

# The tokenizer of captions knows CLIP's whole vocabulary.
TEXT_ENCODER = replace(TINY_TEXT_ENCODER, layers=1, vocabulary=49408)
LAYOUT = replace(
    TINY_UNET,
    name="small",
    down=(Stage(32, 1, 1), Stage(64, 1, 1)),
    mid=Stage(64, 1, 1),
    up=(Stage(64, 2, 1), Stage(32, 2, 1)),
)
NETWORKS = Networks(TEXT_ENCODER, (LAYOUT,), (TINY_AUTOENCODER,))
COUNTS = BlockCounts(down=((2, 2), (1, 1)), mid=(2, 2), up=((2, 1), (3, 1)))
SUPERNET = with_counts(LAYOUT, COUNTS, "small-supernet")
LOOP = LoopConfig(steps=2, batch_size=2, learning_rate=1e-3, warmup_steps=1, precision="no", ema_decay=0.5, log_every=1)
SETTINGS = EvolutionSettings(
    unet="small",
    unet_from="teacher",
    autoencoder="tiny",
    pool="latents",
    pictures="pictures",
    robust=LOOP,
    round=LOOP,
    finish=LOOP,
    supernet=COUNTS,
    target_share=0.8,
    rounds=4,
    prompts=4,
    prompt_kinds=("colour", "background"),
    steps=1,
)
# Milliseconds of each kind of block.
TIMES = {"attention": 3.0, "resnet": 2.0}
CAPTIONS = ("a red apple", "a blue boat", "a fox on a green background")


def write_run(root: Path) -> Path:
    """Stages `autoencoder`, `teacher` and `latents` with random weights."""
    torch.manual_seed(0)
    write_stage(root, "autoencoder", encoder=Encoder(TINY_AUTOENCODER), decoder=Decoder(TINY_AUTOENCODER))
    write_stage(root, "teacher", unet=UNet(LAYOUT), text_encoder=TextEncoder(TEXT_ENCODER))
    ids = torch.as_tensor(CaptionTokenizer().encode_batch([*CAPTIONS, ""]))
    latents = torch.randn(len(CAPTIONS), 4, 8, 8).half()
    write_pool(root, LatentPool(latents, ids[:-1], ids[-1]))
    return root


def write_plan(root: Path, settings: EvolutionSettings = SETTINGS, name: str = "evolution") -> Path:
    """recipe.json, pictures.json and the evolution's settings."""
    root.mkdir(exist_ok=True)
    stages = [{"name": "teacher", "kind": "denoiser"}]
    checkpoint = {"unet": "small", "unet_from": "teacher", "autoencoder": "tiny"}
    plan = {"name": "small", "text_encoder": "glyph-64", "stages": stages, "checkpoint": checkpoint}
    for file, content in (("recipe", plan), ("pictures", {"side": 16}), (name, asdict(settings))):
        (root / f"{file}.json").write_text(json.dumps(content))
    return root


def write_dual_encoder(path: Path) -> Path:
    """One with random weights."""
    torch.manual_seed(1)
    layout = DualEncoderLayout(vocabulary=500, image_size=16, trunk_blocks=3, text_width=24, text_heads=2, embedding=16)
    DualEncoder(layout).save(path)
    return path


def made_up_table(*layouts: UNetLayout, side: int = 8) -> LookupTable:
    """Times by kind of block."""
    options = BlockOptions(height=side, width=side)
    keys = dict.fromkeys(key for layout in layouts for _, key in layout_blocks(layout, options))
    return LookupTable(
        created_at=now(),
        producer=ProducerRecord(),
        label="estimated",
        runtime="cost model, iPhone 14 Pro (A16)",
        device="iphone-14-pro",
        machine=None,
        options=options,
        overhead_ms=0.5,
        entries=tuple(
            BlockEntry(key=key, sha256=key.sha256, timing=BlockTiming(milliseconds=TIMES.get(key.kind, 1.0)))
            for key in keys
        ),
    )

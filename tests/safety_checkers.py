"""Tiny random safety checkers as diffusers writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from sfmobile.testing import random_weight

SIDE = 24
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}


def safety_checker(seed: int = 0) -> StableDiffusionSafetyChecker:
    """17 concepts and 3 special ones of random directions; thresholds that random pictures fall on both sides of."""
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=VISION, projection_dim=16))
    with torch.no_grad():
        for name, weight in checker.named_parameters():
            if name.endswith("_weights"):
                # Of a few in twenty directions, the nearest.
                weight.copy_(0.45 + 0.05 * random_weight(f"{name}.bias", tuple(weight.shape), seed))
            else:
                weight.copy_(random_weight(name, tuple(weight.shape), seed))
    return checker.eval()


def add_safety_checker(root: Path) -> StableDiffusionSafetyChecker:
    """Put one into the checkpoint at `root`, with the processor of its pictures."""
    checker = safety_checker()
    checker.save_pretrained(root / "safety_checker")
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor.save_pretrained(root / "feature_extractor")
    index = json.loads((root / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (root / "model_index.json").write_text(json.dumps(index))
    return checker


def with_safety_checker(checkpoint: Path, root: Path) -> Path:
    """A copy of `checkpoint` at `root` that has one."""
    shutil.copytree(checkpoint, root)
    add_safety_checker(root)
    return root


def pictures(count: int, height: int = 32, width: int = 32) -> list[np.ndarray]:
    """Pictures uint8 (H, W, 3) of coarse noise."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [one.repeat(-(-height // 4), 0).repeat(-(-width // 4), 1)[:height, :width] for one in coarse]

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from sfmobile.errors import UsageError
from sfmobile.train.config import LoopConfig, read_config
from sfmobile.train.data.scenes import Planner
from sfmobile.train.metrics.contrastive import (
    DualEncoderConfig,
    caption_vocabulary,
    contrastive_loss,
    distorted,
    new_dual_encoder,
    train_dual_encoder,
)
from sfmobile.train.metrics.dual_encoder import DualEncoder
from tests.tiny import REPOSITORY
from tests.train.metrics.tiny_sprites import encode, sprite_pool

LOOP = LoopConfig(
    steps=30, batch_size=12, learning_rate=1e-3, warmup_steps=3, ema_decay=0.8, precision="no", checkpoint_every=15
)
CONFIG = DualEncoderConfig(loop=LOOP, image_size=32, trunk_blocks=3, compositions=64, text_layers=1, embedding=32)


def test_loss_is_clips_cross_entropy_where_texts_differ() -> None:
    images, texts = functional.normalize(torch.randn(2, 6, 8), dim=-1)
    scale = torch.tensor(7.0)
    logits = scale * images @ texts.T
    labels = torch.arange(6)
    expected = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(contrastive_loss(images, texts, torch.eye(6, dtype=torch.bool), scale), expected)


def test_a_repeated_caption_is_no_negative() -> None:
    texts = functional.normalize(torch.randn(2, 8), dim=-1)[[0, 0, 1]]
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    scale = torch.tensor(50.0)
    with_same = contrastive_loss(texts, texts, same, scale)
    without = contrastive_loss(texts, texts, torch.eye(3, dtype=torch.bool), scale)
    # The best a picture of a twice-told caption can do is to spread evenly: log 2, and that is the entropy it costs.
    assert with_same.item() == pytest.approx(2 / 3 * torch.log(torch.tensor(2.0)).item(), abs=1e-3)
    assert without.item() == pytest.approx(with_same.item(), abs=1e-3)
    apart = functional.normalize(torch.randn(3, 8), dim=-1)
    assert contrastive_loss(apart, texts, same, scale) > with_same


def test_distortion_repeats_stays_in_range_and_keeps_colours_and_sides() -> None:
    images = torch.ones(16, 3, 32, 32)
    images[:, 0, 8:24, 3:13] = -1  # a turquoise box on the left
    generator = torch.Generator().manual_seed(1)
    changed = distorted(images, generator)
    assert torch.equal(changed, distorted(images, torch.Generator().manual_seed(1)))
    assert changed.abs().max() <= 1
    assert (changed - images).abs().mean() > 0.005
    left, right = changed[:, 0, 10:22, 5:12].mean((1, 2)), changed[:, 0, 10:22, 20:27].mean((1, 2))
    assert (right - left > 1.2).all()


def test_vocabulary_holds_every_planned_caption() -> None:
    pool = sprite_pool()
    vocabulary = caption_vocabulary(pool, encode, batches=4)
    assert torch.equal(vocabulary, vocabulary.unique())
    captions = pool.planner.plan(2, 64, seed=0).captions
    assert torch.isin(encode(captions).unique(), vocabulary).float().mean() > 0.97


def test_towers_start_from_converted_weights(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from sfmobile.train.metrics.efficientnet_lite import EfficientNetLite0

    features = EfficientNetLite0()
    save_file(features.state_dict(), tmp_path / "features.safetensors")
    save_file({"token_embedding": torch.randn(600, 192)}, tmp_path / "tokens.safetensors")
    vocabulary = torch.tensor([2, 7, 599])
    encoder = new_dual_encoder(CONFIG, vocabulary, tmp_path / "features.safetensors", tmp_path / "tokens.safetensors")
    assert torch.equal(encoder.image.trunk.stem.weight, features.trunk.stem.weight)
    from safetensors.torch import load_file

    rows = load_file(tmp_path / "tokens.safetensors")["token_embedding"]
    torch.testing.assert_close(encoder.text.token_embedding.weight[1:].detach(), rows[[2, 7, 599]])
    save_file({"token_embedding": torch.randn(600, 64)}, tmp_path / "tokens.safetensors")
    with pytest.raises(UsageError, match="192 columns, found 64"):
        new_dual_encoder(CONFIG, vocabulary, None, tmp_path / "tokens.safetensors")


def test_training_learns_to_match_and_reports_itself(tmp_path: Path) -> None:
    pool = sprite_pool()
    pool = replace(
        pool, planner=Planner(pool.sprites, ("train", "judge"), {"plain": 0.5, "background": 0.5}, judge=True)
    )
    steps: list[float] = []
    config = replace(CONFIG, loop=replace(LOOP, log_every=5))
    encoder = train_dual_encoder(
        pool, config, encode, tmp_path, observer=lambda progress: steps.append(progress.figures["loss"]), cpu=True
    )
    assert steps[-1] < steps[0] - 0.3
    figures = json.loads((tmp_path / "retrieval.json").read_text())
    assert set(figures) == {"drawings among held-out", "drawings among all", "compositions"}
    assert figures["drawings among all"]["candidates"] >= figures["drawings among held-out"]["candidates"]
    assert figures["compositions"]["agreement"] > figures["compositions"]["mismatch"] + 0.05
    again = DualEncoder.load(tmp_path / "dual_encoder.safetensors")
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_a_killed_run_goes_on_with_the_same_data_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    loop = replace(LOOP, steps=4, batch_size=6, checkpoint_every=2, log_every=2)
    pool = sprite_pool()

    def train(directory: str, stop_after: int | None = None) -> DualEncoder:
        def observer(progress: object) -> None:
            if stop_after is not None and progress.step > stop_after:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

        return train_dual_encoder(
            pool, replace(CONFIG, loop=loop), encode, tmp_path / directory, observer=observer, cpu=True
        )

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("killed", stop_after=2)
    resumed = train("killed")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_recipes_config_is_read() -> None:
    config = read_config(DualEncoderConfig, REPOSITORY / "models" / "recipes" / "glyph-128" / "dual-encoder.json")
    assert config.loop.steps > 0

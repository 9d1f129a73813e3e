from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from sfmobile.errors import UsageError
from sfmobile.evaluate.contrastive import (
    DualEncoderConfig,
    _judges_sprites,
    caption_vocabulary,
    contrastive_loss,
    distorted,
    new_dual_encoder,
    own_retrieval,
    train_dual_encoder,
)
from sfmobile.evaluate.metrics.dual_encoder import DualEncoder
from sfmobile.train.config import LoopConfig, read_config
from sfmobile.train.data.scenes import Composer
from sfmobile.train.pictures import PicturesConfig, Selection
from tests.evaluate.tiny_sprites import encode, sprite_pool
from tests.tiny import REPOSITORY

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


def test_vocabulary_holds_every_composed_caption() -> None:
    pool = sprite_pool()
    vocabulary = caption_vocabulary(pool, encode, batches=4)
    assert torch.equal(vocabulary, vocabulary.unique())
    captions = pool.composer.compose(2, 64, seed=0).captions
    assert torch.isin(encode(captions).unique(), vocabulary).float().mean() > 0.97


def test_towers_start_from_converted_weights(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from sfmobile.train.pretrained.efficientnet_lite import EfficientNetLite0

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
        pool, composer=Composer(pool.sprites, ("train", "judge"), {"plain": 0.5, "background": 0.5}, judge=True)
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


def test_retrieval_on_further_sprites_that_it_never_saw_stands_beside_the_held_out_ones() -> None:
    pool = sprite_pool()
    torch.manual_seed(0)
    encoder = new_dual_encoder(CONFIG, caption_vocabulary(pool, encode, batches=1), None, None).eval()
    figures = own_retrieval(encoder, pool, encode, 32, ("train", "judge", "held_out"))
    assert figures["drawings new to it among all"].pairs == len(pool.sprites)
    assert figures["drawings among held-out"].pairs == sum(s.split == "held_out" for s in pool.sprites)
    assert set(figures) - set(own_retrieval(encoder, pool, encode, 32)) == {
        "drawings new to it among all",
        "compositions new to it",
    }


def test_it_learns_from_the_union_of_its_selections_at_its_own_size(tmp_path: Path, monkeypatch) -> None:
    pool = sprite_pool()
    monkeypatch.setattr("sfmobile.train.data.sprites.find_cache", lambda cache: cache / "index.json")
    monkeypatch.setattr("sfmobile.train.data.compose.load_pool", lambda index, device: pool)
    styles = sorted({sprite.style for sprite in pool.sprites})
    chosen = (
        Selection(splits=("train",), styles=tuple(styles[:2])),
        Selection(splits=("train", "judge"), styles=tuple(styles[1:3]), groups=(), phrases=("fox", "hat")),
    )
    config = replace(CONFIG, sprites=chosen, image_size=16, kinds={"plain": 1.0})
    own = _judges_sprites(tmp_path, config, torch.device("cpu"))
    found = {(s.phrase, s.style) for s in own.sprites}
    assert found == {
        (s.phrase, s.style)
        for s in pool.sprites
        if (s.style in styles[:2] and s.split == "train")
        or (s.style in styles[1:3] and s.split in ("train", "judge") and s.phrase in ("fox", "hat"))
    }
    assert own.pixels.shape == (len(found), 4, 16, 16)
    assert own.composer.kinds == {"plain": 1.0}
    assert own.composer.judge
    default = _judges_sprites(tmp_path, CONFIG, torch.device("cpu"))
    assert {s.split for s in default.sprites} == {"judge"}
    assert torch.equal(default.pixels[0], pool.pixels[pool.sprites.index(default.sprites[0])])


@pytest.mark.parametrize("plan", ["glyph-128-large", "glyph-64"])
def test_a_plans_dual_encoder_settings_are_read(plan: str) -> None:
    config = read_config(DualEncoderConfig, REPOSITORY / "models" / "recipes" / plan / "dual-encoder.json")
    assert config.loop.steps > 0


@pytest.mark.parametrize(
    ("plan", "pictures"),
    [
        ("glyph-64", "pictures"),
        ("glyph-64", "pictures-chosen"),
        ("glyph-64", "pictures-styles"),
        ("glyph-128", "pictures"),
    ],
)
def test_the_built_in_models_judge_sees_no_drawing_that_its_generator_sees(plan: str, pictures: str) -> None:
    plans = REPOSITORY / "models" / "recipes"
    config = read_config(DualEncoderConfig, plans / "glyph-64" / "dual-encoder.json")
    generator = read_config(PicturesConfig, plans / plan / f"{pictures}.json")
    assert generator.styles is not None
    assert generator.groups is not None
    for chosen in config.sprites:
        assert chosen.groups == ()
        shared_styles = chosen.styles is None or set(chosen.styles) & set(generator.styles)
        assert not (shared_styles and set(chosen.phrases) & set(generator.phrases))

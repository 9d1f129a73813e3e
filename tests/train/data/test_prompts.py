from __future__ import annotations

import pytest

from sfmobile.errors import UsageError
from sfmobile.train.data.prompts import SPLITS, evaluation_prompts
from sfmobile.train.data.scenes import Composer
from sfmobile.train.data.split import holds_out_background, holds_out_colour, holds_out_pair, holds_out_tone
from tests.train.data.test_scenes import _sprites


@pytest.mark.parametrize("split", SPLITS)
def test_a_shorter_list_begins_the_longer_one_without_repeats(split: str):
    everything = evaluation_prompts(_sprites(), split, 10_000)
    assert evaluation_prompts(_sprites(), split, 3) == everything[:3]
    assert len({caption for caption, _ in everything}) == len(everything) > 0


def test_held_out_prompts_are_held_out_and_no_training_caption():
    sprites = _sprites()
    held_out = {
        split: evaluation_prompts(sprites, split, 10_000)
        for split in ("style", "colour", "background", "pair", "composed")
    }
    for _, row in held_out["colour"]:
        assert holds_out_colour(row["concepts"][0], row["recolour"])
    for _, row in held_out["background"]:
        assert holds_out_background(row["concepts"][0], row["background"])
    for _, row in held_out["pair"]:
        assert holds_out_pair(*row["concepts"])
    composer = Composer(sprites)
    trained = {caption for index in range(40) for caption in composer.compose(index, 256, 1).captions}
    for prompts in held_out.values():
        assert not trained & {caption for caption, _ in prompts}


def test_tone_prompts_are_of_tones_never_drawn_in_training():
    rows = evaluation_prompts(_sprites(), "tone", 10_000)
    for caption, row in rows:
        assert holds_out_tone(row["concepts"][0], row["tone"]) and "skin tone" in caption


def test_an_unknown_list_is_a_usage_error():
    with pytest.raises(UsageError, match="no evaluation prompts 'nonsense'; expected one of seen, style"):
        evaluation_prompts(_sprites(), "nonsense")

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sfmobile.errors import ArtifactError
from sfmobile.evaluate.metrics.dual_encoder import PADDING_ID, DualEncoder, DualEncoderLayout

TINY = DualEncoderLayout(
    vocabulary=5, image_size=32, trunk_blocks=3, text_width=24, text_layers=1, text_heads=2, embedding=16
)


def tiny_encoder() -> DualEncoder:
    torch.manual_seed(0)
    encoder = DualEncoder(TINY)
    encoder.text.vocabulary.copy_(torch.tensor([3, 8, 200, 49406, PADDING_ID]))
    return encoder.eval()


def caption(*ids: int, length: int = 77) -> torch.Tensor:
    row = torch.full((1, length), PADDING_ID)
    row[0, : len(ids) + 1] = torch.tensor([49406, *ids])
    return row


def test_both_towers_give_unit_vectors() -> None:
    encoder = tiny_encoder()
    for vectors in (encoder.encode_images(torch.rand(3, 3, 48, 48)), encoder.encode_texts(caption(3, 8))):
        assert vectors.shape[1] == TINY.embedding
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_padding_changes_nothing_and_order_does() -> None:
    encoder = tiny_encoder()
    short = encoder.encode_texts(caption(3, 8, length=12))
    torch.testing.assert_close(encoder.encode_texts(caption(3, 8, length=77)), short, rtol=1e-4, atol=1e-5)
    assert (encoder.encode_texts(caption(8, 3)) - short).abs().max() > 1e-4


def test_tokens_have_their_own_rows_and_unknown_ones_share_row_0() -> None:
    tower = tiny_encoder().text
    assert tower.rows(torch.tensor([[3, 8, 200, 49406, PADDING_ID, 4, 0, 49405]])).tolist() == [
        [1, 2, 3, 4, 5, 0, 0, 0]
    ]


def test_place_in_the_picture_matters() -> None:
    encoder = tiny_encoder()
    left = torch.ones(1, 3, 32, 32)
    left[..., :16] = -1
    right = left.flip(3)
    assert (encoder.encode_images(left) - encoder.encode_images(right)).abs().max() > 1e-4


def test_a_saved_encoder_measures_the_same(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    path = tmp_path / "dual_encoder.safetensors"
    encoder.save(path)
    loaded = DualEncoder.load(path)
    assert loaded.layout == TINY
    assert torch.equal(loaded.text.vocabulary, encoder.text.vocabulary)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded.encode_images(images), encoder.encode_images(images), rtol=0, atol=5e-3)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ArtifactError, match="expected a dual encoder"):
        DualEncoder.load(path)
    save_file({"a": torch.zeros(2)}, path, {"layout": '{"vocabulary": 3, "wings": 2}'})
    with pytest.raises(ArtifactError, match="wings"):
        DualEncoder.load(path)


def test_the_layout_of_the_plan_is_small_enough_to_keep() -> None:
    with torch.device("meta"):
        encoder = DualEncoder(DualEncoderLayout(vocabulary=4600))
    assert 2 * sum(parameter.numel() for parameter in encoder.parameters()) < 10e6

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.weights import PARTS
from sfmobile.errors import UsageError
from sfmobile.testing import write_byte_tokenizer, write_synthetic_checkpoint
from tests.tiny import TINY_AUTOENCODER, TINY_TEXT_ENCODER, TINY_UNET


def write(root: Path, **options: object) -> Checkpoint:
    write_synthetic_checkpoint(
        root,
        unet_layout=TINY_UNET,
        text_encoder_layout=TINY_TEXT_ENCODER,
        autoencoder_layout=TINY_AUTOENCODER,
        **options,  # type: ignore[arg-type]
    )
    return Checkpoint.open(root)


def test_a_seed_gives_one_checkpoint_whatever_its_shards(tmp_path: Path) -> None:
    first = write(tmp_path / "first", seed=3)
    again = write(tmp_path / "again", seed=3, max_shard_bytes=1 << 16)
    other = write(tmp_path / "other", seed=4)
    for part in PARTS:
        assert first.sha256(part) == again.sha256(part) != other.sha256(part)


def test_no_norm_could_fold_away(tiny_checkpoint: Checkpoint) -> None:
    for part in PARTS:
        for key, tensor in tiny_checkpoint.state_dict(part).items():
            if tensor.ndim == 1:
                assert tensor.float().std() > 0.02, key


def test_outputs_are_neither_vanishing_nor_exploding(tiny_checkpoint: Checkpoint) -> None:
    with torch.no_grad():
        states = tiny_checkpoint.load("text_encoder")(torch.arange(77)[None])
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        output = tiny_checkpoint.load("unet")(latents, torch.randn(1, 32, 1, 1), states)
        image = tiny_checkpoint.load("decoder")(latents)
    for tensor in (states, output, image):
        assert 0.05 < tensor.std() < 5


def test_the_byte_tokenizer_is_one_that_transformers_reads(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path, 600)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("A é").input_ids
    assert (ids[0], ids[-1]) == (598, 599)
    assert tokenizer.decode(ids[1:-1]) == "a é"


def test_a_vocabulary_without_room_for_all_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vocabulary of 513 is too small; the byte-level tokenizer needs 514"):
        write_byte_tokenizer(tmp_path, 513)

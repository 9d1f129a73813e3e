from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import UsageError
from sfmobile.sampling.emphasis import read
from sfmobile.sampling.pipeline import Request, Step
from sfmobile.sampling.prompt import cut, weighed
from sfmobile.sampling.tokenizer import Tokenizer
from sfmobile.signal import psnr
from tests.sampling.pipelines import reference_pipeline
from tests.sampling.recorded import recorder
from tests.tiny import REPOSITORY, TOKENIZER_DIR

# What the web UI's own text engine says: see `tests/golden/generate_prompts.py`.
GOLDEN = json.loads((REPOSITORY / "tests/golden/prompts.json").read_text(encoding="utf-8"))
TOKENIZER = Tokenizer(TOKENIZER_DIR)


@pytest.mark.parametrize("golden", GOLDEN["prompts"], ids=lambda golden: f"{golden['syntax']}: {golden['text'][:40]}")
def test_tokens_and_weights_are_those_of_the_web_ui(golden: dict[str, Any]) -> None:
    # A plain prompt of one chunk is cut where the tokens end, as ever: two places show the web UI's way.
    places = max(2, len(golden["chunks"]))
    found = cut(TOKENIZER, golden["text"], golden["syntax"], places)
    chunks = found.chunks[: len(found.chunks) - found.empty]
    assert [chunk.ids[0].tolist() for chunk in chunks] == [chunk["ids"] for chunk in golden["chunks"]]
    for chunk, expected in zip(chunks, golden["chunks"], strict=True):
        np.testing.assert_array_equal(chunk.weights, np.array(expected["weights"], np.float32))
    assert (found.dropped, found.dropped_text) == (0, "")


@pytest.mark.parametrize("golden", GOLDEN["emphasis"])
def test_weighed_states_are_those_of_the_web_ui(golden: dict[str, Any]) -> None:
    states = np.array(golden["states"], np.float32).T[None, :, None]
    found = weighed(states, np.array(golden["weights"], np.float32))
    np.testing.assert_allclose(found[0, :, 0].T, golden["weighed"], rtol=3e-6)


def test_states_of_weight_one_are_left_as_they_are() -> None:
    states = np.random.default_rng(0).normal(size=(1, 4, 1, 3)).astype(np.float32)
    assert weighed(states, np.ones(3, np.float32)) is states


def test_a_prompt_is_repeated_where_it_divides_the_places_and_filled_up_where_not() -> None:
    long = "word " * 100
    assert [len(cut(TOKENIZER, "a cat", "plain", places).chunks) for places in (1, 2, 3)] == [1, 1, 1]
    filled = cut(TOKENIZER, long, "plain", 3)
    assert (len(filled.chunks), filled.empty) == (3, 1)
    assert filled.warnings_of("prompt") == [
        "The prompt takes 2 chunks of the 3 that the UNet reads; empty ones fill it up."
    ]
    assert len(cut(TOKENIZER, long, "plain", 4).chunks) == 2


@pytest.mark.parametrize(("places", "dropped"), [(1, 28), (2, 0)])
def test_what_no_chunk_holds_is_said(places: int, dropped: int) -> None:
    found = cut(TOKENIZER, "word " * 75 + "(red:1.2) " + "word " * 26 + "end", "a1111", places)
    assert found.dropped == dropped
    if dropped:
        (warning,) = found.warnings_of("negative prompt")
        assert warning.startswith(
            "The negative prompt is 28 tokens longer than the 77 that the text encoder reads; 'red"
        )
        assert warning.endswith("is left out (a bundle exported with more --prompt-chunks reads on).")
        assert len(warning) < 220


def test_a_plain_prompt_for_one_chunk_is_cut_as_ever() -> None:
    text = "one two, " + "cat " * 90
    assert cut(TOKENIZER, text, "plain").chunks[0].ids.tolist() == TOKENIZER.encode(text).tolist()


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a [cat:dog:0.5]", r"'\[cat:dog:0.5\]' changes the prompt from step to step"),
        ("a [(old:1.2) cat: 3]", "changes the prompt from step to step"),
        ("a [cat|dog]", "changes the prompt from step to step"),
        ("a cat AND a dog", "AND in 'a cat AND a dog' puts several pictures together"),
        ("a cat <lora:fur:0.8>", "'<lora:fur:0.8>' changes a model's weights, which an export fixes; lay it over"),
        ("(a cat BREAK a dog:1.2)", "BREAK inside brackets; close them"),
        ("(a cat:1.2.3)", "The weight '1.2.3' in .* is no number"),
        (f"(a cat:{'9' * 400})", "is no number"),
        ("a \udce9", "isn't valid Unicode"),
    ],
)
def test_what_the_syntax_has_and_sfmobile_does_not_is_refused_by_name(prompt: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        cut(TOKENIZER, prompt, "a1111")


@pytest.mark.parametrize("prompt", ["a [cat:dog:0.5] AND <lora:x:1>", "(a:1.2.3)"])
def test_a_plain_prompt_may_hold_anything(prompt: str) -> None:
    assert cut(TOKENIZER, prompt, "plain").chunks[0].ids.tolist() == TOKENIZER.encode(prompt).tolist()


@given(st.text(st.sampled_from("ab ()[]:\\,1.") | st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(deadline=None, max_examples=200)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        pieces = read(text)
    except UsageError:
        return
    assert pieces
    letters = [character for character in text if character.isalpha()]
    assert [character for piece in pieces for character in piece.text if character.isalpha()] == letters


def test_an_unknown_syntax_is_refused_before_anything_is_loaded(tiny_checkpoint: Checkpoint) -> None:
    request: Any = Request("a cat", syntax="compel")  # type: ignore[arg-type]
    with reference_pipeline(tiny_checkpoint) as pipeline, pytest.raises(UsageError, match="'compel' is unknown"):
        pipeline.steps(request)


def walked(checkpoint: Checkpoint, request: Request, places: int) -> list[Step]:
    with reference_pipeline(checkpoint.with_prompt_chunks(places)) as pipeline:
        return list(pipeline.steps(request))


def theirs(checkpoint: Checkpoint, embeddings: dict[str, torch.Tensor], request: Request) -> list[np.ndarray]:
    """Latents behind each step of diffusers' pipeline, which takes embeddings of any length."""
    pipeline = StableDiffusionPipeline.from_pretrained(checkpoint.root, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    found, keep = recorder()
    pipeline(
        **embeddings,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        height=16,
        width=16,
        output_type="latent",
        callback_on_step_end=keep,
    )
    return found


def embedding(checkpoint: Checkpoint, fragments: list[tuple[str, float]]) -> torch.Tensor:
    """Fragments with their weights, no comma in them, through transformers' tokenizer and text encoder, 75 tokens at a
    time, and the states weighed by the formula that the web UI documents."""
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(checkpoint.root / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(checkpoint.root / "text_encoder", dtype=torch.float32)
    words = [
        (id, weight) for text, weight in fragments for id in tokenizer(text, add_special_tokens=False)["input_ids"]
    ]
    chunks = []
    for start in range(0, len(words), 75):
        part = words[start : start + 75]
        padding = [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (75 - len(part))
        ids = [tokenizer.bos_token_id, *(id for id, _ in part), *padding]
        weights = torch.tensor([1.0, *(weight for _, weight in part), *[1.0] * len(padding)])
        with torch.inference_mode():
            states = encoder(torch.tensor([ids]))[0]
        scaled = states * weights[None, :, None]
        chunks.append(scaled * (states.mean() / scaled.mean()))
    return torch.cat(chunks, dim=1)


@pytest.mark.parametrize("places", [2, 4])
def test_a_long_weighted_prompt_is_walked_as_in_diffusers(places: int, tiny_checkpoint: Checkpoint) -> None:
    prompt = [("a ", 1.0), ("red", 1.3), (" apple on a table " * 3, 1.0), (" of old wood" * 4, 1 / 1.1)]
    negative = [("blurry ", 1.1), ("green and small " * 6, 1.0)]
    expected = [embedding(tiny_checkpoint, fragments) for fragments in (prompt, negative)]
    assert [states.shape[1] for states in expected] == [154, 154]
    request = Request(
        f"a (red:1.3){prompt[2][0]}[{prompt[3][0]}]",
        f"(blurry ){negative[1][0]}",
        seed=3,
        steps=3,
        guidance_scale=5.0,
        syntax="a1111",
    )
    with reference_pipeline(tiny_checkpoint.with_prompt_chunks(2)) as pipeline:
        for text, states in zip((request.prompt, request.negative_prompt), expected, strict=True):
            assert psnr(states.transpose(1, 2)[:, :, None].numpy(), pipeline.encode(text, "a1111")) >= 110
    latents = theirs(
        tiny_checkpoint, dict(zip(("prompt_embeds", "negative_prompt_embeds"), expected, strict=True)), request
    )
    for step, other in zip(walked(tiny_checkpoint, request, places), latents, strict=True):
        # A random UNet hardly minds its text: without weights it is 98 dB away.
        assert psnr(other, step.latents) >= 110


def test_a_short_prompt_in_a_long_unet_is_the_short_unets(tiny_checkpoint: Checkpoint) -> None:
    request = Request("a red apple", "blurry", seed=3, steps=3, guidance_scale=5.0)
    short, long = (walked(tiny_checkpoint, request, places)[-1].latents for places in (1, 3))
    assert psnr(short, long) >= 100


def test_weights_change_the_states_and_plain_prompts_do_not_read_them(tiny_checkpoint: Checkpoint) -> None:
    with reference_pipeline(tiny_checkpoint) as pipeline:
        weighted = pipeline.encode("a (red:1.5) apple", "a1111")
        without = pipeline.encode("a red apple", "a1111")
        plain = pipeline.encode("a (red:1.5) apple")
        assert np.array_equal(without, pipeline.encode("a red apple"))
    assert psnr(weighted, without) < 40
    assert psnr(weighted, plain) < 40

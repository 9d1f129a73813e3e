"""The golden vectors against sfmobile itself; the Swift tests read the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from sfmobile.bundle.manifest import FileRecord, SafetyPictureRecord, SafetyRecord, TimeEmbeddingRecord
from sfmobile.bundle.samplers import DDIMRecord, SamplerRecord
from sfmobile.checkpoint.tokenizer import read_tokenizer
from sfmobile.sampling.noise import Noise, initial_latents
from sfmobile.sampling.picture import to_pixels
from sfmobile.sampling.safety import SafetyConcepts, pixel_values
from sfmobile.sampling.samplers.starting import start
from sfmobile.sampling.time_embedding import guidance_sinusoid, sinusoid
from sfmobile.sampling.tokenizer import Tokenizer
from tests.golden.generate import GOLDEN, SCALED, TOKENIZER
from tests.golden.texts import texts


def read(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="ascii"))


def load(name: str) -> np.ndarray:
    array: np.ndarray = np.load(GOLDEN / name)
    return array


def test_token_ids_equal_transformers_on_every_text() -> None:
    cases = read("tokens.json")
    assert len(cases) >= 500
    tokenizer = Tokenizer(TOKENIZER)
    wrong = [
        case["text"]
        for case in cases
        if tokenizer.encode(case["text"])[0].tolist() != case["ids"] + [49407] * (77 - len(case["ids"]))
    ]
    assert wrong == []


@pytest.mark.parametrize("case", read("added-tokens.json"), ids=lambda case: str(case["name"]))
def test_ids_with_added_tokens_equal_diffusers(case: dict[str, Any], added_tokenizers: dict[str, Path]) -> None:
    folder = added_tokenizers[case["name"]]
    constants = read_tokenizer(folder)
    assert (constants.added_tokens, constants.exact_tokens) == (case["added"], case["exact"])
    assert constants.pad_token_id == case["pad"]
    tokenizer = Tokenizer(folder)
    for one in case["cases"]:
        assert tokenizer.encode(one["text"])[0].tolist() == one["ids"], one["text"]


@pytest.mark.parametrize("index", range(len(SCALED)))
def test_pictures_come_to_a_safety_checker_as_transformers_brings_them(index: int) -> None:
    case = read("safety.json")
    record = SafetyPictureRecord(shortest_edge=24, crop_size=20, mean=case["mean"], std=case["std"])
    expected = load(f"safety/{index}.values.npy")
    assert np.abs(pixel_values(load(f"safety/{index}.picture.npy"), record) - expected).max() <= 1e-6


def test_verdicts_on_embeddings_equal_diffusers() -> None:
    case = read("safety.json")
    record = SafetyRecord(
        concepts="concepts.npy",
        special_care="special_care.npy",
        concept_thresholds=case["concept_thresholds"],
        special_care_thresholds=case["special_care_thresholds"],
        picture=SafetyPictureRecord(shortest_edge=24, crop_size=20, mean=case["mean"], std=case["std"]),
        files=dict.fromkeys(("concepts.npy", "special_care.npy"), FileRecord(bytes=0, sha256="0" * 64)),
    )
    rows = (np.array(case[name], np.float32) for name in ("concepts", "special_care"))
    concepts = SafetyConcepts(*rows, record)
    for embedding, scores, flagged in zip(case["embeddings"], case["scores"], case["flagged"], strict=True):
        verdict = concepts.judge(np.array([embedding], np.float32))
        assert np.allclose([*verdict.special_care, *verdict.concepts], scores, atol=1e-6)
        assert verdict.flagged == flagged
    assert set(case["flagged"]) == {True, False}
    assert any(score > 0 for scores in case["scores"] for score in scores[:3])


def test_the_texts_are_those_of_their_list() -> None:
    # The random part draws from the code points that Python's Unicode version has: the rest comes first, in order.
    fixed = len(texts()) - 480
    assert [case["text"] for case in read("tokens.json")][:fixed] == texts()[:fixed]


def test_noise_equals_torch() -> None:
    values, position = load("noise.npy"), 0
    for draw in read("noise.json"):
        first = draw["counts"][0]
        found = initial_latents(int(draw["seed"]), (first,))
        # Bit for bit on x86; other processors' vector units round torch's logarithm and sine differently.
        np.testing.assert_allclose(found, values[position : position + first], rtol=0, atol=4e-6)
        position += sum(draw["counts"])
    assert position == len(values)


@pytest.mark.parametrize("case", read("ddim.json"), ids=lambda case: str(case["name"]))
def test_ddim_latents_equal_diffusers_at_every_step(case: dict[str, Any]) -> None:
    ddim = start(DDIMRecord.model_validate(case["scheduler"]), case["steps"])
    outputs, latents = load(f"ddim/{case['name']}.outputs.npy"), load(f"ddim/{case['name']}.latents.npy")
    assert ddim.timesteps.tolist() == case["timesteps"]
    current = latents[0]
    for output, expected in zip(outputs, latents[1:], strict=True):
        current = ddim.step(output, current).latents
        np.testing.assert_allclose(current, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", read("samplers.json"), ids=lambda case: str(case["name"]))
def test_samplers_equal_diffusers_at_every_step(case: dict[str, Any]) -> None:
    noise = Noise(case["seed"])
    sampler = start(TypeAdapter[SamplerRecord](SamplerRecord).validate_python(case["sampler"]), case["steps"], noise)
    np.testing.assert_allclose(sampler.timesteps, case["timesteps"], rtol=0, atol=1e-3)
    assert sampler.noise_scale == pytest.approx(case["noise_scale"], rel=1e-6)
    latents = noise.normal((64,)) * np.float32(sampler.noise_scale)
    for model_input, output, expected in load(f"samplers/{case['name']}.npy"):
        np.testing.assert_allclose(sampler.model_input(latents), model_input, rtol=0, atol=3e-5)
        size = max(1.0, float(np.abs(latents).max()))
        found = sampler.step(output, latents).latents
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * size)
        latents = expected


def test_time_embeddings_equal_diffusers() -> None:
    golden = read("embeddings.json")
    for index, record in enumerate(golden["records"]):
        found = sinusoid(golden["timesteps"], TimeEmbeddingRecord(**record))[:, :, 0, 0]
        # A frequency that differs in its last bit turns the angle of timestep t by t * 2^-24.
        bound = 2e-7 + np.array(golden["timesteps"])[:, None] * 2.0**-23
        assert (np.abs(found - load(f"embeddings/{index}.npy")) <= bound).all()


def test_guidance_embeddings_equal_diffusers() -> None:
    golden = read("guidance_embeddings.json")
    expected = load("guidance_embeddings.npy")
    for scale, row in zip(golden["scales"], expected, strict=True):
        found = guidance_sinusoid(scale, golden["dimension"])
        assert found.shape == (1, golden["dimension"], 1, 1)
        assert np.abs(found.ravel() - row).max() <= 2e-7 + 1000 * abs(scale - 1) * 2.0**-23


def test_pixels_equal_diffusers() -> None:
    np.testing.assert_array_equal(to_pixels(load("picture.image.npy")), load("picture.pixels.npy"))


def test_the_vectors_stay_small() -> None:
    assert sum(path.stat().st_size for path in Path(GOLDEN).rglob("*.np*")) < 1 << 20

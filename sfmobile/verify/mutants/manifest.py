"""Faults in the manifest's constants and in the tokenizer's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sfmobile.bundle.directory import MANIFEST_FILE, Bundle
from sfmobile.verify.mutants.mutant import Mutant


def manifest_mutants(bundle: Bundle) -> Iterator[Mutant]:
    """Every fault of a fixed list in the manifest's constants and in the tokenizer's files."""
    manifest = bundle.manifest
    sampler, tokens = manifest.sampler, manifest.tokenizer
    spacings = ("leading", "trailing", "linspace")
    schedules = ("linear", "scaled_linear", "squaredcos_cap_v2")
    changes: dict[str, Any] = {
        "sampler.beta_start": sampler.beta_start * 2,
        "sampler.beta_end": sampler.beta_end * 1.25,
        "sampler.beta_schedule": schedules[(schedules.index(sampler.beta_schedule) + 1) % 3],
        "sampler.timestep_spacing": spacings[(spacings.index(sampler.timestep_spacing) + 1) % 3],
        "sampler.steps_offset": sampler.steps_offset + 1,
        **{f"sampler.{key}": not value for key, value in sampler if key in ("set_alpha_to_one", "clip_sample")},
        "sampler.prediction_type": "epsilon" if sampler.prediction_type == "v_prediction" else "v_prediction",
        "sampler.rescale_betas_zero_snr": not sampler.rescale_betas_zero_snr,
        "sampler.num_train_timesteps": sampler.num_train_timesteps - 100,
        "pipeline.default_steps": manifest.pipeline.default_steps + 2,
        "latents.scaling_factor": manifest.latents.scaling_factor * 1.05,
        "guidance.default_scale": manifest.guidance.default_scale + 1.5,
        "time_embedding.flip_sin_to_cos": not manifest.time_embedding.flip_sin_to_cos,
        "time_embedding.frequency_shift": manifest.time_embedding.frequency_shift + 1.0,
        "time_embedding.max_period": manifest.time_embedding.max_period / 2,
        "tokenizers.tokenizer.pad_token_id": 0 if tokens.pad_token_id else tokens.eos_token_id,
        "tokenizers.tokenizer.eos_token_id": tokens.eos_token_id - 1,
        "tokenizers.tokenizer.bos_token_id": tokens.bos_token_id - 1,
    }
    for key, value in changes.items():
        yield Mutant(None, "manifest", f"{key} is {value}", _constant_changed(key, value))
    ids: dict[str, int] = json.loads((bundle.root / tokens.vocab).read_text(encoding="utf-8"))
    words = [pair for pair in (("red</w>", "blue</w>"), ("a</w>", "cat</w>")) if set(pair) <= set(ids)]
    rest = sorted(ids)
    for first, second in words or [(rest[1], rest[2])]:
        detail = f"ids of {first} and {second} exchanged"
        yield Mutant(None, "tokenizer", detail, _tokens_exchanged(tokens.vocab, first, second))
    if len((bundle.root / tokens.merges).read_text(encoding="utf-8").splitlines()) < 4:
        # A tokenizer of bytes merges nothing.
        return
    yield Mutant(None, "tokenizer", "merges in reverse", _merges_changed(tokens.merges, lambda lines: lines[::-1]))
    yield Mutant(None, "tokenizer", "every other merge lost", _merges_changed(tokens.merges, lambda lines: lines[::2]))


def _constant_changed(key: str, value: Any) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / MANIFEST_FILE
        manifest = json.loads(path.read_text(encoding="utf-8"))
        *parts, name = key.split(".")
        record = manifest
        for part in parts:
            record = record[part]
        record[name] = value
        path.write_text(json.dumps(manifest), encoding="utf-8")

    return apply


def _tokens_exchanged(vocabulary: str, first: str, second: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / vocabulary
        ids = json.loads(path.read_text(encoding="utf-8"))
        ids[first], ids[second] = ids[second], ids[first]
        path.write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")

    return apply


def _merges_changed(merges: str, turn: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / merges
        version, *lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([version, *turn(lines)]) + "\n", encoding="utf-8")

    return apply

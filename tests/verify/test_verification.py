from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sfmobile.bench.report import RuntimeRecord
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.runtime.opening import open_runtime
from sfmobile.sampling.pipeline import Request
from sfmobile.verify.verification import (
    EXACT_GATE_DB,
    PALETTIZED_GATE_DB,
    Gates,
    Reference,
    evaluate,
    evaluation_work,
    golden_reference,
    record_reference,
    reference_work,
)

REQUESTS = (Request("a red apple", steps=4, guidance_scale=5.0), Request("😀", "blurry", seed=3, steps=4))
DESCRIBED = RuntimeRecord(kind="mil", description="mil", precision="fp32")


def recorded(bundle: Bundle, checkpoint: Checkpoint, requests: tuple[Request, ...] = REQUESTS) -> Reference:
    runtime = open_runtime("torch", bundle, source=checkpoint)
    return record_reference(bundle, runtime, requests, lambda _: None)


@pytest.fixture(scope="module")
def reference(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> Reference:
    return recorded(tiny_bundle, tiny_checkpoint)


def test_the_reference_keeps_real_inputs_of_first_middle_and_last_step(reference: Reference) -> None:
    assert [call.label for call in reference.of("unet")] == [
        f"prompt {prompt}, step {step} of 4" for prompt in (1, 2) for step in (1, 3, 4)
    ]
    assert len(reference.of("text_encoder")) == 4 and len(reference.of("decoder")) == 2
    first, _, last = reference.of("unet")[:3]
    assert np.std(first.inputs["latents"]) == pytest.approx(1, abs=0.2)
    assert not np.allclose(first.inputs["latents"], last.inputs["latents"])
    assert len(reference.pictures) == 2 and reference.pictures[0].dtype == np.uint8


def test_the_reference_agrees_with_itself(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, reference: Reference
) -> None:
    runtime = open_runtime("torch", tiny_bundle, source=tiny_checkpoint)
    found = evaluate(tiny_bundle, runtime, DESCRIBED, reference, Gates(picture=1e6), None, lambda _: None)
    assert found.passed and found.picture is not None and found.picture.identical
    assert all(component.worst.identical for component in found.components.values())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_exact_export_passes_60_dB_in_both_evaluations(
    precision: str, tiny_bundle: Bundle, reference: Reference
) -> None:
    done: list[int] = []
    runtime = open_runtime("mil", tiny_bundle, precision=precision)
    found = evaluate(tiny_bundle, runtime, DESCRIBED, reference, Gates(), None, done.append)
    assert found.passed
    assert {name: one.gate_db for name, one in found.components.items()} == dict.fromkeys(
        ("text_encoder", "unet", "decoder"), EXACT_GATE_DB
    )
    assert found.picture is not None and found.picture.reaches(40)
    assert sum(done) == evaluation_work(tiny_bundle, reference)


def test_a_palettized_export_has_the_lower_gate_and_batch_one_is_compared_call_by_call(
    tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint
) -> None:
    done: list[int] = []
    runtime = open_runtime("torch", tiny_palettized_bundle, source=tiny_checkpoint)
    reference = record_reference(tiny_palettized_bundle, runtime, REQUESTS, done.append)
    assert sum(done) == reference_work(tiny_palettized_bundle, REQUESTS)
    assert len(reference.of("unet")) == 12
    mil = open_runtime("mil", tiny_palettized_bundle)
    found = evaluate(tiny_palettized_bundle, mil, DESCRIBED, reference, Gates(), None, lambda _: None)
    assert {one.gate_db for one in found.components.values()} == {PALETTIZED_GATE_DB}
    assert found.components["unet"].worst.psnr_db is not None and found.components["unet"].worst.psnr_db < EXACT_GATE_DB


def test_under_the_gate_the_diagnosis_is_asked_with_the_worst_call(tiny_bundle: Bundle, reference: Reference) -> None:
    asked: list[tuple[str, str]] = []

    def diagnose(name, call):
        asked.append((name, call.label))

    runtime = open_runtime("mil", tiny_bundle, precision="fp16")
    found = evaluate(tiny_bundle, runtime, DESCRIBED, reference, Gates(component=1e3), diagnose, lambda _: None)
    assert not found.passed
    for name, label in asked:
        samples = found.components[name].samples
        worst = min(samples, key=lambda sample: sample.agreement.closeness)
        assert label == worst.input and found.components[name].worst == worst.agreement
    assert [name for name, _ in asked] == ["text_encoder", "unet", "decoder"]


def test_a_picture_gate_fails_the_evaluation_alone(tiny_bundle: Bundle, reference: Reference) -> None:
    runtime = open_runtime("mil", tiny_bundle, precision="fp16")
    found = evaluate(tiny_bundle, runtime, DESCRIBED, reference, Gates(picture=200.0), None, lambda _: None)
    assert all(component.passed for component in found.components.values())
    assert not found.picture_passed and not found.passed


def test_golden_vectors_stand_in_for_the_checkpoint(
    tiny_bundle: Bundle, tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint
) -> None:
    for bundle, unet_calls in ((tiny_bundle, 1), (tiny_palettized_bundle, 2)):
        golden = golden_reference(bundle)
        assert len(golden.of("unet")) == unet_calls
        # The same run, recorded now: its last step and its picture are the golden ones.
        again = recorded(bundle, tiny_checkpoint, golden.requests)
        for expected, call in zip(again.of("unet")[-unet_calls:], golden.of("unet"), strict=True):
            np.testing.assert_allclose(
                call.outputs["model_output"], expected.outputs["model_output"], rtol=1e-4, atol=1e-4
            )
        assert np.abs(golden.pictures[0].astype(int) - again.pictures[0]).max() <= 1
        mil = open_runtime("mil", bundle)
        assert evaluate(bundle, mil, DESCRIBED, golden, Gates(), None, lambda _: None).passed


class Broken:
    """A runtime whose UNet overflows."""

    def __init__(self, bundle: Bundle) -> None:
        self.runtime = open_runtime("mil", bundle)

    def describe(self) -> str:
        return "broken"

    def load(self, name):
        component = self.runtime.load(name)
        if name == "unet":
            predict = component.predict
            component.predict = lambda inputs: {key: value * np.inf for key, value in predict(inputs).items()}
        return component


def test_a_loop_that_ends_in_nan_fails_instead_of_breaking_off(tiny_bundle: Bundle, reference: Reference) -> None:
    found = evaluate(tiny_bundle, Broken(tiny_bundle), DESCRIBED, reference, Gates(picture=1.0), None, lambda _: None)
    assert not found.passed and not found.picture_passed
    assert found.components["unet"].worst.nonfinite > 0 and found.components["unet"].worst.closeness == -math.inf
    assert found.components["decoder"].passed


def test_a_bundle_of_some_components_is_verified_without_a_picture(
    tiny_bundle: Bundle, reference: Reference, tmp_path: Path
) -> None:
    manifest = tiny_bundle.manifest
    part = Bundle(
        tiny_bundle.root, manifest.model_copy(update={"components": {"decoder": manifest.components["decoder"]}})
    )
    found = evaluate(part, open_runtime("mil", part), DESCRIBED, reference, Gates(picture=1e6), None, lambda _: None)
    assert list(found.components) == ["decoder"] and found.picture is None and found.passed

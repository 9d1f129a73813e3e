from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from sfmobile.bench.records import RuntimeRecord
from sfmobile.bench.verify_report import EvaluationAgreement
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.runtime.opening import open_runtime
from sfmobile.runtime.protocol import Runtime
from sfmobile.sampling.pipeline import Request
from sfmobile.verify.gates import PALETTIZED_GATE_DB, UNCOMPRESSED_GATE_DB, Gates, guidance_loss, in_levels
from sfmobile.verify.runs import Recording, answer
from sfmobile.verify.verification import (
    Diagnose,
    compare,
    evaluation_work,
    golden_reference,
    reference_work,
)
from tests.verify.recorded import recorded

REQUESTS = (Request("a red apple", steps=4, guidance_scale=5.0), Request("😀", "blurry", seed=3, steps=4))
DEFAULT = Gates()
DESCRIBED = RuntimeRecord(kind="mil", description="mil", precision="fp32")


def evaluate(
    bundle: Bundle,
    runtime: Runtime,
    reference: Recording,
    gates: Gates = DEFAULT,
    diagnose: Diagnose | None = None,
    advance=lambda units: None,
) -> EvaluationAgreement:
    found = answer(bundle, runtime, reference, advance, tuple(bundle.manifest.components))
    return compare(reference, found, DESCRIBED, gates, bundle, diagnose)


@pytest.fixture(scope="module")
def reference(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> Recording:
    return recorded(tiny_bundle, tiny_checkpoint, REQUESTS)


def test_the_reference_keeps_real_inputs_of_first_middle_and_last_step(reference: Recording) -> None:
    assert [call.label for call in reference.of("unet")] == [
        f"prompt {prompt}, step {step} of 4" for prompt in (1, 2) for step in (1, 3, 4)
    ]
    assert len(reference.of("text_encoder")) == 4 and len(reference.of("decoder")) == 2
    first, _, last = reference.of("unet")[:3]
    assert np.std(first.inputs["latents"]) == pytest.approx(1, abs=0.2)
    assert not np.allclose(first.inputs["latents"], last.inputs["latents"])
    first_run, _ = reference.runs
    assert first_run.picture is not None and first_run.picture.dtype == np.uint8
    assert first_run.latents is not None and len(first_run.latents) == 4


def test_the_reference_agrees_with_itself(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, reference: Recording
) -> None:
    runtime = open_runtime("torch", tiny_bundle, source=tiny_checkpoint)
    found = evaluate(tiny_bundle, runtime, reference, Gates(picture=1e6))
    assert found.passed and found.picture is not None and found.picture.identical
    assert all(component.worst.identical for component in found.components.values())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_exact_export_passes_60_dB_in_both_evaluations(
    precision: str, tiny_bundle: Bundle, reference: Recording
) -> None:
    done: list[int] = []
    runtime = open_runtime("mil", tiny_bundle, precision=precision)
    found = evaluate(tiny_bundle, runtime, reference, advance=done.append)
    assert found.passed
    assert {name: one.gate_db for name, one in found.components.items()} == dict.fromkeys(
        ("text_encoder", "unet", "decoder"), UNCOMPRESSED_GATE_DB
    )
    assert found.picture is not None and found.picture.reaches(40)
    assert sum(done) == evaluation_work(tiny_bundle, reference)


def test_a_palettized_export_has_the_lower_gate_and_batch_one_is_compared_call_by_call(
    tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint
) -> None:
    done: list[int] = []
    reference = recorded(tiny_palettized_bundle, tiny_checkpoint, REQUESTS, advance=done.append)
    assert sum(done) == reference_work(tiny_palettized_bundle, REQUESTS)
    assert len(reference.of("unet")) == 12
    mil = open_runtime("mil", tiny_palettized_bundle)
    found = evaluate(tiny_palettized_bundle, mil, reference)
    assert {one.gate_db for one in found.components.values()} == {PALETTIZED_GATE_DB}
    assert (
        found.components["unet"].worst.psnr_db is not None
        and found.components["unet"].worst.psnr_db < UNCOMPRESSED_GATE_DB
    )


def test_under_the_gate_the_diagnosis_is_asked_with_the_worst_call(tiny_bundle: Bundle, reference: Recording) -> None:
    asked: list[tuple[str, str]] = []

    def diagnose(name, call):
        asked.append((name, call.label))

    runtime = open_runtime("mil", tiny_bundle, precision="fp16")
    found = evaluate(tiny_bundle, runtime, reference, Gates(component=1e3), diagnose)
    assert not found.passed
    for name, label in asked:
        samples = found.components[name].samples
        worst = min(samples, key=lambda sample: sample.agreement.closeness)
        assert label == worst.input and found.components[name].worst == worst.agreement
    assert [name for name, _ in asked] == ["text_encoder", "unet", "decoder"]


def test_a_picture_gate_fails_the_evaluation_alone(tiny_bundle: Bundle, reference: Recording) -> None:
    runtime = open_runtime("mil", tiny_bundle, precision="fp16")
    found = evaluate(tiny_bundle, runtime, reference, Gates(picture=200.0))
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
        (now,), (before,) = again.runs, golden.runs
        assert now.picture is not None and before.picture is not None and now.latents and before.latents
        assert np.abs(before.picture.astype(int) - now.picture).max() <= 1
        np.testing.assert_allclose(np.stack(before.latents), np.stack(now.latents), rtol=1e-4, atol=1e-4)
        mil = open_runtime("mil", bundle)
        found = evaluate(bundle, mil, golden)
        assert found.passed and len(found.steps) == 2


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


def test_a_loop_that_ends_in_nan_fails_instead_of_breaking_off(tiny_bundle: Bundle, reference: Recording) -> None:
    found = evaluate(tiny_bundle, Broken(tiny_bundle), reference, Gates(picture=1.0))
    assert not found.passed and not found.picture_passed
    assert found.components["unet"].worst.nonfinite > 0 and found.components["unet"].worst.closeness == -math.inf
    assert found.components["decoder"].passed
    assert (
        found.broke_off is not None and found.broke_off.startswith("unet gives ") and "after 0 steps" in found.broke_off
    )
    assert any("the loop breaks off" in failure for failure in found.failures())


def test_a_bundle_of_some_components_is_verified_without_a_picture(
    tiny_bundle: Bundle, reference: Recording, tmp_path: Path
) -> None:
    manifest = tiny_bundle.manifest
    part = Bundle(
        tiny_bundle.root, manifest.model_copy(update={"components": {"decoder": manifest.components["decoder"]}})
    )
    found = evaluate(part, open_runtime("mil", part), reference, Gates(picture=1e6))
    assert list(found.components) == ["decoder"] and found.picture is None and found.passed


def test_the_loop_may_lose_what_guidance_makes_of_a_components_gate(tiny_bundle: Bundle, reference: Recording) -> None:
    """Two independent errors e in u + s (c - u) are sqrt(s^2 + (s - 1)^2) e."""
    generator = np.random.default_rng(0)
    for scale in (2.0, 7.5):
        unconditional, conditional = generator.standard_normal((2, 100_000))
        guided = unconditional + scale * (conditional - unconditional)
        assert guidance_loss(scale) == pytest.approx(20 * math.log10(guided.std()), abs=0.1)
    assert guidance_loss(1.0) == 0
    found = evaluate(tiny_bundle, open_runtime("mil", tiny_bundle), reference)
    # The prompts' scales are 5 and the model's own 7.5: the larger one decides.
    assert found.steps_gate_db == pytest.approx(UNCOMPRESSED_GATE_DB - guidance_loss(7.5))
    assert found.passed and [one.step for one in found.steps] == [1, 2, 3, 4]


def test_rounding_a_picture_to_8_bits_leaves_what_is_said() -> None:
    generator = np.random.default_rng(0)
    picture = generator.uniform(0, 255, 400_000)
    for decibels in (30.0, 60.0, 80.0):
        error = 255 * 10 ** (-decibels / 20) * generator.standard_normal(picture.size)
        off = np.round(picture) - np.round(picture + error)
        assert 20 * math.log10(255 / np.sqrt(np.mean(off**2))) == pytest.approx(in_levels(decibels), abs=1.5)


@pytest.mark.parametrize(
    ("key", "value"), [("beta_end", 0.02), ("timestep_spacing", "trailing"), ("prediction_type", "v_prediction")]
)
def test_a_wrong_constant_of_the_manifest_shows_in_the_latents_and_the_picture(
    key: str, value: object, tiny_bundle: Bundle, reference: Recording, tmp_path: Path
) -> None:
    """The reference draws by the checkpoint's constants, so the bundle's own loop parts from it."""
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "wrong"))
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["sampler"][key] = value
    (root / "manifest.json").write_text(json.dumps(manifest))
    wrong = Bundle.open(root, check="none")
    found = evaluate(wrong, open_runtime("mil", wrong), reference)
    assert all(component.passed for component in found.components.values())
    assert not found.passed and found.first_step_off is not None
    assert any("latents" in failure and "from step" in failure for failure in found.failures())

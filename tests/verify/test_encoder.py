"""A bundle with the image encoder is proven whole: exact, lost, read, and by its golden vectors alone."""

from __future__ import annotations

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.sampling.pipeline import Request
from sfmobile.verify.constants import constant_faults
from sfmobile.verify.diffusers_reference import compare_reading
from sfmobile.verify.replay import replay_faults
from sfmobile.verify.verdict import verify
from tests.sampling.pipelines import reference_pipeline


def test_the_encoder_is_exact_and_what_is_lost_is_measured(
    tiny_encoding_bundle: Bundle, tiny_checkpoint: Checkpoint
) -> None:
    report = verify(tiny_encoding_bundle, source=tiny_checkpoint, component="encoder", quick=True, reference="nets")
    assert report.passed, report.failures()
    assert report.exact is not None and set(report.exact.components) == {"encoder"}
    assert all(set(one.components) == {"encoder"} for one in report.evaluations)
    assert constant_faults(tiny_encoding_bundle, tiny_checkpoint) == []


def test_golden_vectors_prove_the_encoder_without_the_checkpoint(tiny_encoding_bundle: Bundle) -> None:
    assert tiny_encoding_bundle.golden("encoder.moments").shape == (1, 8, 8, 8)
    assert replay_faults(tiny_encoding_bundle) == []
    report = verify(tiny_encoding_bundle, component="encoder", precision="fp32", reference="golden")
    assert report.passed and set(report.evaluations[0].components) == {"encoder"}


def test_our_reading_of_the_encoder_is_diffusers_own(tiny_checkpoint: Checkpoint) -> None:
    with reference_pipeline(tiny_checkpoint.with_components(["encoder"])) as ours:
        stages = compare_reading(tiny_checkpoint, ours, Request("a red apple", steps=1))
    assert stages[-1].input == "latents of the picture" and stages[-1].agreement.closeness > 90

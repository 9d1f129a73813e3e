from __future__ import annotations

from sfmobile.bundle.directory import Bundle
from sfmobile.inspect.lint.targets import bundle_targets, lint_targets
from sfmobile.inspect.operations.activations import record_magnitudes
from sfmobile.mlpackage.program import load_program


def test_a_recorded_run_sees_every_float_value_of_every_component(tiny_bundle: Bundle) -> None:
    advanced: list[int] = []
    found = record_magnitudes(tiny_bundle, 2, "a red apple", advanced.append)
    assert len(advanced) == 3
    for name in tiny_bundle.manifest.components:
        program = load_program(tiny_bundle.package(name))
        values = {
            output
            for operation in program.operations
            for output, type_ in operation.outputs
            if type_.data_type == "fp16"
        }
        floats = {key for key, type_ in program.inputs.items() if type_.data_type == "fp16"}
        assert values | floats <= set(found[name])
        assert all(magnitude >= 0 for magnitude in found[name].values())
    # The loop starts from seeded noise: several standard deviations, not thousands.
    assert 2 < found["unet"]["latents"] < 50


def test_our_exports_pass_the_overflow_rules_on_real_activations(tiny_bundle: Bundle) -> None:
    magnitudes = record_magnitudes(tiny_bundle, 1, "a red apple")
    findings = lint_targets(bundle_targets(tiny_bundle, magnitudes=magnitudes))
    assert {finding.rule for finding in findings}.isdisjoint({"activation-overflow", "normalisation-overflow"})
    enlarged = {name: {key: value * 1e6 for key, value in values.items()} for name, values in magnitudes.items()}
    found = lint_targets(bundle_targets(tiny_bundle, magnitudes=enlarged))
    assert {finding.component for finding in found if finding.rule == "activation-overflow"} == set(magnitudes)

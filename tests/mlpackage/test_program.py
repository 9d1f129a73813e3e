"""Programs: read, of several functions, broken, beyond the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.mlpackage.program import load_program
from sfmobile.mlpackage.types import TensorType
from sfmobile.runtime.mil.evaluate import Evaluator
from tests.mlpackage.packages import X, body, change_model, model_file
from tests.runtime.mil.programs import build_program


def block_of(model: Any) -> Any:
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def test_a_package_tells_inputs_outputs_and_operations(package: Path) -> None:
    program = load_program(package)
    assert program.inputs == {"x": TensorType("fp16", (1, 2, 4, 4))}
    assert program.output_types() == {"y": TensorType("fp16", (1, 3, 4, 4))}
    assert [str(operation).partition(" ")[2] for operation in program.operations] == [
        f"{program.operations[0].position} 'conv_in' (conv)",
        f"{program.operations[1].position} 'y' (relu)",
    ]
    assert program.opset == "CoreML6"


def test_reading_a_package_needs_neither_torch_nor_the_converters(package: Path) -> None:
    import subprocess
    import sys

    script = (
        "import sys; from pathlib import Path; from sfmobile.mlpackage.program import load_program;"
        f"load_program(Path({str(package)!r}));"
        "print([name for name in ('torch', 'coremltools') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_multifunction_packages_share_weights_and_are_run_by_name(tmp_path: Path) -> None:
    paths = {}
    for batch in (1, 2):
        shape = (batch, 2, 4, 4)
        model = ct.convert(
            build_program(body, {"x": np.zeros(shape, np.float16)}, "ios18"),
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
        paths[batch] = tmp_path / f"batch{batch}.mlpackage"
        model.save(str(paths[batch]))
    descriptor = ct.utils.MultiFunctionDescriptor()
    for batch, path in paths.items():
        descriptor.add_function(str(path), "main", f"batch_{batch}")
    descriptor.default_function_name = "batch_2"
    ct.utils.save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
    single = Evaluator(load_program(paths[1]))({"x": X})["y"]
    for name, batch in (("batch_1", 1), ("batch_2", 2), (None, 2)):
        program = load_program(tmp_path / "both.mlpackage", name)
        assert program.inputs["x"].shape == (batch, 2, 4, 4)
        found = Evaluator(program)({"x": np.repeat(X, batch, axis=0)})["y"]
        np.testing.assert_allclose(found, np.repeat(single, batch, axis=0), rtol=1e-5, atol=1e-6)
    with pytest.raises(ArtifactError, match="has no function 'main'; it has batch_1, batch_2"):
        load_program(tmp_path / "both.mlpackage", "main")


def test_a_truncated_model_never_loads(package: Path) -> None:
    whole = model_file(package).read_bytes()
    for size in range(0, len(whole), 7):
        model_file(package).write_bytes(whole[:size])
        with pytest.raises(ArtifactError):
            Evaluator(load_program(package))


def test_a_truncated_weight_file_is_an_artifact_error(package: Path) -> None:
    weights = model_file(package).parent / "weights" / "weight.bin"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match=r"weight\.bin is truncated or altered"):
        Evaluator(load_program(package))


def test_an_unknown_operation_names_package_and_position(package: Path) -> None:
    def change(model: Any) -> None:
        block_of(model).operations[-1].type = "warp"

    change_model(package, change)
    place = len(load_program(package).constants) + 1
    expected = rf"program\.mlpackage: operation {place} 'y' \(warp\) is an operation, which the mil runtime doesn't"
    with pytest.raises(UnavailableError, match=expected):
        Evaluator(load_program(package))


def test_an_unknown_argument_names_package_and_position(package: Path) -> None:
    def change(model: Any) -> None:
        relu = block_of(model).operations[-1]
        relu.inputs["slope"].CopyFrom(relu.inputs["x"])

    change_model(package, change)
    with pytest.raises(UnavailableError, match=r"'y' \(relu\) has an argument 'slope'"):
        Evaluator(load_program(package))


def test_a_missing_argument_is_an_artifact_error(package: Path) -> None:
    change_model(package, lambda model: block_of(model).operations[-1].inputs.clear())
    with pytest.raises(ArtifactError, match=r"'y' \(relu\) lacks its argument 'x'"):
        Evaluator(load_program(package))


def test_a_value_used_before_it_is_computed_is_an_artifact_error(package: Path) -> None:
    def change(model: Any) -> None:
        block_of(model).operations[-1].inputs["x"].arguments[0].name = "later"

    change_model(package, change)
    with pytest.raises(ArtifactError, match=r"'y' \(relu\) uses 'later' before it is computed"):
        load_program(package)


def test_an_output_that_is_never_computed_is_an_artifact_error(package: Path) -> None:
    def change(model: Any) -> None:
        block_of(model).outputs[0] = "z"

    change_model(package, change)
    with pytest.raises(ArtifactError, match=r"output 'z' of 'main' is never computed"):
        load_program(package)


def test_blocks_are_for_control_flow_alone(package: Path) -> None:
    change_model(package, lambda model: block_of(model).operations[-1].blocks.add())
    with pytest.raises(UnavailableError, match=r"'y' \(relu\) holds nested blocks, which the mil runtime doesn't"):
        Evaluator(load_program(package))


def test_a_tuple_is_beyond_the_runtime(package: Path) -> None:
    def change(model: Any) -> None:
        block_of(model).operations[-1].outputs[0].type.tupleType.SetInParent()

    change_model(package, change)
    with pytest.raises(UnavailableError, match=r"'y' \(relu\) gives a value of kind 'tupleType'"):
        load_program(package)

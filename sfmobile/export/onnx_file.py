"""ONNX files, for machines where ONNX Runtime is the runtime of choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from sfmobile.bundle.manifest import TensorRecord
from sfmobile.export.lowering import LoweringError, example_inputs
from sfmobile.export.package import PackageMetadata
from sfmobile.export.quiet import quiet

OPSET = 18
PRODUCER = "sfmobile"


def write_onnx(
    net: nn.Module,
    path: Path,
    metadata: PackageMetadata,
    inputs: Sequence[TensorRecord],
    outputs: Sequence[TensorRecord],
) -> None:
    """Write `net` as the ONNX file `path`, its weights beside it as `path`.data.

    Inputs and outputs are named as recorded, shapes are static, and floats are of the network's precision.
    Raises `LoweringError` if the file doesn't pass ONNX's own checker.
    """
    import onnx

    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            net,
            example_inputs(inputs),
            input_names=[record.name for record in inputs],
            output_names=[record.name for record in outputs],
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
        assert program is not None
        model = program.model
        model.producer_name = PRODUCER
        model.doc_string = metadata.description
        described = {record.name: record.description for record in (*inputs, *outputs)}
        for value in (*model.graph.inputs, *model.graph.outputs):
            value.doc_string = described[str(value.name)]
        properties = {"author": metadata.author, "licence": metadata.licence, "version": metadata.version}
        model.metadata_props.update({key: text for key, text in {**properties, **metadata.user}.items() if text})
        program.save(path, external_data=True)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise LoweringError(f"'{path.name}' doesn't pass ONNX's checker ({error}); report it.") from error

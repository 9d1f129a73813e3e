"""The onnx engine: ONNX Runtime on a bundle's ONNX files. Needs the extra `onnx`."""

from __future__ import annotations

from typing import Any

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord
from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.runtime.component import Component

_NUMPY_TYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(int32)": np.int32}


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises `UnavailableError` if it isn't installed."""
    try:
        import onnxruntime
    except ImportError:
        raise UnavailableError(
            "The onnx runtime needs ONNX Runtime, which isn't installed; run pip install 'sfmobile[onnx]'."
        ) from None
    return onnxruntime


class OnnxComponent(Component):
    """A component in an ONNX Runtime session."""

    def __init__(self, name: ComponentName, record: ComponentRecord, session: Any) -> None:
        super().__init__(name, record)
        self._session: Any | None = session
        self._types = {node.name: _NUMPY_TYPES.get(node.type) for node in session.get_inputs()}

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the session on inputs of the types it declares."""
        assert self._session is not None
        names = [record.name for record in self.outputs]
        fed = {name: value.astype(self._types[name], copy=False) for name, value in inputs.items()}
        return dict(zip(names, self._session.run(names, fed), strict=True))

    def free(self) -> None:
        """Drop the session."""
        self._session = None


class OnnxRuntime:
    """Executes a bundle that was exported with `--format onnx`."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises `UnavailableError` if ONNX Runtime isn't installed."""
        self.bundle = bundle
        self._onnxruntime = import_onnxruntime()

    def describe(self) -> str:
        """E.g. "onnx fp32 (ONNX Runtime 1.31.1 CPU)"."""
        return f"onnx (ONNX Runtime {self._onnxruntime.__version__} CPU)"

    def load(self, name: ComponentName) -> OnnxComponent:
        """Load one component.

        Raises `UsageError` if it is an ML Program, `ArtifactError` if the file is missing, broken or not what the
        manifest says.
        """
        path = self.bundle.package(name)
        record = self.bundle.manifest.components[name]
        if record.format != "onnx":
            raise UsageError(
                f"{path} is a Core ML package, not an ONNX file; use --runtime mil, or export with --format onnx."
            )
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; export the bundle again.")
        state = self._onnxruntime.capi.onnxruntime_pybind11_state
        options = self._onnxruntime.SessionOptions()
        options.log_severity_level = 3
        broken = (state.InvalidProtobuf, state.InvalidGraph, state.Fail, state.NoSuchFile, state.RuntimeException)
        try:
            session = self._onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except broken as error:
            raise ArtifactError(f"{path} can't be read by ONNX Runtime: {error}; export the bundle again.") from error
        _check_border(session, record, str(path))
        return OnnxComponent(name, record, session)


def _check_border(session: Any, record: ComponentRecord, path: str) -> None:
    """Raise `ArtifactError` unless the session's inputs and outputs are those the manifest records."""
    for what, tensors, nodes in (
        ("input", record.inputs, session.get_inputs()),
        ("output", record.outputs, session.get_outputs()),
    ):
        recorded = {tensor.name: list(tensor.shape) for tensor in tensors}
        found = {node.name: list(node.shape) for node in nodes}
        if recorded != found:
            raise ArtifactError(
                f"{path}: {what}s are {found} in the file and {recorded} in the manifest; export the bundle again."
            )
        for node in nodes:
            if node.type not in _NUMPY_TYPES:
                raise ArtifactError(f"{path}: {what} '{node.name}' is a {node.type}; expected floats or int32.")

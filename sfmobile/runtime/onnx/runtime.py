"""The onnx runtime: ONNX Runtime on a bundle's ONNX files, or on its ML Programs translated. Needs the extra `onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord
from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.runtime.chunks import ChunkedComponent, check_ml_program, load_packages
from sfmobile.runtime.component import Component, check_border

if TYPE_CHECKING:
    from sfmobile.runtime.onnx.translate import Translation

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


def session_options(onnxruntime: Any) -> Any:
    """Options of a session that keeps to itself."""
    options = onnxruntime.SessionOptions()
    # Warnings about optimisations it skips are no business of the user's.
    options.log_severity_level = 3
    return options


def translated_session(translation: Translation) -> Any:
    """A session on a translated ML Program; its weights are handed over in memory."""
    onnxruntime = import_onnxruntime()
    options = session_options(onnxruntime)
    names = list(translation.weights)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(translation.weights[name]) for name in names]
    options.add_external_initializers(names, values)
    model = translation.model.SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


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
    """Executes a bundle's ONNX files; ML Programs are translated to ONNX in float32 first."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises `UnavailableError` if ONNX Runtime isn't installed."""
        self.bundle = bundle
        self._onnxruntime = import_onnxruntime()

    def describe(self) -> str:
        """E.g. "onnx (ONNX Runtime 1.31.1 CPU)", or "onnx fp32, translated from ML Programs (...)"."""
        translated = any(record.format == "mlprogram" for record in self.bundle.manifest.components.values())
        how = " fp32, translated from ML Programs" if translated else ""
        return f"onnx{how} (ONNX Runtime {self._onnxruntime.__version__} CPU)"

    def load(self, name: ComponentName) -> OnnxComponent | ChunkedComponent[OnnxComponent]:
        """Load one component.

        Raises `ArtifactError` if its file is missing, broken or not what the manifest says, `UnavailableError` for an
        ML Program that uses an op without translation.
        """
        return load_packages(self.bundle, name, lambda record: self._load_package(name, record))

    def _load_package(self, name: ComponentName, record: ComponentRecord) -> OnnxComponent:
        path = self.bundle.root / record.package
        if record.format == "coreai":
            check_ml_program(self.bundle, name, "the onnx runtime")
        session = self._translated(path, record) if record.format == "mlprogram" else self._session(path)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        check_border(
            record, path, {node.name: node.shape for node in inputs}, {node.name: node.shape for node in outputs}
        )
        for node in (*inputs, *outputs):
            if node.type not in _NUMPY_TYPES:
                raise ArtifactError(f"{path}: '{node.name}' is a {node.type}; expected floats or int32.")
        return OnnxComponent(name, record, session)

    def _session(self, path: Path) -> Any:
        """A session on an ONNX file."""
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; export the bundle again.")
        state = self._onnxruntime.capi.onnxruntime_pybind11_state
        broken = (state.InvalidProtobuf, state.InvalidGraph, state.Fail, state.NoSuchFile, state.RuntimeException)
        try:
            return self._onnxruntime.InferenceSession(
                str(path), session_options(self._onnxruntime), providers=["CPUExecutionProvider"]
            )
        except broken as error:
            raise ArtifactError(f"{path} can't be read by ONNX Runtime: {error}; export the bundle again.") from error

    def _translated(self, package: Path, record: ComponentRecord) -> Any:
        """A session on an ML Program."""
        from sfmobile.mlpackage.program import load_program
        from sfmobile.runtime.onnx.translate import translate

        return translated_session(translate(load_program(package, record.function)))

"""Core ML's protobuf classes, generated code shipped inside coremltools, without importing its converters.

`import coremltools` loads every converter (about two seconds) and prints warnings about missing macOS libraries;
its `proto` folder is a package of its own with nothing but relative imports, so it is loaded under a name of ours.
The protobuf runtime hands out the same classes under either name.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from sfmobile.errors import UnavailableError

_ALIAS = "sfmobile_coreml_proto"


@cache
def _generated(module: str) -> ModuleType:
    """One generated module (`MIL_pb2`, `Model_pb2`) of coremltools' `proto` folder."""
    if "coremltools.proto" in sys.modules:
        return importlib.import_module(f"coremltools.proto.{module}")
    if _ALIAS not in sys.modules:
        coremltools = importlib.util.find_spec("coremltools")
        if coremltools is None or coremltools.origin is None:
            raise UnavailableError(
                "Reading an .mlpackage needs coremltools, which isn't installed; run pip install 'coremltools>=9,<10'."
            )
        folder = Path(coremltools.origin).parent / "proto"
        spec = importlib.util.spec_from_file_location(
            _ALIAS, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[_ALIAS] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{_ALIAS}.{module}")


def mil() -> ModuleType:
    """`MIL_pb2`: Program, Function, Block, Operation, Value, DataType."""
    return _generated("MIL_pb2")


def model() -> ModuleType:
    """`Model_pb2`: Model, the root message of a .mlmodel file."""
    return _generated("Model_pb2")

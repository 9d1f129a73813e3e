"""Apple's Core AI packages: the version they were read in, and every name of theirs that isn't public.

coreai-core 1.0.0b3 (PyPI, BSD-3). A beta: a new version is taken by running the tests of this room against it.
Its wheels are for Python from 3.11 on x86-64 Linux and on macOS 27.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from sfmobile.errors import UnavailableError
from sfmobile.mlpackage.value import unpack_bits

if TYPE_CHECKING:
    from coreai.authoring import AIProgram, TensorType, Value

VERSION = "1.0.0b3"
DISTRIBUTION = "coreai-core"
# What this version stamps into the assets it writes, and the layout of an asset that it reads.
PRODUCER = f"{DISTRIBUTION} {VERSION}"
ASSET_VERSION = "2.0"
MEND = "install the extra, pip install 'sfmobile[coreai]', or do without Core AI"


@cache
def require() -> None:
    """Raise `UnavailableError` in one sentence unless Apple's package is here in the version that was read."""
    if importlib.util.find_spec("coreai") is None:
        where = f"Python {sys.version_info.major}.{sys.version_info.minor} on {sys.platform}"
        raise UnavailableError(
            f"Core AI needs Apple's {DISTRIBUTION} {VERSION}, which isn't installed (it exists for Python "
            f"3.11 and later on x86-64 Linux and macOS 27; this is {where}); {MEND}."
        )
    try:
        found = version(DISTRIBUTION)
    except PackageNotFoundError:
        found = "of another origin"
    if found != VERSION:
        raise UnavailableError(f"Core AI is read and written for {DISTRIBUTION} {VERSION}, found {found}; {MEND}.")


def declared(
    name: str, function: Callable[..., Any], inputs: Mapping[str, TensorType], outputs: Mapping[str, TensorType]
) -> Callable[..., Any]:
    """`function` with the signature that `coreai.authoring.graph` makes a function of the program from."""
    from coreai.authoring import Value

    annotated = {key: Annotated[Value, type_.with_name(key)] for key, type_ in (*inputs.items(), *outputs.items())}

    def graph_function(*arguments: Any) -> Any:
        return function(*arguments)

    parameters = [inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD) for key in inputs]
    graph_function.__name__ = name
    graph_function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    returned: Any = tuple.__class_getitem__(tuple(annotated[key] for key in outputs))
    graph_function.__annotations__ = {**{key: annotated[key] for key in inputs}, "return": returned}
    return graph_function


def constant(value: np.ndarray) -> Value:
    """A constant of the graph under construction, in the array's own type.

    `coreai.authoring.constant` is documented, but not among the names that `coreai.authoring` offers.
    """
    from coreai.authoring.constant import constant as make

    return make(np.asarray(value, order="C"))


def packed_constant(packed: np.ndarray, shape: tuple[int, ...], bits: int) -> Value:
    """A constant of unsigned integers of 2, 4, 6 or 8 `bits`, stored packed.

    The public constructor knows no 6-bit type and takes unpacked arrays only, so the attribute is built as the
    constructor itself builds those of 2 and 4 bits.
    """
    from coreai._compiler._mlir_libs._coreaiIR._bindings.mlir.dialects.coreai import create_elements_attr
    from coreai._compiler.dialects._coreai_ops_gen import ConstantOp
    from coreai._compiler.ir import IntegerType, Location, RankedTensorType
    from coreai.authoring import Value

    type_ = RankedTensorType.get(list(shape), IntegerType.get_unsigned(bits))
    attribute = create_elements_attr(Location.unknown(), type_, np.ascontiguousarray(packed))
    return Value._from_mlir(ConstantOp(value=attribute).result)


def composite_call(
    name: str,
    body: Callable[..., Value],
    operands: Mapping[str, Value],
    attributes: Mapping[str, float | int | bool | Sequence[int]],
) -> Value:
    """One result of a private graph that Apple's compiler takes for the operation `name`; `body` says what it computes.

    operands: by the names that Apple's own converter declares the operation with; body takes them in order and uses no
    value from outside. The declaration's attribute has no constructor in Python; what is parsed here is its textual
    form.
    """
    from coreai._compiler.ir import Attribute
    from coreai.authoring import graph

    def text(value: float | int | bool | str | Sequence[int] | Sequence[str]) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            return json.dumps(value)
        if isinstance(value, float):
            return f"{value:.9e} : f32"
        if isinstance(value, int):
            return f"{value} : si64"
        return f"[{', '.join(text(item) for item in value)}]"

    options = ", ".join(f"{key} = {text(value)}" for key, value in sorted({**attributes, "version": 1}.items()))
    names = f"input_names = {text(list(operands))}"
    declaration = f'"{name}" = {{{names}, op_attrs = {{{options}}}, output_names = ["output"]}}'

    def composite(*arguments: Any) -> Any:
        return body(*arguments)

    composite.__name__ = name
    parameters = [inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD) for key in operands]
    composite.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    composite.__annotations__ = dict.fromkeys([*operands, "return"], Any)
    built = graph(
        composite,
        private=True,
        no_inline=True,
        composite_decl=Attribute.parse(f"#coreai.composite_declaration<{declaration}>"),
    )
    (result,) = built(*operands.values())
    return result


def widen(program: AIProgram) -> None:
    """Make every float16 of `program` a float32, in place.

    Apple's package has no such pass; what is used are the bindings of MLIR itself, of which the program is made. Stored
    values are widened here and not by a cast in the program: its compiler folds a cast of a constant, and gets
    subnormal ones wrong (1e-5 becomes 6e-8).
    """
    from coreai._compiler import ir

    module = program._module._mlir_module
    resources = _resources(str(module))
    with module.context, ir.Location.unknown(module.context):
        half, wide = ir.F16Type.get(), ir.F32Type.get()

        def widened(type_: Any) -> Any:
            if isinstance(type_, ir.RankedTensorType) and type_.element_type == half:
                return ir.RankedTensorType.get(type_.shape, wide)
            return type_

        for graph in module.body.operations:
            declared = graph.attributes["function_type"].value
            types = ir.FunctionType.get([*map(widened, declared.inputs)], [*map(widened, declared.results)])
            graph.attributes["function_type"] = ir.TypeAttr.get(types)
            for block in graph.regions[0].blocks:
                for argument in block.arguments:
                    argument.set_type(widened(argument.type))
                for operation in list(block.operations):
                    for result in operation.results:
                        type_ = widened(result.type)
                        if operation.name == "coreai.constant" and type_ != result.type:
                            _widen_constant(operation, type_, resources)
                        else:
                            result.set_type(type_)


@dataclass(frozen=True)
class StoredConstant:
    """A half-precision constant of a program: its values, or indices (of the weight's shape) into tables of values.

    lut: (blocks along each axis..., entries, 1), as `lut_to_dense` takes it.
    """

    values: np.ndarray | None = None
    indices: np.ndarray | None = None
    lut: np.ndarray | None = None


def stored_constants(program: AIProgram) -> list[StoredConstant]:
    """Every float16 constant of `program` and every one that it decodes from tables, each as often as it stands there.

    Apple's package reads none of them back; these are the bindings of MLIR, as in `widen`.
    """
    from coreai._compiler import ir

    module = program._module._mlir_module
    resources = _resources(str(module))
    found: list[StoredConstant] = []
    with module.context, ir.Location.unknown(module.context):
        for graph in module.body.operations:
            for block in graph.regions[0].blocks:
                for operation in block.operations:
                    if operation.name == "coreai.lut_to_dense":
                        indices, lut = (_read(operand.owner, resources) for operand in list(operation.operands)[:2])
                        found.append(StoredConstant(indices=indices, lut=lut))
                    elif operation.name == "coreai.constant":
                        values = _read(operation, resources)
                        if values is not None and values.dtype == np.float16:
                            found.append(StoredConstant(values))
    return found


def _read(operation: Any, resources: Mapping[str, bytes]) -> np.ndarray | None:
    """The values of a constant of halves or of unsigned integers, one a byte; None of another type."""
    from coreai._compiler import ir

    type_ = operation.results[0].type
    attribute, element = operation.attributes["value"], str(type_.element_type)
    unsigned = re.fullmatch(r"ui([1-8])", element)
    if element != "f16" and unsigned is None:
        return None
    named = None if isinstance(attribute, ir.DenseElementsAttr) else re.match(r"dense_resource<(\w+)>", str(attribute))
    shape = tuple(type_.shape)
    if named is None:
        values = np.array(attribute)
        return np.broadcast_to(values.reshape(()) if values.size == 1 else values, shape)
    stored = np.frombuffer(resources[named[1]], np.uint8)
    values = unpack_bits(stored, int(unsigned[1]), math.prod(shape)) if unsigned else stored.view(np.float16)
    return np.broadcast_to(values.reshape(()), shape) if values.size == 1 else values.reshape(shape)


def _widen_constant(operation: Any, type_: Any, resources: Mapping[str, bytes]) -> None:
    """Put a constant of the wide type in the place of one of float16."""
    from coreai._compiler import ir
    from coreai._compiler._mlir_libs._coreaiIR._bindings.mlir.dialects.coreai import create_elements_attr
    from coreai._compiler.dialects._coreai_ops_gen import ConstantOp

    attribute = operation.attributes["value"]
    named = None if isinstance(attribute, ir.DenseElementsAttr) else re.match(r"dense_resource<(\w+)>", str(attribute))
    stored = np.frombuffer(resources[named[1]], np.float16) if named else np.array(attribute)
    if stored.size == 1:
        # One value for all.
        stored = np.broadcast_to(stored.reshape(()), type_.shape)
    with ir.InsertionPoint(operation):
        values = np.ascontiguousarray(stored.reshape(type_.shape), np.float32)
        wide = ConstantOp(value=create_elements_attr(ir.Location.unknown(), type_, values))
    operation.results[0].replace_all_uses_with(wide.result)
    operation.erase()


def _resources(text: str) -> dict[str, bytes]:
    """The large constants of a program by name, from its textual form: the bindings can't read them.

    Each stands there in hexadecimal digits, its alignment of 4 bytes first.
    """
    found = re.finditer(r'^\s*(resource_\w+): "0x([0-9A-F]+)"', text, re.MULTILINE)
    return {match[1]: bytes.fromhex(match[2])[4:] for match in found}

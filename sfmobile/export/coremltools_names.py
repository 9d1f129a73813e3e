"""The names of coremltools that it doesn't document, and the one place where its own are replaced for a while.

Public are `ct.convert`, `ct.TensorType`, `ct.target`, `ct.PassPipeline`, `ct.models`, `Builder` and the `proto`
modules. What stands here may change with any release: each name says why it is needed and what of it is used, so that
`faults` can tell whether an installed coremltools still has it. All were seen in the versions of `SEEN`;
`make newest-coremltools` looks at the newest one.
"""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from sfmobile.errors import UnavailableError

if TYPE_CHECKING:
    from coremltools.converters.mil.frontend.torch.converter import TranscriptionContext as TranscriptionContext
    from coremltools.converters.mil.frontend.torch.internal_graph import InternalTorchIRNode as InternalTorchIRNode
    from coremltools.converters.mil.mil import Operation as Operation
    from coremltools.converters.mil.mil import Program as Program
    from coremltools.converters.mil.mil import Var as Var

# What adds the operations of one traced node to the program being built.
TorchLowering: TypeAlias = "Callable[[TranscriptionContext, InternalTorchIRNode], None]"

SEEN = ("9.0", "9.1.dev1")


@dataclass(frozen=True)
class Name:
    """One name. takes: the arguments it is called with. has: the attributes of it that are used."""

    module: str
    path: str
    why: str
    takes: tuple[str, ...] = ()
    has: tuple[str, ...] = ()

    def load(self) -> Any:
        """What the name stands for. Raises `UnavailableError` if this coremltools doesn't have it."""
        try:
            return attrgetter(self.path)(importlib.import_module(self.module))
        except (ImportError, AttributeError) as error:
            raise UnavailableError(
                f"coremltools {version('coremltools')} has no '{self.module}.{self.path}', which sfmobile needs "
                f"{self.why}; run pip install coremltools=={SEEN[0]}."
            ) from error

    def fault(self) -> str | None:
        """In what the installed coremltools differs from what is used of this name, if it does."""
        try:
            found = self.load()
        except UnavailableError as error:
            return str(error)
        missing = [attribute for attribute in self.has if not hasattr(found, attribute)]
        if missing:
            return f"'{self.module}.{self.path}' has no {', '.join(missing)}"
        if self.takes:
            arguments = inspect.signature(found).parameters
            unknown = [argument for argument in self.takes if argument not in arguments]
            if unknown:
                return f"'{self.module}.{self.path}' takes no {', '.join(unknown)}, but {', '.join(arguments)}"
        return None


TORCH_OPS_REGISTRY = Name(
    "coremltools.converters.mil.frontend.torch.torch_op_registry",
    "_TORCH_OPS_REGISTRY",
    "to lower its own operators and give coremltools' back (`register_torch_op` overrides for good)",
    has=("name_to_func_mapping",),
)
GET_INPUTS = Name(
    "coremltools.converters.mil.frontend.torch.ops",
    "_get_inputs",
    "to read the arguments of an operator that it lowers",
    takes=("context", "node", "expected"),
)
ADD_RESULT = Name(
    "coremltools.converters.mil.frontend.torch.converter",
    "TranscriptionContext.add",
    "to give the result of an operator that it lowers",
    takes=("ssa_var", "torch_name"),
)
PROMOTE_INPUT_DTYPES = Name(
    "coremltools.converters.mil.mil.ops.defs._utils",
    "promote_input_dtypes",
    "to lower products of different types as coremltools does",
    takes=("input_vars",),
)
TYPES = Name(
    "coremltools.converters.mil.mil",
    "types",
    "to know what an operation's result is",
    has=("fp16", "fp32", "fp64", "builtin_to_string", "nptype_from_builtin"),
)
OPSET_IS_AT_LEAST = Name(
    "coremltools.converters.mil.mil.block",
    "is_current_opset_version_compatible_with",
    "to choose the operations that a target has",
    takes=("opset_version",),
)
PASS_REGISTRY = Name(
    "coremltools.converters.mil.mil.passes.pass_registry",
    "PASS_REGISTRY",
    "to run single passes after naming (`PassPipeline` runs inside the conversion, before it)",
    has=("__getitem__", "__contains__"),
)
SERIALIZE = Name(
    "coremltools.converters.mil.backend.mil.load",
    "load",
    "to write weights into the package at once (`MLModel.save` copies them from a temporary one)",
    takes=("prog", "weights_dir", "specification_version", "kwargs"),
)
FUNCTION = Name(
    "coremltools.converters.mil",
    "Function",
    "to build a program whose inputs have names of our choice (`Builder.program` takes them from Python's)",
    takes=("inputs", "opset_version"),
    has=("set_outputs",),
)
PROGRAM = Name(
    "coremltools.converters.mil",
    "Program",
    "to build a program whose inputs have names of our choice (`Builder.program` takes them from Python's)",
    has=("add_function",),
)
WRITE_VALUE = Name(
    "coremltools.converters.mil.backend.mil.load",
    "MILProtoExporter.get_milproto_value",
    "to write a program whose weights are elsewhere",
    takes=("self", "var"),
)
WRITE_INLINE = Name(
    "coremltools.converters.mil.backend.mil.load",
    "create_immediate_value",
    "to write constants that aren't weights into the program itself",
    takes=("var",),
)
WRITE_IN_FILE = Name(
    "coremltools.converters.mil.backend.mil.load",
    "create_file_value_tensor",
    "to write where a weight is",
    takes=("file_name", "offset", "dim", "data_type"),
)
WRITE_TYPE = Name(
    "coremltools.converters.mil.backend.mil.load",
    "types_to_proto_primitive",
    "to write the type of a weight that is elsewhere",
)
# Both draw on the screen of whoever calls; neither module has a switch, and tqdm's is read when it is first imported.
BARS = tuple(
    Name(module, path, "to keep coremltools' progress bars off its caller's screen")
    for module, path in (
        ("coremltools.converters.mil.frontend.torch.ops", "_tqdm"),
        ("coremltools.converters.mil.mil.passes.pass_pipeline", "tqdm"),
    )
)
NAMES: tuple[Name, ...] = (
    TORCH_OPS_REGISTRY,
    GET_INPUTS,
    ADD_RESULT,
    PROMOTE_INPUT_DTYPES,
    TYPES,
    OPSET_IS_AT_LEAST,
    PASS_REGISTRY,
    SERIALIZE,
    FUNCTION,
    PROGRAM,
    WRITE_VALUE,
    WRITE_INLINE,
    WRITE_IN_FILE,
    WRITE_TYPE,
    *BARS,
)


def faults() -> list[str]:
    """In what the installed coremltools differs from what is used of it, a sentence each; none if it fits."""
    return [fault for name in NAMES if (fault := name.fault()) is not None]


# What is replaced belongs to the process, as coremltools' own stacks of scopes and opsets do: one conversion at a time.
_converting = threading.RLock()


@contextmanager
def torch_lowerings(lowerings: Mapping[str, TorchLowering]) -> Iterator[None]:
    """coremltools' torch frontend with `lowerings` (by the operator's name), instead of its own where it has one.

    Afterwards, also after an error, it is as it was found. May be nested; another thread waits.
    """
    registered: dict[str, TorchLowering] = TORCH_OPS_REGISTRY.load().name_to_func_mapping
    with _converting:
        found = {name: registered[name] for name in lowerings if name in registered}
        registered.update(lowerings)
        try:
            yield
        finally:
            for name in lowerings:
                registered.pop(name, None)
            registered.update(found)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """coremltools' conversions draw nothing; afterwards they draw again. May be nested; another thread waits.

    A bar that isn't where it was seen is drawn: that is no reason to refuse a conversion.
    """

    def bare(iterable: Iterable[Any], **_: Any) -> Iterable[Any]:
        return iterable

    with _converting, ExitStack() as restored:
        for name in BARS:
            if name.fault() is None:
                module = importlib.import_module(name.module)
                restored.callback(setattr, module, name.path, name.load())
                setattr(module, name.path, bare)
        yield


@contextmanager
def without_printed_programs() -> Iterator[None]:
    """coremltools' programs have no text: it prints them before and behind its passes, for a log that nobody keeps, a
    quarter of the time that a program of 26,000 operations takes. Afterwards they have it again."""
    kind = PROGRAM.load()
    with _converting:
        found = kind.__str__
        kind.__str__ = object.__repr__
        try:
            yield
        finally:
            kind.__str__ = found


@contextmanager
def weights_by_name(files: Mapping[str, str]) -> Iterator[None]:
    """Programs are written without their weights: a constant named in `files` as a value of that file, at 0; others
    into the program itself, whatever their size. Afterwards weights are written again. Another thread waits.
    """
    inline, in_file, type_of = WRITE_INLINE.load(), WRITE_IN_FILE.load(), WRITE_TYPE.load()

    def write(_: Any, var: Var) -> Any:
        file = files.get(var.name)
        if file is None:
            return inline(var)
        return in_file(file, 0, var.val.shape, type_of(var.sym_type.get_primitive()))

    with _converting:
        exporter = importlib.import_module(WRITE_VALUE.module).MILProtoExporter
        found = WRITE_VALUE.load()
        exporter.get_milproto_value = write
        try:
            yield
        finally:
            exporter.get_milproto_value = found

"""The text of a compiled program, model.mil, as the message that an .mlpackage holds.

    program(1.0)
    [buildInfo = dict<...>({...})]
    {
        func main<ios16>(tensor<fp16, [1, 3]> x) {
            tensor<fp16, [3, 3]> w = const()[name = string("w"), val = tensor<fp16, [3, 3]>(BLOBFILE(
                path = string("@model_path/weights/weight.bin"), offset = uint64(64)))];
            tensor<fp16, [1, 3]> y = linear(weight = w, x = x)[name = string("y")];
        } -> (y);
    }

Apple documents no grammar; this reads what coremlc writes for iOS 15 to 18 as found in public files: scalars as
`tensor<int32, []>(0)` or `int32(0)`, floats also in hexadecimal. Blocks of control flow are refused: no file showed how
they are written.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any, NoReturn

from sfmobile.mlpackage import schema
from sfmobile.mlpackage.types import DATA_TYPES

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<number>[+-]?(?:0[xX][0-9a-fA-F.]+(?:[pP][+-]?\d+)?|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf\b|nan\b))
      | (?P<name>[A-Za-z_@][\w.@]*)
      | (?P<sign>->|[()<>{}\[\],;=?])
    )""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}
# Deeper than any tensor's rank.
_DEPTH = 32


def parse_program(text: str) -> Any:
    """The MIL Program message of a model.mil. Raises `ValueError` naming the line that isn't understood."""
    return _Parser(text).program()


class _Parser:
    """One token ahead, no way back."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.mil = schema.mil()
        self._tokens = self._split()
        self.place = 0
        self.kind, self.token = next(self._tokens)

    # --- tokens ---

    def _split(self) -> Iterator[tuple[str, str]]:
        end = len(self.text.rstrip())
        place = 0
        while place < end:
            match = _TOKEN.match(self.text, place)
            if match is None:
                self.place = place
                self.fail("something else")
            self.place = match.end()
            place = match.end()
            assert match.lastgroup is not None
            yield match.lastgroup, match[match.lastgroup]
        while True:
            yield "end", ""

    def fail(self, expected: str) -> NoReturn:
        line = self.text.count("\n", 0, self.place) + 1
        found = getattr(self, "token", "") or "the end"
        raise ValueError(f"line {line} has '{found[:40]}' where {expected} is expected")

    def next(self) -> str:
        token = self.token
        self.kind, self.token = next(self._tokens)
        return token

    def take(self, token: str) -> None:
        if self.token != token or self.kind == "string":
            self.fail(f"'{token}'")
        self.next()

    def at(self, token: str) -> bool:
        """Whether `token` comes next; it is taken if so."""
        if self.token != token or self.kind == "string":
            return False
        self.next()
        return True

    def name(self) -> str:
        if self.kind != "name":
            self.fail("a name")
        return self.next()

    def listed(self, end: str) -> Iterator[None]:
        """One item each between commas, up to `end`, which is taken."""
        while not self.at(end):
            yield
            if self.token != end:
                self.take(",")

    # --- program, function, operation ---

    def program(self) -> Any:
        program = self.mil.Program(version=1)
        self.take("program")
        self.take("(")
        self.next()
        self.take(")")
        self.attributes(program.attributes)
        self.take("{")
        while not self.at("}"):
            self.take("func")
            name = self.name()
            self.function(program.functions[name])
        return program

    def function(self, function: Any) -> None:
        self.take("<")
        function.opset = _opset(self.name())
        self.take(">")
        self.take("(")
        for _ in self.listed(")"):
            self.named_type(function.inputs.add())
        self.attributes(function.attributes)
        block = function.block_specializations[function.opset]
        self.take("{")
        while not self.at("}"):
            self.operation(block.operations.add())
        self.take("->")
        self.take("(")
        for _ in self.listed(")"):
            block.outputs.append(self.name())
        self.take(";")

    def named_type(self, named: Any) -> None:
        self.type(named.type)
        named.name = self.name()

    def operation(self, operation: Any) -> None:
        # An operation without results begins with its own name, any other with a type.
        word = self.name()
        if self.token != "(":
            first = operation.outputs.add()
            self.type(first.type, word)
            first.name = self.name()
            while self.at(","):
                self.named_type(operation.outputs.add())
            self.take("=")
            word = self.name()
        operation.type = word
        self.take("(")
        for _ in self.listed(")"):
            argument = self.name()
            self.take("=")
            self.argument(operation.inputs[argument])
        self.attributes(operation.attributes)
        if self.token == "{":
            raise ValueError(f"the operation {word} has blocks, whose written form isn't known")
        self.take(";")

    def argument(self, argument: Any) -> None:
        if self.at("("):
            for _ in self.listed(")"):
                self.binding(argument.arguments.add())
        else:
            self.binding(argument.arguments.add())

    def binding(self, binding: Any) -> None:
        word = self.name()
        if self.token in ("(", "<"):
            self.value(binding.value, word)
        else:
            binding.name = word

    def attributes(self, attributes: Any) -> None:
        if self.at("["):
            for _ in self.listed("]"):
                name = self.name()
                self.take("=")
                self.value(attributes[name], self.name())

    # --- types and values ---

    def type(self, proto: Any, word: str | None = None, depth: int = 0) -> None:
        word = word or self.name()
        if depth > _DEPTH:
            self.fail("a simpler type")
        if word == "tensor":
            self.take("<")
            proto.tensorType.dataType = self.data_type(self.name())
            self.take(",")
            self.take("[")
            for _ in self.listed("]"):
                size = proto.tensorType.dimensions.add()
                if self.at("?"):
                    size.unknown.variadic = False
                else:
                    size.constant.size = self.whole()
            proto.tensorType.rank = len(proto.tensorType.dimensions)
            self.take(">")
        elif word == "state":
            self.take("<")
            self.type(proto.stateType.wrappedType, depth=depth + 1)
            self.take(">")
        elif word == "list":
            self.take("<")
            self.type(proto.listType.type, depth=depth + 1)
            self.take(",")
            if self.at("?"):
                proto.listType.length.unknown.variadic = False
            else:
                proto.listType.length.constant.size = self.whole()
            self.take(">")
        elif word == "dict":
            self.take("<")
            self.type(proto.dictionaryType.keyType, depth=depth + 1)
            self.take(",")
            self.type(proto.dictionaryType.valueType, depth=depth + 1)
            self.take(">")
        elif word == "tuple":
            self.take("<")
            proto.tupleType.SetInParent()
            for _ in self.listed(">"):
                self.type(proto.tupleType.types.add(), depth=depth + 1)
        else:
            proto.tensorType.dataType = self.data_type(word)

    def data_type(self, word: str) -> int:
        if word not in DATA_TYPES:
            raise ValueError(f"'{word}' is no data type")
        return DATA_TYPES[word].number

    def whole(self) -> int:
        if self.kind != "number" or not re.fullmatch(r"\d+", self.token):
            self.fail("a whole number")
        return int(self.next())

    def value(self, proto: Any, word: str) -> None:
        self.type(proto.type, word)
        self.take("(")
        if self.token == "BLOBFILE":
            self.blob(proto)
        elif proto.type.WhichOneof("type") == "tensorType":
            items = list(self.items())
            self.tensor(proto.immediateValue.tensor, proto.type.tensorType, items)
        elif proto.type.WhichOneof("type") == "listType":
            self.elements(proto)
        else:
            self.skip()
            return
        self.take(")")

    def elements(self, proto: Any) -> None:
        """A constant list: values of its element's type, written plainly."""
        tensor = proto.type.listType.type.tensorType
        proto.immediateValue.list.SetInParent()
        for item in self.items():
            one = proto.immediateValue.list.values.add()
            one.type.CopyFrom(proto.type.listType.type)
            self.tensor(one.immediateValue.tensor, tensor, [item])

    def blob(self, proto: Any) -> None:
        self.take("BLOBFILE")
        self.take("(")
        for _ in self.listed(")"):
            name = self.name()
            self.take("=")
            self.type(self.mil.ValueType())
            self.take("(")
            if name == "path":
                proto.blobFileValue.fileName = _unquoted(self.next())
            else:
                proto.blobFileValue.offset = self.whole()
            self.take(")")

    def items(self, depth: int = 0) -> Iterator[str]:
        """Scalars as they are written, brackets taken away."""
        if depth > _DEPTH:
            self.fail("fewer brackets")
        if self.at("["):
            for _ in self.listed("]"):
                yield from self.items(depth + 1)
        elif self.kind in ("string", "number", "name"):
            yield self.next()
        else:
            self.fail("a value")

    def skip(self) -> None:
        """The rest of a value in parentheses that nothing here needs: build information, shapes for other tools."""
        open_ones = 1
        while open_ones:
            if self.kind == "end":
                self.fail("')'")
            if self.kind == "sign":
                open_ones += {"(": 1, ")": -1}.get(self.token, 0)
            self.next()

    def tensor(self, proto: Any, type_: Any, items: list[str]) -> None:
        name = next(row.name for row in DATA_TYPES.values() if row.number == type_.dataType)
        if name == "string":
            proto.strings.values.extend(map(_unquoted, items))
            proto.strings.SetInParent()
        elif name == "bool":
            proto.bools.values.extend(_boolean(item) for item in items)
            proto.bools.SetInParent()
        elif name == "int32":
            proto.ints.values.extend(map(int, items))
            proto.ints.SetInParent()
        elif name == "fp32":
            proto.floats.values.extend(map(_float, items))
            proto.floats.SetInParent()
        elif name == "fp64":
            proto.doubles.values.extend(map(_float, items))
            proto.doubles.SetInParent()
        elif name in ("int64", "uint64"):
            proto.longInts.values.extend(map(int, items))
            proto.longInts.SetInParent()
        elif name == "fp16":
            proto.bytes.values = b"".join(_half(_float(item)) for item in items)
        elif DATA_TYPES[name].numpy is not None:
            kind = DATA_TYPES[name].numpy
            assert kind is not None
            width, signed = kind.itemsize, kind.kind == "i"
            try:
                proto.bytes.values = b"".join(int(item).to_bytes(width, "little", signed=signed) for item in items)
            except OverflowError:
                raise ValueError(f"a number beyond {name}") from None
        else:
            raise ValueError(f"values of type {name} written into the program")


def _opset(word: str) -> str:
    """The opset of "ios16" as the message spells it."""
    return f"CoreML{ {'15': '5', '16': '6', '17': '7', '18': '8'}.get(word.removeprefix('ios'), word) }"


def _unquoted(token: str) -> str:
    if not token.startswith('"'):
        raise ValueError(f"'{token[:40]}' where a string is expected")
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), token[1:-1])


def _boolean(token: str) -> bool:
    if token not in ("true", "false"):
        raise ValueError(f"'{token[:40]}' where true or false is expected")
    return token == "true"


def _float(token: str) -> float:
    return float.fromhex(token) if "x" in token.lower() else float(token)


def _half(value: float) -> bytes:
    try:
        return struct.pack("<e", value)
    except OverflowError:
        return struct.pack("<e", float("inf") if value > 0 else float("-inf"))

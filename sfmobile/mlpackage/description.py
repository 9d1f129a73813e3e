"""What a model says of its inputs, outputs and states: images, ranges of shapes, defaults, a classifier's names.

Stands in the model's description, beside the program, which knows tensors only (Core ML's FeatureTypes.proto).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from sfmobile.mlpackage.types import TensorType

Layout = Literal["RGB", "BGR", "L", "F"]
# FeatureTypes.proto: ArrayDataType and ColorSpace.
_DATA_TYPES = {65568: "fp32", 65600: "fp64", 131104: "int32", 131080: "int8", 65552: "fp16"}
_LAYOUTS: dict[int, Layout] = {10: "L", 20: "RGB", 30: "BGR", 40: "F"}


@dataclass(frozen=True)
class Range:
    """Sizes that an axis may have; no end is None."""

    low: int
    high: int | None

    def __contains__(self, size: int) -> bool:
        return self.low <= size and (self.high is None or size <= self.high)

    def __str__(self) -> str:
        if self.low == self.high:
            return str(self.low)
        return f"{self.low} to {self.high}" if self.high is not None else f"{self.low} or more"


@dataclass(frozen=True)
class Array:
    """A tensor. shape: the default one. choices: all that are allowed, or ranges: those of every axis. default: what
    it is full of where it is left out."""

    data_type: str
    shape: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[Range, ...] = ()
    default: float | None = None

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor may have this shape."""
        if self.choices:
            return shape in self.choices
        if self.ranges:
            return len(shape) == len(self.ranges) and all(
                size in one for size, one in zip(shape, self.ranges, strict=True)
            )
        return not self.shape or shape == self.shape

    def shapes(self) -> str:
        """The allowed shapes, for a sentence."""
        if self.choices:
            return " or ".join(map(str, self.choices))
        return f"({', '.join(map(str, self.ranges))})" if self.ranges else str(self.shape)

    @property
    def type(self) -> TensorType:
        """Its type with None for sizes that vary."""
        shapes = self.choices or (self.shape,)
        if self.ranges:
            return TensorType(self.data_type, tuple(one.low if one.low == one.high else None for one in self.ranges))
        same = [len(set(sizes)) == 1 for sizes in zip(*shapes, strict=False)]
        return TensorType(
            self.data_type, tuple(size if fixed else None for size, fixed in zip(shapes[0], same, strict=True))
        )


@dataclass(frozen=True)
class Image:
    """A picture. layout: RGB, BGR, L (gray bytes) or F (gray half floats). size: (height, width), the default one."""

    layout: Layout
    size: tuple[int, int]
    choices: tuple[tuple[int, int], ...] = ()
    ranges: tuple[Range, ...] = ()

    @property
    def channels(self) -> int:
        """Three, or one of a gray picture."""
        return 3 if self.layout in ("RGB", "BGR") else 1

    def allows(self, size: tuple[int, int]) -> bool:
        """Whether a picture may have this (height, width)."""
        if self.ranges:
            return all(one in known for one, known in zip(size, self.ranges, strict=True))
        return size in (self.choices or (self.size,))

    def sizes(self) -> str:
        """The allowed sizes, for a sentence, width first as pictures are spoken of."""
        if self.ranges:
            return f"{self.ranges[1]} wide and {self.ranges[0]} high"
        return " or ".join(f"{width}x{height}" for height, width in (self.choices or (self.size,)))

    @property
    def type(self) -> TensorType:
        """The tensor that a program takes for it: (1, channels, height, width)."""
        varies = bool(self.ranges or len(self.choices) > 1)
        return TensorType("fp32", (1, self.channels, *((None, None) if varies else self.size)))


@dataclass(frozen=True)
class Other:
    """Anything else: "string", "int64", "double", "dictionary", "sequence"."""

    kind: str

    @property
    def type(self) -> TensorType:
        """A number or a text as a tensor without axes."""
        return TensorType({"string": "string", "int64": "int64"}.get(self.kind, "fp64"), ())


Kind: TypeAlias = "Array | Image | Other"


@dataclass(frozen=True)
class Feature:
    """An input, an output or a state by name."""

    name: str
    kind: Kind
    optional: bool = False


@dataclass(frozen=True)
class Description:
    """Of one function. label, scores: the outputs in which a classifier gives its class and its numbers by class."""

    inputs: dict[str, Feature] = field(default_factory=dict)
    outputs: dict[str, Feature] = field(default_factory=dict)
    states: dict[str, Feature] = field(default_factory=dict)
    label: str = ""
    scores: str = ""


def describe(model: Any, function: str | None = None) -> Description:
    """The description of one function of a Model message, or of the whole model where it has none by that name."""
    found = model.description
    for one in model.description.functions:
        if one.name == (function or model.description.defaultFunctionName):
            found = one
    return Description(
        _features(found.input),
        _features(found.output),
        _features(found.state),
        found.predictedFeatureName,
        found.predictedProbabilitiesName,
    )


def _features(described: Iterable[Any]) -> dict[str, Feature]:
    return {one.name: Feature(one.name, _kind(one.type), bool(one.type.isOptional)) for one in described}


def _kind(proto: Any) -> Kind:
    kind = proto.WhichOneof("Type") or "unknown"
    if kind == "stateType":
        return _array(proto.stateType.arrayType)
    if kind == "multiArrayType":
        return _array(proto.multiArrayType)
    if kind == "imageType" and proto.imageType.colorSpace in _LAYOUTS:
        return _image(proto.imageType)
    return Other(kind.removesuffix("Type"))


def _range(proto: Any) -> Range:
    # An upper bound of -1 is none.
    return Range(int(proto.lowerBound), int(proto.upperBound) if proto.upperBound >= 0 else None)


def _array(proto: Any) -> Array:
    default = proto.WhichOneof("defaultOptionalValue")
    return Array(
        _DATA_TYPES.get(proto.dataType, "fp32"),
        tuple(proto.shape),
        tuple(tuple(one.shape) for one in proto.enumeratedShapes.shapes),
        tuple(map(_range, proto.shapeRange.sizeRanges)),
        None if default is None else float(getattr(proto, default)),
    )


def _image(proto: Any) -> Image:
    choices = tuple((int(one.height), int(one.width)) for one in proto.enumeratedSizes.sizes)
    ranges: tuple[Range, ...] = ()
    if proto.WhichOneof("SizeFlexibility") == "imageSizeRange":
        ranges = (_range(proto.imageSizeRange.heightRange), _range(proto.imageSizeRange.widthRange))
    return Image(_LAYOUTS[proto.colorSpace], (int(proto.height), int(proto.width)), choices, ranges)

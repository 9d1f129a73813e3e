"""What a user gives and gets, as what a program takes and gives: pictures, numbers, defaults, ranges of shapes.

Behaves as coremltools' `MLModel.predict`, with sentences where that has an Objective-C exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sfmobile.errors import UnavailableError, UsageError
from sfmobile.mlpackage.description import Array, Feature, Image, Other
from sfmobile.mlpackage.types import DATA_TYPES, FLOAT_TYPES, TensorType

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# Modes of PIL that are whole bytes of gray or of RGB, perhaps with transparency, and lose nothing but that.
_BYTE_MODES = ("L", "LA", "P", "RGB", "RGBA", "RGBX", "1", "CMYK", "YCbCr", "HSV")


def is_picture(value: object) -> bool:
    """Whether `value` is a picture of PIL's; without PIL nothing is."""
    return any(kind.__module__ == "PIL.Image" for kind in type(value).__mro__)


def given_array(what: str, feature: Feature, declared: TensorType, value: Any) -> np.ndarray:
    """`value` as the array of type `declared` that the program takes for `feature`; `what` names the input in errors.

    Raises `UsageError` for a value of another shape, kind or range than declared.
    """
    if isinstance(feature.kind, Image) and is_picture(value):
        return _pixels(what, feature.kind, value)
    if is_picture(value):
        raise UsageError(f"{what} is a picture; expected an array of type {declared}.")
    if isinstance(feature.kind, Other) and feature.kind.kind not in ("double", "int64"):
        raise UnavailableError(f"{what} is declared as {feature.kind.kind}, which isn't taken here; only numbers are.")
    array = _numbers(what, declared, value)
    if array.size == 1 and array.ndim == 0 and declared.elements == 1 and None not in declared.shape:
        array = array.reshape(declared.sizes)
    _check_shape(what, feature, declared, array.shape)
    return array


def default_array(feature: Feature, declared: TensorType) -> np.ndarray | None:
    """What an input that is left out is full of; None if it may not be left out."""
    if not feature.optional or not isinstance(feature.kind, Array):
        return None
    shape = feature.kind.shape or declared.sizes
    return np.full(shape, feature.kind.default or 0, DATA_TYPES[declared.data_type].numpy or np.float32)


def returned_value(feature: Feature | None, declared: TensorType, value: Any) -> Any:
    """A result of the program as the user's own: of the declared type, a picture where one is declared."""
    if not isinstance(value, np.ndarray):
        return dict(value) if isinstance(value, Mapping) else value
    if feature is not None and isinstance(feature.kind, Image):
        return _picture(feature.kind, value)
    kind = DATA_TYPES[declared.data_type].numpy
    # Always a copy: a result may be a constant of the program, or what the user gave.
    return value.astype(kind or value.dtype, copy=True)


def _numbers(what: str, declared: TensorType, value: Any) -> np.ndarray:
    """Numbers that fit the declared type, without loss where that is whole numbers."""
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    whole = declared.data_type not in FLOAT_TYPES
    if whole and array.dtype.kind == "f" and array.size and bool((array == np.trunc(array)).all()):
        # Core ML takes floats for whole numbers as well; here, those that are some. 2**53 and more is beyond them all.
        array = array.astype(np.int64) if float(np.abs(array).max()) < 2.0**53 else array
    if array.dtype.kind not in ("biu" if whole else "biuf"):
        raise UsageError(f"{what} has dtype {array.dtype}; expected numbers for {declared}.")
    if whole and array.size and array.dtype.kind != "b":
        limits = np.iinfo(DATA_TYPES[declared.data_type].numpy or np.int32) if declared.data_type != "bool" else None
        low, high = (0, 1) if limits is None else (limits.min, limits.max)
        if array.min() < low or array.max() > high:
            found = array.max() if array.max() > high else array.min()
            raise UsageError(f"{what} has the value {found}; expected {low} to {high} for {declared}.")
    return array


def _check_shape(what: str, feature: Feature, declared: TensorType, shape: tuple[int, ...]) -> None:
    fits = len(shape) == len(declared.shape) and all(
        wanted is None or size == wanted for size, wanted in zip(shape, declared.shape, strict=True)
    )
    if not fits:
        raise UsageError(f"{what} has shape {shape}; expected {declared}.")
    if isinstance(feature.kind, Array) and not feature.kind.allows(shape):
        raise UsageError(f"{what} has shape {shape}; expected {feature.kind.shapes()}.")
    if isinstance(feature.kind, Image) and not feature.kind.allows((shape[-2], shape[-1])):
        raise UsageError(f"{what} has shape {shape}; expected a picture of {feature.kind.sizes()}.")


def _pixels(what: str, kind: Image, picture: Picture) -> np.ndarray:
    """A picture as (1, C, H, W) in float32: bytes count 0 to 255, and the program scales them itself."""
    width, height = picture.size
    # Before the file is decoded: a size is known from its first bytes.
    if not kind.allows((height, width)):
        raise UsageError(f"{what} is a picture of {width}x{height}; expected {kind.sizes()}; resize it first.")
    if kind.layout == "F":
        if picture.mode not in ("F", "L"):
            raise UsageError(f"{what} is a picture of mode {picture.mode}; expected F, gray floats.")
        return np.asarray(picture.convert("F"), dtype=np.float32)[None, None]
    if picture.mode not in _BYTE_MODES:
        raise UsageError(
            f"{what} is a picture of mode {picture.mode}, which has more than 8 bits; convert it to "
            f"{'L' if kind.layout == 'L' else 'RGB'} first."
        )
    if kind.layout == "L":
        return np.asarray(picture.convert("L"), dtype=np.float32)[None, None]
    channels = np.asarray(picture.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray(channels[::-1] if kind.layout == "BGR" else channels)[None]


def _picture(kind: Image, value: np.ndarray) -> Picture:
    """(1, C, H, W) as a picture; bytes are rounded and cut to 0 to 255."""
    from PIL import Image as pil

    channels = value.reshape(kind.channels, *value.shape[-2:]).astype(np.float32)
    if kind.layout == "F":
        return pil.fromarray(channels[0])
    whole = np.nan_to_num(channels).round().clip(0, 255).astype(np.uint8)
    if kind.layout == "L":
        return pil.fromarray(whole[0])
    ordered = whole[::-1] if kind.layout == "BGR" else whole
    return pil.fromarray(np.ascontiguousarray(ordered.transpose(1, 2, 0)))

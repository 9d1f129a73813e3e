"""Faults in constants that are stored as they are: weights, biases, epsilons, scales, masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sfmobile.mlpackage.types import tensor_type
from sfmobile.verify.mutants.editing import Change, Generator, Weights, name_of, read_names, shape_of


def float_constants(operations: list[Any], least: int, rank: int | None = None) -> list[int]:
    """Places of float16 constants of at least so many elements that operations read."""
    read = read_names(operations)
    places = []
    for place, operation in enumerate(operations):
        if operation.type != "const" or name_of(operation) not in read:
            continue
        type_ = tensor_type(operation.outputs[0].type)
        if type_.data_type == "fp16" and type_.elements >= least and rank in (None, len(type_.shape)):
            places.append(place)
    return places


def constants_of(
    kinds: tuple[str, ...], arguments: tuple[str, ...], elements: int | None = None
) -> Callable[[list[Any]], list[int]]:
    """Places of float16 constants that operations of these kinds read under these arguments."""

    def places(operations: list[Any]) -> list[int]:
        read = {
            binding.name
            for operation in operations
            if operation.type in kinds
            for argument in arguments
            if argument in operation.inputs
            for binding in operation.inputs[argument].arguments
            if binding.WhichOneof("binding") == "name"
        }
        found = float_constants(operations, 1)
        sizes = {place: tensor_type(operations[place].outputs[0].type).elements for place in found}
        return [place for place in found if name_of(operations[place]) in read and elements in (None, sizes[place])]

    return places


def weights_changed(
    what: str, turn: Callable[[np.ndarray, Generator], np.ndarray]
) -> Callable[[list[Any], int, Generator], Change | None]:
    """A change of a plain float16 constant, given its array in its shape."""

    def change(operations: list[Any], place: int, generator: Generator) -> Change:
        shape = tuple(size or 1 for size in shape_of(operations[place]))
        seed = int(generator.integers(1 << 31))

        def edit(operation: Any, _: list[Any], weights: Weights) -> None:
            value = operation.attributes["val"]
            array = weights.read(value).reshape(shape)
            weights.write(value, turn(array, np.random.default_rng(seed)).astype(np.float16))

        return Change(f"{what} in '{name_of(operations[place])}' (draw {seed})", edit)

    return change


def swap_rows(array: np.ndarray, generator: Generator) -> np.ndarray:
    """Two places along the first axis that has more than one exchanged."""
    axis = next(axis for axis, size in enumerate(array.shape) if size > 1)
    if axis:
        return np.swapaxes(swap_rows(np.swapaxes(array, 0, axis), generator), 0, axis)
    first, second = generator.choice(len(array), 2, replace=False)
    turned = array.copy()
    turned[[first, second]] = turned[[second, first]]
    return turned


def swap_columns(array: np.ndarray, generator: Generator) -> np.ndarray:
    """Two places along the second axis exchanged."""
    if array.ndim < 2 or array.shape[1] < 2:
        return swap_rows(array, generator)
    return np.swapaxes(swap_rows(np.swapaxes(array, 0, 1), generator), 0, 1)


def shift_every_other(array: np.ndarray, _: Generator) -> np.ndarray:
    """Every other value 0.05 more."""
    # Not all: an attention mask that is shifted as a whole masks the same.
    turned = array.copy()
    turned.reshape(-1)[::2] += np.float16(0.05)
    return turned


def one_value(array: np.ndarray, generator: Generator) -> np.ndarray:
    """One value off by the largest."""
    turned = array.copy()
    turned.flat[int(generator.integers(array.size))] += np.float16(np.abs(array).max() or 1)
    return turned


def one_open(array: np.ndarray, generator: Generator) -> np.ndarray:
    """One masked place of an attention mask open."""
    turned = array.copy()
    masked = np.flatnonzero(array < 0)
    turned.flat[masked[int(generator.integers(len(masked)))]] = 0
    return turned

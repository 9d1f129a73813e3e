"""Graphs: makers, readers, how long values live, held to the slow way of telling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from sfmobile.bundle.directory import Bundle
from sfmobile.mlpackage.graph import Graph, Life
from sfmobile.mlpackage.program import Program, load_program
from tests.runtime.mil.programs import make_program

X = np.zeros((1, 8), np.float16)
MATRIX = np.arange(128, dtype=np.float16).reshape(16, 8)


def body(x: Any, unread: Any) -> Any:
    """x -> a -> b; c from a and b; d from a twice; `lost` is read by nobody."""
    a = mb.relu(x=x, name="a")
    b = mb.linear(x=a, weight=MATRIX, name="b")
    mb.exp(x=a, name="lost")
    c = mb.concat(values=(a, b), axis=-1, name="c")
    d = mb.mul(x=a, y=a, name="d")
    return c, mb.softmax(x=d, axis=-1, name="e")


@pytest.fixture(scope="module")
def program() -> Program:
    return make_program(body, {"x": X, "unread": X})


@pytest.fixture(scope="module")
def graph(program: Program) -> Graph:
    return Graph(program)


def test_makers_and_readers(graph: Graph) -> None:
    assert graph.makers["b"].kind == "linear" and "x" not in graph.makers
    assert [operation.name for operation in graph.readers["a"]] == ["b", "lost", "c", "d"]
    assert graph.uses["a"] == 5 and graph.uses["c"] == 1 and "lost" not in graph.readers
    (d,) = [operation for operation in graph.program.operations if operation.name == "d"]
    assert graph.maker_of(d, "y") is graph.makers["a"]
    assert [operation.name for operation in graph.readers_of(d)] == ["e"]
    assert graph.made_by("d", "mul") is d and graph.made_by("d", "add") is None
    # Others read it too.
    assert graph.made_by("a", "relu") is None and graph.made_by("a", "relu", alone=False) is graph.makers["a"]


def test_values_live_from_their_maker_to_their_last_reader(graph: Graph) -> None:
    places = {operation.name: place for place, operation in enumerate(graph.program.operations)}
    assert graph.lives == {
        "x": Life(-1, places["a"], False),
        "unread": Life(-1, -1, False),
        "a": Life(places["a"], places["d"], False),
        "b": Life(places["b"], places["c"], False),
        "lost": Life(places["lost"], places["lost"], False),
        "c": Life(places["c"], places["c"], True),
        "d": Life(places["d"], places["e"], False),
        "e": Life(places["e"], places["e"], True),
    }
    ending = {name: graph.ending[place] for name, place in places.items()}
    assert ending == {"a": ["x"], "b": [], "lost": ["lost"], "c": ["b"], "d": ["a"], "e": ["d"]}


@pytest.mark.parametrize("component", ["text_encoder", "unet", "decoder"])
def test_nothing_is_read_behind_its_end_and_everything_ends_once(
    tiny_palettized_bundle: Bundle, component: Any
) -> None:
    graph = Graph(load_program(tiny_palettized_bundle.package(component)))
    operations = graph.program.operations
    ended: list[str] = []
    for place, names in enumerate(graph.ending):
        ended += names
        behind = {name for operation in operations[place + 1 :] for name in operation.reads()}
        assert not behind & set(names)
        # It was needed up to here: read by this operation, or made by it in vain.
        assert set(names) <= {*operations[place].reads(), *operations[place].makes()}
    assert sorted([*ended, *graph.program.outputs]) == sorted([*graph.program.inputs, *graph.makers])


def test_attributes_and_operands(graph: Graph) -> None:
    concat, linear = graph.makers["c"], graph.makers["b"]
    assert graph.attribute(concat, "axis") == -1 and graph.integers(concat, "axis") == (-1,)
    assert graph.attribute(concat, "absent", 7) == 7 and graph.integers(concat, "absent") is None
    assert graph.operand(concat, "values") is None
    assert graph.activations(concat) == ["a", "b"]
    assert graph.shape("c") == (1, 24) and str(graph.operand_type(linear, "weight")) == "fp16[16, 8]"
    np.testing.assert_array_equal(graph.weights(linear)[str(graph.operand(linear, "weight"))].load(), MATRIX)
    assert graph.multiplies_activations(linear) is False


def test_constants_come_behind_those_they_are_decoded_from() -> None:
    indices = np.arange(128).reshape(16, 8).astype(np.uint8) % 16
    lut = np.arange(16, dtype=np.int8).reshape(1, 1, 16, 1)

    def scaled(x: Any) -> Any:
        looked_up = mb.constexpr_lut_to_dense(indices=indices.astype(types.np_uint4_dtype), lut=lut, name="looked_up")
        weight = mb.constexpr_blockwise_shift_scale(data=looked_up, scale=np.ones((16, 1), np.float16), name="scaled")
        return mb.linear(x=x, weight=weight, name="y")

    graph = Graph(make_program(scaled, {"x": X}, "ios18"))
    behind = [name for name, _ in graph.constants_behind(graph.makers["y"])]
    assert behind.index("looked_up") < behind.index("scaled")
    assert graph.program.constants["scaled"].sources == ("looked_up",)
    assert "scaled" in graph.weights(graph.makers["y"]) and "looked_up" not in graph.weights(graph.makers["y"])

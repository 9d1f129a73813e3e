"""Lists, and the loops and conditions that fill them, against Python's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from sfmobile.errors import UnavailableError
from sfmobile.runtime.mil import control
from tests.runtime.mil.programs import assert_matches, evaluate

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def test_a_loop_fills_a_list_that_is_gathered() -> None:
    def body(x: Any) -> Any:
        def more(i: Any, ls: Any) -> Any:
            return mb.less(x=i, y=4)

        def square(i: Any, ls: Any) -> Any:
            row = mb.squeeze(x=mb.gather(x=x, indices=mb.expand_dims(x=i, axes=[0]), axis=0), axes=[0])
            return mb.add(x=i, y=1), mb.list_write(ls=ls, index=i, value=mb.mul(x=row, y=row))

        filled = mb.while_loop(_cond=more, _body=square, loop_vars=(0, mb.make_list(init_length=1, elem_shape=(3,))))
        ls = filled[1]
        return (
            mb.list_gather(ls=ls, indices=[3, 0]),
            mb.list_read(ls=ls, index=2),
            mb.list_length(ls=ls),
        )

    assert_matches(body, [X[[3, 0]] ** 2, X[2] ** 2, np.array(4, np.int32)], X)  # type: ignore[list-item]


def test_scattered_elements_are_read_back_and_unwritten_ones_are_zero() -> None:
    def body(x: Any) -> Any:
        ls = mb.make_list(init_length=6, dynamic_length=False, elem_shape=(3,))
        ls = mb.list_scatter(ls=ls, indices=[5, 1, 2, 3], value=x)
        return mb.list_gather(ls=ls, indices=[0, 1, 2, 3, 5])

    assert_matches(body, np.stack([np.zeros(3, np.float32), X[1], X[2], X[3], X[0]]), X)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_condition_runs_one_of_its_blocks(sign: int) -> None:
    def body(x: Any) -> Any:
        positive = mb.greater(x=mb.reduce_sum(x=x), y=0.0)
        return mb.cond(pred=positive, _true_fn=lambda: mb.exp(x=x), _false_fn=lambda: mb.mul(x=x, y=2.0))

    values = sign * np.abs(X)
    assert_matches(body, np.exp(values) if sign > 0 else 2 * values, values)


def test_a_loop_inside_a_loop_sees_what_is_outside_of_both() -> None:
    def body(x: Any) -> Any:
        def outer(i: Any, total: Any) -> Any:
            def inner(j: Any, part: Any) -> Any:
                return mb.add(x=j, y=1), mb.add(x=part, y=x)

            parts = mb.while_loop(_cond=lambda j, part: mb.less(x=j, y=i), _body=inner, loop_vars=(0, total))
            return mb.add(x=i, y=1), parts[1]

        return mb.while_loop(_cond=lambda i, total: mb.less(x=i, y=4), _body=outer, loop_vars=(0, mb.mul(x=x, y=0.0)))[
            1
        ]

    assert_matches(body, 6 * X, X)


def test_a_loop_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfmobile.runtime.mil.plan.ROUNDS", 50)
    assert control.ROUNDS > 50

    def body(x: Any) -> Any:
        forever = lambda value: mb.greater(x=mb.reduce_sum(x=mb.square(x=value)), y=-1.0)  # noqa: E731
        return mb.while_loop(_cond=forever, _body=lambda value: mb.add(x=value, y=1.0), loop_vars=(x,))

    with pytest.raises(UnavailableError, match="loops without an end: 50 rounds are over"):
        evaluate(body, X)


def test_a_list_does_not_grow_without_bound() -> None:
    def body(x: Any) -> Any:
        ls = mb.list_write(ls=mb.make_list(elem_shape=(4, 3)), index=2**31 - 1, value=x)
        return mb.list_length(ls=ls)

    with pytest.raises(UnavailableError, match="makes a list of 2147483648 elements, at most 65536"):
        evaluate(body, X)

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from sfmobile.errors import ArtifactError
from sfmobile.train.pretrained.pickled_arrays import read_arrays


def test_nested_arrays_come_back_equal() -> None:
    tree = {"net": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3)}}
    for protocol in (3, 4):
        found = read_arrays(pickle.dumps(tree, protocol), "weights")
        np.testing.assert_array_equal(found["net"]["kernel"], tree["net"]["kernel"])


def test_the_place_that_numpy_1_named_is_understood() -> None:
    data = pickle.dumps({"a": np.ones(2)}, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(read_arrays(data, "weights")["a"], np.ones(2))


class _Shell:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: object) -> None:
    path = f"{tmp_path}/made-by-the-pickle"
    with pytest.raises(ArtifactError, match="mkdir is not part of an array"):
        read_arrays(pickle.dumps({"a": _Shell(path)}), "weights")
    assert not os.path.exists(path)  # noqa: PTH110


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        pickle.dumps({"a": np.ones(4)})[:-9],
        pickle.dumps([np.ones(2)]),
        pickle.dumps({"a": 1.0}),
        pickle.dumps({"a": np.array([{}], dtype=object)}),
    ],
    ids=["empty", "garbage", "truncated", "a list", "a number", "an object array"],
)
def test_anything_but_a_tree_of_arrays_is_one_sentence(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^weights: expected"):
        read_arrays(data, "weights")

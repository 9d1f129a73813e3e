"""NumPy arrays out of a foreign pickle, with nothing else allowed out of it.

A pickle can name any function of any module and have it called. This reader resolves the three names that a pickled
NumPy array needs and refuses every other one before it is imported.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfmobile.errors import ArtifactError

ArrayTree = dict[str, "NDArray[np.generic] | ArrayTree"]


def _reconstruct() -> Callable[..., Any]:
    # numpy moved this private function in 2.0 and pickles written before name the old place.
    reducer: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
    return reducer


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}:
            return _reconstruct()
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")


def read_arrays(data: bytes, source: str) -> ArrayTree:
    """Nested dictionaries of arrays from a pickle's bytes; `source` names it in errors.

    Raises ArtifactError if the pickle names anything but NumPy arrays, is damaged, or holds another structure.
    """
    try:
        tree = _ArraysOnly(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        raise ArtifactError(f"{source}: expected a pickle of NumPy arrays, found: {error}.") from error
    if not _is_array_tree(tree):
        raise ArtifactError(f"{source}: expected nested dictionaries of NumPy arrays, found {type(tree).__name__}.")
    return tree


def _is_array_tree(tree: object) -> bool:
    if not isinstance(tree, dict):
        return False
    return all(
        isinstance(key, str)
        and (_is_array_tree(value) or (isinstance(value, np.ndarray) and value.dtype != np.dtype(object)))
        for key, value in tree.items()
    )

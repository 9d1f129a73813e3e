"""The page of operations is what the code says."""

from __future__ import annotations

import coremltools
import pytest

from docs.operations import PAGE, page, rows


def test_the_page_is_what_the_code_says() -> None:
    pytest.importorskip("onnx")
    if f"coremltools {coremltools.__version__}'s" not in PAGE.read_text(encoding="utf-8"):
        pytest.skip("the page is about another coremltools")
    assert PAGE.read_text(encoding="utf-8") == page(), "run python docs/operations.py"


def test_no_operation_of_coremltools_is_left_unexecuted_unseen() -> None:
    """What isn't executed is named here, so that a new one of coremltools is noticed."""
    assert {row[0].strip("`") for row in rows() if row[3] == "no"} == set()

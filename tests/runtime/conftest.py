"""A bundle of real programs, written once a session."""

from __future__ import annotations

import pytest

from sfmobile.bundle.directory import Bundle
from tests.runtime.sample import write_runtime_bundle


@pytest.fixture(scope="session")
def runtime_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Shared: don't write into it."""
    return write_runtime_bundle(tmp_path_factory.mktemp("bundles") / "sample")

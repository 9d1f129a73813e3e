"""Tests that need the built Swift package are collected where it was built: `make swift` sets SFMOBILE_SWIFT_BUILD."""

from __future__ import annotations

import os

BUILT = ["test_apple_sources.py", "test_fetch.py", "test_sfbench.py"]
collect_ignore = [] if os.environ.get("SFMOBILE_SWIFT_BUILD") else BUILT

"""Tests that need the built Swift package are collected where it was built: `make swift` sets SFMOBILE_SWIFT_BUILD."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("SFMOBILE_SWIFT_BUILD") else ["test_apple_sources.py", "test_sfbench.py"]

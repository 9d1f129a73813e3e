"""``python -m sfmobile.train.data SOURCES CACHE``: build the sprite cache without the command line's packages.

SOURCES is a directory of package tarballs or a packed archive. Prints the path of the index.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sfmobile.errors import SfmobileError
from sfmobile.train.data.sprites import build_cache


def main(arguments: list[str] | None = None) -> int:
    """Build and print; an expected failure is one sentence on stderr and its exit code."""
    parser = argparse.ArgumentParser(prog="python -m sfmobile.train.data", description=__doc__)
    parser.add_argument("sources", type=Path, help="directory of package tarballs, or a packed archive")
    parser.add_argument("cache", type=Path, help="directory of the sprite cache")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one a core)")
    parsed = parser.parse_args(arguments)
    try:
        index = build_cache(parsed.sources, parsed.cache, workers=parsed.workers)
    except SfmobileError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(f"{index}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Tiny bundles for tests that run on what the exporter makes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.files import sha256_of_value
from sfmobile.sampling.golden import golden_run
from sfmobile.sampling.pipeline import Request

GOLDEN = Request("a red apple", steps=2)
# One package a component for two sizes and both guidance batches: seven programs, so exported once for all tests.
MULTIFUNCTION = ExportOptions(
    target="ios18", bits=4, multifunction=True, more_latent_sizes=((8, 16),), multifunction_decoder=True
)


def export_tiny(checkpoint: Checkpoint, root: Path, options: ExportOptions) -> Bundle:
    """Export with golden vectors of a short run."""
    return export_bundle(checkpoint, root, options, golden=lambda bundle: golden_run(bundle, checkpoint, GOLDEN))


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder of this run of the tests that all of its processes share."""
    base: Path = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(root: Path, make: Callable[[Path], object]) -> Path:
    """`root`, made by `make` at a draft's place by whichever process asks first."""
    with FileLock(f"{root}.lock"):
        if not root.exists():
            draft = root.with_name(f"{root.name}.draft")
            make(draft)
            draft.rename(root)
    return root


@dataclass(frozen=True)
class SharedExports:
    """Bundles of one checkpoint by options, each exported once whichever process asks first. Don't write into them."""

    checkpoint: Checkpoint
    root: Path

    def __call__(self, options: ExportOptions, *, golden: bool = False) -> Bundle:
        """The bundle of `options`, with golden vectors of a short run if asked for."""
        path = self.root / sha256_of_value(f"{self.checkpoint.name} {options!r} {golden}")[:16]
        with FileLock(f"{path}.lock"):
            # The exporter renames a whole bundle into place: what is there is complete.
            if not path.exists():
                (export_tiny if golden else export_bundle)(self.checkpoint, path, options)
        return Bundle.open(path)

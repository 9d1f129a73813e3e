"""Tiny bundles for tests that run on what the exporter makes."""

from __future__ import annotations

from pathlib import Path

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.sampling.golden import golden_run
from sfmobile.sampling.pipeline import Request

GOLDEN = Request("a red apple", steps=2)


def export_tiny(checkpoint: Checkpoint, root: Path, options: ExportOptions) -> Bundle:
    """Export with golden vectors of a short run."""
    return export_bundle(checkpoint, root, options, golden=lambda bundle: golden_run(bundle, checkpoint, GOLDEN))

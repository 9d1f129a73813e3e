"""What every report says before its figures: who wrote it, about which bundle, executed by what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfmobile.bench.machine import tool_versions
from sfmobile.bench.records import BundleReference, ProducerRecord, RuntimeRecord
from sfmobile.bundle.digest import digest_file
from sfmobile.bundle.directory import MANIFEST_FILE

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.runtime.opening import RuntimeRequest
    from sfmobile.runtime.protocol import Runtime


def producer() -> ProducerRecord:
    """The writer: this package, with the versions of those that matter to its figures."""
    return ProducerRecord(tools=tool_versions())


def bundle_reference(bundle: Bundle) -> BundleReference:
    """Which bundle: the checksum of its manifest stands for all of its files."""
    manifest = bundle.manifest
    return BundleReference(
        name=manifest.name,
        manifest_sha256=digest_file(bundle.root / MANIFEST_FILE).sha256,
        source_id=manifest.source.id,
        source_sha256=manifest.source.sha256,
        target=manifest.target,
    )


def runtime_record(request: RuntimeRequest, runtime: Runtime) -> RuntimeRecord:
    """What executes the components: `runtime`, which `request` opened."""
    import torch

    return RuntimeRecord(
        kind=request.kind,
        description=runtime.describe(),
        precision=request.precision,
        compute_unit=request.compute_unit,
        threads=torch.get_num_threads() if request.kind in ("mil", "torch") else None,
    )

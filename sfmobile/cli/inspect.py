"""`sfmobile inspect`: what a bundle or a package holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console
from sfmobile.errors import UsageError

if TYPE_CHECKING:
    from sfmobile.profile.inspection import PackageInspection, TensorInspection

MOST_FREQUENT = 20


def inspect(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE|PACKAGE", help="A bundle, an .mlpackage or an .onnx file.")],
    component: Annotated[
        list[str] | None, typer.Option("--component", help="Only this component of a bundle; may be repeated.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of tables.")] = False,
) -> None:
    """Show operations, weights, sizes and bits per weight, inputs and outputs of each package; executes nothing."""
    packages = inspect_packages(path, component or [])
    if json_output:
        console.print_json({name: package.model_dump(mode="json") for name, package in packages.items()})
        return
    print_sizes(path, packages)
    for name, package in packages.items():
        print_tensors(name, package)
        print_operations(name, package)


def inspect_packages(path: Path, components: list[str]) -> dict[str, PackageInspection]:
    """The inspected packages of a bundle by component ("unet 1/2" for a chunk), or the one package by its own name."""
    from sfmobile.bundle.directory import MANIFEST_FILE, Bundle
    from sfmobile.profile.inspection import inspect_package
    from sfmobile.runtime.chunks import part_records

    if not (path / MANIFEST_FILE).is_file():
        if components:
            raise UsageError(f"'{path}' is not a bundle, so --component has nothing to choose from; leave it out.")
        return {path.name: inspect_package(path)}
    bundle = Bundle.open(path, check="sizes")
    records = bundle.manifest.components
    unknown = [name for name in components if name not in records]
    if unknown:
        raise UsageError(f"Bundle '{path}' has no component '{unknown[0]}'; it has {', '.join(records)}.")
    found: dict[str, PackageInspection] = {}
    for name, record in records.items():
        if components and name not in components:
            continue
        parts = list(part_records(record))
        for number, part in enumerate(parts, start=1):
            label = f"{name} {number}/{len(parts)}" if len(parts) > 1 else name
            found[label] = inspect_package(bundle.root / part.package, part.function)
    return found


def print_sizes(path: Path, packages: dict[str, PackageInspection]) -> None:
    """One row a package, and their sum."""
    rows = [
        (
            name,
            package.format + (f" {package.opset}" if package.opset else ""),
            str(sum(package.operations.values())),
            f"{package.weights:,}",
            f"{package.compressed_weights / package.weights:.0%}" if package.weights else "-",
            console.in_bytes(package.bytes),
            "-" if package.bits_per_weight is None else f"{package.bits_per_weight:.2f}",
        )
        for name, package in packages.items()
    ]
    if len(packages) > 1:
        weights = sum(package.weights for package in packages.values())
        stored = sum(package.weight_bytes for package in packages.values())
        total = console.in_bytes(sum(package.bytes for package in packages.values()))
        rows.append(("all", "", "", f"{weights:,}", "", total, f"{stored * 8 / weights:.2f}" if weights else "-"))
    console.print_table(
        str(path),
        ("package", "format", "operations", "weights", "compressed", "bytes", "bits/weight"),
        rows,
        text_columns=(0, 1),
    )


def print_tensors(name: str, package: PackageInspection) -> None:
    """Inputs and outputs."""

    def row(direction: str, tensor: TensorInspection) -> tuple[str, str, str, str]:
        shape = " x ".join("?" if size is None else str(size) for size in tensor.shape)
        return direction, tensor.name, tensor.dtype, shape

    console.print_table(
        f"{name}: inputs and outputs",
        ("", "name", "type", "shape"),
        [row("in", tensor) for tensor in package.inputs] + [row("out", tensor) for tensor in package.outputs],
        text_columns=(0, 1, 2, 3),
    )


def print_operations(name: str, package: PackageInspection) -> None:
    """The most frequent operations."""
    shown = list(package.operations.items())[:MOST_FREQUENT]
    rest = len(package.operations) - len(shown)
    console.print_table(
        f"{name}: operations",
        ("operation", "count"),
        [(kind, str(count)) for kind, count in shown],
        caption=f"and {rest} kinds more, see --json" if rest > 0 else None,
    )

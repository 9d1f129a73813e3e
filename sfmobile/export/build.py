"""One component of an export, from the checkpoint's weights to files and their record."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sfmobile.bundle.choices import ComponentName
from sfmobile.bundle.digest import digest_package
from sfmobile.bundle.manifest import (
    ChunkRecord,
    ComponentRecord,
    CompressionRecord,
    FileRecord,
    FunctionRecord,
    TensorRecord,
)
from sfmobile.bundle.store import BundleWriter, remove
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe, compressible_layers
from sfmobile.export.component import MAIN, ComponentSpec, Setting, function_settings
from sfmobile.export.kept_outlines import kept_outline, outline_key
from sfmobile.export.network import NetworkPackage
from sfmobile.export.options import ExportOptions
from sfmobile.export.package import PackageMetadata
from sfmobile.export.phases import ExportObserver
from sfmobile.files import sha256_of_value
from sfmobile.mlpackage.names import layer_constant
from sfmobile.mlpackage.package import WEIGHTS_PATH
from sfmobile.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from sfmobile.export.outline import Outline

SUFFIXES = {"mlprogram": ".mlpackage", "onnx": ".onnx", "coreai": ".aimodel"}
SCRATCH_FOLDER = ".scratch"


class _Written(NamedTuple):
    """chunks: of a component that is cut. files: records made as files were written, by their path in the package."""

    chunks: tuple[ChunkRecord, ...] = ()
    files: Mapping[str, FileRecord] = {}


@dataclass(frozen=True)
class ComponentBuild:
    """What a component is built from, how, and who is told."""

    spec: ComponentSpec
    setting: Setting
    options: ExportOptions
    observer: ExportObserver

    @property
    def name(self) -> ComponentName:
        """The component's name."""
        return self.spec.name

    @property
    def checkpoint(self) -> Checkpoint:
        """Where its weights come from."""
        return self.setting.checkpoint

    @cached_property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Layers that can be compressed, and the shapes of their weights."""
        return compressible_layers(self.checkpoint.shapes(self.name))

    @cached_property
    def storage(self) -> dict[str, LayerRecipe]:
        """How each of `layers` is to be stored; empty without a recipe."""
        recipe = self.options.compression
        return {} if recipe is None else {layer: recipe.layer(self.name, layer) for layer in self.layers}

    @cached_property
    def metadata(self) -> PackageMetadata:
        """What its packages say of themselves."""
        return PackageMetadata(
            description=self.spec.description,
            author=self.options.author,
            licence=self.checkpoint.licence if self.options.licence is None else self.options.licence,
            version=self.options.version,
            user={
                **self.options.metadata,
                "com.sfmobile.component": self.name,
                "com.sfmobile.source": self.checkpoint.name,
                "com.sfmobile.version": __version__,
            },
        )

    def source_sha256(self) -> str:
        """Checksum of what the checkpoint holds of the component."""
        self.observer.phase(self.name, "hash", sum(weight.nbytes for weight in self._weights.values()))
        return self.checkpoint.sha256(self.name, self.observer.advance)

    def complete(self, writer: BundleWriter) -> ComponentRecord:
        """The component whole in the staging directory: reused, or built and recorded."""
        start = time.perf_counter()
        options_sha256 = self.options.digest(self.name, self.spec.variation, self.setting.latent_size)
        record = None
        if not self.options.force and writer.may_reuse(self.name, options_sha256):
            record = writer.reusable(self.name, self.source_sha256(), options_sha256)
        reused = record is not None
        if record is None:
            # Nothing hangs on what the source's checksum is: it is made while the component is built.
            with ThreadPoolExecutor(1, "hash") as pool:
                hashed = pool.submit(self.checkpoint.sha256, self.name)
                record = self._build(writer, hashed, options_sha256)
            writer.finish(self.name, record)
            gc.collect()
        self.observer.finished(self.name, record, time.perf_counter() - start, reused)
        return record

    def _build(self, writer: BundleWriter, source_sha256: Future[str], options_sha256: str) -> ComponentRecord:
        package = self.spec.package + ("" if self._in_chunks else SUFFIXES[self.options.format])
        with writer.component(self.name, package) as path:
            written = self._write(path)
        if not source_sha256.done():
            self.observer.phase(self.name, "hash")
            source_sha256.result()
        self.observer.phase(self.name, "checksum")
        files = digest_package(writer.staging, package, written.files)
        return ComponentRecord(
            runs=self.spec.runs,
            format=self.options.format,
            package=package,
            inputs=self._inputs(self.setting),
            outputs=self._outputs(self.setting),
            compute_precision=self.options.precision,
            attention=self.options.attention,
            compression=self._compression(),
            parameters=self.checkpoint.parameters(self.name),
            bytes=sum(file.bytes for file in files.values()),
            source_sha256=source_sha256.result(),
            options_sha256=options_sha256,
            files=files,
            chunks=written.chunks,
            # The first function is the default one, which the record itself describes.
            functions=tuple(
                FunctionRecord(function=function, inputs=self._inputs(setting), outputs=self._outputs(setting))
                for function, setting in list(self._functions.items())[1:]
            ),
        )

    def _write(self, path: Path) -> _Written:
        """Write `path` (and, beside it while that lasts, scratch files)."""
        scratch = path.parent / SCRATCH_FOLDER
        try:
            if self.options.format == "onnx":
                self._write_onnx(path, scratch)
                return _Written()
            scratch.mkdir(exist_ok=True)
            write = self._write_assets if self.options.format == "coreai" else self._write_packages
            return write(path, scratch)
        finally:
            remove(scratch)

    def _write_onnx(self, path: Path, scratch: Path) -> None:
        from sfmobile.export.lowering import TORCH_DTYPES
        from sfmobile.export.onnx_file import write_onnx
        from sfmobile.export.weights import load_network
        from sfmobile.nets.attention import set_attention_form

        self.observer.phase(self.name, "load")
        net = load_network(self.checkpoint, self.name, scratch, TORCH_DTYPES[self.options.precision])
        set_attention_form(net, self.options.attention)
        self.observer.phase(self.name, "convert")
        write_onnx(net, path, self.metadata, self._inputs(self.setting), self._outputs(self.setting))

    def _write_packages(self, path: Path, scratch: Path) -> _Written:
        """Write `path`: one package, one merged from several functions, or a directory of chunks.

        Whatever ships is compressed first and looked at afterwards.
        """
        from sfmobile.export.chunk import write_chunks
        from sfmobile.export.multifunction import merge_packages
        from sfmobile.export.stored_weights import check_stored

        written = _Written()
        if self._in_chunks:
            whole = scratch / f"{self.spec.package}.mlpackage"
            self._write_package(self.setting, whole)
            self.observer.phase(self.name, "cut")
            written = _Written(chunks=write_chunks(whole, path, self.options.chunks))
        elif len(self._functions) > 1:
            parts = {function: scratch / f"{function}.mlpackage" for function in self._functions}
            for function, part in parts.items():
                self._write_package(self._functions[function], part)
            self.observer.phase(self.name, "merge")
            merge_packages(parts, path)
        else:
            written = _Written(files={WEIGHTS_PATH: self._write_package(self.setting, path)})
        self.observer.phase(self.name, "check")
        shipped = [path.parent / chunk.package for chunk in written.chunks] or [path]
        check_stored(shipped, {layer_constant(layer): choice for layer, choice in self.storage.items()})
        return written

    def _write_assets(self, path: Path, scratch: Path) -> _Written:
        """Write `path`, an .aimodel or a directory of chunks, from ML Programs compressed and checked first."""
        from sfmobile.export.chunk import write_chunks
        from sfmobile.export.coreai_asset import write_coreai, write_coreai_chunks
        from sfmobile.export.stored_weights import check_stored

        packages = {function: scratch / f"{function}.mlpackage" for function in self._functions}
        for function, package in packages.items():
            self._write_package(self._functions[function], package)
            check_stored([package], {layer_constant(layer): choice for layer, choice in self.storage.items()})
        if self._in_chunks:
            self.observer.phase(self.name, "cut")
            chunks = write_chunks(packages[MAIN], scratch / self.spec.package, self.options.chunks)
            self.observer.phase(self.name, "bridge")
            return _Written(chunks=write_coreai_chunks(chunks, scratch, path, self.metadata))
        self.observer.phase(self.name, "bridge")
        write_coreai(packages, path, self.metadata)
        return _Written()

    def _write_package(self, setting: Setting, path: Path) -> FileRecord:
        """Write one function's package; returns the record of its weight file."""
        from sfmobile.export.weights import HalfWeights

        package, outline = self.package(setting), self.outline(setting)
        return package.fill(outline, path, HalfWeights(self.checkpoint, self.name), self.observer, self.name)

    def package(self, setting: Setting) -> NetworkPackage:
        """What its package of these shapes is to be."""
        return NetworkPackage(
            self.spec.inputs(setting), self.spec.outputs(setting), self.options.target, self.metadata, self.storage
        )

    def outline(self, setting: Setting) -> Outline:
        """Its program of these shapes without weights, of which it needs none: as it is kept, or drawn and kept."""
        package, layout = self.package(setting), self.checkpoint.layout(self.name)
        form, target = self.options.attention, self.options.target
        key = outline_key(self.name, layout, form, target, package.inputs, package.outputs)
        return kept_outline(key, lambda: self._drawn(package), anew=self.options.force)

    def _drawn(self, package: NetworkPackage) -> Outline:
        from sfmobile.nets.attention import set_attention_form

        net = self.checkpoint.unfilled(self.name).half()
        set_attention_form(net, self.options.attention)
        return package.outline(net, self.observer, self.name)

    def _compression(self) -> CompressionRecord | None:
        recipe = self.options.compression
        if recipe is None or all(layer.bits == FULL_BITS for layer in self.storage.values()):
            return None
        main = recipe.main_choice(self.name, {layer: math.prod(shape) for layer, shape in self.layers.items()})
        given = self.options.recipe
        return CompressionRecord(
            bits=main.bits,
            group_size=main.group_size,
            ungrouped_layers=len(recipe.ungrouped(self.name, self.layers)),
            recipe_sha256=None if given is None else sha256_of_value(given.model_dump(mode="json")),
        )

    def _inputs(self, setting: Setting) -> tuple[TensorRecord, ...]:
        return tuple(map(self._stored, self.spec.inputs(setting)))

    def _outputs(self, setting: Setting) -> tuple[TensorRecord, ...]:
        return tuple(map(self._stored, self.spec.outputs(setting)))

    def _stored(self, record: TensorRecord) -> TensorRecord:
        """The record in the export's precision, if it is a float's."""
        return record if record.dtype == "int32" else record.model_copy(update={"dtype": self.options.precision})

    @property
    def _in_chunks(self) -> bool:
        return self.spec.variation.cut and self.options.chunks > 1

    @cached_property
    def _functions(self) -> dict[str, Setting]:
        """The shapes of each function of the package, the default one first."""
        return function_settings(self.setting, self.spec.variation, self.options)

    @property
    def _weights(self) -> dict[str, Tensor]:
        return self.checkpoint.state_dict(self.name)

"""A bundle on disk, read: its manifest and files, checked before anything is executed."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from sfmobile.bundle.bounds import out_of_bounds
from sfmobile.bundle.digest import digest_file, is_listing, listing_records
from sfmobile.bundle.manifest import SCHEMA_VERSION, ComponentName, FileRecord, FunctionRecord, Manifest, TensorRecord
from sfmobile.bundle.upgrade import upgraded
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.files import check_version, first_fault, parse_json, read_bytes

MANIFEST_FILE = "manifest.json"
GOLDEN_FOLDER = "golden"
SAFETY_FOLDER = "safety_checker"
REPORTS_FOLDER = "reports"

Check = Literal["full", "sizes", "none"]
Reason = Literal[
    "not_a_bundle",
    "invalid_json",
    "future_schema",
    "invalid_manifest",
    "path_outside",
    "link_outside",
    "missing_file",
    "wrong_size",
    "wrong_checksum",
]
# What `verify`, `bench` and `page` leave in the reports folder; all else there is the user's.
REPORT_FILES = ("verify.json", "bench.json", "report.html")
MEND = "export it again or copy the bundle anew"


class BundleError(ArtifactError):
    """A bundle that must not be used. `reason` is a stable word shared with the Swift reader."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Bundle:
    """An opened bundle. Use `Bundle.open`; the constructor checks nothing."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    def __repr__(self) -> str:
        manifest = self.manifest
        size = f"{manifest.latents.height}x{manifest.latents.width}"
        return f"<bundle {self.root}: {manifest.target}, latents {size}, {', '.join(manifest.components)}>"

    @classmethod
    def open(cls, path: Path | str, check: Check = "full", advance: Callable[[int], None] | None = None) -> Bundle:
        """Open the bundle at `path`.

        check: "full" compares every file's SHA-256 with the manifest (reads all bytes; `advance` is told of each
        piece), "sizes" only existence and sizes, "none" only the manifest. Links that leave the bundle are refused
        in every mode. Raises `BundleError` (an `ArtifactError`).
        """
        root = Path(path)
        manifest = read_manifest(root)
        bundle = cls(root, manifest)
        try:
            for relative, record in sorted(bundle.files().items()):
                check_file(root, relative, record, check, advance)
        except BundleError as error:
            # An export may have put another bundle in its place while the files were read.
            if read_manifest(root) != manifest:
                raise BundleError(error.reason, f"'{root}' was replaced while it was read; try again.") from error
            raise
        return bundle

    def for_shapes(self, latent_size: tuple[int, int] | None = None, guidance_batch: int | None = None) -> Bundle:
        """This bundle with the functions for another latent size and guidance batch selected; see `Manifest`.

        Raises `BundleError` if it has none for its own, which is no mistake of who asks.
        """
        try:
            return Bundle(self.root, self.manifest.for_shapes(latent_size, guidance_batch))
        except UsageError as error:
            if latent_size is not None or guidance_batch is not None:
                raise
            raise BundleError("invalid_manifest", f"'{self.root / MANIFEST_FILE}': {error}") from error

    def files(self) -> dict[str, FileRecord]:
        """Every file the manifest names, by relative path."""
        manifest = self.manifest
        files: dict[str, FileRecord] = {}
        for component in manifest.components.values():
            files.update(component.files)
        for tokenizer in manifest.tokenizers.values():
            files.update(tokenizer.files)
        if manifest.golden is not None:
            files.update(manifest.golden.files)
        if manifest.safety is not None:
            files.update(manifest.safety.files)
        return files

    def package(self, name: ComponentName) -> Path:
        """Path of a component's .mlpackage (or .onnx file). Raises `ArtifactError` if the bundle has none."""
        record = self.manifest.components.get(name)
        if record is None:
            present = ", ".join(sorted(self.manifest.components)) or "none"
            raise ArtifactError(
                f"Bundle '{self.root}' has no component '{name}' (it has: {present}); export it with "
                f"`sfmobile export --component {name}`."
            )
        return self.root / record.package

    @property
    def tokenizer_dir(self) -> Path:
        """Directory with vocab.json and merges.txt, of the (first) text condition."""
        return self.tokenizer_folder(self.manifest.pipeline.text.tokenizer)

    def tokenizer_folder(self, name: str) -> Path:
        """Directory with vocab.json and merges.txt of that tokenizer."""
        return (self.root / self.manifest.tokenizers[name].vocab).parent

    @property
    def reports_dir(self) -> Path:
        """Where `verify` and `bench` leave their reports; raises as `reports_folder` does."""
        return reports_folder(self.root)

    def golden(self, name: str) -> np.ndarray:
        """Golden vector `name` (without .npy). Raises `ArtifactError` if the bundle has none of that name, or one that
        doesn't fit the input or output of that name."""
        relative = f"{GOLDEN_FOLDER}/{name}.npy"
        record = self.manifest.golden
        if record is None or relative not in record.files:
            raise ArtifactError(f"Bundle '{self.root}' has no golden vector '{name}'; {MEND}.")
        vector = read_vector(self.root / relative)
        component, _, tensor = name.partition(".")
        known = self.manifest.components.get(component)
        for one in () if known is None else (*known.inputs, *known.outputs):
            if one.name == tensor and not _holds_rows_of(vector, one):
                raise BundleError(
                    "wrong_size",
                    f"'{self.root / relative}' holds {vector.dtype} values of shape {vector.shape}: expected rows of "
                    f"{one.dtype} {one.shape}; {MEND}.",
                )
        return vector


def _holds_rows_of(vector: np.ndarray, tensor: TensorRecord) -> bool:
    """Whether a vector holds one or more calls' worth of a tensor, one behind the other."""
    kind = "iu" if tensor.dtype == "int32" else "f"
    if vector.dtype.kind not in kind or vector.ndim != len(tensor.shape) or vector.ndim == 0:
        return False
    rows, batch = len(vector), tensor.shape[0]
    return vector.shape[1:] == tensor.shape[1:] and rows > 0 and rows % batch == 0


def read_vector(path: Path) -> np.ndarray:
    """The numbers of a .npy file. What it claims is compared with its size before anything is made of it.

    Raises `BundleError`.
    """

    def refuse(sentence: str) -> BundleError:
        return BundleError("wrong_size", sentence)

    # Typed in some releases of numpy and not in others.
    npy: Any = np.lib.format
    what = "a golden vector of numbers (.npy)"
    content = io.BytesIO(read_bytes(path, what, MEND, error=refuse))
    try:
        version = npy.read_magic(content)
        read_header = npy.read_array_header_1_0 if version[0] == 1 else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(content)
    # The header is Python's own notation, read by its parser.
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError, AttributeError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise refuse(f"'{path}' is damaged ({found}): expected {what}; {MEND}.") from error
    stored = content.read()
    if dtype.kind not in "biuf" or dtype.hasobject or fortran or min(shape, default=0) < 0:
        raise refuse(f"'{path}' holds {dtype} values of shape {shape}: expected {what}; {MEND}.")
    if math.prod(shape) * dtype.itemsize != len(stored):
        raise refuse(f"'{path}' claims shape {shape} of {dtype} and holds {len(stored)} bytes; {MEND}.")
    return np.frombuffer(bytearray(stored), dtype).reshape(shape)


def reports_folder(root: Path) -> Path:
    """Where reports of the bundle at `root` are left; may not exist yet.

    Raises `BundleError` if it is a link that leaves the bundle: what is written there would land elsewhere.
    """
    check_inside(root, REPORTS_FOLDER, "remove the link, or name another place for the report")
    return root / REPORTS_FOLDER


def replaced_path(root: Path) -> Path:
    """Where the bundle stands that an export is about to replace at `root`, for a moment."""
    return root.parent / f".{root.name}.old"


def read_manifest(root: Path) -> Manifest:
    """Read and validate `root`/manifest.json. Raises `BundleError`."""
    path = root / MANIFEST_FILE
    if not root.is_dir():
        if not root.exists() and replaced_path(root).is_dir():
            raise BundleError("not_a_bundle", f"'{root}' is being replaced by an export at this moment; try again.")
        found = "a file" if root.exists() else "nothing"
        raise BundleError("not_a_bundle", f"'{root}' is not a bundle: expected a directory, found {found}.")
    check_inside(root, MANIFEST_FILE)
    if not path.is_file():
        raise BundleError(
            "not_a_bundle",
            f"'{root}' is not a bundle: it has no {MANIFEST_FILE}; make one with `sfmobile export SOURCE -o {root}`.",
        )
    # What can't be read at all stays the system's error: a bundle that is there is not to be taken for none.
    content = path.read_bytes()
    refuse = partial(BundleError, "invalid_json")
    return validate_manifest(parse_json(content, f"'{path}'", "a bundle's manifest", MEND, error=refuse), path)


def validate_manifest(content: object, path: Path) -> Manifest:
    """`content` (parsed JSON of `path`) as a `Manifest`. Raises `BundleError`."""
    if not isinstance(content, Mapping):
        raise BundleError("invalid_manifest", f"'{path}': expected a JSON object, found {type(content).__name__}.")
    check_version(content, "schema_version", SCHEMA_VERSION, f"'{path}'", error=partial(BundleError, "future_schema"))
    try:
        manifest = Manifest.model_validate(upgraded(content))
    except ValidationError as error:
        place, found = first_fault(error)
        reason: Reason = "path_outside" if _is_path_error(error) else "invalid_manifest"
        raise BundleError(
            reason, f"'{path}' is not a valid manifest at {place or 'its top'}: {found}; {MEND}."
        ) from error
    check_constants(manifest, path)
    return manifest


def check_constants(manifest: Manifest, path: Path) -> None:
    """Raise `BundleError` for a constant of the manifest at `path` that makes no sense, such as a scale of zero."""
    if (found := out_of_bounds(manifest.model_dump(exclude={"options", "tools"}))) is not None:
        raise BundleError("invalid_manifest", f"'{path}' is not a valid manifest: {found}; {MEND}.")
    for name, record in manifest.components.items():
        known = name in (manifest.pipeline.unet, manifest.pipeline.decoder)
        for function in record.all_functions() if known or record.runs == "per_step" else ():
            if (found := _unfit(manifest, function, name)) is not None:
                raise BundleError(
                    "invalid_manifest",
                    f"'{path}' is not a valid manifest: function '{function.function}' of {name} {found}; {MEND}.",
                )
    steps = None if manifest.golden is None else manifest.golden.steps
    if steps is not None and steps > manifest.sampler.num_train_timesteps:
        raise BundleError(
            "invalid_manifest",
            f"'{path}' is not a valid manifest: {steps} golden steps of {manifest.sampler.num_train_timesteps} "
            f"timesteps; {MEND}.",
        )


def _unfit(manifest: Manifest, function: FunctionRecord, component: str) -> str | None:
    """What a function's inputs lack of what the pipeline gives them; None if nothing."""
    tensors = {tensor.name: tensor for tensor in function.inputs}
    latents, time = tensors.get("latents"), tensors.get("time_embedding")
    if latents is None or len(latents.shape) != 4 or latents.dtype == "int32":
        return "takes no latents of four dimensions"
    if component == manifest.pipeline.decoder and latents.shape[1] != manifest.latents.channels:
        return f"takes latents of {latents.shape[1]} channels, and the pipeline's have {manifest.latents.channels}"
    dimension = manifest.time_embedding.dimension
    if time is not None and (len(time.shape) < 2 or time.shape[1] != dimension or time.dtype == "int32"):
        return f"takes a time embedding {time.dtype} {time.shape}, and the host's has {dimension} values"
    return None


def check_inside(root: Path, relative: str, mend: str = MEND) -> None:
    """Raise `BundleError` if a link on the way to `root`/`relative` leads out of `root`."""
    try:
        base, target = root.resolve(), (root / relative).resolve()
    except (OSError, RuntimeError) as error:
        raise BundleError("link_outside", f"'{root / relative}' can't be resolved ({error}); {mend}.") from error
    if target != base and base not in target.parents:
        raise BundleError(
            "link_outside", f"'{root / relative}' is a link that leaves the bundle, to '{target}'; {mend}."
        )


def check_file(
    root: Path,
    relative: str,
    record: FileRecord,
    check: Check = "full",
    advance: Callable[[int], None] | None = None,
) -> None:
    """Compare one file with its record; of a package's own Manifest.json what it says. Raises `BundleError`."""
    check_inside(root, relative)
    if check == "none":
        return
    path = root / relative
    if not path.is_file():
        raise BundleError("missing_file", f"'{path}' is missing; {MEND}.")
    size = path.stat().st_size
    if size != record.bytes and not _says_what_was_recorded(path, relative, record):
        word = "truncated" if size < record.bytes else "too long"
        raise BundleError("wrong_size", f"'{path}' is {word}: expected {record.bytes} bytes, found {size}; {MEND}.")
    if check == "full":
        found = digest_file(path, advance).sha256
        if found != record.sha256 and not _says_what_was_recorded(path, relative, record):
            raise BundleError(
                "wrong_checksum",
                f"'{path}' has changed: expected SHA-256 {record.sha256[:12]}…, found {found[:12]}…; {MEND}.",
            )


def _says_what_was_recorded(path: Path, relative: str, record: FileRecord) -> bool:
    """Whether a file is a package's Manifest.json that coremltools, or anyone, has only spelt differently."""
    return is_listing(relative) and record in listing_records(path)


def _is_path_error(error: ValidationError) -> bool:
    first = error.errors(include_url=False)[0]
    return first["type"] == "value_error" and "relative path inside the bundle" in first["msg"]

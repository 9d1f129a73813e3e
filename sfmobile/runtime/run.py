"""One prediction from files: what `sfmobile run` does."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.files import replacing
from sfmobile.mlpackage.description import Image
from sfmobile.runtime.choices import ModelRuntime, Precision
from sfmobile.runtime.features import is_picture
from sfmobile.runtime.model import Model
from sfmobile.signal import psnr
from sfmobile.tables import Table, as_text, in_milliseconds, shortened

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# Results of so many values are shown, and put into the JSON, themselves.
_SHOWN_VALUES = 16
_SHOWN_CLASSES = 5


@dataclass(frozen=True)
class RunResult:
    """What a model gave. psnr: in dB against what was given to compare with, by output; infinite where identical."""

    model: str
    runtime: str
    function: str | None
    seconds: float
    outputs: dict[str, Any]
    psnr: dict[str, float]

    def worst(self) -> float:
        """The lowest PSNR, or infinity if nothing was compared; NaN counts as none at all."""
        return min((-np.inf if np.isnan(value) else value for value in self.psnr.values()), default=np.inf)

    def record(self) -> dict[str, Any]:
        """As JSON; what has no number in JSON is null."""
        outputs = {}
        for name, value in self.outputs.items():
            outputs[name] = _record(value)
            if name in self.psnr:
                psnr = self.psnr[name]
                outputs[name].update(psnr_db=_finite(psnr), identical=bool(psnr == np.inf))
        return {
            "kind": "run",
            "model": self.model,
            "function": self.function,
            "runtime": self.runtime,
            "seconds": self.seconds,
            "outputs": outputs,
        }

    def parts(self) -> list[Table | str]:
        """Tables for people: of arrays, and of a classifier's classes."""
        rows = [_row(name, value, self.psnr.get(name)) for name, value in self.outputs.items()]
        title = f"{self.model}, {self.runtime}, {in_milliseconds(self.seconds * 1e3)} with decoding of its weights"
        parts: list[Table | str] = [
            Table(title, ("output", "type", "lowest", "highest", "mean", "PSNR"), tuple(rows), text_columns=(0, 1))
        ]
        for name, value in self.outputs.items():
            if isinstance(value, dict):
                best = sorted(value.items(), key=lambda item: -item[1])[:_SHOWN_CLASSES]
                rows = [(str(label), f"{score:.4f}") for label, score in best]
                parts.append(Table(name, ("class", "score"), tuple(rows)))
        return parts

    def __str__(self) -> str:
        return as_text(self.parts())

    def save(self, folder: Path) -> list[Path]:
        """Write every output to `folder`: pictures as PNG, arrays as .npy, what a classifier says as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, value in self.outputs.items():
            # A name may hold what no file name may.
            stem = "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
            if is_picture(value):
                suffix = ".tiff" if value.mode == "F" else ".png"
            else:
                suffix = ".npy" if isinstance(value, np.ndarray) else ".json"
            path = folder / f"{stem.lstrip('.') or 'output'}{suffix}"
            with replacing(path) as temporary, temporary.open("wb") as file:
                if is_picture(value):
                    value.save(file, format=suffix[1:].upper())
                elif isinstance(value, np.ndarray):
                    np.save(file, value)
                else:
                    file.write(json.dumps(value, ensure_ascii=False, indent=2).encode())
            written.append(path)
        return written


def run_model(
    path: Path | str,
    inputs: Sequence[str],
    *,
    precision: Precision = "fp32",
    function: str | None = None,
    runtime: ModelRuntime = "mil",
    resize: bool = False,
    compare: Path | None = None,
) -> RunResult:
    """Run a model once. inputs: "name=value", the value a picture, a .npy file, a number, or a JSON list of numbers.

    resize: fit pictures to the declared size instead of refusing others. compare: an .npz (or, for a single output, an
    .npy) of what another implementation gave. A model with states starts from zeros.

    Raises what `Model` raises, `ArtifactError` for files that can't be read, `UsageError` for inputs without sense.
    """
    model = Model(path, precision=precision, function=function, runtime=runtime)
    given: dict[str, Any] = {}
    for text in inputs:
        name, value = read_input(text, model, resize)
        if name in given:
            raise UsageError(f"--input {name}=… is given twice; expected it once.")
        given[name] = value
    start = time.perf_counter()
    outputs = model.predict(given, model.make_state() if runtime == "mil" else None)
    seconds = time.perf_counter() - start
    engine = f"{runtime} {precision}" if runtime == "mil" else runtime
    psnr = {} if compare is None else compared(outputs, compare)
    return RunResult(model.package.name, engine, function, seconds, outputs, psnr)


def read_input(text: str, model: Model, resize: bool = False) -> tuple[str, Any]:
    """`--input name=value` as a name and what `Model.predict` takes."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"--input {text} is no name=value; expected e.g. {next(iter(model.inputs), 'x')}=cat.png.")
    if name not in model.inputs:
        raise UsageError(f"{model.package.name} has no input '{name}'; it takes {', '.join(model.inputs)}.")
    try:
        return name, np.asarray(json.loads(value))
    except (ValueError, RecursionError):
        path = Path(value)
    if not path.is_file():
        raise UsageError(f"--input {text} names neither a file nor a number; expected a picture, an .npy or numbers.")
    if path.suffix == ".npy":
        return name, read_array(path)
    feature = model.description.inputs.get(name)
    return name, read_picture(path, feature.kind if feature and isinstance(feature.kind, Image) else None, resize)


def read_array(path: Path) -> np.ndarray:
    """An .npy file, mapped: a shape that the file hasn't the bytes for, or objects in it, are an `ArtifactError`."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"'{path}' is no array that numpy can read: {error}; save it with numpy.save.") from error
    return np.array(array) if array.size <= _SHOWN_VALUES else array


def read_picture(path: Path, kind: Image | None, resize: bool) -> Picture:
    """A picture; decoded only if its size, which stands at its beginning, is one that is taken."""
    from PIL import Image as pil

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pil.DecompressionBombWarning)
            picture: Picture = pil.open(path)
            size = (picture.height, picture.width)
            if kind is None or not (resize or kind.allows(size)):
                return picture
            if not kind.allows(size):
                height, width = kind.size
                picture = picture.convert("L" if kind.channels == 1 else "RGB")
                picture = picture.resize((width, height), pil.Resampling.BILINEAR)
            picture.load()
            return picture
    except (pil.DecompressionBombError, pil.DecompressionBombWarning) as error:
        raise ArtifactError(f"'{path}' is too large a picture: {error}; make it smaller first.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ArtifactError(f"'{path}' is no picture that can be read: {error}; save it anew as PNG.") from error


def compared(outputs: Mapping[str, Any], path: Path) -> dict[str, float]:
    """PSNR of the outputs that `path` holds, in dB; the peak is the largest magnitude there."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = [name for name, value in outputs.items() if _as_array(value) is not None]
            if len(arrays) != 1:
                raise UsageError(f"'{path}' is one array and there are {len(arrays)} outputs; compare with an .npz.")
            references = {arrays[0]: loaded}
        else:
            references = {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise ArtifactError(f"'{path}' can't be read: {error}; save it with numpy.savez.") from error
    found = {}
    for name, reference in references.items():
        value = _as_array(outputs.get(name))
        if value is None:
            known = ", ".join(one for one, value in outputs.items() if _as_array(value) is not None)
            raise UsageError(f"'{path}' holds '{name}', which is no array that the model gives; it gives {known}.")
        if value.shape != reference.shape or reference.dtype.kind not in "biuf":
            raise UsageError(
                f"'{path}' holds '{name}' as {reference.dtype} of shape {reference.shape}; the model gives shape "
                f"{value.shape}."
            )
        found[name] = _psnr(value, reference)
    if not found:
        raise UsageError(f"'{path}' holds nothing to compare with; save outputs by name with numpy.savez.")
    return found


def _psnr(value: np.ndarray, reference: np.ndarray) -> float:
    """Infinite for equal arrays, NaN where only one of them has a number."""
    wide, wanted = value.astype(np.float64), reference.astype(np.float64)
    return float("inf") if np.array_equal(wide, wanted, equal_nan=True) else psnr(wanted, wide)


def _as_array(value: Any) -> np.ndarray | None:
    if is_picture(value):
        return np.asarray(value)
    return value if isinstance(value, np.ndarray) else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _record(value: Any) -> dict[str, Any]:
    array = _as_array(value)
    if array is None:
        return (
            {"scores": {str(key): _finite(one) for key, one in value.items()}}
            if isinstance(value, dict)
            else {"label": value}
        )
    record: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size:
        record.update({name: _finite(of(array)) for name, of in _STATISTICS.items()})
    if array.size <= _SHOWN_VALUES:
        record["values"] = [_finite(one) for one in array.reshape(-1).astype(np.float64)]
    return record


def _mean(array: np.ndarray) -> float:
    return float(array.mean(dtype=np.float64))


_STATISTICS = {"min": lambda array: float(array.min()), "max": lambda array: float(array.max()), "mean": _mean}


def _row(name: str, value: Any, psnr: float | None) -> tuple[str, ...]:
    array = _as_array(value)
    if array is None:
        text = f"{len(value)} classes" if isinstance(value, dict) else shortened(f"'{value}'")
        return (name, text, "-", "-", "-", "-")
    kind = f"picture {value.mode}" if is_picture(value) else str(array.dtype)
    sizes = ", ".join(map(str, array.shape))
    numbers = [f"{of(array):.4g}" if array.size else "-" for of in _STATISTICS.values()]
    shown = "-" if psnr is None else "identical" if psnr == np.inf else f"{psnr:.1f} dB"
    return (name, f"{kind} ({sizes})", *numbers, shown)

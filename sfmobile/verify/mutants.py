"""Single faults put into a bundle on purpose: what a proof must catch, if it is one.

A mutant is a copy of a bundle with one fault and with checksums that fit it, as a slip in an exporter would make it:
the manifest says that all is well. Faults are made in what ships (weight files, programs, manifest, tokenizer), not
through the code that wrote it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfmobile.bundle.digest import digest_file, digest_package
from sfmobile.bundle.directory import MANIFEST_FILE, Bundle
from sfmobile.mlpackage.package import COREML_FOLDER, DATA_FOLDER, MODEL_FILE, Package
from sfmobile.mlpackage.types import tensor_type

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import ComponentName

Generator = np.random.Generator


@dataclass(frozen=True)
class Mutant:
    """One fault: where, of what kind, and what was done, for people. `apply` puts it into a copy of the bundle."""

    component: ComponentName | None
    kind: str
    detail: str
    apply: Callable[[Path], None]

    def __str__(self) -> str:
        return f"{self.component or 'bundle'}: {self.kind}: {self.detail}"


def write_mutant(bundle: Bundle, mutant: Mutant, root: Path) -> Bundle:
    """The mutant as a bundle of its own at `root` (which doesn't exist yet), its checksums as an exporter's.

    What the fault isn't in is linked, not copied.
    """
    package = None if mutant.component is None else bundle.package(mutant.component)
    shutil.copytree(bundle.root, root, copy_function=os.link, ignore=shutil.ignore_patterns("*.html"))
    for path in (package, bundle.root / MANIFEST_FILE, bundle.tokenizer_dir):
        if path is None:
            continue
        own = root / path.relative_to(bundle.root)
        if path.is_dir():
            shutil.rmtree(own)
            shutil.copytree(path, own)
        else:
            own.unlink()
            shutil.copy2(path, own)
    mutant.apply(root)
    _record(root, mutant.component)
    return Bundle.open(root, check="sizes")


def _record(root: Path, changed: ComponentName | None) -> None:
    """Take the checksums of what may have changed into the manifest."""
    path = root / MANIFEST_FILE
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name, component in manifest["components"].items():
        if name != changed:
            continue
        files = digest_package(root, component["package"])
        component["files"] = {name: file.model_dump() for name, file in files.items()}
        component["bytes"] = sum(file.bytes for file in files.values())
    for tokenizer in manifest["tokenizers"].values():
        for name in tokenizer["files"]:
            tokenizer["files"][name] = digest_file(root / name).model_dump()
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def package_mutants(
    bundle: Bundle, component: ComponentName, count: int, seed: int = 0, kinds: Sequence[str] = ()
) -> Iterator[Mutant]:
    """`count` faults in one component's package: each kind (of `kinds`, if given) in turn, at places drawn by the seed.

    There are fewer if the package has fewer places for them.
    """
    record = bundle.manifest.components[component]
    package = Package(bundle.package(component))
    operations = list(package.block(record.function).operations)
    generator = np.random.default_rng([seed, sum(component.encode())])
    makers = [maker for maker in _MAKERS if (not kinds or maker.kind in kinds) and maker.places(operations)]
    made: set[str] = set()
    for number in range(8 * count if makers else 0):
        maker = makers[number % len(makers)]
        places = maker.places(operations)
        place = places[int(generator.integers(len(places)))]
        change = maker.change(operations, place, generator)
        if change is None or change.detail in made:
            continue
        made.add(change.detail)
        yield Mutant(
            component, maker.kind, change.detail, _applied(record.package, record.function, place, change.edit)
        )
        if len(made) == count:
            return


def manifest_mutants(bundle: Bundle) -> Iterator[Mutant]:
    """Every fault of a fixed list in the manifest's constants and in the tokenizer's files."""
    manifest = bundle.manifest
    sampler, tokens = manifest.sampler, manifest.tokenizer
    spacings = ("leading", "trailing", "linspace")
    schedules = ("linear", "scaled_linear", "squaredcos_cap_v2")
    changes: dict[str, Any] = {
        "sampler.beta_start": sampler.beta_start * 2,
        "sampler.beta_end": sampler.beta_end * 1.25,
        "sampler.beta_schedule": schedules[(schedules.index(sampler.beta_schedule) + 1) % 3],
        "sampler.timestep_spacing": spacings[(spacings.index(sampler.timestep_spacing) + 1) % 3],
        "sampler.steps_offset": sampler.steps_offset + 1,
        **{f"sampler.{key}": not value for key, value in sampler if key in ("set_alpha_to_one", "clip_sample")},
        "sampler.prediction_type": "epsilon" if sampler.prediction_type == "v_prediction" else "v_prediction",
        "sampler.rescale_betas_zero_snr": not sampler.rescale_betas_zero_snr,
        "sampler.num_train_timesteps": sampler.num_train_timesteps - 100,
        "pipeline.default_steps": manifest.pipeline.default_steps + 2,
        "latents.scaling_factor": manifest.latents.scaling_factor * 1.05,
        "guidance.default_scale": manifest.guidance.default_scale + 1.5,
        "time_embedding.flip_sin_to_cos": not manifest.time_embedding.flip_sin_to_cos,
        "time_embedding.frequency_shift": manifest.time_embedding.frequency_shift + 1.0,
        "time_embedding.max_period": manifest.time_embedding.max_period / 2,
        "tokenizers.tokenizer.pad_token_id": 0 if tokens.pad_token_id else tokens.eos_token_id,
        "tokenizers.tokenizer.eos_token_id": tokens.eos_token_id - 1,
        "tokenizers.tokenizer.bos_token_id": tokens.bos_token_id - 1,
    }
    for key, value in changes.items():
        yield Mutant(None, "manifest", f"{key} is {value}", _constant_changed(key, value))
    ids: dict[str, int] = json.loads((bundle.root / tokens.vocab).read_text(encoding="utf-8"))
    words = [pair for pair in (("red</w>", "blue</w>"), ("a</w>", "cat</w>")) if set(pair) <= set(ids)]
    rest = sorted(ids)
    for first, second in words or [(rest[1], rest[2])]:
        detail = f"ids of {first} and {second} exchanged"
        yield Mutant(None, "tokenizer", detail, _tokens_exchanged(tokens.vocab, first, second))
    if len((bundle.root / tokens.merges).read_text(encoding="utf-8").splitlines()) < 4:
        # A tokenizer of bytes merges nothing.
        return
    yield Mutant(None, "tokenizer", "merges in reverse", _merges_changed(tokens.merges, lambda lines: lines[::-1]))
    yield Mutant(None, "tokenizer", "every other merge lost", _merges_changed(tokens.merges, lambda lines: lines[::2]))


def _constant_changed(key: str, value: Any) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / MANIFEST_FILE
        manifest = json.loads(path.read_text(encoding="utf-8"))
        *parts, name = key.split(".")
        record = manifest
        for part in parts:
            record = record[part]
        record[name] = value
        path.write_text(json.dumps(manifest), encoding="utf-8")

    return apply


def _tokens_exchanged(vocabulary: str, first: str, second: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / vocabulary
        ids = json.loads(path.read_text(encoding="utf-8"))
        ids[first], ids[second] = ids[second], ids[first]
        path.write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")

    return apply


def _merges_changed(merges: str, turn: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / merges
        version, *lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([version, *turn(lines)]) + "\n", encoding="utf-8")

    return apply


@dataclass(frozen=True)
class Change:
    """A fault at one operation: in words, and as an edit of the copied package's operation and weight file."""

    detail: str
    edit: Callable[[Any, list[Any], _Weights], None]


@dataclass(frozen=True)
class _Maker:
    kind: str
    places: Callable[[list[Any]], list[int]]
    change: Callable[[list[Any], int, Generator], Change | None]


class _Weights:
    """The copied package's weight files, written in place."""

    def __init__(self, package: Path) -> None:
        self._package = Package(package)
        self._folder = package / DATA_FOLDER / COREML_FOLDER

    def read(self, value: Any) -> np.ndarray:
        """A float16 or byte array that a value holds, in the weight file or in the program."""
        blob = self._package.blob(value)
        if blob is not None:
            raw = np.array(blob.data)
            return raw.view(np.float16) if blob.data_type == "fp16" else raw
        raw = np.frombuffer(value.immediateValue.tensor.bytes.values, np.uint8).copy()
        return raw.view(np.float16)

    def write(self, value: Any, array: np.ndarray) -> None:
        """Put an array of the same size in its place."""
        content = array.tobytes()
        blob = self._package.blob(value)
        if blob is None:
            value.immediateValue.tensor.bytes.values = content
            return
        assert len(content) == blob.data.nbytes
        path = self._folder.joinpath(*value.blobFileValue.fileName.split("/")[1:])
        with path.open("r+b") as file:
            file.seek(value.blobFileValue.offset + 16)
            start = int.from_bytes(file.read(8), "little")
            file.seek(start)
            file.write(content)


def _applied(
    package: str, function: str, place: int, edit: Callable[[Any, list[Any], _Weights], None]
) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        copied = Package(root / package)
        operations = copied.block(function).operations
        edit(operations[place], list(operations), _Weights(root / package))
        path = root / package / DATA_FOLDER / COREML_FOLDER / MODEL_FILE
        path.write_bytes(copied.model.SerializeToString(deterministic=True))

    return apply


def _name(operation: Any) -> str:
    return str(operation.outputs[0].name)


def _shape(operation: Any) -> tuple[int | None, ...]:
    return tensor_type(operation.outputs[0].type).shape


def _read_names(operations: list[Any]) -> set[str]:
    return {
        argument.name
        for operation in operations
        for bindings in operation.inputs.values()
        for argument in bindings.arguments
        if argument.WhichOneof("binding") == "name"
    }


def _float_constants(operations: list[Any], least: int, rank: int | None = None) -> list[int]:
    read = _read_names(operations)
    places = []
    for place, operation in enumerate(operations):
        if operation.type != "const" or _name(operation) not in read:
            continue
        type_ = tensor_type(operation.outputs[0].type)
        if type_.data_type == "fp16" and type_.elements >= least and rank in (None, len(type_.shape)):
            places.append(place)
    return places


def _palettes(operations: list[Any]) -> list[int]:
    return [place for place, operation in enumerate(operations) if operation.type == "constexpr_lut_to_dense"]


def _weights_changed(
    what: str, turn: Callable[[np.ndarray, Generator], np.ndarray]
) -> Callable[[list[Any], int, Generator], Change | None]:
    """A change of a plain float16 constant, given its array in its shape."""

    def change(operations: list[Any], place: int, generator: Generator) -> Change:
        shape = tuple(size or 1 for size in _shape(operations[place]))
        seed = int(generator.integers(1 << 31))

        def edit(operation: Any, _: list[Any], weights: _Weights) -> None:
            value = operation.attributes["val"]
            array = weights.read(value).reshape(shape)
            weights.write(value, turn(array, np.random.default_rng(seed)).astype(np.float16))

        return Change(f"{what} in '{_name(operations[place])}' (draw {seed})", edit)

    return change


def _palette_changed(
    what: str, turn: Callable[[np.ndarray, np.ndarray, Generator], tuple[np.ndarray, np.ndarray]]
) -> Callable[[list[Any], int, Generator], Change | None]:
    """A change of a table (entries, flat) and its packed indices (bytes)."""

    def change(operations: list[Any], place: int, generator: Generator) -> Change:
        seed = int(generator.integers(1 << 31))

        def edit(operation: Any, everything: list[Any], weights: _Weights) -> None:
            values = {name: _value_of(operation, everything, name) for name in ("lut", "indices")}
            lut, indices = weights.read(values["lut"]), weights.read(values["indices"])
            lut, indices = turn(lut, indices.view(np.uint8), np.random.default_rng(seed))
            weights.write(values["lut"], lut.astype(np.float16))
            weights.write(values["indices"], indices)

        return Change(f"{what} in '{_name(operations[place])}' (draw {seed})", edit)

    return change


def _value_of(operation: Any, operations: list[Any], argument: str) -> Any:
    """The value message of a constexpr operand: an attribute (iOS 16), or an input, named or written there (iOS 18)."""
    if argument in operation.attributes:
        return operation.attributes[argument]
    binding = operation.inputs[argument].arguments[0]
    if binding.WhichOneof("binding") == "value":
        return binding.value
    return next(other for other in operations if _name(other) == binding.name).attributes["val"]


def _swap_rows(array: np.ndarray, generator: Generator) -> np.ndarray:
    axis = next(axis for axis, size in enumerate(array.shape) if size > 1)
    if axis:
        return np.swapaxes(_swap_rows(np.swapaxes(array, 0, axis), generator), 0, axis)
    first, second = generator.choice(len(array), 2, replace=False)
    turned = array.copy()
    turned[[first, second]] = turned[[second, first]]
    return turned


def _shift_every_other(array: np.ndarray, _: Generator) -> np.ndarray:
    # Not all: an attention mask that is shifted as a whole masks the same.
    turned = array.copy()
    turned.reshape(-1)[::2] += np.float16(0.05)
    return turned


def _swap_columns(array: np.ndarray, generator: Generator) -> np.ndarray:
    if array.ndim < 2 or array.shape[1] < 2:
        return _swap_rows(array, generator)
    return np.swapaxes(_swap_rows(np.swapaxes(array, 0, 1), generator), 0, 1)


def _one_value(array: np.ndarray, generator: Generator) -> np.ndarray:
    turned = array.copy()
    turned.flat[int(generator.integers(array.size))] += np.float16(np.abs(array).max() or 1)
    return turned


def _swap_entries(lut: np.ndarray, indices: np.ndarray, generator: Generator) -> tuple[np.ndarray, np.ndarray]:
    turned = lut.copy()
    place = int(generator.integers(len(lut) - 1))
    turned[[place, place + 1]] = turned[[place + 1, place]]
    return turned, indices


def _roll_indices(lut: np.ndarray, indices: np.ndarray, _: Generator) -> tuple[np.ndarray, np.ndarray]:
    # By 24 bits: whole indices of every width.
    return lut, np.roll(indices, 3)


def _one_index(lut: np.ndarray, indices: np.ndarray, generator: Generator) -> tuple[np.ndarray, np.ndarray]:
    turned = indices.copy()
    turned[int(generator.integers(len(indices)))] ^= np.uint8(0b00110101)
    return lut, turned


def _of_kinds(*kinds: str) -> Callable[[list[Any]], list[int]]:
    return lambda operations: [place for place, operation in enumerate(operations) if operation.type in kinds]


def _rewired(operations: list[Any], place: int, generator: Generator) -> Change | None:
    """An operand taken from another operation of the same type: a head's keys from its neighbour, another skip."""
    types = {_name(operation): _typed(operation) for operation in operations[:place] if operation.type != "const"}
    types = {name: type_ for name, type_ in types.items() if type_ is not None}
    operation = operations[place]
    choices = []
    for argument in ("x", "y", "values"):
        for index, binding in enumerate(operation.inputs[argument].arguments if argument in operation.inputs else ()):
            if binding.WhichOneof("binding") == "name" and binding.name in types:
                others = [n for n, t in types.items() if t == types[binding.name] and n != binding.name]
                choices += [(argument, index, binding.name, other) for other in others]
    if not choices:
        return None
    argument, index, old, new = choices[int(generator.integers(len(choices)))]

    def edit(target: Any, _: list[Any], __: _Weights) -> None:
        target.inputs[argument].arguments[index].name = new

    return Change(f"'{_name(operation)}' reads '{new}' for '{old}'", edit)


def _typed(operation: Any) -> tuple[str, tuple[int | None, ...]] | None:
    try:
        type_ = tensor_type(operation.outputs[0].type)
    except ValueError:
        return None
    return type_.data_type, type_.shape


def _subtracted(operations: list[Any], place: int, _: Generator) -> Change | None:
    """A sum turned into a difference."""
    operation = operations[place]
    x, y = (operation.inputs[name].arguments[0] for name in ("x", "y"))
    if "name" not in (x.WhichOneof("binding"), y.WhichOneof("binding")) or x.name == y.name:
        return None

    def edit(target: Any, _: list[Any], __: _Weights) -> None:
        target.type = "sub"

    return Change(f"'{_name(operation)}' subtracts", edit)


def _swapped_operands(operations: list[Any], place: int, _: Generator) -> Change | None:
    operation = operations[place]
    names = [binding.name for binding in operation.inputs["values"].arguments]
    if len(set(names)) < 2:
        return None

    def edit(target: Any, _: list[Any], __: _Weights) -> None:
        for binding, name in zip(target.inputs["values"].arguments, reversed(names), strict=True):
            binding.name = name

    return Change(f"'{_name(operation)}' joins its operands in the other order", edit)


def _swapped_results(operations: list[Any], place: int, _: Generator) -> Change | None:
    operation = operations[place]
    names = [output.name for output in operation.outputs]
    if len({_shape_of(output) for output in operation.outputs}) != 1 or len(names) < 2:
        return None

    def edit(target: Any, _: list[Any], __: _Weights) -> None:
        target.outputs[0].name, target.outputs[1].name = names[1], names[0]

    return Change(f"'{_name(operation)}' gives its first two parts in the other order", edit)


def _shape_of(output: Any) -> tuple[int | None, ...]:
    return tensor_type(output.type).shape


def _another_activation(operations: list[Any], place: int, _: Generator) -> Change:
    operation = operations[place]
    others = {"silu": "sigmoid", "gelu": "silu", "sigmoid": "tanh"}
    new = others[operation.type]

    def edit(target: Any, _: list[Any], __: _Weights) -> None:
        target.type = new
        for argument in tuple(target.inputs):
            if argument != "x":
                del target.inputs[argument]

    return Change(f"'{_name(operation)}' is {new}", edit)


def _constants_of(
    kinds: tuple[str, ...], arguments: tuple[str, ...], elements: int | None = None
) -> Callable[[list[Any]], list[int]]:
    """Places of float16 constants that operations of these kinds read under these arguments."""

    def places(operations: list[Any]) -> list[int]:
        read = {
            binding.name
            for operation in operations
            if operation.type in kinds
            for argument in arguments
            if argument in operation.inputs
            for binding in operation.inputs[argument].arguments
            if binding.WhichOneof("binding") == "name"
        }
        found = _float_constants(operations, 1)
        sizes = {place: tensor_type(operations[place].outputs[0].type).elements for place in found}
        return [place for place in found if _name(operations[place]) in read and elements in (None, sizes[place])]

    return places


def _one_open(array: np.ndarray, generator: Generator) -> np.ndarray:
    turned = array.copy()
    masked = np.flatnonzero(array < 0)
    turned.flat[masked[int(generator.integers(len(masked)))]] = 0
    return turned


def _another_weight(operations: list[Any], place: int, generator: Generator) -> Change | None:
    """A convolution that reads the weight of another one of the same shape."""
    operation = operations[place]
    types = {_name(one): _typed(one) for one in operations if one.type in ("const", "constexpr_lut_to_dense")}
    own = operation.inputs["weight"].arguments[0].name
    others = [
        name
        for other in operations
        if other.type == "conv" and (name := other.inputs["weight"].arguments[0].name) != own
        if types.get(name) is not None and types.get(name) == types.get(own)
    ]
    # What is decoded further on isn't known yet here.
    others = [name for name in others if name in {_name(one) for one in operations[:place]}]
    if not others:
        return None
    new = others[int(generator.integers(len(others)))]

    def edit(target: Any, _: list[Any], __: _Weights) -> None:
        target.inputs["weight"].arguments[0].name = new

    return Change(f"'{_name(operation)}' reads '{new}' for '{own}'", edit)


def _left_out(operations: list[Any], place: int, _: Generator) -> Change | None:
    """A sum of which only the first operand arrives: a shortcut, a bias or a position dropped."""
    operation = operations[place]
    binding = operation.inputs["x"].arguments[0]
    types = {_name(one): _typed(one) for one in operations[:place]}
    if binding.WhichOneof("binding") != "name" or types.get(binding.name) != _typed(operation):
        return None
    name, kept = _name(operation), binding.name

    def edit(_: Any, everything: list[Any], __: _Weights) -> None:
        for other in everything:
            for bindings in other.inputs.values():
                for argument in bindings.arguments:
                    if argument.WhichOneof("binding") == "name" and argument.name == name:
                        argument.name = kept

    return Change(f"'{name}' passes on '{kept}' alone", edit)


def _one_sided(pads: list[int]) -> list[int]:
    """Pads as large together, all of them in front."""
    return [pads[0] + pads[1], 0, pads[2] + pads[3], 0] if any(pads) else pads


def _integers_changed(
    argument: str, turn: Callable[[list[int]], list[int]]
) -> Callable[[list[Any], int, Generator], Change | None]:
    """A change of whole numbers that an operation computes by, in its own constant or in one that others share."""

    def change(operations: list[Any], place: int, _: Generator) -> Change | None:
        operation = operations[place]
        old = list(_value_of(operation, operations, argument).immediateValue.tensor.ints.values)
        new = turn(old)
        if new == old:
            return None

        def edit(target: Any, everything: list[Any], __: _Weights) -> None:
            value = _own_value(target, everything, argument)
            del value.immediateValue.tensor.ints.values[:]
            value.immediateValue.tensor.ints.values.extend(new)

        return Change(f"{argument} of '{_name(operation)}' is {new} for {old}", edit)

    return change


def _own_value(operation: Any, operations: list[Any], argument: str) -> Any:
    """The value of an operand, made the operation's own: written into it, where it was a constant with a name."""
    value = type(_value_of(operation, operations, argument))()
    value.CopyFrom(_value_of(operation, operations, argument))
    binding = operation.inputs[argument].arguments[0]
    binding.value.CopyFrom(value)
    return binding.value


def _approximated(operations: list[Any], place: int, _: Generator) -> Change | None:
    operation = operations[place]
    if "mode" not in operation.inputs:
        return None

    def edit(target: Any, everything: list[Any], __: _Weights) -> None:
        value = _own_value(target, everything, "mode")
        value.immediateValue.tensor.strings.values[0] = "TANH_APPROXIMATION"

    return Change(f"'{_name(operation)}' is approximated by tanh", edit)


_MAKERS = (
    _Maker(
        "two channels exchanged",
        lambda operations: _float_constants(operations, 8),
        _weights_changed("two rows exchanged", _swap_rows),
    ),
    _Maker(
        "two columns exchanged",
        lambda operations: _float_constants(operations, 64, 4),
        _weights_changed("two columns exchanged", _swap_columns),
    ),
    _Maker(
        "values scaled",
        lambda operations: _float_constants(operations, 8),
        _weights_changed("values times 1.1", lambda array, _: array * np.float16(1.1)),
    ),
    _Maker(
        "values shifted",
        lambda operations: _float_constants(operations, 8),
        _weights_changed("every other value plus 0.05", _shift_every_other),
    ),
    _Maker(
        "signs turned",
        lambda operations: _float_constants(operations, 8),
        _weights_changed("signs turned", lambda array, _: -array),
    ),
    _Maker(
        "one value wrong",
        lambda operations: _float_constants(operations, 8),
        _weights_changed("a value off", _one_value),
    ),
    _Maker("table entries exchanged", _palettes, _palette_changed("entries exchanged", _swap_entries)),
    _Maker(
        "table scaled", _palettes, _palette_changed("table times 1.05", lambda lut, i, _: (lut * np.float16(1.05), i))
    ),
    _Maker("indices rolled", _palettes, _palette_changed("indices rolled", _roll_indices)),
    _Maker("one index wrong", _palettes, _palette_changed("an index off", _one_index)),
    _Maker("another operand", _of_kinds("add", "mul", "einsum", "matmul", "concat", "conv"), _rewired),
    _Maker("sum turned to difference", _of_kinds("add"), _subtracted),
    _Maker("joined in another order", _of_kinds("concat"), _swapped_operands),
    _Maker("parts exchanged", _of_kinds("split"), _swapped_results),
    _Maker("another activation", _of_kinds("silu", "gelu", "sigmoid"), _another_activation),
    _Maker(
        "an epsilon wrong",
        _constants_of(("layer_norm", "instance_norm"), ("epsilon",)),
        _weights_changed("an epsilon times 8", lambda array, _: array * np.float16(8)),
    ),
    _Maker(
        "a scale wrong",
        _constants_of(("mul",), ("x", "y"), elements=1),
        _weights_changed("a scale times 1.05", lambda array, _: array * np.float16(1.05)),
    ),
    _Maker(
        "a norm's own number wrong",
        _constants_of(("batch_norm",), ("mean", "variance")),
        _weights_changed("every other value plus 0.05", _shift_every_other),
    ),
    _Maker(
        "a mask open",
        lambda operations: [place for place in _float_constants(operations, 4) if "mask" in _name(operations[place])],
        _weights_changed("a place no longer masked", _one_open),
    ),
    _Maker("another layer's weight", _of_kinds("conv"), _another_weight),
    _Maker("a sum left out", _of_kinds("add"), _left_out),
    _Maker("softmax over another axis", _of_kinds("softmax"), _integers_changed("axis", lambda axes: [3] * len(axes))),
    _Maker("padding on one side", _of_kinds("conv"), _integers_changed("pad", _one_sided)),
    _Maker("activation approximated", _of_kinds("gelu"), _approximated),
)

KINDS = tuple(maker.kind for maker in _MAKERS)

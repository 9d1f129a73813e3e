"""Faults in one component's package, each kind in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.mlpackage.package import COREML_FOLDER, DATA_FOLDER, MODEL_FILE, Package
from sfmobile.verify.mutants.constants import (
    constants_of,
    float_constants,
    one_open,
    one_value,
    shift_every_other,
    swap_columns,
    swap_rows,
    weights_changed,
)
from sfmobile.verify.mutants.editing import Maker, Weights, name_of, of_kinds
from sfmobile.verify.mutants.mutant import Mutant
from sfmobile.verify.mutants.operations import another_activation, approximated, integers_changed, one_sided
from sfmobile.verify.mutants.palettes import one_index, palette_changed, palettes, roll_indices, swap_entries
from sfmobile.verify.mutants.wiring import (
    another_weight,
    left_out,
    rewired,
    subtracted,
    swapped_operands,
    swapped_results,
)

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import ComponentName


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


def _applied(
    package: str, function: str, place: int, edit: Callable[[Any, list[Any], Weights], None]
) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        copied = Package(root / package)
        operations = copied.block(function).operations
        edit(operations[place], list(operations), Weights(root / package))
        path = root / package / DATA_FOLDER / COREML_FOLDER / MODEL_FILE
        path.write_bytes(copied.model.SerializeToString(deterministic=True))

    return apply


_MAKERS = (
    Maker(
        "two channels exchanged",
        lambda operations: float_constants(operations, 8),
        weights_changed("two rows exchanged", swap_rows),
    ),
    Maker(
        "two columns exchanged",
        lambda operations: float_constants(operations, 64, 4),
        weights_changed("two columns exchanged", swap_columns),
    ),
    Maker(
        "values scaled",
        lambda operations: float_constants(operations, 8),
        weights_changed("values times 1.1", lambda array, _: array * np.float16(1.1)),
    ),
    Maker(
        "values shifted",
        lambda operations: float_constants(operations, 8),
        weights_changed("every other value plus 0.05", shift_every_other),
    ),
    Maker(
        "signs turned",
        lambda operations: float_constants(operations, 8),
        weights_changed("signs turned", lambda array, _: -array),
    ),
    Maker(
        "one value wrong",
        lambda operations: float_constants(operations, 8),
        weights_changed("a value off", one_value),
    ),
    Maker("table entries exchanged", palettes, palette_changed("entries exchanged", swap_entries)),
    Maker("table scaled", palettes, palette_changed("table times 1.05", lambda lut, i, _: (lut * np.float16(1.05), i))),
    Maker("indices rolled", palettes, palette_changed("indices rolled", roll_indices)),
    Maker("one index wrong", palettes, palette_changed("an index off", one_index)),
    Maker("another operand", of_kinds("add", "mul", "einsum", "matmul", "concat", "conv"), rewired),
    Maker("sum turned to difference", of_kinds("add"), subtracted),
    Maker("joined in another order", of_kinds("concat"), swapped_operands),
    Maker("parts exchanged", of_kinds("split"), swapped_results),
    Maker("another activation", of_kinds("silu", "gelu", "sigmoid"), another_activation),
    Maker(
        "an epsilon wrong",
        constants_of(("layer_norm", "instance_norm"), ("epsilon",)),
        weights_changed("an epsilon times 8", lambda array, _: array * np.float16(8)),
    ),
    Maker(
        "a scale wrong",
        constants_of(("mul",), ("x", "y"), elements=1),
        weights_changed("a scale times 1.05", lambda array, _: array * np.float16(1.05)),
    ),
    Maker(
        "a norm's own number wrong",
        constants_of(("batch_norm",), ("mean", "variance")),
        weights_changed("every other value plus 0.05", shift_every_other),
    ),
    Maker(
        "a mask open",
        lambda operations: [place for place in float_constants(operations, 4) if "mask" in name_of(operations[place])],
        weights_changed("a place no longer masked", one_open),
    ),
    Maker("another layer's weight", of_kinds("conv"), another_weight),
    Maker("a sum left out", of_kinds("add"), left_out),
    Maker("softmax over another axis", of_kinds("softmax"), integers_changed("axis", lambda axes: [3] * len(axes))),
    Maker("padding on one side", of_kinds("conv"), integers_changed("pad", one_sided)),
    Maker("activation approximated", of_kinds("gelu"), approximated),
)


KINDS = tuple(maker.kind for maker in _MAKERS)

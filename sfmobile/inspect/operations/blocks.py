"""Which block of the network each operation belongs to, recovered from the names a program carries.

Our exports name operations and weights by the module they come from ("down_blocks_0_resnets_1_conv1"); a plain
coremltools conversion keeps at least the weights' names. Operations without a telling name take the block of those
around them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfmobile.mlpackage.graph import Graph
    from sfmobile.mlpackage.program import Operation

OUTSIDE = "outside any block"

# The most telling first: "up_blocks_1_resnets_0_conv1", "text_model_encoder_layers_3_mlp_fc1", "conv_in".
_PARTS = r"(resnets|attentions|downsamplers|upsamplers)_(\d+)"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"(?:^|_)(down|up)_blocks_(\d+)_{_PARTS}(?=_|$)"), r"\1_blocks.\2.\3.\4"),
    (re.compile(rf"(?:^|_)mid_block_{_PARTS}(?=_|$)"), r"mid_block.\1.\2"),
    (re.compile(r"(?:^|_)layers_(\d+)(?=_|$)"), r"layers.\1"),
    (re.compile(r"(?:^|_)(time_embedding|time_proj|add_embedding)(?=_linear|_cond|_silu|_sin|_cos|$)"), r"\1"),
    (re.compile(r"(?:^|_)(post_quant_conv|quant_conv|conv_norm_out|conv_out|conv_in)(?=_|$)"), r"\1"),
    (re.compile(r"(?:^|_)(?:token|position)_embedding(?=_|$)"), "embeddings"),
    (re.compile(r"(?:^|_)final_layer_norm(?=_|$)"), "final_layer_norm"),
)


def block_of_name(name: str) -> str | None:
    """The block an operation's or weight's name tells, e.g. "down_blocks.0.resnets.1" or "layers.3"."""
    for pattern, template in _PATTERNS:
        match = pattern.search(name)
        if match is not None:
            return match.expand(template)
    return None


def block_kind(block: str) -> str:
    """Kind of a block: resnet, attention, downsample, upsample, layer, or its own name."""
    for part, kind in (
        ("resnets", "resnet"),
        ("attentions", "attention"),
        ("downsamplers", "downsample"),
        ("upsamplers", "upsample"),
        ("layers", "layer"),
    ):
        if part in block.split("."):
            return kind
    return block


def stage_of(block: str) -> str:
    """The stage of a UNet or decoder that a block belongs to: "down_blocks.0", "mid_block", else the block itself."""
    parts = block.split(".")
    if parts[0] in ("down_blocks", "up_blocks"):
        return ".".join(parts[:2])
    return parts[0]


def assign_blocks(graph: Graph) -> dict[int, str]:
    """The block of every operation, by its position."""
    blocks: dict[int, str] = {}
    for operation in graph.program.operations:
        told = _told(graph, operation)
        if told is not None:
            blocks[operation.position] = told
    # A residual sum closes its block; whatever else is nameless leads to the block that reads it.
    _take_from_before(graph, blocks, lambda operation: _is_residual(graph, operation))
    for operation in reversed(graph.program.operations):
        if operation.position not in blocks:
            after = {blocks[reader.position] for reader in graph.readers_of(operation) if reader.position in blocks}
            _take(blocks, operation, list(after) if len(after) == 1 else [])
    _take_from_before(graph, blocks, lambda operation: True)
    for operation in reversed(graph.program.operations):
        if operation.position not in blocks:
            after = {blocks[reader.position] for reader in graph.readers_of(operation)}
            _take(blocks, operation, [*sorted(after), OUTSIDE])
    return blocks


def _told(graph: Graph, operation: Operation) -> str | None:
    """What the names say: of the weight, which can't be mistaken, of the results, of the operation, of constants.

    Constants come last: equal ones are shared between blocks and keep the name of the first.
    """
    weights = [graph.operand(operation, argument) for argument in ("weight", "gamma", "bias")]
    names: Iterable[str] = (
        *(name for name in weights if isinstance(name, str) and name in graph.program.constants),
        *operation.makes(),
        operation.name,
        *graph.weights(operation),
    )
    return next((block for block in map(block_of_name, names) if block is not None), None)


def _is_residual(graph: Graph, operation: Operation) -> bool:
    if operation.kind != "add":
        return False
    read = graph.activations(operation)
    types = [graph.types[name] for name in read]
    return len(read) == 2 and types[0].shape == types[1].shape and types[0].elements > 1


def _take_from_before(graph: Graph, blocks: dict[int, str], wanted: Callable[[Operation], bool]) -> None:
    """Give those `wanted` that have no block the one of the nearest operation before that has one, the last computed.

    One walk in running order: what is nearest before an operation without a block is known when its reader comes.
    """
    nearest: dict[int, int] = {}
    for operation in graph.program.operations:
        found = -1
        for name in graph.activations(operation):
            maker = graph.makers.get(name)
            if maker is not None:
                before = maker.position if maker.position in blocks else nearest.get(maker.position, -1)
                found = max(found, before)
        nearest[operation.position] = found
        if operation.position not in blocks and found >= 0 and wanted(operation):
            blocks[operation.position] = blocks[found]


def _take(blocks: dict[int, str], operation: Operation, candidates: list[str]) -> None:
    if candidates:
        blocks[operation.position] = candidates[0]

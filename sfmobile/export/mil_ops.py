"""Lowerings to MIL for coremltools' torch frontend: the operators of `torch_ops`, and fp16 kept fp16."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb

from sfmobile.export import coremltools_names as names
from sfmobile.export.coremltools_names import TorchLowering

if TYPE_CHECKING:
    from sfmobile.export.coremltools_names import InternalTorchIRNode, TranscriptionContext, Var

get_inputs = names.GET_INPUTS.load()
opset_is_at_least = names.OPSET_IS_AT_LEAST.load()
promote_input_dtypes = names.PROMOTE_INPUT_DTYPES.load()
types = names.TYPES.load()

# By the operator's name, as coremltools looks it up.
LOWERINGS: dict[str, TorchLowering] = {}


def _lowers(operator: str) -> Callable[[TorchLowering], TorchLowering]:
    """Enter a lowering into `LOWERINGS`."""

    def enter(lowering: TorchLowering) -> TorchLowering:
        LOWERINGS[operator] = lowering
        return lowering

    return enter


@_lowers("sfmobile::group_norm")
def lower_group_norm(context: TranscriptionContext, node: InternalTorchIRNode) -> None:
    """Rank 4 throughout, no square: `instance_norm` over (B, groups, C / groups * H, W), then `batch_norm` as the
    affine part (its mean 0 and variance 1)."""
    x, weight, bias, groups, eps = get_inputs(context, node, expected=5)
    batch, channels, height, width = x.shape
    dtype = types.nptype_from_builtin(x.dtype)
    grouped = mb.reshape(x=x, shape=(batch, groups.val, channels // groups.val * height, width), name=f"{node.name}_in")
    normal = mb.instance_norm(x=grouped, epsilon=dtype(eps.val), name=f"{node.name}_normal")
    ungrouped = mb.reshape(x=normal, shape=(batch, channels, height, width), name=f"{node.name}_out")
    scaled = mb.batch_norm(
        x=ungrouped,
        mean=np.zeros(channels, dtype),
        variance=np.ones(channels, dtype),
        gamma=weight,
        beta=bias,
        epsilon=dtype(0),
        name=node.name,
    )
    context.add(scaled)


@_lowers("sfmobile::channel_layer_norm")
def lower_channel_layer_norm(context: TranscriptionContext, node: InternalTorchIRNode) -> None:
    """One `layer_norm` over axis 1, without transposes."""
    x, weight, bias, eps = get_inputs(context, node, expected=4)
    dtype = types.nptype_from_builtin(x.dtype)
    context.add(mb.layer_norm(x=x, axes=[1], gamma=weight, beta=bias, epsilon=dtype(eps.val), name=node.name))


@_lowers("sfmobile::attention")
def lower_attention(context: TranscriptionContext, node: InternalTorchIRNode) -> None:
    """The attention form chosen; queries are scaled before the product, which keeps fp16 scores in range."""
    q, k, v, mask, heads, split, chunk = get_inputs(context, node, expected=7)
    if split.val:
        out = _split_attention(q, k, v, mask, int(heads.val), int(chunk.val), node.name)
    else:
        out = _whole_attention(q, k, v, mask, int(heads.val), node.name)
    context.add(out, torch_name=node.name)


@_lowers("pad")
def lower_pad(context: TranscriptionContext, node: InternalTorchIRNode) -> None:
    """Zeros around the last axes, of the input's own type: coremltools (9.0) writes them as fp32, and what it pads
    becomes fp32 with them."""
    x, amounts = get_inputs(context, node)[:2]
    pairs = np.reshape([int(amount) for amount in amounts.val], (-1, 2))[::-1]
    pad = np.concatenate([np.zeros((x.rank - len(pairs), 2), np.int32), pairs.astype(np.int32)]).reshape(-1)
    dtype = types.nptype_from_builtin(x.dtype)
    context.add(mb.pad(x=x, pad=pad, mode="constant", constant_val=dtype(0), name=node.name))


def _scaled(q: Var, head_dim: int, name: str) -> Var:
    dtype = types.nptype_from_builtin(q.dtype)
    return mb.mul(x=q, y=dtype(head_dim**-0.5), name=f"{name}_scale")


def _whole_attention(q: Var, k: Var, v: Var, mask: Var | None, heads: int, name: str) -> Var:
    """All heads in one product: the fused operation on iOS 18, elsewhere two products that transpose on the fly."""
    batch, channels, _, queries = q.shape
    head_dim = channels // heads

    def by_head(x: Var, part: str) -> Var:
        return mb.reshape(x=x, shape=(batch, heads, head_dim, x.shape[3]), name=f"{name}_{part}")

    if opset_is_at_least(ct.target.iOS18):
        rows = [
            mb.transpose(x=by_head(x, part), perm=[0, 1, 3, 2], name=f"{name}_{part}_rows")
            for x, part in ((q, "q"), (k, "k"), (v, "v"))
        ]
        attended = mb.scaled_dot_product_attention(
            query=rows[0], key=rows[1], value=rows[2], attn_mask=mask, name=f"{name}_sdpa"
        )
        out = mb.transpose(x=attended, perm=[0, 1, 3, 2], name=f"{name}_columns")
    else:
        scores = mb.matmul(
            x=by_head(_scaled(q, head_dim, name), "q"), y=by_head(k, "k"), transpose_x=True, name=f"{name}_scores"
        )
        if mask is not None:
            scores = mb.add(x=scores, y=mask, name=f"{name}_masked")
        weights = mb.softmax(x=scores, axis=-1, name=f"{name}_weights")
        out = mb.matmul(x=by_head(v, "v"), y=weights, transpose_y=True, name=f"{name}_values")
    return mb.reshape(x=out, shape=(batch, channels, 1, queries), name=name)


def _split_attention(q: Var, k: Var, v: Var, mask: Var | None, heads: int, chunk: int, name: str) -> Var:
    """One head (and one chunk of queries) at a time in (B, C, 1, S), softmax over the channel axis."""
    queries = q.shape[3]
    q = _scaled(q, q.shape[1] // heads, name)
    k_by_position = mb.transpose(x=k, perm=[0, 3, 2, 1], name=f"{name}_k")
    lengths = [min(chunk, queries - start) for start in range(0, queries, chunk)] if chunk else [queries]
    masks: list[Var | None] = [None] * len(lengths)
    if mask is not None:
        # (Q, K) to (1, K, 1, Q), one constant per chunk of queries.
        by_key = np.ascontiguousarray(mask.val.T)[None, :, None, :]
        stops = np.cumsum(lengths)
        masks = [
            mb.const(val=by_key[..., stop - length : stop], name=f"{name}_mask_{index}")
            for index, (length, stop) in enumerate(zip(lengths, stops, strict=True))
        ]
    heads_out = []
    parts = zip(
        _split(q, heads, 1, f"{name}_q_heads"),
        _split(k_by_position, heads, 3, f"{name}_k_heads"),
        _split(v, heads, 1, f"{name}_v_heads"),
        strict=True,
    )
    for q_head, k_head, v_head in parts:
        chunks = (
            [q_head] if len(lengths) == 1 else mb.split(x=q_head, split_sizes=lengths, axis=3, name=f"{name}_chunks")
        )
        columns = []
        for q_part, by_query in zip(chunks, masks, strict=True):
            # "bkhc,bchq->bkhq" and "bchk,bkhq->bchq", both in the one spelling MIL's einsum knows.
            scores = mb.einsum(values=(k_head, q_part), equation="nchw,nwhu->nchu", name=f"{name}_scores")
            if by_query is not None:
                scores = mb.add(x=scores, y=by_query, name=f"{name}_masked")
            weights = mb.softmax(x=scores, axis=1, name=f"{name}_weights")
            columns.append(mb.einsum(values=(v_head, weights), equation="nchw,nwhu->nchu", name=f"{name}_values"))
        heads_out.append(columns[0] if len(columns) == 1 else mb.concat(values=columns, axis=3, name=f"{name}_row"))
    if heads == 1:
        return heads_out[0]
    return mb.concat(values=heads_out, axis=1, name=name)


def _split(x: Var, parts: int, axis: int, name: str) -> list[Var]:
    # Named: a generated name ("split_3") could be that of a traced operation, whose module it would then be given.
    if parts == 1:
        return [x]
    return list(mb.split(x=x, num_splits=parts, axis=axis, name=name))


@_lowers("mul")
def lower_mul(context: TranscriptionContext, node: InternalTorchIRNode) -> None:
    """Elementwise product in which a Python number takes the tensor's precision, as in torch.

    coremltools 9.0 makes such numbers fp32 constants and promotes the fp16 tensor: an fp32 island in an fp16 graph.
    """
    x, y = _of_one_precision(get_inputs(context, node, expected=2))
    context.add(mb.mul(x=x, y=y, name=node.name))


@_lowers("sub")
def lower_sub(context: TranscriptionContext, node: InternalTorchIRNode) -> None:
    """Elementwise difference, with Python numbers as in `lower_mul`."""
    x, y, *alpha = get_inputs(context, node, expected=(2, 3))
    if alpha and alpha[0] is not None and alpha[0].val != 1:
        raise NotImplementedError(f"'{node.name}' subtracts a multiple")
    x, y = _of_one_precision([x, y])
    context.add(mb.sub(x=x, y=y, name=node.name))


def _of_one_precision(inputs: list[Var]) -> list[Var]:
    """Two operands; a Python number takes the precision of the fp16 tensor beside it."""
    for index, other in ((0, 1), (1, 0)):
        number = inputs[index]
        if number.rank == 0 and number.val is not None and inputs[other].dtype == types.fp16:
            inputs[index] = mb.const(val=np.float16(number.val))
    return list(promote_input_dtypes(inputs))

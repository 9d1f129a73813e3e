from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfmobile.bundle.directory import Bundle
from sfmobile.inspect.operations.blocks import OUTSIDE, assign_blocks, block_kind, block_of_name, stage_of
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.program import load_program
from tests.tiny import TINY_TEXT_ENCODER, TINY_UNET


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("down_blocks_0_resnets_1_conv1", "down_blocks.0.resnets.1"),
        ("up_blocks_2_attentions_0_transformer_blocks_0_attn1_to_q_weight_palettized", "up_blocks.2.attentions.0"),
        ("unet_mid_block_attentions_0_proj_in_weight_to_fp16", "mid_block.attentions.0"),
        ("up_blocks_1_upsamplers_0_conv", "up_blocks.1.upsamplers.0"),
        ("text_model_encoder_layers_11_mlp_fc1_weight", "layers.11"),
        ("layers_1_self_attn_to_q", "layers.1"),
        ("time_embedding_linear_1", "time_embedding"),
        ("token_embedding_weight", "embeddings"),
        ("conv_norm_out_batch_norm", "conv_norm_out"),
        ("post_quant_conv", "post_quant_conv"),
        ("input_27_cast_fp16", None),
        ("transpose_9", None),
    ],
)
def test_names_tell_their_block(name: str, block: str | None) -> None:
    assert block_of_name(name) == block


def test_kinds_and_stages_of_blocks() -> None:
    blocks = ("down_blocks.0.resnets.1", "mid_block.attentions.0", "layers.3", "conv_in")
    assert [block_kind(block) for block in blocks] == ["resnet", "attention", "layer", "conv_in"]
    assert [stage_of(block) for block in blocks] == ["down_blocks.0", "mid_block", "layers", "conv_in"]


def blocks_of(bundle: Bundle, component: Any) -> list[str]:
    """Blocks of a component in the order in which they begin."""
    graph = Graph(load_program(bundle.package(component)))
    found = assign_blocks(graph)
    return list(dict.fromkeys(found[operation.position] for operation in graph.program.operations))


@pytest.mark.parametrize("fixture", ["tiny_bundle", "tiny_palettized_bundle"])
def test_every_operation_of_our_unet_is_in_a_block_of_its_layout(fixture: str, request: pytest.FixtureRequest) -> None:
    found = blocks_of(request.getfixturevalue(fixture), "unet")
    borders = {"time_embedding", "conv_in", "conv_norm_out", "conv_out"}
    resampling = {"down_blocks.0.downsamplers.0", "up_blocks.0.upsamplers.0"}
    assert OUTSIDE not in found
    assert set(found) == borders | resampling | set(TINY_UNET.block_names())
    in_order = [block for block in found if block in TINY_UNET.block_names()]
    assert in_order == list(TINY_UNET.block_names())


def test_text_encoder_and_decoder_are_divided_too(tiny_bundle: Bundle) -> None:
    layers = [f"layers.{index}" for index in range(TINY_TEXT_ENCODER.layers)]
    assert blocks_of(tiny_bundle, "text_encoder") == ["embeddings", *layers, "final_layer_norm"]
    decoder = blocks_of(tiny_bundle, "decoder")
    assert OUTSIDE not in decoder
    assert {"mid_block.attentions.0", "up_blocks.0.resnets.1", "up_blocks.0.upsamplers.0"} <= set(decoder)


def test_a_plain_conversion_is_divided_by_its_weights_names(tmp_path: Path) -> None:
    import coremltools as ct

    from sfmobile.export.quiet import quiet

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stage = torch.nn.Module()
            stage.resnets = torch.nn.ModuleList(
                [torch.nn.ModuleDict({"conv1": torch.nn.Conv2d(4, 4, 3, padding=1)}) for _ in range(2)]
            )
            self.down_blocks = torch.nn.ModuleList([stage])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for resnet in self.down_blocks[0].resnets:
                x = x + resnet["conv1"](torch.nn.functional.silu(x)).relu()
            return x

    with quiet():
        traced = torch.jit.trace(Net().eval(), torch.zeros(1, 4, 8, 8))
        model = ct.convert(traced, inputs=[ct.TensorType(shape=(1, 4, 8, 8))], skip_model_load=True)
        model.save(str(tmp_path / "plain.mlpackage"))
    graph = Graph(load_program(tmp_path / "plain.mlpackage"))
    blocks = assign_blocks(graph)
    kinds = [(operation.kind, blocks[operation.position][-1]) for operation in graph.program.operations]
    computed = [kind for kind in kinds if kind[0] != "cast"]
    # The residual sum closes its block, the activation before a convolution opens the next.
    assert computed == [
        ("silu", "0"), ("conv", "0"), ("relu", "0"), ("add", "0"),
        ("silu", "1"), ("conv", "1"), ("relu", "1"), ("add", "1"),
    ]  # fmt: skip
    assert np.unique([block[:-1] for block in blocks.values()]).tolist() == ["down_blocks.0.resnets."]

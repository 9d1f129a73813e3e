"""Where NaN or infinity first appears."""

from __future__ import annotations

import numpy as np
import torch

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.verify.divergence import component_program
from sfmobile.verify.excitation import exciting_inputs
from sfmobile.verify.nonfinite import broken_module, broken_operation
from sfmobile.verify.recording import Call


def test_the_first_operation_and_the_first_module_are_named(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    inputs = exciting_inputs(tiny_bundle.manifest, "decoder", [])[0]
    whole, overflowing = Call("decoder", "", inputs, {}), Call("decoder", "", {"latents": inputs["latents"] * 1e6}, {})
    program, network = component_program(tiny_bundle, "decoder"), tiny_checkpoint.load("decoder")
    assert broken_operation(program, whole, "fp16") is None and broken_module(network, whole) is None
    found = broken_operation(program, overflowing, "fp16")
    assert found is not None and found.startswith("operation 1 of ") and found.endswith("in fp16")
    assert broken_operation(program, overflowing, "fp32") is None
    with torch.no_grad():
        network.mid_block.resnets[0].conv1.weight[0, 0, 0, 0] = np.nan
    assert broken_module(network, whole) == "module 'mid_block.resnets.0.conv1'"

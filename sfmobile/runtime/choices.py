"""What executes a bundle and how, as names: runtimes, evaluations, compute units. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal, get_args

RuntimeKind = Literal["coreml", "mil", "torch", "onnx", "coreai"]
# "auto" is decided by what a bundle holds and what this machine has.
RuntimeChoice = Literal["auto", "coreml", "mil", "torch", "onnx", "coreai"]
RUNTIME_CHOICES: tuple[RuntimeChoice, ...] = get_args(RuntimeChoice)

# What executes a single model of whoever's.
ModelRuntime = Literal["mil", "onnx", "coreml"]
MODEL_RUNTIMES: tuple[ModelRuntime, ...] = get_args(ModelRuntime)

# Runtimes with a choice of evaluation.
EVALUATING: tuple[RuntimeKind, ...] = ("mil", "coreai")
# Evaluation: fp32, or with every operation's result rounded to half precision.
Precision = Literal["fp32", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# Core ML's.
ComputeUnit = Literal["ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY"]
COMPUTE_UNITS: tuple[ComputeUnit, ...] = get_args(ComputeUnit)

"""Executes an exported ML Program (.mlpackage) on any machine, without Core ML: protobuf in, torch out.

`load_program` reads the package, `Evaluator` runs it, in one of two evaluations:

fp32    every float is float32: what the graph computes, without the rounding of the target.
fp16    each op computes in float32 and its result is rounded to float16 where the program says float16, with
        overflow to infinity: wide accumulators and half-precision values between ops, as measured on the Neural
        Engine and within 0.3 dB of native float16 arithmetic.
"""

from __future__ import annotations

from sfmobile.runtime.mil.evaluate import Evaluator, OpResult
from sfmobile.runtime.mil.program import Program, load_program

__all__ = ["Evaluator", "OpResult", "Program", "load_program"]

"""Executes an exported ML Program (.mlpackage) on any machine, without Core ML: protobuf in, torch out.

`program.load_program` reads a package (without torch), `evaluate.Evaluator` runs it, in one of two evaluations:

fp32    every float is float32: what the graph computes, without the rounding of the target.
fp16    each op computes in float32 and its result is rounded to float16 where the program says float16, with
        overflow to infinity: wide accumulators and half-precision values between ops, as measured on the Neural
        Engine and within 0.3 dB of native float16 arithmetic.
"""

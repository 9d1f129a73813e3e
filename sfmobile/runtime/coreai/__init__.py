"""ML Programs bridged to Apple's Core AI, operation by operation, and executed by Apple's own runtime.

A second implementation of every operator by the people who make the target: it runs on Linux, on reference CPU kernels.
In fp32 it is an oracle for the `mil` runtime; in fp16 it rounds what it stores as `mil` does, but for matrix products
(summed one by one in fp16) and gelu (see `bridge.WIDENED`). It is no Neural Engine and says nothing about one.
"""

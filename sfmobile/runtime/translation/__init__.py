"""An ML Program as an ONNX graph in float32, for ONNX Runtime. Agrees with the mil runtime's fp32 evaluation."""

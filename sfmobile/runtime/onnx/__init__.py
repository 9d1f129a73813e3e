"""ML Programs translated to ONNX and run by ONNX Runtime."""

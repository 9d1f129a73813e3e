"""From a checkpoint's networks to Core ML packages or ONNX files, one loop over component specs."""

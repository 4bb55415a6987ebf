"""TensorRT plans: built from exported ONNX files, described beside themselves, inspected, packaged for Triton."""

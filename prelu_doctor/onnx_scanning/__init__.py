"""Scanning an ONNX file: the statistics are computed inside its graph by onnxruntime."""

"""A sampler as an ONNX file: `export.export`."""

"""The nodes of the ONNX graph. Knows no PyTorch."""

"""The engine, which computes tokens. Only this package imports ONNX Runtime."""

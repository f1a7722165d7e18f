"""How tokens are computed. The only room that imports ONNX Runtime."""

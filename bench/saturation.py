"""Whether u8 x s8 products are exact on a processor, with and without what rfprm-lite asks ONNX Runtime for.

    qemu-x86_64 -cpu Haswell $(which python) bench/saturation.py
    qemu-aarch64 -cpu neoverse-n1 -L ROOT ROOT/usr/bin/python3 bench/saturation.py

Run under an emulated processor without VNNI: the plain kernel saturates there, the one that the runtime asks for must
not. Ends with 1 where that one is wrong. ROOT: a folder with an Arm system's Python (see
bench/log/2026-11-26-int8-arm-emulated.md).
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ROWS, INNER, COLUMNS, ZERO_POINT = 5, 896, 33, 128


def main() -> None:
    """Print the share of wrong products by each kernel."""
    draw = np.random.default_rng(0)
    weights = draw.integers(-127, 128, (INNER, COLUMNS)).astype(np.int8)
    # Neighbouring products are added in 16 bits: the ends of both ranges make them overflow.
    weights[: INNER // 2] = np.where(weights[: INNER // 2] < 0, -127, 127)
    activations = np.where(draw.random((ROWS, INNER)) < 0.5, 255, draw.integers(0, 256, (ROWS, INNER))).astype(np.uint8)
    exact = (activations.astype(np.int64) - ZERO_POINT) @ weights.astype(np.int64)
    wrong = {name: float((products(weights, activations, name) != exact).mean()) for name in ("0", "1")}
    print(f"wrong products: {wrong['0']:.1%} as it is, {wrong['1']:.1%} with session.x64quantprecision=1")
    sys.exit(1 if wrong["1"] else 0)


def products(weights: np.ndarray, activations: np.ndarray, precision: str) -> np.ndarray:
    """By MatMulIntegerToFloat, as in the int8 variant's graph."""
    constants = {
        "weights": weights,
        "one": np.array(1, np.float32),
        "scales": np.ones(COLUMNS, np.float32),
        "zero": np.array(ZERO_POINT, np.uint8),
    }
    node = helper.make_node(
        "MatMulIntegerToFloat", ["x", "weights", "one", "scales", "zero"], ["y"], domain="com.microsoft"
    )
    graph = helper.make_graph(
        [node],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", INNER])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", COLUMNS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", precision)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": activations})[0])


if __name__ == "__main__":
    main()

"""Whether u8 x s8 products are exact on a processor: of any weights, and of pairs that fit 16 bits.

    python bench/without_vnni.py FOLDER --as avx2; PYTHONPATH=FOLDER python bench/saturation.py
    qemu-x86_64 -cpu Haswell $(which python) bench/saturation.py
    qemu-aarch64 -cpu neoverse-n1 -L ROOT ROOT/usr/bin/python3 bench/saturation.py

Run on kernels without VNNI: any weights saturate there. Those for which rfprm-lite asks ONNX Runtime for other kernels
must not, nor must pairs. Ends with 1 where one of these is wrong. ROOT: a folder with an Arm system's Python (see
bench/log/2026-11-26-int8-arm-emulated.md).
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

INNER, COLUMNS, ZERO_POINT = 899, 33, 128
ROWS = (1, 2, 5, 64)
"""One row and few have kernels of their own."""
LARGEST_PAIR = 128


def main() -> None:
    """Print the share of wrong products."""
    draw = np.random.default_rng(0)
    weights = draw.integers(-127, 128, (INNER, COLUMNS)).astype(np.int8)
    # Neighbouring products are added in 16 bits: the ends of both ranges make them overflow.
    weights[: INNER // 2] = np.where(weights[: INNER // 2] < 0, -127, 127)
    second = weights[1::2].astype(int)
    first = weights[0:-1:2].astype(int)
    pairs = weights.copy()
    pairs[1::2] = np.clip(second, -LARGEST_PAIR - first, LARGEST_PAIR - first)
    of_any, asked, of_pairs = wrong(weights, "0"), wrong(weights, "1"), wrong(pairs, "0")
    print(f"wrong products: {of_any:.1%} of any weights, {asked:.1%} with session.x64quantprecision=1")
    print(f"wrong products: {of_pairs:.1%} of pairs that fit 16 bits")
    sys.exit(1 if asked or of_pairs else 0)


def wrong(weights: np.ndarray, precision: str) -> float:
    """The share of products that are not exact, of activations from 0 to 255 that are often at an end."""
    draw = np.random.default_rng(1)
    shares = []
    for rows in ROWS:
        ends = draw.choice([0, 255], (rows, INNER), p=[0.3, 0.7])
        activations = np.where(draw.random((rows, INNER)) < 0.8, ends, draw.integers(0, 256, (rows, INNER)))
        exact = (activations - ZERO_POINT) @ weights.astype(np.int64)
        shares.append((products(weights, activations.astype(np.uint8), precision) != exact).mean())
    return float(np.mean(shares))


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

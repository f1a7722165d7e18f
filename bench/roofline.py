"""Where our engine's time goes, and how near its products come to what the machine can do.

The peaks are measured in the same run: the best of several shapes and libraries, for INT8, BF16 and FP32.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.table import Table

from contender import ModelPaths
from models import CONTENDING
from rfprm_lite.bundle import manifest as manifests
from rfprm_lite.bundle.manifest import Variant
from rfprm_lite.engine.engine import Engine
from rfprm_lite.engine.session import session_options
from rfprm_lite.plan.call import Call
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.scoring.wiring import budget_of, layout_of
from workloads import Workload

SHAPES = ((512, 896, 4864), (512, 2048, 2048), (2048, 896, 4864))
"""M, K, N of the products that the peaks are taken from."""
PEAK_SECONDS = 0.5

PRODUCTS = {"Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits"}
GROUPS = {
    **dict.fromkeys(PRODUCTS, "products"),
    "MatMul": "mixing",  # and the attention of the last layer's read-outs
    "FusedMatMul": "mixing",
    "GroupQueryAttention": "attention",
    "Softmax": "attention",
    "RotaryEmbedding": "attention",
    "SimplifiedLayerNormalization": "norms",
    "SkipSimplifiedLayerNormalization": "norms",
    "QuantizeLinear": "quantising",
    "DynamicQuantizeLinear": "quantising",
    "ReduceMax": "quantising",
    "ReduceMin": "quantising",
}
"""What a node's time is counted under; `rest` for all others."""


def profile(paths: ModelPaths, threads: int, workloads: Sequence[Workload]) -> dict[str, Any]:
    """Peaks in operations a second, and for each CPU variant and workload the share of time by group, the throughput
    inside the products, and that as a fraction of the peak of the variant's arithmetic."""
    found = peaks(threads)
    manifest = manifests.load(Path(paths.bundle) / manifests.FILE_NAME)
    runs = [
        _profile(Path(paths.bundle), manifest, variant, workload, threads, found)
        for variant in manifest.variants
        if variant.name in CONTENDING
        for workload in workloads
    ]
    return {"peaks": found, "runs": runs}


def peaks(threads: int) -> dict[str, float]:
    """The most operations (multiplications and additions) a second that any product reached."""
    torch.set_num_threads(threads)
    found: dict[str, float] = defaultdict(float)
    for m, k, n in SHAPES:
        for kind, product in (
            ("int8", _onnx(m, k, n, threads, integer=True)),
            ("int8", _torch_int8(m, k, n)),
            ("bf16", _torch(m, k, n, torch.bfloat16)),
            ("fp32", _onnx(m, k, n, threads, integer=False)),
            ("fp32", _torch(m, k, n, torch.float32)),
        ):
            found[kind] = max(found[kind], 2 * m * k * n / _fastest(product))
    return dict(found)


def tables(profiled: dict[str, Any]) -> list[Table]:
    """The profile for a terminal."""
    shown = Table(title="our engine: share of time", title_justify="left")
    groups = ("products", "attention", "norms", "mixing", "quantising", "rest")
    for column in ("variant", "workload", *groups, "outside nodes", "products, Gop/s", "of the peak"):
        shown.add_column(column, justify="right")
    for run in profiled["runs"]:
        shares = [f"{run['share'].get(group, 0):.0%}" for group in groups]
        of_peak = f"{run['of_peak']:.0%} of {run['peak']}"
        outside = f"{run['outside']:.0%}"
        speed = f"{run['products_per_second'] / 1e9:.0f}"
        shown.add_row(run["variant"], run["workload"], *shares, outside, speed, of_peak)
    measured = ", ".join(f"{kind} {speed / 1e9:.0f}" for kind, speed in profiled["peaks"].items())
    shown.caption = f"peaks, Gop/s: {measured}"
    return [shown]


def _profile(
    folder: Path,
    manifest: manifests.Manifest,
    variant: Variant,
    workload: Workload,
    threads: int,
    found: dict[str, float],
) -> dict[str, Any]:
    """One workload, after a warm-up that is not counted."""
    with tempfile.TemporaryDirectory() as temporary:
        options = session_options(threads, sums_fit_16_bits=variant.sums_fit_16_bits)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(temporary) / "profile")
        session = ort.InferenceSession(folder / variant.files[0].path, options, providers=["CPUExecutionProvider"])
        layout = layout_of(manifest, variant)
        budget = budget_of(manifest)
        engine = Engine(session, layout, variant.lanes, budget.least_readouts)
        calls = [[TokenSequence(np.array(s.ids), np.array(s.reads)) for s in call] for call in workload.calls]
        for call in calls:
            Call(engine, budget=budget).rewards(call)
        ended_warm_up = time.perf_counter()
        for call in calls:
            Call(engine, budget=budget).rewards(call)
        seconds = time.perf_counter() - ended_warm_up
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    counted = nodes[len(nodes) // 2 :]  # both passes run the same nodes
    return {"variant": variant.name, "workload": workload.name, **_account(counted, seconds, found, variant.dtype)}


def _account(nodes: list[dict[str, Any]], seconds: float, found: dict[str, float], dtype: str) -> dict[str, Any]:
    by_group: dict[str, float] = defaultdict(float)
    by_kind: dict[str, float] = defaultdict(float)
    operations = 0
    for node in nodes:
        kind, spent = node["args"]["op_name"], node["dur"] / 1e6
        by_group[GROUPS.get(kind, "rest")] += spent
        by_kind[kind] += spent
        if kind in PRODUCTS:
            operations += _operations(node)
    inside = sum(by_group.values())
    peak = "int8" if dtype == "int8" else "fp32"
    speed = operations / by_group["products"]
    return {
        "seconds": seconds,
        "share": {group: spent / seconds for group, spent in by_group.items()},
        "outside": 1 - inside / seconds,
        "by_kind": {kind: spent / seconds for kind, spent in sorted(by_kind.items(), key=lambda item: -item[1])},
        "products_per_second": speed,
        "peak": peak,
        "of_peak": speed / found[peak],
    }


def _operations(node: dict[str, Any]) -> int:
    """Multiplications and additions of a product, from the shapes of its output and of its first input."""
    (output,) = (shape for typed in node["args"]["output_type_shape"][:1] for shape in typed.values())
    (left,) = (shape for typed in node["args"]["input_type_shape"][:1] for shape in typed.values())
    return 2 * int(np.prod(output)) * int(left[-1])


def _fastest(product: Callable[[], object]) -> float:
    """Seconds of the fastest call within PEAK_SECONDS."""
    product()
    best, end = np.inf, time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return float(best)


def _onnx(m: int, k: int, n: int, threads: int, *, integer: bool) -> Callable[[], object]:
    """ONNX Runtime: u8 activations by s8 weights, or floats."""
    draw = np.random.default_rng(0)
    left_type = TensorProto.UINT8 if integer else TensorProto.FLOAT
    left = draw.integers(0, 255, (m, k), np.uint8) if integer else draw.standard_normal((m, k), np.float32)
    right = draw.integers(-127, 127, (k, n), np.int8) if integer else draw.standard_normal((k, n), np.float32)
    kind, result = ("MatMulInteger", TensorProto.INT32) if integer else ("MatMul", TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node(kind, ["left", "right"], ["out"])],
        "product",
        [helper.make_tensor_value_info("left", left_type, [m, k])],
        [helper.make_tensor_value_info("out", result, [m, n])],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), session_options(threads), ["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("left", left)
    binding.bind_ortvalue_output(
        "out", ort.OrtValue.ortvalue_from_numpy(np.empty((m, n), np.int32 if integer else np.float32))
    )
    return lambda: session.run_with_iobinding(binding)


def _torch(m: int, k: int, n: int, dtype: torch.dtype) -> Callable[[], object]:
    left, right = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    return lambda: torch.nn.functional.linear(left, right)


def _torch_int8(m: int, k: int, n: int) -> Callable[[], object]:
    left = torch.randint(-127, 127, (m, k), dtype=torch.int8)
    right = torch.randint(-127, 127, (k, n), dtype=torch.int8)
    return lambda: torch._int_mm(left, right)  # noqa: SLF001  # PyTorch has no public INT8 product

"""One GroupQueryAttention for all lanes, by `query_seqlens`, against one node a lane as in our graphs.

    python bench/one_attention.py

One layer of the 0.5B shape, keys and values in shared buffers, its INT8 products beside it. Segments of a case are of
one length; rows are gathered into the one node's batch and out of it, as ragged ones would be. First both ways are
compared to the bit, then they are timed in turns.
ONNX Runtime 1.32 at least.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from rfprm_lite.engine.session import session_options

HEADS, GROUPS, SIZE, HIDDEN, INNER = 14, 2, 64, 896, 4864
QKV, QUERIES, CAPACITY = (HEADS + 2 * GROUPS) * SIZE, HEADS * SIZE, 2048
ROUNDS = 15
THREADS = 2
ATTRIBUTES = {"num_heads": HEADS, "kv_num_heads": GROUPS, "do_rotary": 1}


@dataclass(frozen=True, slots=True)
class Case:
    """A run: `used` of the graph's `lanes` have `tokens` tokens each, behind `past` cached ones."""

    lanes: int
    used: int
    tokens: int
    past: int

    @property
    def rows(self) -> int:
        return self.used * self.tokens


CASES = (
    Case(4, 1, 128, 256),
    Case(4, 1, 256, 1024),
    Case(4, 4, 8, 256),
    Case(4, 4, 16, 256),
    Case(4, 4, 64, 256),
    Case(8, 8, 16, 256),
    Case(16, 16, 16, 256),
    Case(16, 4, 16, 256),
    Case(16, 1, 128, 256),
)


def session(
    nodes: list[NodeProto], inputs: dict[str, tuple[int, list]], constants: dict[str, np.ndarray]
) -> ort.InferenceSession:
    """A graph whose output is "out", and whose caches are what "present." outputs name."""
    made = [name for node in nodes for name in node.output if name == "out" or name.startswith("present.")]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(name, *told) for name, told in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), session_options(THREADS), providers=["CPUExecutionProvider"])


def rotary() -> dict[str, np.ndarray]:
    angles = np.outer(np.arange(CAPACITY), 1e6 ** (-np.arange(SIZE // 2) / (SIZE // 2)))
    return {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}


def a_node_a_lane(case: Case, qkv: np.ndarray, caches: np.ndarray) -> Callable[[], np.ndarray]:
    """As in our graphs: rows are split by lane, and an idle lane has one row."""
    cache = (TensorProto.FLOAT, [1, GROUPS, CAPACITY, SIZE])
    inputs = {"qkv": (TensorProto.FLOAT, ["rows", QKV]), "sizes": (TensorProto.INT64, [case.lanes])}
    nodes = [
        helper.make_node("Unsqueeze", ["qkv", "zero"], ["batch"]),
        helper.make_node("Split", ["batch", "sizes"], [f"rows.{i}" for i in range(case.lanes)], axis=1),
    ]
    for i in range(case.lanes):
        inputs |= {f"past.{kind}.{i}": cache for kind in "kv"}
        inputs |= {f"last.{i}": (TensorProto.INT32, [1]), f"total.{i}": (TensorProto.INT32, [])}
        taken = [f"rows.{i}", "", "", f"past.k.{i}", f"past.v.{i}", f"last.{i}", f"total.{i}", "cos", "sin"]
        given = [f"attended.{i}", f"present.k.{i}", f"present.v.{i}"]
        nodes.append(helper.make_node("GroupQueryAttention", taken, given, domain="com.microsoft", **ATTRIBUTES))
    nodes += [
        helper.make_node("Concat", [f"attended.{i}" for i in range(case.lanes)], ["joined"], axis=1),
        helper.make_node("Squeeze", ["joined", "zero"], ["out"]),
    ]
    opened = session(nodes, inputs, {"zero": np.array([0]), **rotary()})
    idle = case.lanes - case.used
    tokens = np.array([case.tokens] * case.used + [1] * idle)
    binding = opened.io_binding()
    binding.bind_cpu_input("qkv", np.concatenate([qkv, np.zeros((idle, QKV), np.float32)]))
    binding.bind_cpu_input("sizes", tokens)
    for i in range(case.lanes):
        total = case.past + case.tokens if i < case.used else 1
        binding.bind_cpu_input(f"last.{i}", np.array([total - 1], np.int32))
        binding.bind_cpu_input(f"total.{i}", np.array(total, np.int32))
        for at, kind in enumerate("kv"):
            bind_shared(binding, f"{kind}.{i}", caches[at, i : i + 1])
    return running(opened, binding, case.rows)


def one_node(case: Case, qkv: np.ndarray, caches: np.ndarray) -> Callable[[], np.ndarray]:
    """Rows are padded to a batch; there is no idle lane."""
    cache = (TensorProto.FLOAT, ["batch", GROUPS, CAPACITY, SIZE])
    inputs = {
        "qkv": (TensorProto.FLOAT, ["rows", QKV]),
        "padded": (TensorProto.INT64, ["batch", "longest"]),
        "kept": (TensorProto.INT64, ["rows"]),
        "past.k": cache,
        "past.v": cache,
        **{name: (TensorProto.INT32, ["batch"]) for name in ("last", "tokens")},
        "total": (TensorProto.INT32, []),
    }
    taken = ["batch", "", "", "past.k", "past.v", "last", "total", "cos", "sin", *[""] * 7, "tokens"]
    nodes = [
        helper.make_node("Gather", ["qkv", "padded"], ["batch"]),
        helper.make_node(
            "GroupQueryAttention", taken, ["attended", "present.k", "present.v"], domain="com.microsoft", **ATTRIBUTES
        ),
        helper.make_node("Reshape", ["attended", "flat"], ["joined"]),
        helper.make_node("Gather", ["joined", "kept"], ["out"]),
    ]
    opened = session(nodes, inputs, {"flat": np.array([-1, QUERIES]), **rotary()})
    total = case.past + case.tokens
    rows = np.arange(case.rows)
    binding = opened.io_binding()
    binding.bind_cpu_input("qkv", qkv)
    binding.bind_cpu_input("padded", rows.reshape(case.used, case.tokens))
    binding.bind_cpu_input("kept", rows)
    binding.bind_cpu_input("last", np.full(case.used, total - 1, np.int32))
    binding.bind_cpu_input("tokens", np.full(case.used, case.tokens, np.int32))
    binding.bind_cpu_input("total", np.array(total, np.int32))
    for at, kind in enumerate("kv"):
        bind_shared(binding, kind, caches[at, : case.used])
    return running(opened, binding, case.rows)


def bind_shared(binding: ort.IOBinding, name: str, buffer: np.ndarray) -> None:
    place = ("cpu", 0, np.float32, list(buffer.shape), buffer.ctypes.data)
    binding.bind_input(f"past.{name}", *place)
    binding.bind_output(f"present.{name}", *place)


def running(opened: ort.InferenceSession, binding: ort.IOBinding, rows: int) -> Callable[[], np.ndarray]:
    """Runs what is bound. The caches are bound by address: the caller keeps them."""
    binding.bind_output("out")

    def run() -> np.ndarray:
        opened.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()[:rows]

    return run


def products(rows: int) -> Callable[[], object]:
    """The products of a layer in INT8: u8 x s8 to float32."""
    draw = np.random.default_rng(0)
    sizes = {"qkv": (HIDDEN, QKV), "o": (QUERIES, HIDDEN), "gate_up": (HIDDEN, 2 * INNER), "down": (INNER, HIDDEN)}
    constants = {name: draw.integers(-127, 128, size).astype(np.int8) for name, size in sizes.items()}
    constants |= {f"{name}.scale": np.ones(size[1], np.float32) for name, size in sizes.items()}
    constants |= {"one": np.array(1, np.float32), "zero": np.array(128, np.uint8)}
    nodes = [
        helper.make_node(
            "MatMulIntegerToFloat", [f"{name}.x", name, "one", f"{name}.scale", "zero"], [f"present.{name}"],
            domain="com.microsoft",
        )
        for name in sizes
    ]  # fmt: skip
    feeds = {f"{name}.x": draw.integers(0, 256, (rows, size[0])).astype(np.uint8) for name, size in sizes.items()}
    inputs = {f"{name}.x": (TensorProto.UINT8, ["rows", size[0]]) for name, size in sizes.items()}
    opened = session(nodes, inputs, constants)
    return lambda: opened.run(None, feeds)


def interleaved(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            way()
            times, started = 0, time.perf_counter()
            while time.perf_counter() - started < 0.05:
                way()
                times += 1
            seconds[name].append((time.perf_counter() - started) / times)
    return {name: 1e3 * statistics.median(measured) for name, measured in seconds.items()}


def main() -> None:
    """Print milliseconds a layer."""
    table = Table("lanes", "used", "tokens each", "behind", "a node a lane", "one node", "products of the rows")
    for case in CASES:
        draw = np.random.default_rng(1)
        qkv = draw.normal(size=(case.rows, QKV)).astype(np.float32)
        caches = draw.normal(size=(2, case.lanes, GROUPS, CAPACITY, SIZE)).astype(np.float32)
        of_lanes, of_one = caches.copy(), caches.copy()
        ways = {"lanes": a_node_a_lane(case, qkv, of_lanes), "one": one_node(case, qkv, of_one)}
        if not np.array_equal(ways["lanes"](), ways["one"]()):
            raise SystemExit(f"{case}: the two ways differ")
        took = interleaved({**ways, "products": products(case.rows)})
        told = (case.lanes, case.used, case.tokens, case.past)
        table.add_row(*map(str, told), *(f"{took[name]:.2f}" for name in ("lanes", "one", "products")))
    Console().print(table)


if __name__ == "__main__":
    main()

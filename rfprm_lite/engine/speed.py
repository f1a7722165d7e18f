"""How fast this machine is: products, layers and attention by themselves, and what that makes of whole models.

In: a number of threads. Out: a `Speed`, measured in some ten seconds, which predicts the time of a `Workload` for a
`Shape`. Layers are like those of the exporter's graphs, with weights drawn at random: no bundle is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.onnx_bytes import GraphBytes
from rfprm_lite.engine.session import open_session

MICROSOFT = "com.microsoft"
SECONDS = 1.0
"""For which each thing is timed, after a warm-up; three times at least."""
TOKENS = 256
"""Of a run, which is the runtime's own most."""
MIXED = 32
"""Neighbouring channels that an INT8 graph mixes."""
PRODUCT = (TOKENS, 896, 4864)
"""Rows, inputs and outputs of the lone product."""

Dtype = Literal["int8", "fp32"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a backbone.

    Attributes:
        name: What people call it.
        layers: Decoder layers.
        hidden: Features of the residual stream.
        inner: Features of the MLP.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_size: Features of a head.
    """

    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int

    @property
    def queries(self) -> int:
        """Features of the queries."""
        return self.heads * self.head_size

    @property
    def attended(self) -> int:
        """Features of queries, keys and values."""
        return self.queries + 2 * self.kv_heads * self.head_size

    @property
    def weights(self) -> int:
        """Weights of a layer's products."""
        return self.hidden * (self.attended + self.queries + 3 * self.inner)


SHAPES = (
    Shape("0.5B", 24, 896, 4864, 14, 2, 64),
    Shape("1.5B", 28, 1536, 8960, 12, 2, 128),
    Shape("7B", 28, 3584, 18_944, 28, 4, 128),
)
"""Qwen2.5's, which the known PRMs are made of."""
LAYERS: tuple[tuple[Dtype, Shape], ...] = (("int8", SHAPES[0]), ("int8", SHAPES[1]), ("fp32", SHAPES[0]))
"""What is timed. Larger layers would need more memory and time than a look at the machine may take."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is predicted.

    Attributes:
        name: As in the benchmarks.
        title: In words.
        tokens: That are computed.
        attention: How many times (tokens, behind so many) attend in a layer.
    """

    name: str
    title: str
    tokens: int
    attention: tuple[tuple[int, int, int], ...]


WORKLOADS = (
    Workload("W1", "best of 16, prompt 256, candidates of 128", 2304, ((1, 256, 0), (16, 128, 256))),
    Workload("W2", "one trace of 4,096", 4096, ((16, 256, 1920),)),
)
"""Chunks of a long trace stand behind 0 to 3,840 tokens, 1,920 on average, and the time grows as a line."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured.

    Attributes:
        products: Multiplications and additions a second of a lone product, by type.
        layers: Seconds of a layer for TOKENS tokens without its attention, by type and the shape's name.
        attention: Seconds of a layer's attention, by the size of a head and (tokens, behind so many), and the heads
            that it was measured with.
    """

    products: dict[Dtype, float]
    layers: dict[tuple[Dtype, str], float]
    attention: dict[tuple[int, int, int], tuple[float, int]]

    @classmethod
    def measured(cls, threads: int | None) -> Speed:
        """Measure.

        Args:
            threads: Within an operator; None for as many as a `PRM` takes.
        """
        operations = 2 * float(np.prod(PRODUCT))
        products: dict[Dtype, float] = {
            "int8": operations / _seconds(_int8_product(), threads),
            "fp32": operations / _seconds(_fp32_product(), threads),
        }
        layers = {(dtype, shape.name): _seconds(layer(dtype, shape), threads) for dtype, shape in LAYERS}
        attention = {
            (shape.head_size, tokens, past): (_seconds(_attention(shape, tokens, past), threads), shape.heads)
            for shape in SHAPES[:2]
            for workload in WORKLOADS
            for _, tokens, past in workload.attention
        }
        return cls(products, layers, attention)

    def predict(self, workload: Workload, shape: Shape, dtype: Dtype) -> float:
        """Predict the seconds of a workload.

        A shape that was not timed is scaled, by its weights and heads, from the largest below it. The last layer
        computes little but keys and values, and is left out.
        """
        timed = [known for kind, known in LAYERS if kind == dtype and known.weights <= shape.weights][-1]
        layer = self.layers[dtype, timed.name] * shape.weights / timed.weights
        attention = 0.0
        for times, tokens, past in workload.attention:
            seconds, heads = self.attention[shape.head_size, tokens, past]
            attention += times * seconds * shape.heads / heads
        return (shape.layers - 1) * (workload.tokens / TOKENS * layer + attention)


@dataclass(frozen=True, slots=True)
class Timed:
    """A graph and what it is run on."""

    model: bytes
    feeds: dict[str, NDArray[np.generic]]


def layer(dtype: Dtype, shape: Shape) -> Timed:
    """Make a layer without its attention: the queries go on as if they were what is attended."""
    g, draw = GraphBytes(), np.random.default_rng(1)
    typed = ("float32", (TOKENS, shape.hidden))
    after = _int8_layer(g, shape) if dtype == "int8" else _fp32_layer(g, shape)
    model = g.model({"stream": typed, "added": typed}, dict.fromkeys(after, typed))
    return Timed(model, {name: draw.standard_normal(typed[1], np.float32) for name in ("stream", "added")})


def _int8_layer(g: GraphBytes, shape: Shape) -> tuple[str, str]:
    """As rfprm_export.graph has it: the residual stream, and what is still to be added to it."""
    draw, ones = np.random.default_rng(0), g.constant(np.ones(shape.hidden, np.float32))
    one, zero, axis = (g.constant(np.array(*value)) for value in ((1, np.float32), (128, np.uint8), ([1], np.int64)))
    zeros = g.constant(np.full(TOKENS, 128, np.uint8))

    def mixed(x: str, features: int) -> str:
        groups = g.op("Reshape", [x, g.constant(np.array([-1, MIXED], np.int64))])
        products = g.op("MatMul", [groups, g.constant(draw.standard_normal((MIXED, MIXED), np.float32))])
        return g.op("Reshape", [products, g.constant(np.array([-1, features], np.int64))])

    def operand(x: str) -> tuple[str, str]:
        lowest, highest = (g.op(kind, [x, axis], keepdims=0) for kind in ("ReduceMin", "ReduceMax"))
        largest = g.op("Max", [highest, g.op("Neg", [lowest]), g.constant(np.array(1e-20, np.float32))])
        scales = g.op("Mul", [largest, g.constant(np.array(1 / 127, np.float32))])
        return g.op("QuantizeLinear", [x, scales, zeros], axis=0), g.op("Unsqueeze", [scales, axis])

    def product(values: str, features: int, outputs: int) -> str:
        weight = g.constant(draw.integers(-64, 65, (features, outputs), np.int8))
        scales = g.constant(np.full(outputs, 1 / features, np.float32))
        return g.op("MatMulIntegerToFloat", [values, weight, one, scales, zero], MICROSOFT)

    normed, stream = _norm(g, "stream", "added", ones)
    values, scale = operand(mixed(normed, shape.hidden))
    attended = g.op("Mul", [product(values, shape.hidden, shape.attended), scale])
    values, scale = operand(_queries(g, shape, attended))
    added = g.op("Mul", [product(values, shape.queries, shape.hidden), scale])
    normed, stream = _norm(g, stream, added, ones)
    values, scale = operand(mixed(normed, shape.hidden))
    gate = g.op("Mul", [product(values, shape.hidden, shape.inner), scale])
    inner = _gated(g, gate, product(values, shape.hidden, shape.inner))
    values, pending = operand(mixed(inner, shape.inner))
    scale = g.op("Mul", [pending, scale])
    return stream, g.op("Mul", [product(values, shape.inner, shape.hidden), scale])


def _fp32_layer(g: GraphBytes, shape: Shape) -> tuple[str, str]:
    draw, ones = np.random.default_rng(0), g.constant(np.ones(shape.hidden, np.float32))

    def product(x: str, features: int, outputs: int) -> str:
        return g.op("Gemm", [x, g.constant(draw.standard_normal((outputs, features), np.float32))], transB=1)

    normed, stream = _norm(g, "stream", "added", ones)
    attended = product(normed, shape.hidden, shape.attended)
    added = product(_queries(g, shape, attended), shape.queries, shape.hidden)
    normed, stream = _norm(g, stream, added, ones)
    gate, up = (product(normed, shape.hidden, shape.inner) for _ in range(2))
    return stream, product(_gated(g, gate, up), shape.inner, shape.hidden)


def _norm(g: GraphBytes, stream: str, added: str, weight: str) -> tuple[str, str]:
    """The norm of the stream with what is added to it, and the new stream."""
    inputs = [stream, added, weight]
    normed, *_, after = g.ops("SkipSimplifiedLayerNormalization", inputs, 4, MICROSOFT, unused=(1, 2), epsilon=1e-6)
    return normed, after


def _gated(g: GraphBytes, gate: str, up: str) -> str:
    return g.op("Mul", [g.op("QuickGelu", [gate], MICROSOFT, alpha=1.0), up])


def _queries(g: GraphBytes, shape: Shape, attended: str) -> str:
    """The first part of queries, keys and values; as many features as attention gives."""
    sizes = g.constant(np.array([shape.queries, shape.attended - shape.queries], np.int64))
    return g.ops("Split", [attended, sizes], 2, axis=1)[0]


def _int8_product() -> Timed:
    g, draw = GraphBytes(), np.random.default_rng(0)
    rows, features, outputs = PRODUCT
    weight = g.constant(draw.integers(-64, 65, (features, outputs), np.int8))
    product = g.op("MatMulInteger", ["x", weight])
    model = g.model({"x": ("uint8", (rows, features))}, {product: ("int32", (rows, outputs))})
    return Timed(model, {"x": draw.integers(0, 256, (rows, features), np.uint8)})


def _fp32_product() -> Timed:
    g, draw = GraphBytes(), np.random.default_rng(0)
    rows, features, outputs = PRODUCT
    product = g.op("MatMul", ["x", g.constant(draw.standard_normal((features, outputs), np.float32))])
    model = g.model({"x": ("float32", (rows, features))}, {product: ("float32", (rows, outputs))})
    return Timed(model, {"x": draw.standard_normal((rows, features), np.float32)})


def _attention(shape: Shape, tokens: int, past: int) -> Timed:
    """One layer's, with its rotation, `tokens` behind `past` others."""
    g, draw = GraphBytes(), np.random.default_rng(0)
    total, cache = past + tokens, (1, shape.kv_heads, past, shape.head_size)
    angles = [g.constant(draw.standard_normal((total, shape.head_size // 2), np.float32)) for _ in range(2)]
    last, length = g.constant(np.array([total - 1], np.int32)), g.constant(np.array(total, np.int32))
    attended, *_ = g.ops(
        "GroupQueryAttention",
        ["x", "", "", "keys", "values", last, length, *angles],
        3,
        MICROSOFT,
        num_heads=shape.heads,
        kv_num_heads=shape.kv_heads,
        do_rotary=1,
    )
    x = (1, tokens, shape.attended)
    model = g.model(
        {"x": ("float32", x), "keys": ("float32", cache), "values": ("float32", cache)},
        {attended: ("float32", (1, tokens, shape.queries))},
    )
    feeds = {"x": x, "keys": cache, "values": cache}
    return Timed(model, {name: draw.standard_normal(size, np.float32) for name, size in feeds.items()})


def _seconds(timed: Timed, threads: int | None) -> float:
    """The median of a call."""
    session = open_session(timed.model, DeviceSpec("cpu"), threads, sums_fit_16_bits=True)
    return median_seconds(lambda: session.run(None, timed.feeds))


def median_seconds(call: Callable[[], object]) -> float:
    """The median time of a call, over SECONDS after a warm-up, three calls at least."""
    call()
    taken: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(taken) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))

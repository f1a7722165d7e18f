"""What bases promise, tensor by tensor: each product of a layer gives what it gave, in the order of its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rfprm_export.oracle.calibration import (
    ATTENDED,
    INNER,
    PRODUCTS,
    READERS,
    Input,
    LayerRanges,
    LayerStatistics,
)
from rfprm_export.quantize import bases as bases_module
from rfprm_export.quantize.bases import (
    ATTENTION_NORM,
    EMBEDDING,
    FINAL_NORM,
    MLP_NORM,
    POST_NORMS,
    UP,
    VALUES,
    Bases,
    column_groups,
    layer_bases,
    residual_order,
    round_robin_order,
)
from rfprm_export.quantize.gptq import with_feedback
from rfprm_export.quantize.integers import PAIRED
from rfprm_export.quantize.mixing import hadamard_mix, mixed_channels
from rfprm_export.quantize.moments import change_moments, layer_rounding

HEAD = "score.weight"
ATTENTION, MLP = ATTENTION_NORM.removesuffix(".weight"), MLP_NORM.removesuffix(".weight")


class Network:
    """Two layers of weights and inputs that go with nothing."""

    def __init__(self, hidden: int, inner: int, kv_heads: int, sharing: int, head: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.kv_heads, self.inner = kv_heads, inner
        queries, values = kv_heads * sharing * head, kv_heads * head
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (11, hidden), FINAL_NORM: (hidden,), HEAD: (5, hidden)}
        for i in range(2):
            shapes |= {
                f"model.layers.{i}.{part}": shape
                for part, shape in {
                    ATTENTION_NORM: (hidden,),
                    MLP_NORM: (hidden,),
                    **dict.fromkeys(POST_NORMS, (hidden,)),
                    "self_attn.q_proj.weight": (queries, hidden),
                    "self_attn.q_proj.bias": (queries,),
                    "self_attn.k_proj.weight": (values, hidden),
                    "self_attn.v_proj.weight": (values, hidden),
                    "self_attn.v_proj.bias": (values,),
                    "self_attn.o_proj.weight": (hidden, queries),
                    "mlp.gate_proj.weight": (inner, hidden),
                    "mlp.up_proj.weight": (inner, hidden),
                    "mlp.down_proj.weight": (hidden, inner),
                }.items()
            }
        self.tensors = {name: self.normal(*shape) for name, shape in shapes.items()}
        self.layers = [self.statistics(hidden, head) for _ in range(2)]
        order = residual_order([x for layer in self.layers for x in (layer.attention, layer.mlp)])
        self.bases = Bases(order, dict(enumerate(map(layer_bases, self.layers))), HEAD)

    def normal(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape).astype(np.float32)

    def statistics(self, hidden: int, head: int) -> LayerStatistics:
        channels = [
            Input(*self.random.uniform(0.5, 9, (2, n)).astype(np.float32)) for n in (hidden, hidden, self.inner)
        ]
        rows = self.normal(2, self.kv_heads, 2 * head, head)
        return LayerStatistics(channels[0], channels[1], Input(*(rows.transpose(0, 1, 3, 2) @ rows)), channels[2])

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """In blocks of three rows."""
        tensor = self.tensors[name]
        return (tensor[i : i + 3] for i in range(0, len(tensor), 3))

    def changed(self, name: str) -> np.ndarray:
        name = name.encode().decode()  # another object of the same name
        return np.concatenate(list(self.bases.blocks(name, self.blocks)))

    def by_head(self, values: np.ndarray, index: int) -> np.ndarray:
        """Values as the layer's new basis of each KV head has them."""
        heads = values.reshape(len(values), self.kv_heads, -1)
        return np.einsum("rki,kij->rkj", heads, self.bases.layers[index].values).reshape(values.shape)


shapes = st.tuples(
    st.sampled_from([6, 8, 12, 96]),
    st.sampled_from([12, 72, 96]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([2, 6, 8]),
    st.integers(0, 999),
)
networks = shapes.map(lambda shape: Network(*shape))


def near(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@given(networks)
@settings(max_examples=30)
def test_behind_the_layers_all_is_in_the_new_order(network: Network) -> None:
    order = network.bases.order
    assert sorted(order.tolist()) == list(range(len(order)))
    near(hadamard_mix(network.changed(EMBEDDING)), network.tensors[EMBEDDING][:, order])
    x = network.normal(4, len(order))
    near(
        (x[:, order] * network.changed(FINAL_NORM)) @ network.changed(HEAD).T,
        (x * network.tensors[FINAL_NORM]) @ network.tensors[HEAD].T,
    )


@given(networks)
@settings(max_examples=30)
def test_channels_are_dealt_out_by_their_balanced_size(network: Network) -> None:
    """a s^2 = sqrt(a w), and in the residual stream the sum of each product's share."""
    sizes = [np.sqrt(x.activations * x.weights) for layer in network.layers for x in (layer.attention, layer.mlp)]
    shares = np.sum([size / size.sum() for size in sizes], axis=0)
    near_order(network.bases.order, shares)
    for layer, bases in zip(network.layers, network.bases.layers.values(), strict=True):
        near_order(bases.inner_order, np.sqrt(layer.inner.activations * layer.inner.weights))


def near_order(order: np.ndarray, sizes: np.ndarray) -> None:
    """But for channels that are as large as each other."""
    expected = round_robin_order(sizes, mixed_channels(len(sizes)))
    np.testing.assert_allclose(sizes[order], sizes[expected], rtol=1e-4)


@given(networks, st.integers(0, 1))
@settings(max_examples=30)
def test_each_product_of_a_layer_gives_what_it_gave(network: Network, index: int) -> None:
    own, bases, layer = f"model.layers.{index}", network.bases, network.bases.layers[index]
    order = bases.order
    x = network.normal(4, len(order))
    for norm, parts in (
        (ATTENTION, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        (MLP, ("mlp.gate_proj", "mlp.up_proj")),
    ):
        inputs = hadamard_mix(x[:, order] * network.changed(f"{own}.{norm}.weight"))  # as the graph has them
        near(bases.changed_inputs(index, norm, x), inputs)
        for part in parts:
            expected = (x * network.tensors[f"{own}.{norm}.weight"]) @ network.tensors[f"{own}.{part}.weight"].T
            if part == "self_attn.v_proj":
                expected = network.by_head(expected, index)
            if norm == MLP:
                expected = (expected * (layer.inner if part == "mlp.up_proj" else 1))[:, layer.inner_order]
            near(inputs @ network.changed(f"{own}.{part}.weight").T, expected)
    name = f"{own}.self_attn.q_proj.bias"
    assert (network.changed(name) == network.tensors[name]).all()
    for norm in POST_NORMS:
        assert (network.changed(f"{own}.{norm}") == network.tensors[f"{own}.{norm}"][order]).all()
    bias = network.tensors[f"{own}.self_attn.v_proj.bias"]
    near(network.changed(f"{own}.self_attn.v_proj.bias")[None], network.by_head(bias[None], index))
    for module in (ATTENDED, INNER):
        name = f"{own}.{module}.weight"
        weight = network.tensors[name]
        x = network.normal(4, weight.shape[1])
        near(bases.changed_inputs(index, module, x) @ network.changed(name).T, (x @ weight.T)[:, order])


@given(networks)
@settings(max_examples=30)
def test_attended_values_are_those_of_the_new_basis(network: Network) -> None:
    """Query heads in a row share keys and values."""
    weight = network.tensors["model.layers.0.self_attn.o_proj.weight"]
    values = network.normal(4, network.kv_heads, weight.shape[1] // network.kv_heads)
    sharing = values.reshape(4, network.kv_heads, -1, network.bases.layers[0].values.shape[1])
    expected = np.stack(
        [
            network.by_head(sharing[:, :, i].reshape(4, -1), 0).reshape(4, network.kv_heads, -1)
            for i in range(sharing.shape[2])
        ],
        2,
    )
    near(network.bases.changed_inputs(0, ATTENDED, values.reshape(4, -1)), expected.reshape(4, -1))


@given(shapes, st.sampled_from([40, 64]), st.integers(0, 1))
@settings(max_examples=30)
def test_moments_and_groups_are_changed_as_inputs_are(shape: tuple[int, ...], most: int, index: int) -> None:
    """E[x'^T x'] from E[x^T x], also where the MLP's channels come in groups: none leaves its group."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bases_module, "MOST_COLUMNS", most)
        network = Network(*shape)
        bases, hidden = network.bases, len(network.bases.order)
        for module, columns in ((ATTENTION, hidden), (MLP, hidden), (INNER, network.inner)):
            x = network.normal(50, columns)
            groups = column_groups(columns) if module == INNER else [slice(None)]
            moments = [torch.from_numpy(x[:, group].T @ x[:, group]) for group in groups]
            changed = bases.changed_inputs(index, module, x)
            for group, moment in zip(groups, change_moments(index, module, moments, bases), strict=True):
                near(moment.numpy(), changed[:, group].T @ changed[:, group])


@given(networks, st.integers(1, 4), st.integers(0, 1), st.booleans())
@settings(max_examples=30)
def test_no_value_leaves_the_changed_ranges(network: Network, rows: int, index: int, lone: bool) -> None:
    """In float16 that would be an overflow. They are reached where one channel alone is not zero."""
    bases, layer = network.bases, network.bases.layers[index]
    size = network.kv_heads * layer.values.shape[1]
    values, up, inner = (network.normal(rows, n) for n in (size, network.inner, network.inner))
    if lone:
        for x in (values, up, inner):
            x[:, 1:] = 0
    found = bases.changed_ranges(
        index, LayerRanges(np.abs(inner).max(0), {VALUES: np.abs(values).max(0), UP: np.abs(up).max(0)})
    )
    for largest, changed in (
        (found.outputs[VALUES], network.by_head(values, index)),
        (found.outputs[UP], up * layer.inner),
        (found.inner, (inner * layer.inner)[:, layer.inner_order]),
        (found.inner, bases.changed_inputs(index, INNER, inner)),
    ):
        assert (np.abs(changed) <= largest * 1.001 + 1e-6).all()
    if lone:
        near(found.outputs[VALUES][None], np.abs(network.by_head(values, index)).max(0, keepdims=True))
        near(found.inner.max(), np.abs(inner * layer.inner).max())


def test_weights_with_one_input_share_its_rounding() -> None:
    """By its moments in the new bases, which are used up."""
    network = Network(8, 12, 1, 2, 4, 0)
    inputs = {ATTENTION: network.normal(20, 8), MLP: network.normal(20, 8), ATTENDED: network.normal(20, 8)}
    inputs[INNER] = network.normal(20, 12)
    layer = SimpleNamespace(index=1, moments={module: [torch.from_numpy(x.T @ x)] for module, x in inputs.items()})
    rounds = layer_rounding(layer, network.bases)  # type: ignore[arg-type]
    assert layer.moments == {}
    assert rounds.keys() == {f"model.layers.1.{product}.weight" for product in PRODUCTS}
    for module, products in READERS.items():
        changed = network.bases.changed_inputs(1, module, inputs[module])
        rows = network.normal(6, changed.shape[1])
        expected = with_feedback([torch.from_numpy(changed.T @ changed)])
        for product in products:
            given = (rows, np.full((6, 1), 0.1, np.float32), PAIRED)
            assert (rounds[f"model.layers.1.{product}.weight"](*given) != expected(*given)).mean() < 0.05

"""New inner bases: the network computes what it did, whatever was measured, and 8 bits describe it better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import ALL_LAYOUTS
from exporting import Exported
from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.checkpoint.head import load_head
from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.families.options import family_from
from rfprm_export.graph.floating import MixedArithmetic
from rfprm_export.oracle.calibration import ATTENDED, INNER, READERS, Input, LayerStatistics, calibrated_layers
from rfprm_export.parity.probes import PROBES
from rfprm_export.quantize import bases as bases_module
from rfprm_export.quantize.bases import (
    ATTENTION_NORM,
    MLP_NORM,
    Bases,
    column_groups,
    layer_bases,
    residual_order,
    round_robin_order,
)
from rfprm_export.quantize.integers import quantise_rows
from rfprm_export.quantize.mixing import MIXED, hadamard, hadamard_mix, mixed_channels
from rfprm_export.quantize.moments import change_moments
from rfprm_export.variants import FP32
from rfprm_export.write.variant import write_variant
from rfprm_lite import PRM
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.options import LoadOptions

Get = Callable[[str], Exported]


def anything(a: Architecture, draw: np.random.Generator) -> LayerStatistics:
    """Statistics that no network has, channels of nothing among them."""

    def channels(count: int) -> Input:
        activations, weights = draw.uniform(0, 9, (2, count)).astype(np.float32)
        activations[0] = weights[1] = 0
        return Input(activations, weights)

    rows = draw.standard_normal((2, a.num_kv_heads, 3, a.head_size)).astype(np.float32)
    activations, weights = rows.transpose(0, 1, 3, 2) @ rows  # of fewer rows than channels
    return LayerStatistics(
        channels(a.hidden_size), channels(a.hidden_size), Input(activations, weights), channels(a.intermediate_size)
    )


def balanced_bases(statistics: Sequence[LayerStatistics], head: str) -> Bases:
    """Of whole statistics at once; an export has them layer by layer."""
    order = residual_order([x for layer in statistics for x in (layer.attention, layer.mlp)])
    return Bases(order, dict(enumerate(map(layer_bases, statistics))), head)


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_it_changes_no_reward_in_fp32(exported: Get, layout: str, tmp_path: Path) -> None:
    made = exported(layout)
    checkpoint = Checkpoint.open(made.checkpoint)
    a, spec = checkpoint.architecture, family_from(ALL_LAYOUTS[layout].recipe).resolve(None, {}, ())
    statistics = [anything(a, np.random.default_rng(i)) for i in range(a.num_layers)]
    variant = replace(FP32, arithmetic=MixedArithmetic)
    change = balanced_bases(statistics, "head.0.weight").blocks
    files = write_variant(tmp_path, variant, checkpoint, spec, load_head(checkpoint, spec), change)
    (tmp_path / "tokenizer.json").write_bytes((made.bundle / "tokenizer.json").read_bytes())
    entry = made.prm.manifest.variant("fp32")
    assert (tmp_path / files[1].path).read_bytes() != (made.bundle / entry.files[1].path).read_bytes()
    prm = PRM(Bundle(tmp_path, made.prm.manifest, entry), LoadOptions(threads=2))
    for probe, rewards in zip(PROBES, made.reference.step_rewards(PROBES), strict=True):
        np.testing.assert_allclose(prm.score(*probe).step_rewards, rewards, atol=1e-4)


@given(st.integers(1, 400))
def test_mixing_is_orthogonal(size: int) -> None:
    matrix = hadamard(size)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-5)
    np.testing.assert_array_equal(matrix, matrix.T)
    rows = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    np.testing.assert_allclose(hadamard_mix(hadamard_mix(rows)), rows, rtol=1e-4, atol=1e-3)
    assert size % mixed_channels(size) == 0
    assert mixed_channels(size) <= MIXED


@given(st.integers(0, 5).map(lambda n: 2**n), st.integers(1, 9), st.randoms(use_true_random=False))
def test_channels_are_dealt_out_by_their_size(size: int, groups: int, random) -> None:  # type: ignore[no-untyped-def]
    squares = np.array([random.random() for _ in range(size * groups)], np.float32)
    order = round_robin_order(squares, size)
    assert sorted(order.tolist()) == list(range(size * groups))
    ranks = np.argsort(np.argsort(-squares, kind="stable"))[order].reshape(groups, size)
    # Of each round of as many channels as there are groups, every group has one.
    np.testing.assert_array_equal(np.sort(ranks // groups, axis=1), np.tile(np.arange(size), (groups, 1)))


def test_outliers_are_evened_out() -> None:
    """One channel a thousand times the others: what an 8-bit scale a row makes of it."""
    values = np.random.default_rng(0).standard_normal((50, 256)).astype(np.float32)
    values[:, 7] *= 1000
    squares = (values**2).mean(0)
    order = round_robin_order(squares, 32)
    evened = hadamard_mix(values[:, order])
    np.testing.assert_allclose((evened**2).sum(1), (values**2).sum(1), rtol=1e-4)
    assert np.abs(evened).max() < np.abs(values).max() / 4


def test_products_of_outliers_become_more_exact(exported: Get) -> None:
    """A residual stream with one channel 300 times the others, which the norm's weight makes small, as real ones have:
    what a product behind the norm loses by 8 bits, in the new bases and in a rotated one."""
    checkpoint = Checkpoint.open(exported("reasonflux-prm-7b").checkpoint)
    a, draw = checkpoint.architecture, np.random.default_rng(0)
    x = draw.standard_normal((200, a.hidden_size)).astype(np.float32)
    x[:, 7] *= 300
    x /= np.sqrt((x**2).mean(1, keepdims=True))
    norm = np.ones(a.hidden_size, np.float32)
    norm[7] = 1 / 300
    up = draw.standard_normal((a.intermediate_size, a.hidden_size)).astype(np.float32)
    own = anything(a, draw)
    own = replace(own, mlp=Input((x**2).mean(0), (up**2).sum(0) * norm**2))
    name, bases = "model.layers.0.mlp.gate_proj.weight", balanced_bases([own], "head")
    tensors = {name: up, "model.layers.0.post_attention_layernorm.weight": norm}
    (weight,) = bases.blocks(name, lambda tensor: iter([tensors[tensor]]))
    exact = (x * norm) @ up[bases.layers[0].inner_order].T
    rotation = np.linalg.qr(draw.standard_normal((a.hidden_size, a.hidden_size)))[0].astype(np.float32)
    ways = (
        (bases.changed_inputs(0, "post_attention_layernorm", x), weight),
        (x @ rotation, (up[bases.layers[0].inner_order] * norm) @ rotation),
    )
    errors = []
    for rows, weights in ways:
        np.testing.assert_allclose(rows @ weights.T, exact, atol=1e-3)
        values, scales = quantise_rows(rows)
        errors.append(np.linalg.norm((values * scales[:, None]) @ weights.T - exact) / np.linalg.norm(exact))
    assert errors[0] < errors[1] / 4


def statistics_of(made: Exported) -> list[LayerStatistics]:
    layers = made.reference.layers([torch.arange(5, 60)[None]])
    return [layer.statistics() for layer in calibrated_layers(layers, READERS)]


@pytest.mark.parametrize("module", [ATTENDED, INNER])
def test_inputs_are_changed_as_their_weights_expect(exported: Get, module: str) -> None:
    made = exported("reasonflux-prm-7b")
    checkpoint = made.reference.checkpoint
    bases = balanced_bases(statistics_of(made), "head")
    name = f"model.layers.0.{module}.weight"
    weight = checkpoint.tensor(name)
    x = np.random.default_rng(0).standard_normal((9, weight.shape[1])).astype(np.float32)
    (changed,) = bases.blocks(name, checkpoint.blocks)
    np.testing.assert_allclose(
        bases.changed_inputs(0, module, x) @ changed.T, (x @ weight.T)[:, bases.order], atol=1e-3
    )


def test_the_scales_of_bases_are_those_that_balance(exported: Get) -> None:
    """(weights / activations)^(1/4), so that activations and weights err alike: their product falls, as no other
    scales let it fall."""
    for layer in statistics_of(exported("reasonflux-prm-7b")):
        bases = layer_bases(layer)
        scales = (bases.norms[ATTENTION_NORM], bases.norms[MLP_NORM], bases.inner)
        for x, s in zip((layer.attention, layer.mlp, layer.inner), scales, strict=True):
            np.testing.assert_allclose(s, (x.weights / x.activations) ** 0.25, rtol=1e-4)
            assert (x.activations * s**2).sum() * (x.weights / s**2).sum() < x.activations.sum() * x.weights.sum()
        for kv, basis in enumerate(bases.values.astype(np.float64)):
            activations, weights = layer.values.activations[kv], layer.values.weights[kv]
            inverse = np.linalg.inv(basis)
            ours, theirs = np.trace(basis.T @ activations @ basis), np.trace(inverse @ weights @ inverse.T)
            assert ours * theirs < 0.9 * np.trace(activations) * np.trace(weights)
            assert ours == pytest.approx(theirs, rel=0.1)


def test_moments_are_changed_as_inputs_are(exported: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """E[x'^T x'] from E[x^T x], also where the MLP's channels come in groups."""
    monkeypatch.setattr(bases_module, "MOST_COLUMNS", 100)
    made, draw = exported("reasonflux-prm-7b"), np.random.default_rng(0)
    bases, a = balanced_bases(statistics_of(made), "head"), made.reference.checkpoint.architecture
    assert column_groups(a.intermediate_size) == [slice(0, 96), slice(96, 160)]
    for module in READERS:
        x = draw.standard_normal((300, a.intermediate_size if module == INNER else a.hidden_size)).astype(np.float32)
        changed = bases.changed_inputs(0, module, x)
        groups = column_groups(x.shape[1]) if module == INNER else [slice(None)]
        moments = [torch.from_numpy(x[:, group].T @ x[:, group]) for group in groups]
        for group, moment in zip(groups, change_moments(0, module, moments, bases), strict=True):
            np.testing.assert_allclose(moment, changed[:, group].T @ changed[:, group], rtol=1e-3, atol=1e-2)


@given(st.integers(1, 40_000).map(lambda n: 4 * n))
def test_groups_of_columns_are_cut_where_nothing_is_mixed(features: int) -> None:
    groups = column_groups(features)
    assert [group.start for group in groups] == [0, *(group.stop for group in groups[:-1])]
    assert groups[-1].stop == features
    assert all(group.start % mixed_channels(features) == 0 for group in groups)
    assert all(group.stop - group.start <= bases_module.MOST_COLUMNS + MIXED for group in groups)

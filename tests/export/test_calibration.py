"""Calibration: statistics, moments and ranges are those of what PyTorch's modules are given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from exporting import Exported
from rfprm_export.oracle import calibration
from rfprm_export.oracle.calibration import ATTENDED, INNER, NORMS, READERS, CalibratedLayer, calibrated_layers
from rfprm_export.oracle.reference import Reference

Get = Callable[[str], Exported]
TEXTS = [torch.arange(5, 30)[None], torch.arange(100, 140)[None]]


def first_layer(reference: Reference, **options: object) -> CalibratedLayer:
    return next(calibrated_layers(reference.layers(TEXTS), READERS, ranges=True, **options))  # type: ignore[arg-type]


def inputs_of_products(reference: Reference) -> dict[str, np.ndarray]:
    """What the first layer's products are given, by another way: float32 [tokens, columns] of each module."""
    layers, inputs = reference.layers(TEXTS), dict[str, list[np.ndarray]]()
    layer = layers.load()
    for name in calibration.PRODUCTS:
        rows = inputs.setdefault(name, [])
        layer.get_submodule(name).register_forward_pre_hook(lambda _module, x, rows=rows: rows.append(x[0][0].numpy()))
    layers.run()
    return {name: np.concatenate(rows) for name, rows in inputs.items()}


def test_statistics_are_of_what_the_products_are_given(exported: Get) -> None:
    reference = exported("reasonflux-prm-7b").reference
    layer, inputs, a = first_layer(reference), inputs_of_products(reference), reference.checkpoint.architecture
    statistics = layer.statistics()
    weights = {name: reference.checkpoint.tensor(f"model.layers.0.{name}.weight") for name in inputs}
    for norm, found in zip(NORMS, (statistics.attention, statistics.mlp), strict=True):
        scale = reference.checkpoint.tensor(f"model.layers.0.{norm}.weight")
        rows = inputs[NORMS[norm][0]] / scale  # before the norm's weight, mean squares of 1
        np.testing.assert_allclose(found.activations, (rows**2).mean(0), rtol=1e-4)
        assert found.activations.mean() == pytest.approx(1, rel=1e-3)
        squares = sum((weights[name] ** 2).sum(0) for name in NORMS[norm])
        np.testing.assert_allclose(found.weights, squares * scale**2, rtol=1e-4)
    np.testing.assert_allclose(statistics.inner.activations, (inputs[INNER] ** 2).mean(0), rtol=1e-4)
    np.testing.assert_allclose(statistics.inner.weights, (weights[INNER] ** 2).sum(0), rtol=1e-4)
    for found_of_heads, rows in (
        (statistics.values.activations, inputs[ATTENDED] / np.sqrt(len(inputs[ATTENDED]))),
        (statistics.values.weights, weights[ATTENDED]),
    ):
        for kv, found_of_head in enumerate(found_of_heads):
            heads = rows.reshape(len(rows), a.num_kv_heads, -1, a.head_size)[:, kv]
            expected = sum(heads[:, i].T @ heads[:, i] for i in range(heads.shape[1]))
            np.testing.assert_allclose(found_of_head, expected, rtol=1e-3, atol=1e-3)


def test_moments_are_of_what_the_products_are_given(exported: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """In strips and batches that neither rows nor columns are multiples of; columns in groups."""
    monkeypatch.setattr(calibration, "BATCH", 30)
    monkeypatch.setattr(calibration, "STRIP", 24)
    reference = exported("reasonflux-prm-7b").reference
    inputs = inputs_of_products(reference)
    layer = first_layer(reference, groups={INNER: [slice(0, 96), slice(96, 160)]})
    for module, modules in READERS.items():
        rows = inputs[modules[0]]
        if module in NORMS:
            rows = rows / reference.checkpoint.tensor(f"model.layers.0.{module}.weight")
        expected = rows.T @ rows / len(rows)
        groups = [slice(0, 96), slice(96, 160)] if module == INNER else [slice(None)]
        for group, moment in zip(groups, layer.moments[module], strict=True):
            np.testing.assert_allclose(moment.numpy(), expected[group, group], rtol=1e-3, atol=1e-4)


def test_ranges_are_over_all_tokens(exported: Get) -> None:
    reference = exported("reasonflux-prm-7b").reference
    inputs, ranges = inputs_of_products(reference), first_layer(reference).ranges
    assert ranges is not None
    np.testing.assert_allclose(ranges.inner, np.abs(inputs[INNER]).max(0), rtol=1e-6)
    products = inputs[INNER] @ reference.checkpoint.tensor(f"model.layers.0.{INNER}.weight").T
    np.testing.assert_allclose(ranges.outputs[INNER], np.abs(products).max(0), rtol=1e-4)
    assert sorted(ranges.outputs) == sorted(calibration.PRODUCTS)


def test_a_layers_tensors_are_the_checkpoints(exported: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "BLOCK_BYTES", 4 * 64 * 9)
    reference = exported("reasonflux-prm-7b").reference
    layer = first_layer(reference)
    for name in ("self_attn.q_proj.bias", "mlp.up_proj.weight", "input_layernorm.weight"):
        blocks = list(layer.blocks(f"model.layers.0.{name}"))
        np.testing.assert_array_equal(np.concatenate(blocks), reference.checkpoint.tensor(f"model.layers.0.{name}"))
    assert len(list(layer.blocks("model.layers.0.mlp.up_proj.weight"))) == 18

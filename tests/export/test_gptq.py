"""GPTQ: what feedback may change, and that it makes products with real inputs more exact."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporting import Exported
from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.graph.int4 import BLOCK, RANGE, quantise_blocks
from rfprm_export.graph.int8 import LARGEST, quantise_rows, row_scales
from rfprm_export.oracle.calibration import NORMS
from rfprm_export.oracle.reference import through_layers
from rfprm_export.quantize.gptq import LAZY, with_feedback
from rfprm_export.quantize.moments import MOST_COLUMNS, READERS, Moments, _Seen
from rfprm_export.quantize.round import nearest

Get = Callable[[str], Exported]


def inputs(columns: int, seed: int, tokens: int = 400) -> np.ndarray:
    """Rows whose columns go together, as those of a network do."""
    random = np.random.default_rng(seed)
    together = random.standard_normal((tokens, 8)) @ random.standard_normal((8, columns))
    return (together + 0.1 * random.standard_normal((tokens, columns))).astype(np.float32)


def weights(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed + 1).standard_normal((rows, columns)).astype(np.float32)


def feedback(x: np.ndarray, groups: int = 1):  # type: ignore[no-untyped-def]
    return with_feedback([torch.from_numpy(part.T @ part) for part in np.array_split(x, groups, axis=1)])


def error(rows: np.ndarray, rounded: np.ndarray, x: np.ndarray) -> float:
    return float(np.linalg.norm(x @ (rows - rounded).T) / np.linalg.norm(x @ rows.T))


@given(st.integers(2, 9), st.integers(2, 3 * LAZY), st.integers(0, 99))
def test_values_are_in_range_and_other_rows_and_groups_do_not_matter(rows: int, columns: int, seed: int) -> None:
    x, whole = inputs(columns, seed, tokens=20), weights(rows, columns, seed)
    scales = row_scales(whole)[:, None]
    values = feedback(x, groups=2)(whole, scales, -LARGEST, LARGEST)
    assert (values.shape, values.dtype) == (whole.shape, np.int8)
    assert np.abs(values.astype(int)).max() <= LARGEST
    first, half = rows // 2, (columns + 1) // 2  # as array_split has it
    other = whole.copy()
    other[first:] *= 100
    assert (feedback(x, groups=2)(other, scales, -LARGEST, LARGEST)[:first] == values[:first]).all()
    x[:, half:] = inputs(columns - half, seed + 1, tokens=20)
    assert (feedback(x, groups=2)(whole, scales, -LARGEST, LARGEST)[:, :half] == values[:, :half]).all()


@given(st.integers(1, 9), st.integers(1, 2 * LAZY), st.integers(0, 99))
def test_inputs_that_never_occur_together_leave_each_value_to_itself(rows: int, columns: int, seed: int) -> None:
    whole = weights(rows, columns, seed)
    given = (whole, row_scales(whole)[:, None], -LARGEST, LARGEST)
    for moment in (torch.eye(columns), torch.zeros(columns, columns)):
        assert (with_feedback([moment])(*given) == nearest(*given)).all()


@pytest.mark.parametrize("columns", [96, 2 * LAZY + 1])
def test_products_with_such_inputs_become_more_exact(columns: int) -> None:
    x, unseen = np.split(inputs(columns, 0, tokens=800), 2)
    rows = weights(30, columns, 0)
    errors = []
    for rounding in (nearest, feedback(x)):
        values, scales = quantise_rows(rows, rounding)
        errors.append(error(rows, values * scales[:, None], unseen))
    assert errors[1] < 0.6 * errors[0]


def test_in_blocks_of_4_bits_too() -> None:
    x, unseen = np.split(inputs(3 * BLOCK - 5, 0, tokens=800), 2)
    rows = weights(30, 3 * BLOCK - 5, 0)
    errors = []
    for rounding in (nearest, feedback(x)):
        packed, scales = quantise_blocks(rows, rounding)
        values = np.stack([packed & 15, packed >> 4], -1).reshape(*scales.shape, BLOCK).astype(np.float32) + RANGE[0]
        restored = (values * scales[..., None]).reshape(30, -1)[:, : rows.shape[1]]
        errors.append(error(rows, restored, unseen))
    assert errors[1] < 0.6 * errors[0]


def test_moments_are_of_what_the_layers_read(exported: Get) -> None:
    """By another way: what the modules themselves read, that behind norms divided by their weights."""
    checkpoint = Checkpoint.open(exported("reasonflux-prm-7b").checkpoint)
    texts = [np.arange(5, 30), np.arange(100, 140)]
    asked: dict[str, list[np.ndarray]] = {}
    read: dict[str, list[np.ndarray]] = {}

    def reads(weight: str, x: np.ndarray) -> np.ndarray:
        asked.setdefault(weight, []).append(x)
        return x

    def watch(index: int, layer: torch.nn.Module) -> nullcontext[None]:
        if index == 0:
            for weights in READERS.values():
                own = read.setdefault(f"model.layers.0.{weights[0]}", [])
                module = layer.get_submodule(weights[0].removesuffix(".weight"))
                module.register_forward_pre_hook(lambda _module, inputs, own=own: own.append(inputs[0][0].numpy()))
        return nullcontext()

    moments = Moments(checkpoint, texts, reads)
    for weight in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.v_proj.weight"):
        assert moments.round(weight) is not None
    with pytest.raises(ValueError, match="model.layers.0.self_attn.q_proj.weight"):
        moments.round("model.layers.0.self_attn.q_proj.weight")
    assert len(asked) == 2 * len(READERS)
    through_layers(checkpoint, [torch.from_numpy(text)[None] for text in texts], watch)
    for module, weights in READERS.items():
        weight = f"model.layers.0.{weights[0]}"
        norm = checkpoint.tensor(f"model.layers.0.{module}.weight") if module in NORMS else 1
        for seen, expected in zip(
            asked[weight], read[weight][:2], strict=True
        ):  # both texts pass the first layer first
            np.testing.assert_allclose(seen * norm, expected, rtol=1e-4, atol=1e-5)


def test_wide_inputs_are_seen_in_groups() -> None:
    seen = _Seen(lambda x: x)
    x = torch.randn(3, 2 * MOST_COLUMNS // 1024 + 1, generator=torch.Generator().manual_seed(0)).repeat(1, 1024)
    seen.see(torch.nn.Identity(), (x[None],))
    assert [len(moment) for moment in seen.moments] == [len(part) for part in x.T.tensor_split(3)]
    torch.testing.assert_close(seen.moments[0][:4, :4], x[:, :4].T @ x[:, :4])

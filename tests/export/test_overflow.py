"""Which layers do not fit float16: those whose MLP comes within MARGIN times of its end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_export.errors import RangeError
from rfprm_export.oracle.calibration import PRODUCTS, LayerRanges
from rfprm_export.quantize.overflow import MARGIN, describe_wide_layers, widen_overflowing_layers

HALF = float(np.finfo(np.float16).max)


def channel(largest: float) -> np.ndarray:
    """Three channels of which one is large."""
    return np.array([1, largest, 0.5], np.float32)


places = st.sampled_from(["inner", *PRODUCTS])


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 3), places, st.integers(2, 5)), max_size=4))
def test_layers_are_wide_where_the_mlp_could_overflow_and_attention_may_not(
    layers: int, large: list[tuple[int, str, int]]
) -> None:
    """Values of a sixteenth to a half of the largest float16: an eighth is the margin."""
    assert MARGIN == 8
    inner = [HALF / 32] * layers
    outputs = [dict.fromkeys(PRODUCTS, HALF / (8 + i)) for i in range(layers)]
    wide = set()
    for layer, place, part in large:
        layer %= layers
        value = HALF / 2**part * 1.01
        if place == "inner":
            inner[layer] = max(inner[layer], value)
        else:
            outputs[layer][place] = max(outputs[layer][place], value)
        if part <= 3:
            wide.add((layer, place.startswith("self_attn")))
    ranges = [
        LayerRanges(channel(largest), {module: channel(value) for module, value in of_products.items()})
        for largest, of_products in zip(inner, outputs, strict=True)
    ]
    attention = sorted(layer for layer, of_attention in wide if of_attention)
    if attention:
        with pytest.raises(RangeError, match=rf"model.layers.{attention[0]}.self_attn.[qkvo]_proj gave"):
            widen_overflowing_layers(ranges)
    else:
        assert widen_overflowing_layers(ranges) == {layer for layer, _ in wide}


def test_wide_layers_are_named_in_order() -> None:
    assert describe_wide_layers(frozenset({11, 2}), "float32").startswith("the MLP of layers 2, 11 in float32: ")
    assert describe_wide_layers(frozenset(), "bfloat16").startswith("no layer in bfloat16: what came within 8 times ")

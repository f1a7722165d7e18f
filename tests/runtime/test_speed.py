"""`rfprm doctor --bench`: what is timed runs, and what is predicted follows from it."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from rfprm_lite.engine import speed
from rfprm_lite.engine.speed import SHAPES, TOKENS, Dtype, Shape, Speed, Workload

doctor = importlib.import_module("rfprm_lite.cli.doctor")  # in its package the command has this name
TINY = Shape("tiny", 3, 64, 96, 4, 2, 16)
MEASURED = Speed(
    {"int8": 600e9, "fp32": 200e9},
    {("int8", "0.5B"): 0.010, ("int8", "1.5B"): 0.030, ("fp32", "0.5B"): 0.040},
    {
        (shape.head_size, tokens, past): (0.001 * tokens / 128, shape.heads)
        for shape in SHAPES[:2]
        for tokens, past in ((256, 0), (128, 256), (256, 1920))
    },
)


@pytest.mark.parametrize("dtype", ["int8", "fp32"])
def test_a_layer_runs_by_itself(dtype: Dtype) -> None:
    timed = speed.layer(dtype, TINY)
    for after in ort.InferenceSession(timed.model, providers=["CPUExecutionProvider"]).run(None, timed.feeds):
        assert after.shape == (TOKENS, TINY.hidden)
        assert np.isfinite(after).all()
        assert after.any(axis=1).all()


def test_all_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = tuple(replace(TINY, name=shape.name) for shape in SHAPES)
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    monkeypatch.setattr(speed, "SHAPES", shapes)
    monkeypatch.setattr(speed, "LAYERS", tuple((dtype, shapes[i]) for i, dtype in enumerate(("int8", "int8", "fp32"))))
    measured = Speed.measured(1)
    assert all(rate > 0 for rate in measured.products.values())
    assert len(measured.layers) == len(measured.attention) == 3
    assert measured.predict(speed.WORKLOADS[0], shapes[0], "int8") > 0


def test_seconds_follow_from_tokens_layers_weights_and_heads() -> None:
    workload = Workload("", "", 2 * TOKENS, ((3, 256, 1920),))
    half, one, seven = SHAPES
    assert MEASURED.predict(workload, half, "int8") == pytest.approx(23 * (2 * 0.010 + 3 * 0.002))
    assert MEASURED.predict(workload, one, "int8") == pytest.approx(27 * (2 * 0.030 + 3 * 0.002))
    scaled = 0.030 * seven.weights / one.weights
    assert MEASURED.predict(workload, seven, "int8") == pytest.approx(27 * (2 * scaled + 3 * 0.002 * 28 / 12))
    assert MEASURED.predict(workload, one, "fp32") == pytest.approx(
        27 * (2 * 0.040 * one.weights / half.weights + 3 * 0.002)
    )


@pytest.mark.parametrize(
    ("int8", "advice"),
    [(0.010, "take int8: fp32 takes 4.0 times as long here"), (0.4, "take fp32: int8 takes 9.5 times as long here")],
)
def test_the_doctor_says_which_variant_to_take(monkeypatch: pytest.MonkeyPatch, int8: float, advice: str) -> None:
    layers = {**MEASURED.layers, ("int8", "0.5B"): int8, ("int8", "1.5B"): 3 * int8}
    monkeypatch.setattr(Speed, "measured", lambda _threads: replace(MEASURED, layers=layers))
    report = json.loads(CliRunner().invoke(doctor.doctor, ["--bench", "--json"]).output)["bench"]
    assert report["advice"] == advice
    assert report["variant"] in advice
    assert len(report["predicted_seconds"]) == 6
    assert report["demo_seconds"] > 0
    shown = CliRunner().invoke(doctor.doctor, ["--bench"]).output
    assert advice in shown
    assert "600 Gop/s" in shown

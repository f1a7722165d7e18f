"""What is asked of ONNX Runtime for CUDA, and that nothing falls back; with a module in place of onnxruntime-gpu."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rfprm_lite import DeviceError
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.session import open_session, require_available

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class FakeOnnxRuntime(SimpleNamespace):
    """Sessions run on the first provider that they were asked for, or on the CPU where CUDA does not start."""

    def __init__(self, available: list[str], starts: bool = True) -> None:
        super().__init__(__version__="1.99.0", preloaded=0, opened=[])
        self._available, self._starts = available, starts

    def get_available_providers(self) -> list[str]:
        return self._available

    def preload_dlls(self) -> None:
        self.preloaded += 1

    class SessionOptions:
        def add_session_config_entry(self, key: str, value: str) -> None:
            pass

    def InferenceSession(self, graph: str, options: object, providers: list[object]) -> SimpleNamespace:  # noqa: N802
        self.opened.append((graph, providers))
        names = [provider[0] if isinstance(provider, tuple) else provider for provider in providers]
        running = names if self._starts else [CPU]
        return SimpleNamespace(get_providers=lambda: running)


def put(monkeypatch: pytest.MonkeyPatch, module: FakeOnnxRuntime) -> FakeOnnxRuntime:
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return module


@pytest.mark.parametrize("index", [0, 3])
def test_the_gpu_that_was_named_is_asked_for_without_tf32(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    """TF32 would round the head's products."""
    ort = put(monkeypatch, FakeOnnxRuntime([CUDA, CPU]))
    session = open_session(Path("model.onnx"), DeviceSpec("cuda", index), threads=None)
    assert session.get_providers()[0] == CUDA
    assert ort.opened == [("model.onnx", [(CUDA, {"device_id": str(index), "use_tf32": "0"}), CPU])]
    assert ort.preloaded == 1  # the CUDA libraries that stand in wheels


def test_the_cpu_is_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = put(monkeypatch, FakeOnnxRuntime([CUDA, CPU]))
    open_session(Path("model.onnx"), DeviceSpec("cpu"), threads=None)
    assert ort.opened == [("model.onnx", [CPU])]
    assert ort.preloaded == 0


def test_a_session_that_fell_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, FakeOnnxRuntime([CUDA, CPU], starts=False))
    with pytest.raises(DeviceError, match="cuda"):
        open_session(Path("model.onnx"), DeviceSpec("cuda"), threads=None)
    assert open_session(Path("model.onnx"), DeviceSpec("cpu"), threads=None).get_providers() == [CPU]


def test_where_cuda_was_not_built_in_no_session_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = put(monkeypatch, FakeOnnxRuntime([CPU]))
    with pytest.raises(DeviceError, match="rfprm-lite-gpu"):
        open_session(Path("model.onnx"), DeviceSpec("cuda"), threads=None)
    assert ort.opened == []
    require_available(DeviceSpec("cpu"))


def test_an_older_onnxruntime_has_nothing_to_preload(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = put(monkeypatch, FakeOnnxRuntime([CUDA, CPU]))
    monkeypatch.delattr(FakeOnnxRuntime, "preload_dlls")
    open_session(Path("model.onnx"), DeviceSpec("cuda"), threads=None)
    assert len(ort.opened) == 1

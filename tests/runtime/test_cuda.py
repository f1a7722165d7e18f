"""What is asked of ONNX Runtime for CUDA, and that nothing falls back; with a module in place of onnxruntime-gpu."""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from rfprm_lite import DeviceError
from rfprm_lite.bundle.open import Bundle, open_bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine import cuda
from rfprm_lite.engine.paged import CudaRunner, PagedEngine, PageLayout, check_contract
from rfprm_lite.engine.pages import Copy
from rfprm_lite.engine.session import open_session, require_available
from rfprm_lite.errors import BundleFormatError, EngineError
from rfprm_lite.options import LoadOptions
from rfprm_lite.plan.budget import gpu_budget, gpu_run_bytes
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.scoring import wiring
from rfprm_lite.scoring.wiring import open_model, pages_in, room_on_card

doctor = importlib.import_module("rfprm_lite.cli.doctor")  # in its package the command has this name
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class FakeOnnxRuntime(SimpleNamespace):
    """Sessions run on the first provider that they were asked for, or on the CPU where CUDA does not start."""

    def __init__(self, available: list[str], starts: bool = True) -> None:
        super().__init__(__version__="1.99.0", preloaded=0, opened=[])
        self._available, self._starts = available, starts

    def get_available_providers(self) -> list[str]:
        return self._available

    def preload_dlls(self) -> None:
        print("Failed to load libcufft.so.12")  # as onnxruntime does
        self.preloaded += 1

    class SessionOptions:
        def add_session_config_entry(self, key: str, value: str) -> None:
            pass

    def InferenceSession(  # noqa: N802
        self, graph: str, options: object, providers: list[Any], disabled_optimizers: object
    ) -> FakeSession:
        self.opened.append((graph, providers))
        names = [provider[0] if isinstance(provider, tuple) else provider for provider in providers]
        running = names if self._starts else [CPU]
        return FakeSession(running)


class FakeSession:
    """As ONNX Runtime's, it can be referred to weakly."""

    def __init__(self, providers: list[str]) -> None:
        self._providers = providers

    def get_providers(self) -> list[str]:
        return self._providers


def put(monkeypatch: pytest.MonkeyPatch, module: FakeOnnxRuntime) -> FakeOnnxRuntime:
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return module


@pytest.mark.parametrize("index", [0, 3])
def test_the_gpu_that_was_named_is_asked_for_without_tf32(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    """TF32 would round the head's products."""
    ort = put(monkeypatch, FakeOnnxRuntime([CUDA, CPU]))
    session = open_session(Path("model.onnx"), DeviceSpec("cuda", index), threads=None)
    assert session.get_providers()[0] == CUDA
    options = {"device_id": str(index), "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
    assert ort.opened == [("model.onnx", [(CUDA, options), CPU])]
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


# --- the driver ---------------------------------------------------------------------------------------------------


class FakeDriver:
    """libcuda's functions on host memory. codes: what a function answers in place of 0."""

    def __init__(self, cards: list[tuple[str, tuple[int, int], int, int]], version: int = 13000) -> None:
        self.cards, self.version = cards, version
        self.codes: dict[str, int] = {}
        self.contexts: list[int] = []
        self.retained = 0
        self.buffers: dict[int, Any] = {}
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what needs no stand-in
            return lambda *_: None

        def call(*arguments: Any) -> int:
            self.called.append(name)
            if code := self.codes.get(name, 0):
                return code
            getattr(self, f"_{name.removeprefix('cu').removesuffix('_v2')}")(*arguments)
            return 0

        return call

    def _DriverGetVersion(self, out: Any) -> None:  # noqa: N802
        out._obj.value = self.version

    def _DeviceGetCount(self, out: Any) -> None:  # noqa: N802
        out._obj.value = len(self.cards)

    def _DeviceGet(self, out: Any, index: int) -> None:  # noqa: N802
        out._obj.value = index

    def _DeviceGetName(self, out: Any, _size: int, device: Any) -> None:  # noqa: N802
        out.value = self.cards[device.value][0].encode()

    def _DeviceGetAttribute(self, out: Any, attribute: int, device: Any) -> None:  # noqa: N802
        out._obj.value = self.cards[device.value][1][attribute - cuda.CAPABILITY_MAJOR]

    def _DevicePrimaryCtxRetain(self, out: Any, device: Any) -> None:  # noqa: N802
        self.retained += 1
        out._obj.value = device.value + 1

    def _DevicePrimaryCtxRelease(self, _device: Any) -> None:  # noqa: N802
        self.retained -= 1

    def _CtxPushCurrent(self, context: Any) -> None:  # noqa: N802
        self.contexts.append(context.value - 1)

    def _CtxPopCurrent(self, _out: Any) -> None:  # noqa: N802
        self.contexts.pop()

    def _MemGetInfo(self, free: Any, total: Any) -> None:  # noqa: N802
        free._obj.value, total._obj.value = self.cards[self.contexts[-1]][2:]

    def _MemAlloc(self, out: Any, size: Any) -> None:  # noqa: N802
        buffer = ctypes.create_string_buffer(b"\x7f" * size.value, size.value)
        out._obj.value = ctypes.addressof(buffer)
        self.buffers[out._obj.value] = buffer

    def _MemsetD8(self, address: Any, value: int, size: Any) -> None:  # noqa: N802
        ctypes.memset(address.value, value, size.value)

    def _Memcpy2DUnaligned(self, wanted: Any) -> None:  # noqa: N802
        w = wanted._obj
        for row in range(w.height):
            ctypes.memmove(w.dst_device + row * w.dst_pitch, w.src_device + row * w.src_pitch, w.width)

    def _MemFree(self, address: Any) -> None:  # noqa: N802
        del self.buffers[address.value]

    def _GetErrorString(self, code: int, out: Any) -> None:  # noqa: N802
        out._obj.value = f"error {code}".encode()


H100 = ("NVIDIA H100", (9, 0), 70 * 10**9, 80 * 10**9)
T4 = ("Tesla T4", (7, 5), 15 * 10**9, 16 * 10**9)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver([H100, T4])
    monkeypatch.setattr(cuda, "load", lambda: fake)
    monkeypatch.setattr(cuda, "VERSION_FILE", Path("/no/such/file"))
    return fake


def test_cards_tell_what_they_are(driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = cuda.cards()
    assert (first.index, first.name, first.capability, first.free_bytes, first.total_bytes) == (0, *H100)
    assert cuda.card(1) == second
    assert cuda.too_old(first) is None
    assert "Tesla T4 (cuda:1) has compute capability 7.5; variants for CUDA need 8.0" in str(cuda.too_old(second))
    assert cuda.driver() == cuda.Driver("", (13, 0))
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\nGCC version: 13.3.0\n")
    monkeypatch.setattr(cuda, "VERSION_FILE", version)
    assert cuda.driver().release == "580.95.05"
    with pytest.raises(DeviceError, match="no GPU cuda:2: CUDA shows cuda:0, cuda:1"):
        cuda.card(2)
    assert driver.retained == 0
    assert driver.contexts == []


def test_a_buffer_is_zeros_copies_within_itself_and_is_freed(driver: FakeDriver) -> None:
    buffer = cuda.Buffer(0, 40)
    memory = driver.buffers[buffer.address]
    assert memory.raw == bytes(40)
    memory[:] = bytes(range(40))
    buffer.copy([(6, 1, 3), (0, 7, 2)], pitch=10, rows=4)
    expected = bytearray(range(40))
    for row in (0, 10, 20, 30):
        expected[row + 6 : row + 9] = expected[row + 1 : row + 4]
        expected[row : row + 2] = expected[row + 7 : row + 9]
    assert memory.raw == bytes(expected)
    assert driver.retained == 1
    del buffer
    assert driver.buffers == {}
    assert driver.retained == 0


def test_the_driver_refuses(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.codes["cuMemAlloc_v2"] = cuda.OUT_OF_MEMORY
    with pytest.raises(DeviceError, match="cuda:0 has no 5.00 GB free.*memory_bytes"):
        cuda.Buffer(0, 5 * 10**9)
    driver.codes["cuMemAlloc_v2"] = 700
    with pytest.raises(DeviceError, match="refused cuMemAlloc_v2: error 700"):
        cuda.Buffer(0, 5)
    assert driver.contexts == []
    assert driver.retained == 0
    monkeypatch.undo()
    monkeypatch.setattr(cuda, "LIBRARY", "no such library")
    with pytest.raises(DeviceError, match="no NVIDIA driver: no such library"):
        cuda.cards()


LAYOUT = PageLayout.of(2, 2, 64, "float16")


def test_pages_of_all_layers_are_copied_at_once(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tokens of a page, in the keys and values of every layer; nothing else changes."""
    layout = PageLayout(2, 2, 8, "float16", 16)
    runner = object.__new__(CudaRunner)
    runner._layout, runner._device = layout, DeviceSpec("cuda")
    runner.allocate(3)
    assert runner._buffer is not None
    memory = driver.buffers[runner._buffer.address]
    pages = np.frombuffer(memory, np.float16).reshape(4, 3, 16, 2, 8)
    pages[:] = np.arange(pages.size, dtype=np.float32).reshape(pages.shape) % 2048
    expected = pages.copy()
    expected[:, 2, :5] = expected[:, 0, :5]
    runner.copy([Copy(0, 2, 5)])
    np.testing.assert_array_equal(pages, expected)
    del pages


def test_what_is_bound_lies_where_pages_are_copied(driver: FakeDriver) -> None:
    """Keys and values of each layer in turn, each with all pages, in and out in one place."""
    bound: list[tuple[Any, ...]] = []
    binding = SimpleNamespace(bind_input=lambda *a: bound.append(a), bind_output=lambda *a: bound.append(a))
    runner = object.__new__(CudaRunner)
    runner._layout, runner._device = PageLayout(2, 2, 8, "bfloat16", 16), DeviceSpec("cuda", 1)
    runner._session = SimpleNamespace(io_binding=lambda: binding)
    runner.allocate(3)
    runner.new_lanes()
    start, size = runner._taken.address, 3 * 16 * 2 * 8 * 2
    place = ("cuda", 1, 16, [3, 16, 2, 8])
    assert bound == [
        (f"{when}.{layer}.{kind}", *place, start + (2 * layer + which) * size)
        for layer in range(2)
        for which, kind in enumerate(("key", "value"))
        for when in ("past", "present")
    ]


class FakeBinding:
    """What a run asks of ONNX Runtime's binding, in order, written to the driver's calls."""

    def __init__(self, called: list[str]) -> None:
        self._called = called

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self._called.append(name)

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(numpy=lambda: np.ones(1, np.float32))]


def running(driver: FakeDriver, run: Callable[[], None]) -> tuple[CudaRunner, FakeBinding]:
    """A runner whose session calls `run`."""

    def run_with_iobinding(_binding: object, _options: object) -> None:
        driver.called.append("run")
        run()

    runner = object.__new__(CudaRunner)
    runner._layout, runner._device = PageLayout(1, 1, 8, "float16", 16), DeviceSpec("cuda")
    runner._session = SimpleNamespace(run_with_iobinding=run_with_iobinding)
    runner.allocate(2)
    driver.called.clear()
    return runner, FakeBinding(driver.called)


def test_a_run_begins_behind_its_inputs_and_ends_with_its_outputs(driver: FakeDriver) -> None:
    runner, binding = running(driver, lambda: None)
    assert runner.run(binding, {"input_ids": np.ones(3, np.int64)}, Cancellation()).tolist() == [1]
    assert driver.called == ["bind_cpu_input", "bind_output", "synchronize_inputs", "run", "synchronize_outputs"]


def test_a_run_that_broke_off_is_at_rest_when_it_raises(driver: FakeDriver) -> None:
    """Else its kernels could write into pages that were given away meanwhile."""

    def fail() -> None:
        raise RuntimeError("terminated")

    runner, binding = running(driver, fail)
    with pytest.raises(EngineError, match="terminated"):
        runner.run(binding, {}, Cancellation())
    assert driver.called[driver.called.index("run") :].count("cuCtxSynchronize") == 1
    driver.codes["cuCtxSynchronize"] = 700
    with pytest.raises(DeviceError, match="refused cuCtxSynchronize: error 700"):
        runner.run(binding, {}, Cancellation())


class FakeRunner:
    """In place of CudaRunner. rewards of all tokens, or a failure."""

    fails = False

    def __init__(self, *_: object) -> None:
        self.taken: list[int] = []
        self.runs: list[int] = []

    def allocate(self, pages: int) -> None:
        self.taken.append(pages)

    def new_lanes(self) -> None:
        pass

    def run(self, _kept: object, inputs: dict[str, Any], _cancel: Cancellation) -> Any:
        self.runs.append(len(inputs["input_ids"]))
        if self.fails:
            raise EngineError("ONNX Runtime failed: out of memory")
        return np.zeros(len(inputs["read_rows"]), np.float32)


def test_opening_takes_all_memory_and_refuses_what_does_not_fit(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages once, and the arrays of a run by one at full size; nothing is held afterwards."""
    monkeypatch.setattr(wiring, "CudaRunner", FakeRunner)
    opened = open_bundle("demo", LoadOptions())
    variant = msgspec.structs.replace(
        opened.variant, kv_layout="paged", devices=("cuda",), kv_dtype="float16", lanes=128
    )
    bundle = Bundle(opened.folder, opened.manifest, variant)
    model = open_model(bundle, DeviceSpec("cuda"), None, 0, 10**9)
    assert isinstance(model.engine, PagedEngine)
    pool, runner = model.engine.pool, model.engine._runner
    assert isinstance(runner, FakeRunner)
    assert runner.taken == [pool.count]
    assert runner.runs == [model.budget.chunk_tokens]
    assert pool.free == pool.count
    taken = gpu_run_bytes(opened.manifest.dimensions.hidden_size, runner.runs[0]) + pool.count * pool.page_bytes
    assert 10**9 - pool.page_bytes < taken <= 10**9
    monkeypatch.setattr(FakeRunner, "fails", True)
    with pytest.raises(DeviceError, match=r"8192 tokens does not fit beside .* GB of pages in the 70.00 GB .*memory"):
        open_model(bundle, DeviceSpec("cuda"), None, 0, 10**9)


@pytest.mark.parametrize(("head_size", "tokens"), [(16, 256), (64, 256), (80, 128), (128, 128), (192, 64), (256, 64)])
def test_pages_are_those_that_flash_attention_reads(head_size: int, tokens: int) -> None:
    assert PageLayout.of(1, 1, head_size, "float16").page_tokens == tokens


def test_what_a_card_has_room_for() -> None:
    """Numbers of a 7B: 28 layers, 4 heads of 128, hidden states of 3,584."""
    layout = PageLayout.of(28, 4, 128, "float16")
    assert (layout.token_bytes, layout.page_bytes) == (57_344, 7_340_032)
    assert room_on_card(10**10, None) == 5 * 10**9
    assert room_on_card(10**10, 3 * 10**9) == 3 * 10**9
    with pytest.raises(DeviceError, match="memory_bytes asks for 11.00 GB, the weights leave 10.00 GB"):
        room_on_card(10**10, 11 * 10**9)
    large, small = gpu_budget(3584, 60 * 10**9), gpu_budget(3584, 10**9)
    assert (large.chunk_tokens, small.chunk_tokens) == (8192, 512)
    assert pages_in(60 * 10**9, 3584, large, layout) == (60 * 10**9 - 3584 * 8192 * 160) // 7_340_032
    with pytest.raises(DeviceError, match=r"0.32 GB are needed.*runs of 512 tokens and 4 pages of 128.*0.30 GB"):
        pages_in(3 * 10**8, 3584, small, layout)


def test_a_graph_that_is_not_what_the_manifest_says() -> None:
    names = [f"past.{i}.{kind}" for i in range(2) for kind in ("key", "value")]
    inputs = [(name, "tensor(float16)", ["num_pages", "page_tokens", 2, 64]) for name in names]
    check_contract([("pages", "tensor(int32)", ["a", "b"]), *inputs], LAYOUT)
    for wrong in (
        inputs[1:],
        [*inputs, ("past.2.key", *inputs[0][1:])],
        [("past.0.key", "tensor(float)", inputs[0][2])],
    ):
        with pytest.raises(BundleFormatError, match=r"past\.\d\.key is .*kv_layout and kv_dtype say"):
            check_contract(wrong, LAYOUT)


def test_a_card_that_is_too_old_is_refused_before_anything_is_loaded(driver: FakeDriver) -> None:
    opened = open_bundle("demo", LoadOptions())
    variant = msgspec.structs.replace(opened.variant, kv_layout="paged", devices=("cuda",), kv_dtype="float16")
    bundle = Bundle(opened.folder, opened.manifest, variant)
    with pytest.raises(DeviceError, match="T4.*device='cpu'"):
        open_model(bundle, DeviceSpec("cuda", 1), None, 0, None)
    with pytest.raises(DeviceError, match="no GPU cuda:7"):
        open_model(bundle, DeviceSpec("cuda", 7), None, 0, None)
    with pytest.raises(DeviceError, match="the CPU has no kernel"):
        open_model(bundle, DeviceSpec("cpu"), None, 0, None)
    with pytest.raises(ValueError, match="paged"):
        msgspec.structs.replace(variant, devices=("cpu",))


# --- rfprm doctor -------------------------------------------------------------------------------------------------


def test_the_doctor_tells_of_cards(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cuda_version", lambda: "13.0")
    monkeypatch.setattr(cuda, "_loads", lambda name: name != "libcudnn.so.9")
    result = CliRunner().invoke(doctor.doctor, ["--json"])
    told = json.loads(result.output)
    assert result.exit_code == 1
    assert (told["gpu"]["cuda"], told["gpu"]["cudnn"]) == ("13.0", cuda.cudnn_version())
    assert told["gpu"]["missing_libraries"] == ["libcudnn.so.9"]
    assert [card["name"] for card in told["gpu"]["cards"]] == ["NVIDIA H100", "Tesla T4"]
    assert any("T4" in problem for problem in told["problems"])
    assert any("onnxruntime-gpu[cuda,cudnn]" in problem for problem in told["problems"])
    driver.cards, driver.version = [H100], 12040
    monkeypatch.setattr(cuda, "_loads", lambda _name: True)
    gpu = doctor.Gpu.found()
    assert gpu.problems == ["the driver runs CUDA up to 12.4, onnxruntime-gpu needs 13.0: install a newer driver"]
    assert doctor.gpu_line(gpu.cards[0]) == "NVIDIA H100, compute capability 9.0, 70.0 of 80.0 GB free"
    assert gpu.cuda_line == "13.0, its libraries load"
    loaded = SimpleNamespace(cudnnGetVersion=lambda: 91400)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: loaded)
    assert doctor.Gpu.found().cudnn == "9.14.0"


def test_the_doctor_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "no such library")
    assert doctor.Gpu.found().problems == []  # this onnxruntime needs none
    monkeypatch.setattr(doctor, "cuda_version", lambda: "13.0")
    assert "onnxruntime-gpu is installed, but no NVIDIA driver" in doctor.Gpu.found().problems[0]

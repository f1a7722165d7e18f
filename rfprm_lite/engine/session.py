"""The ONNX Runtime session of a graph on a device.

In: a graph file and a device's name. Out: a session that runs on that device, or a DeviceError. Nothing falls back.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.cpu import int8_products_saturate
from rfprm_lite.engine.l2 import sound_attention
from rfprm_lite.engine.processors import processors
from rfprm_lite.errors import BundleFileError, DeviceError

if TYPE_CHECKING:
    import onnxruntime as ort

_opened: weakref.WeakSet[ort.InferenceSession] = weakref.WeakSet()


UNUSED_OPTIMIZERS = ("ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer")
"""What changes no graph of rfprm-export. The first would compute at the load what a stranger's graph asks for; the
second ends the process where a float16 weight is widened for GroupQueryAttention, in ONNX Runtime before 1.30."""


def require_available(device: DeviceSpec) -> None:
    """Check that this ONNX Runtime was built with the device.

    Raises:
        DeviceError: If it was not.
    """
    if device.kind == "cpu":
        return
    available = available_providers()
    if "CUDAExecutionProvider" not in available:
        import onnxruntime as ort

        raise DeviceError(
            f"device='cuda' was asked for, but this ONNX Runtime ({ort.__version__}) has only {', '.join(available)}: "
            "install rfprm-lite-gpu in place of rfprm-lite, or ask for device='cpu'"
        )


def load_onnxruntime() -> None:
    """Import ONNX Runtime with its telemetry off, unless ORT_DISABLE_TELEMETRY already says otherwise.

    From 1.29 on it sends telemetry from POSIX systems by default; the variable counts only before the first import.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # noqa: F401


def available_providers() -> list[str]:
    """The execution providers that this ONNX Runtime was built with."""
    load_onnxruntime()
    import onnxruntime as ort

    return list(ort.get_available_providers())


def cuda_version() -> str:
    """The version of CUDA that this ONNX Runtime was built with; empty where it was built without.

    Its libraries are looked for in the wheels that bring them, as before a session.
    """
    if "CUDAExecutionProvider" not in available_providers():
        return ""
    import onnxruntime as ort

    preload()
    return str(getattr(ort, "cuda_version", ""))


def preload() -> None:
    """Load CUDA's libraries from the wheels that bring them, before the first session. Quietly: see `rfprm doctor`."""
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()


def open_session(
    graph: Path | bytes, device: DeviceSpec, threads: int | None, *, sums_fit_16_bits: bool = False
) -> ort.InferenceSession:
    """Open a session on a device.

    Args:
        graph: The file, or what would be in it.
        device: Where it runs.
        threads: Within an operator; None for as many as `processors` counts.
        sums_fit_16_bits: What the manifest says of the graph's weights.

    Raises:
        DeviceError: If the device can't be had.
        BundleFileError: If ONNX Runtime refuses the graph.
    """
    require_available(device)
    load_onnxruntime()
    import onnxruntime as ort

    options = session_options(threads, sums_fit_16_bits=sums_fit_16_bits)
    try:
        with sound_attention(ort.__version__):
            source = graph if isinstance(graph, bytes) else str(graph)
            session = ort.InferenceSession(
                source, options, providers=_providers(device), disabled_optimizers=UNUSED_OPTIMIZERS
            )
    except Exception as error:  # ONNX Runtime's own errors have no common base but Exception
        name = graph if isinstance(graph, Path) else "a graph in memory"
        raise BundleFileError(f"ONNX Runtime can't load {name}: {error}") from error
    if device.kind == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise DeviceError(
            "device='cuda' was asked for, but ONNX Runtime could not start its CUDA provider (its log says why; "
            "often a missing CUDA or cuDNN library: rfprm doctor names it). rfprm-lite does not fall back to the CPU"
        )
    _opened.add(session)
    return session


def _never_close() -> None:
    """Keep the sessions of its parent in a forked process: closing one would wait for threads that are not there."""
    for session in list(_opened):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    _opened.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_never_close)


def session_options(threads: int | None, *, sums_fit_16_bits: bool = False) -> ort.SessionOptions:
    """The options that every session of rfprm-lite is opened with.

    Args:
        threads: Within an operator; None for as many as `processors` counts.
        sums_fit_16_bits: Whether products of u8 by s8 are exact in 16 bits, too.

    Raises:
        DeviceError: If `threads` is not a count.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if int8_products_saturate() and not sums_fit_16_bits:
        # s8 weights become u8 at load: exact, but slower, and in memory twice.
        options.add_session_config_entry("session.x64quantprecision", "1")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise DeviceError(f"threads={threads!r}: a whole number from 1 on is needed")
    # Always a count: without one ONNX Runtime pins threads, to processors that may be other processes'.
    options.intra_op_num_threads = processors().count if threads is None else threads
    return options


def _providers(device: DeviceSpec) -> list[str | tuple[str, dict[str, str]]]:
    if device.kind == "cpu":
        return ["CPUExecutionProvider"]
    preload()
    # TF32 would round the head's float32 products to 10 bits. By default memory would be taken in powers of two.
    options = {"device_id": str(device.index), "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]

"""NVIDIA's driver, as far as it is asked: which cards there are, what they have free, and a buffer on one of them.

By ctypes, since the driver is on every machine with a card and ONNX Runtime's Python tells none of it. Cards have the
numbers that CUDA gives them, so that CUDA_VISIBLE_DEVICES counts. UNMEASURED: this has run with a stand-in for the
driver, and never with a card.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfprm_lite.errors import DeviceError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
ON_LINUX = ("libcudart.so.{}", "libcublas.so.{}", "libcublasLt.so.{}", "libcurand.so.10", "libcudnn.so.9")
ON_WINDOWS = ("cudart64_{}.dll", "cublas64_{}.dll", "cublasLt64_{}.dll", "curand64_10.dll", "cudnn64_9.dll")
"""What ONNX Runtime's CUDA provider loads, by CUDA's major version; read from the wheel of onnxruntime-gpu 1.31.1."""
VERSION_FILE = Path("/proc/driver/nvidia/version")
OUT_OF_MEMORY = 2
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
DEVICE_MEMORY = 2
NAME_BYTES = 100
MOST_PITCH = 2**31 - 1
"""Bytes from a row to the next that the driver copies with."""
LEAST_CAPABILITY = (8, 0)
"""Below it ONNX Runtime has no FlashAttention, which alone reads pages where they are."""


class _Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D of cuda.h."""

    _fields_ = [
        ("src_x", ctypes.c_size_t), ("src_y", ctypes.c_size_t), ("src_type", ctypes.c_uint),
        ("src_host", ctypes.c_void_p), ("src_device", ctypes.c_ulonglong), ("src_array", ctypes.c_void_p),
        ("src_pitch", ctypes.c_size_t),
        ("dst_x", ctypes.c_size_t), ("dst_y", ctypes.c_size_t), ("dst_type", ctypes.c_uint),
        ("dst_host", ctypes.c_void_p), ("dst_device", ctypes.c_ulonglong), ("dst_array", ctypes.c_void_p),
        ("dst_pitch", ctypes.c_size_t),
        ("width", ctypes.c_size_t), ("height", ctypes.c_size_t),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU.

    Attributes:
        index: Its number, as in "cuda:1".
        name: As the driver calls it.
        capability: Its compute capability.
        total_bytes: Its memory.
        free_bytes: What nobody has taken of it.
    """

    index: int
    name: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Driver:
    """What the driver says of itself.

    Attributes:
        release: Such as "580.95.05"; empty where the system does not tell.
        cuda: The newest CUDA that it can run.
    """

    release: str
    cuda: tuple[int, int]


def load() -> Any:
    """The driver's library.

    Raises:
        DeviceError: If there is none, or if it does not start.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise DeviceError(f"no NVIDIA driver: {LIBRARY} can't be loaded ({error})") from error
    _call(library, "cuInit", 0)
    return library


def driver() -> Driver:
    """What the driver says of itself.

    Raises:
        DeviceError: If there is none.
    """
    version = ctypes.c_int()
    _call(load(), "cuDriverGetVersion", ctypes.byref(version))
    try:
        text = VERSION_FILE.read_text(encoding="utf-8")
    except OSError:
        text = ""
    release = next((word for word in text.split() if word.replace(".", "").isdigit() and "." in word), "")
    return Driver(release, (version.value // 1000, version.value % 1000 // 10))


def cards() -> list[Card]:
    """All GPUs that this process may use.

    Raises:
        DeviceError: If there is no driver.
    """
    count = ctypes.c_int()
    _call(load(), "cuDeviceGetCount", ctypes.byref(count))
    return [card(index) for index in range(count.value)]


def card(index: int) -> Card:
    """A GPU by its number.

    Raises:
        DeviceError: If there is no driver, or no such GPU.
    """
    library = load()
    count = ctypes.c_int()
    _call(library, "cuDeviceGetCount", ctypes.byref(count))
    if not 0 <= index < count.value:
        there = ", ".join(f"cuda:{i}" for i in range(count.value)) or "none"
        raise DeviceError(f"there is no GPU cuda:{index}: CUDA shows {there}")
    device = _device(library, index)
    name = ctypes.create_string_buffer(NAME_BYTES)
    _call(library, "cuDeviceGetName", name, NAME_BYTES, device)
    numbers = [ctypes.c_int(), ctypes.c_int()]
    for number, attribute in zip(numbers, (CAPABILITY_MAJOR, CAPABILITY_MINOR), strict=True):
        _call(library, "cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    with _current(library, index):
        _call(library, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    capability = (numbers[0].value, numbers[1].value)
    return Card(index, name.value.decode(errors="replace"), capability, total.value, free.value)


def missing_libraries(cuda: str) -> list[str]:
    """The libraries of ONNX Runtime for CUDA that can't be loaded here, after it was told to look into its wheels.

    Args:
        cuda: The version of CUDA that ONNX Runtime was built with, such as "13.0".
    """
    major = cuda.partition(".")[0]
    names = [name.format(major) for name in (ON_WINDOWS if sys.platform == "win32" else ON_LINUX)]
    return [name for name in names if not _loads(name)]


def cudnn_version() -> str:
    """The version of cuDNN that loads here, such as "9.14.0"; empty without one."""
    try:
        library = ctypes.CDLL((ON_WINDOWS if sys.platform == "win32" else ON_LINUX)[-1])
        library.cudnnGetVersion.restype = ctypes.c_size_t
        version = int(library.cudnnGetVersion())
    except (OSError, AttributeError):
        return ""
    return f"{version // 10_000}.{version // 100 % 100}.{version % 100}"


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def too_old(found: Card) -> str | None:
    """Why a card can't run paged variants, in words; None if it can."""
    if found.capability >= LEAST_CAPABILITY:
        return None
    return (
        f"{found.name} (cuda:{found.index}) has compute capability {_dotted(found.capability)}; variants for CUDA need "
        f"{_dotted(LEAST_CAPABILITY)} (Ampere, 2020) or newer. On this machine take device='cpu'"
    )


class Buffer:
    """Memory on a card, filled with zeros, freed with the object.

    Attributes:
        address: Of its first byte.
    """

    def __init__(self, index: int, nbytes: int) -> None:
        """Take it.

        Args:
            index: The card's number.
            nbytes: How much.

        Raises:
            DeviceError: If the card has no room for it.
        """
        self._library, self._index = load(), index
        device, context = _device(self._library, index), ctypes.c_void_p()
        # Held as long as the buffer lives, so that its context does.
        _call(self._library, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        try:
            self.address = _zeros(self._library, index, nbytes)
        except BaseException:
            self._library.cuDevicePrimaryCtxRelease_v2(device)
            raise
        weakref.finalize(self, _free, self._library, index, self.address)

    def synchronise(self) -> None:
        """Wait until all that was begun on the card, in whatever stream, has ended.

        Raises:
            DeviceError: If something of it failed.
        """
        with _current(self._library, self._index):
            _call(self._library, "cuCtxSynchronize")

    def copy(self, pieces: Sequence[tuple[int, int, int]], pitch: int, rows: int) -> None:
        """Copy within the buffer; done when it returns.

        Args:
            pieces: Of each: the byte that it goes to, the byte that it comes from, and how many.
            pitch: Bytes from a row to the next.
            rows: In how many rows each is copied.

        Raises:
            DeviceError: If the driver refuses.
        """
        with _current(self._library, self._index):
            for target, source, width in pieces:
                wanted = _Copy2D(
                    src_type=DEVICE_MEMORY, src_device=self.address + source, src_pitch=pitch,
                    dst_type=DEVICE_MEMORY, dst_device=self.address + target, dst_pitch=pitch,
                    width=width, height=rows,
                )  # fmt: skip
                _call(self._library, "cuMemcpy2DUnaligned_v2", ctypes.byref(wanted))
            _call(self._library, "cuStreamSynchronize", None)


def _zeros(library: Any, index: int, nbytes: int) -> int:
    """The address of so many bytes of zeros: kernels read whole tiles, and what nobody wrote must be numbers."""
    address = ctypes.c_ulonglong()
    with _current(library, index):
        code = library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(nbytes))
        if code == OUT_OF_MEMORY:
            raise DeviceError(
                f"cuda:{index} has no {nbytes / 1e9:.2f} GB free in one piece for keys and values: give the model a "
                "smaller memory_bytes, or free some of the card"
            )
        _check(library, "cuMemAlloc_v2", code)
        _call(library, "cuMemsetD8_v2", address, 0, ctypes.c_size_t(nbytes))
        _call(library, "cuCtxSynchronize")
    return int(address.value)


def _free(library: Any, index: int, address: int) -> None:
    with _current(library, index):
        library.cuMemFree_v2(ctypes.c_ulonglong(address))
    library.cuDevicePrimaryCtxRelease_v2(_device(library, index))


@contextmanager
def _current(library: Any, index: int) -> Iterator[None]:
    """The card's own context, which ONNX Runtime and PyTorch use too, as the thread's within this one."""
    device, context, before = _device(library, index), ctypes.c_void_p(), ctypes.c_void_p()
    _call(library, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        _call(library, "cuCtxPushCurrent_v2", context)
        try:
            yield
        finally:
            library.cuCtxPopCurrent_v2(ctypes.byref(before))
    finally:
        library.cuDevicePrimaryCtxRelease_v2(device)


def _device(library: Any, index: int) -> ctypes.c_int:
    device = ctypes.c_int()
    _call(library, "cuDeviceGet", ctypes.byref(device), index)
    return device


def _call(library: Any, name: str, *arguments: Any) -> None:
    _check(library, name, getattr(library, name)(*arguments))


def _check(library: Any, name: str, code: int) -> None:
    if code:
        text = ctypes.c_char_p()
        library.cuGetErrorString(code, ctypes.byref(text))
        raise DeviceError(f"the NVIDIA driver refused {name}: {(text.value or b'').decode() or code}")


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"

"""The one ONNX Runtime whose attention crawls where the C library does not tell the size of the L2 cache.

Attention's kernel takes keys in blocks of a part of that cache. ONNX Runtime 1.28 asks the C library alone, and takes
a key at a time where that says 0, as on Arm and in some virtual machines: 1,620 tokens took 17 s in place of 0.14. From
1.29 on it knows better; before 1.28 it had no such kernel.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CRAWLING = "1.28."
"""How those versions of ONNX Runtime begin."""
OTHER_KERNEL = "ORT_GQA_DISABLE_FLASH_ATTENTION"
"""ONNX Runtime reads this variable when it makes a node's kernel, and has no option for it."""
SC_LEVEL2_CACHE_SIZE = 191
"""The number that glibc has for it on every processor; Python knows no name."""

_changing = threading.Lock()


def l2_bytes() -> int | None:
    """The size of the L2 cache as the C library tells it, 0 where it does not; None where it is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return None
    sysconf = ctypes.CDLL(None).sysconf
    sysconf.argtypes, sysconf.restype = (ctypes.c_int,), ctypes.c_long
    return max(0, int(sysconf(SC_LEVEL2_CACHE_SIZE)))


def attention_crawls(onnxruntime: str) -> bool:
    """Whether the attention of this version of ONNX Runtime would crawl here."""
    return onnxruntime.startswith(CRAWLING) and l2_bytes() == 0


@contextmanager
def sound_attention(onnxruntime: str) -> Iterator[None]:
    """Within this context, sessions of this version get the other kernel where attention would crawl.

    The environment is changed for as long as a session is opened. Whoever has set the variable is left alone.
    """
    if not attention_crawls(onnxruntime):
        yield
        return
    with _changing:
        before = os.environ.get(OTHER_KERNEL)
        os.environ.setdefault(OTHER_KERNEL, "1")
        try:
            yield
        finally:
            if before is None:
                del os.environ[OTHER_KERNEL]

"""ik_llama.cpp with Q8_0 weights, repacked in interleaved rows when they are loaded, and flash attention; the prefix
that a call shares stays in the cache.

The wheel's bindings lack four functions of llama.h, which are bound here.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from ik_llama_cpp import _ctypes_api

from contenders.gguf_q8 import CHUNK, GgufContender

_C = _ctypes_api._lib  # noqa: SLF001
_C.llama_get_embeddings.argtypes = [ctypes.c_void_p]
_C.llama_get_embeddings.restype = ctypes.POINTER(ctypes.c_float)
_C.llama_kv_cache_seq_rm.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]
_C.llama_kv_cache_seq_rm.restype = ctypes.c_bool
_C.llama_print_system_info.restype = ctypes.c_char_p


class IkLlamaCpp(GgufContender):
    lib = _ctypes_api

    def open(self, path: Path, threads: int) -> None:
        self._threads = threads
        _ctypes_api.llama_backend_init()
        print(_C.llama_print_system_info())  # which instructions the wheel was built for
        parameters = _ctypes_api.llama_model_default_params()
        parameters.repack_tensors, parameters.use_mmap, parameters.flash_attn = True, False, True
        self._model = _ctypes_api.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise RuntimeError(f"ik_llama.cpp does not read {path}")
        self._context = None

    def reserve(self, tokens: int) -> None:
        if self._context is not None:
            _ctypes_api.llama_free(self._context)
        parameters = _ctypes_api.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = tokens, CHUNK, CHUNK
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.embeddings, parameters.pooling_type = True, _ctypes_api.LLAMA_POOLING_TYPE_NONE
        parameters.flash_attn = True
        self._context = _ctypes_api.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise RuntimeError(f"ik_llama.cpp makes no context for {tokens} tokens")

    def roll_back(self, tokens: int) -> None:
        _C.llama_kv_cache_seq_rm(self._context, 0, tokens, -1)

    def decode(self, batch: Any) -> Any:
        return None if _ctypes_api.llama_decode(self._context, batch) else _C.llama_get_embeddings(self._context)

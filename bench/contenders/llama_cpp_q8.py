"""llama.cpp with Q8_0 weights through llama-cpp-python; the prefix that a call shares stays in the cache."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp

from contenders.gguf_q8 import CHUNK, GgufContender


class LlamaCpp(GgufContender):
    lib = llama_cpp

    def open(self, path: Path, threads: int) -> None:
        self._threads = threads
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        self._context = None

    def reserve(self, tokens: int) -> None:
        if self._context is not None:
            llama_cpp.llama_free(self._context)
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = tokens, CHUNK, CHUNK
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.embeddings, parameters.pooling_type = True, llama_cpp.LLAMA_POOLING_TYPE_NONE
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)

    def roll_back(self, tokens: int) -> None:
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), 0, tokens, -1)

    def decode(self, batch: Any) -> Any:
        return None if llama_cpp.llama_decode(self._context, batch) else llama_cpp.llama_get_embeddings(self._context)


@llama_cpp.llama_log_callback
def _SILENT(level: int, text: bytes, data: ctypes.c_void_p) -> None:  # noqa: N802
    pass

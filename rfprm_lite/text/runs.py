"""The encodings of runs of text, of which the last ones are remembered.

Many candidates have one prompt, and a trace that grows has its past again at each step. To encode 65,536 tokens takes
a fifth of a second, to remember them a hundredth of that.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

ROOM = 2**20
"""Characters of all remembered runs, at most. With its tokens a character takes 8 bytes at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """An encoded run of text.

    Attributes:
        ids: uint32 [num_tokens].
        ends: The character behind each token, int32 [num_tokens]; None where nobody asked.
    """

    ids: NDArray[np.uint32]
    ends: NDArray[np.int32] | None


class Runs:
    """Encodes runs of text. Several threads may use one at once.

    Args:
        encode: What encodes a text, to the same tokens each time.
        room: Characters of all remembered runs, at most.
    """

    def __init__(self, encode: Callable[[str], Encoding], room: int = ROOM) -> None:
        self._encode = encode
        self._room = room
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._characters = 0

    def __call__(self, text: str, *, ends: bool) -> Run:
        """The run of a text, with the ends of its tokens if they are asked for: these are costly."""
        with self._lock:
            run = self._runs.get(text)
            if run is not None:
                self._runs.move_to_end(text)
        if run is None or (ends and run.ends is None):
            encoding = self._encode(text)
            offsets = np.array([end for _, end in encoding.offsets], np.int32) if ends else None
            run = Run(np.array(encoding.ids, np.uint32), offsets)
            self._remember(text, run)
        return run

    def _remember(self, text: str, run: Run) -> None:
        if len(text) > self._room:
            return
        with self._lock:
            self._characters += 0 if text in self._runs else len(text)
            self._runs[text] = run
            self._runs.move_to_end(text)
            while self._characters > self._room:
                oldest, _ = self._runs.popitem(last=False)
                self._characters -= len(oldest)

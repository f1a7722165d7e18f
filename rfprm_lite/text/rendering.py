"""What the model really reads, for people who doubt.

In: an encoder, a problem and a trace. Out: the text with its read-outs marked, its tokens and their positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.bundle.pieces import Read, Special, Text
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.text.writing import Draft, step_drafts
from rfprm_lite.trace import Problem, Trace


@dataclass(frozen=True, slots=True, eq=False)
class Rendering:
    """One text that the model reads. As a str it is `marked`.

    Attributes:
        text: The text, special tokens as they are written.
        marked: The text with a mark behind each read-out: `⟦1⟧` is where the reward of step 1 stands.
        ids: int64 [num_tokens].
        tokens: The tokens, as the vocabulary writes them.
        read_at: int64 [num_reads], positions in `ids` at which rewards are read out.
        earlier: The texts of the steps before, where each step is read in a text of its own; this one is the last's.
    """

    text: str
    marked: str
    ids: NDArray[np.int64]
    tokens: tuple[str, ...]
    read_at: NDArray[np.int64]
    earlier: tuple[Rendering, ...] = ()

    def __str__(self) -> str:
        return "\n".join([*(earlier.marked for earlier in self.earlier), self.marked])


def rendering(encoder: Encoder, problem: Problem, trace: Trace) -> Rendering:
    """What the model reads of a trace. Raises as `Encoder.step_sequences` does."""
    drafts = step_drafts(encoder.recipe, problem, trace)
    *earlier, last = (_rendering(encoder, draft, i if len(drafts) > 1 else 0) for i, draft in enumerate(drafts))
    return Rendering(last.text, last.marked, last.ids, last.tokens, last.read_at, tuple(earlier))


def _rendering(encoder: Encoder, draft: Draft, first: int) -> Rendering:
    sequence = encoder.encode(draft)
    text, marked, read = "", "", first
    for piece in draft:
        written = piece.token if isinstance(piece, Special) else piece.text if isinstance(piece, Text) else ""
        text += written
        marked += written
        if isinstance(piece, Read):
            read += 1
            marked += f"⟦{read}⟧"
    tokens = tuple(encoder.token_texts(sequence.ids.tolist()))
    return Rendering(text, marked, sequence.ids, tokens, sequence.read_at)

"""Real best-of-N pools with real step scores, as token ids: StrictPRMBench's best-of-32 (CC-BY-4.0).

Each row of the two gzipped JSON-lines files has `question` and `candidates`; a candidate has `upstream_steps`, their
`qwen_prm_step_scores` (Qwen2.5-Math-PRM-7B) and `is_correct`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfprm_export.families.options import family_from
from rfprm_lite import Trace
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.text.encoding import Encoder

FILES = ("gsm8k_bon32_qwenprm.jsonl.gz", "math500_bon32_qwenprm.jsonl.gz")
RECIPE = "reasonflux-prm-7b"
MOST_TOKENS = 32_768


@dataclass(frozen=True, slots=True)
class Candidate:
    """scores: of each step, in [0, 1]. usable: whether each score is of the step alone."""

    sequence: TokenSequence
    scores: NDArray[np.float32]
    usable: NDArray[np.bool_]
    correct: bool


def read(folder: Path, tokenizer: Path, problems: slice, candidates: int) -> Iterator[list[Candidate]]:
    """The pools of these problems of each file, alternating between the files."""
    encoder = Encoder.from_file(tokenizer, family_from(RECIPE).resolve(None, {}, ()).recipe, MOST_TOKENS)
    files = [_rows(folder / name)[problems] for name in FILES]
    for rows in zip(*files, strict=True):
        for row in rows:
            yield [_candidate(encoder, row["question"], c) for c in row["candidates"][:candidates]]


def _candidate(encoder: Encoder, question: str, row: dict) -> Candidate:  # type: ignore[type-arg]
    kept = [(s, p) for s, p in zip(row["upstream_steps"], row["qwen_prm_step_scores"], strict=True) if s.strip()]
    (sequence,) = encoder.step_sequences(question, Trace.from_steps([step.strip() for step, _ in kept]))
    usable = np.ones(len(kept), bool)
    usable[0] = not row.get("step0_has_prompt")
    return Candidate(sequence, np.array([p for _, p in kept], np.float32), usable, bool(row["is_correct"]))


def _rows(path: Path) -> list[dict]:  # type: ignore[type-arg]
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    return [json.loads(line) for line in lines if line]

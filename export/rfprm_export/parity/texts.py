"""On which texts variants are calibrated and measured, as far as a model can read them.

In: the runtime's encoder of a checkpoint. Out: traces to measure parity on, and token sequences to calibrate on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.errors import ExportError
from rfprm_export.families.family import WHOLE
from rfprm_export.parity.probes import PROBES, calibration_traces, long_trace, pools
from rfprm_lite import ContextLengthError
from rfprm_lite.bundle.recipe import Recipe
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Trace

MOST_BYTES = 160 << 20
"""Of the residual stream of all texts, which stays in memory: 11,700 tokens at a hidden size of 3,584."""
MOST_TOKENS = 16_384
"""More change no variant's rewards, and cost time; second moments of up to 5,120 columns are taken of them
(bench/log/2026-11-26-one-calibration-pass.md)."""
MOST_TOKENS_A_CHANNEL = 64
"""Of the MLP's inner ones, the widest product: more tell a small model nothing, and take minutes."""


@dataclass(frozen=True, slots=True)
class ParityTexts:
    """What parity is measured on.

    Attributes:
        traces: Problems with traces.
        pools: Which traces are the candidates of one problem.
    """

    traces: list[tuple[str, Trace]]
    pools: list[slice]


@dataclass(frozen=True, slots=True)
class CalibrationTexts:
    """What variants are calibrated on.

    Attributes:
        sequences: Token ids and read-outs of each text.
    """

    sequences: list[TokenSequence]

    @property
    def description(self) -> str:
        """The texts in words, for the manifest."""
        tokens = sum(len(sequence.ids) for sequence in self.sequences)
        return f"calibrated on {len(self.sequences)} traces of PRMBench and StrictPRMBench, {tokens} tokens"


def parity_texts(encoder: Encoder, most: int | None = None) -> ParityTexts:
    """Take the pools, the probes and a long trace, as far as the model can read them.

    Args:
        encoder: The runtime's.
        most: Of the pools' candidates; whole pools alone are taken, the first in any case.

    Raises:
        ExportError: The model can read none.
    """

    def fits(problem: str, trace: Trace) -> bool:
        try:
            encoder.step_sequences(problem, trace)
        except ContextLengthError:
            return False
        return True

    traces: list[tuple[str, Trace]] = []
    slices: list[slice] = []
    for pool in pools():
        candidates = _readable(encoder.recipe, pool, fits)
        if most is not None and traces and len(traces) + len(candidates) > most:
            break
        slices.append(slice(len(traces), len(traces) + len(candidates)))
        traces += candidates
    traces += _readable(
        encoder.recipe, [*PROBES, long_trace(lambda *probe: fits(probe[0], suited(encoder.recipe, probe[1])))], fits
    )
    if not traces:
        raise ExportError("the model reads so few tokens that none of the exporter's traces fits it")
    return ParityTexts(traces, [pool for pool in slices if pool.stop - pool.start > 1])


def calibration_texts(encoder: Encoder, architecture: Architecture, most: int | None = None) -> CalibrationTexts:
    """Take as many traces as tell something and as memory is meant for.

    Args:
        encoder: The runtime's.
        architecture: Whose residual stream stays in memory.
        most: Of the traces.

    Raises:
        ExportError: The model can read none.
    """
    sequences: list[TokenSequence] = []
    room = min(
        MOST_BYTES // (4 * architecture.hidden_size),
        MOST_TOKENS_A_CHANNEL * architecture.intermediate_size,
        MOST_TOKENS,
    )
    for problem, trace in calibration_traces()[:most]:
        with suppress(ContextLengthError):
            sequence = encoder.step_sequences(problem, suited(encoder.recipe, trace))[-1]
            if sequences and room < len(sequence.ids):
                break
            room -= len(sequence.ids)
            sequences.append(sequence)
    if not sequences:
        raise ExportError("the model reads so few tokens that no text for calibration fits it: only fp32 can be made")
    return CalibrationTexts(sequences)


def suited(recipe: Recipe, trace: Trace) -> Trace:
    """A trace as a recipe takes it: whole; or split at what it refuses, its last step the response that it reads apart.

    Args:
        recipe: What it takes.
        trace: Any.
    """
    if recipe.split == WHOLE:
        return Trace.from_steps(["\n\n".join(step.text for step in trace.steps)])
    refused = [text for text in recipe.cleaning.refuse if text in trace.text]
    if not (refused or recipe.closing):
        return trace
    steps = [step.text for step in trace.steps]
    for text in refused:
        steps = [part for step in steps for part in step.split(text) if part.strip()]
    return Trace.from_steps(steps, thinking=max(1, len(steps) - 1) if recipe.closing else 0)


def _readable(
    recipe: Recipe, traces: Sequence[tuple[str, Trace]], fits: Callable[[str, Trace], bool]
) -> list[tuple[str, Trace]]:
    ours = [(problem, suited(recipe, trace)) for problem, trace in traces]
    return [trace for trace in ours if fits(*trace)]

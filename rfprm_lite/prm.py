"""The front of the library: a PRM that scores traces. Wiring only.

problem and response -> trace -> token sequences -> prefix plan -> engine -> rewards -> aggregate -> `Score`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfprm_lite.aggregate import Aggregate, as_aggregate
from rfprm_lite.bundle import DEMO, Bundle, HubOptions, open_bundle
from rfprm_lite.device import DeviceSpec, open_session, require_available
from rfprm_lite.encoding import Encoder, TokenSequence
from rfprm_lite.engine import Engine
from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.kv import Layout
from rfprm_lite.manifest import Manifest, Variant
from rfprm_lite.results import BestOfN, Candidate, Score, Tokens
from rfprm_lite.scorer import SequenceRewards, score_sequences
from rfprm_lite.trace import Trace, as_trace

Response = str | Sequence[str] | Trace
"""What is scored: text, split into steps at blank lines; steps, taken as they are; or a Trace."""

_log = logging.getLogger("rfprm_lite")


class PRM:
    """A process reward model, loaded. May be used from several threads at once. Made by `from_pretrained`."""

    def __init__(self, bundle: Bundle, device: DeviceSpec, threads: int | None) -> None:
        manifest, variant = bundle.manifest, bundle.variant
        self._bundle = bundle
        self._encoder = Encoder.from_file(bundle.tokenizer, manifest.recipe, manifest.max_tokens)
        session = open_session(bundle.graph, device, threads)
        self._engine = Engine(session, Layout.of(manifest.dimensions, variant.kv_dtype), device)
        self._device = device

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        variant: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        verify: bool = True,
    ) -> PRM:
        """Load a bundle that rfprm-export made.

        model: a folder, a hub id (`org/name`), or "demo" for the bundled demo model, which also stands in where
            nothing is given. The demo model judges grade-school arithmetic only; it is not ReasonFlux-PRM.
        variant: such as "fp32"; the bundle's default for the device where None.
        device: "cpu", "cuda" or "cuda:N". Where it can't be had, DeviceError: nothing falls back.
        threads: of one run, within an operator; None for one a physical core.
        revision, cache_dir, local_files_only: for hub ids, as in huggingface-hub.
        verify: check each file's sha256 (about a second for 1.5 GB). Sizes are always checked.

        Raises ModelNotFoundError, BundleFormatError, BundleFileError, VariantError, DeviceError.
        """
        spec = DeviceSpec.parse(device)
        require_available(spec)  # before anything is downloaded
        if model is None:
            _log.warning(
                "no model was named, so this is rfprm-lite's bundled demo model: it judges grade-school arithmetic "
                "only and is not ReasonFlux-PRM. Name a bundle, or 'demo' to say that you want it"
            )
        hub = HubOptions(revision, Path(cache_dir) if cache_dir else None, local_files_only)
        bundle = open_bundle(DEMO if model is None else model, variant, spec.kind, hub, verify=verify)
        return cls(bundle, spec, threads)

    @property
    def manifest(self) -> Manifest:
        """What the bundle is: recipe, dimensions, source, parity of its variants."""
        return self._bundle.manifest

    @property
    def variant(self) -> Variant:
        """The variant that was loaded."""
        return self._bundle.variant

    def __repr__(self) -> str:
        return (
            f"PRM({self.manifest.source.name}, {self.manifest.recipe.name}, {self.variant.name}, {self._device.kind})"
        )

    def score(self, problem: str, response: Response, *, aggregate: str | Aggregate | None = None) -> Score:
        """Reward every step of a response, and the whole of it.

        problem: the question as the user put it; the recipe's template does the rest.
        aggregate: mean, min, product, last, mean+final, or an `Aggregate`; the recipe's own where None.

        Raises InputError and InputTypeError, and ContextLengthError before anything runs.
        """
        how = as_aggregate(aggregate, self.manifest.recipe.aggregate)
        return self._score([self._read((problem, response), how)], how)[0]

    def score_many(
        self, pairs: Iterable[tuple[str, Response]], *, aggregate: str | Aggregate | None = None
    ) -> list[Score]:
        """Reward many responses, in the order given; a prefix that any of them share is computed once.

        Raises as `score` does, before anything runs; the message names the pair.
        """
        how = as_aggregate(aggregate, self.manifest.recipe.aggregate)
        readings: list[_Reading] = []
        for i, pair in enumerate(pairs):
            try:
                readings.append(self._read(pair, how))
            except (InputError, InputTypeError) as error:
                error.add_note(f"in response {i} of this call")
                raise
        return self._score(readings, how)

    def best_of_n(
        self,
        problem: str,
        candidates: Iterable[Candidate],
        *,
        aggregate: str | Aggregate | None = None,
    ) -> BestOfN[Candidate]:
        """Choose the candidate with the highest reward; the first among equals.

        candidates: responses, at least one, each as in `score`. Raises as `score_many` does.
        """
        if isinstance(candidates, (str, bytes, Trace)):
            raise InputTypeError(f"candidates are several responses, not one {type(candidates).__name__}")
        candidates = list(candidates)
        if not candidates:
            raise InputError("no candidates: there is nothing to choose from")
        pairs: list[tuple[str, Response]] = [(problem, candidate) for candidate in candidates]  # type: ignore[misc]
        scores = self.score_many(pairs, aggregate=aggregate)
        index = max(range(len(scores)), key=lambda i: scores[i].reward)
        tokens = sum((score.tokens for score in scores), Tokens(0, 0))
        return BestOfN(index, candidates[index], tuple(scores), tokens)

    def _read(self, pair: tuple[str, Response], aggregate: Aggregate) -> _Reading:
        problem, response = _pair(pair)
        trace = as_trace(response)
        sequences = self._encoder.step_sequences(problem, trace)
        if aggregate.reads_response:
            sequences += self._encoder.response_sequences(problem, trace)
        return _Reading(trace, tuple(sequences))

    def _score(self, readings: Sequence[_Reading], aggregate: Aggregate) -> list[Score]:
        rewards = iter(score_sequences(self._engine, [s for reading in readings for s in reading.sequences]))
        return [_score(reading, [next(rewards) for _ in reading.sequences], aggregate) for reading in readings]


def _pair(value: object) -> tuple[str, Response]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise InputTypeError(f"a pair of problem and response is needed, not {type(value).__name__} {value!r:.60}")
    return value[0], value[1]


@dataclass(frozen=True, slots=True)
class _Reading:
    """A trace and what the model reads of it; a read-out behind those of the steps is the final reward."""

    trace: Trace
    sequences: tuple[TokenSequence, ...]


def _score(reading: _Reading, results: Sequence[SequenceRewards], aggregate: Aggregate) -> Score:
    rewards = np.concatenate([result.rewards for result in results])
    step_rewards = rewards[: len(reading.trace.steps)]
    final = float(rewards[-1])
    total = sum(len(sequence.ids) for sequence in reading.sequences)
    return Score(
        step_rewards=step_rewards,
        trajectory_reward=final,
        reward=aggregate(step_rewards, final),
        aggregate=aggregate,
        steps=reading.trace.steps,
        tokens=Tokens(total, sum(result.computed for result in results)),
    )

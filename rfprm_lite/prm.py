"""The front of the library: a PRM that scores traces. Wiring only.

problem and response -> trace -> token sequences -> prefix plan -> engine -> rewards -> aggregate -> `Score`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar, overload

from rfprm_lite.aggregate import Aggregate, as_aggregate
from rfprm_lite.bundle.manifest import Manifest, Variant
from rfprm_lite.bundle.open import Bundle, open_bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.kv import Block
from rfprm_lite.engine.session import require_available
from rfprm_lite.errors import ForkError, InputError, InputTypeError, RfprmError
from rfprm_lite.options import CACHE_BYTES, LoadOptions
from rfprm_lite.plan import bound
from rfprm_lite.plan.budget import Footprint
from rfprm_lite.plan.cache import PrefixCache
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.schedule import score_sequences
from rfprm_lite.plan.sequence import Rewards, SequenceRewards, TokenSequence
from rfprm_lite.plan.tree import plan
from rfprm_lite.plan.usage import Usage
from rfprm_lite.results import BestOfN, Candidate, Score
from rfprm_lite.scoring import aio, batches
from rfprm_lite.scoring.live import LiveTrace
from rfprm_lite.scoring.request import Request, collected
from rfprm_lite.scoring.wiring import open_engine, packing_of, sizes_of
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Problem, Response, Trace, as_trace

Result = TypeVar("Result")


class PRM:
    """A process reward model, loaded. May be used from several threads at once. Made by `from_pretrained`.

    Pickled, it is the path of its bundle and its options: another process that unpickles it loads it there. A process
    forked from one that has loaded it can't use it, and says so.
    """

    def __init__(self, bundle: Bundle, options: LoadOptions) -> None:
        """Of a bundle that is open; whoever has a name takes `from_pretrained` or `load`.

        Args:
            bundle: Files that are there, and were checked.
            options: Of them, the device, the threads and the two limits count here.

        Raises:
            DeviceError: The device is unknown, or can't be had.
            BundleFileError, BundleFormatError: ONNX Runtime refuses the graph, or it is not the manifest's.
        """
        manifest = bundle.manifest
        self._bundle = bundle
        self._options = options
        self._device = DeviceSpec.parse(options.device)
        self._encoder = Encoder.from_file(bundle.tokenizer, manifest.recipe, manifest.max_tokens)
        self._engine = open_engine(bundle, self._device, options.threads)
        self._cache = new_cache(options.cache_bytes)
        sizes = sizes_of(manifest, bundle.variant)
        self._footprint = Footprint(sizes, bundle.variant.lanes, options.cache_bytes, options.memory_bytes)
        self._packing = packing_of(manifest, bundle.variant)
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[PRM], tuple[object, ...]]:
        return type(self), (self._bundle, self._options)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        variant: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        verify: bool = True,
        cache_bytes: int = CACHE_BYTES,
        memory_bytes: int | None = None,
    ) -> PRM:
        """Load a bundle that rfprm-export made.

        What is downloaded, a hub id's variant where it is not in the cache, is logged (docs/hub.md).

        Args:
            model: A folder, a hub id (`org/name`), or "demo" for the bundled demo model, which judges grade-school
                arithmetic only and is not ReasonFlux-PRM.
            variant: Such as "fp32"; the bundle's default for the device where None.
            device: "cpu", "cuda" or "cuda:N". Where it can't be had, DeviceError: nothing falls back.
            threads: Of one run, within an operator; None for one a physical core.
            revision: Branch, tag or commit of a hub id.
            cache_dir: The hub's cache, in place of HF_HOME's.
            local_files_only: Never touch the network.
            verify: Check each file's sha256 (about a second for 1.5 GB). Sizes are always checked.
            cache_bytes: Of keys and values that are kept between calls, for prefixes that come again; 0 for none.
            memory_bytes: That a call may take at most beside the loaded model, the cache included. What can't keep
                within it is refused before it starts, by MemoryLimitError. Calls at the same time count each for
                itself.

        Raises:
            ModelNotFoundError: No bundle is there, or its download broke off.
            BundleFormatError: The manifest is malformed, or of another format version.
            BundleFileError: A file is missing, truncated or altered.
            VariantError: The bundle has no such variant, or none for the device.
            DeviceError: The device is unknown, or can't be had.
        """
        options = LoadOptions(
            variant=variant,
            device=device,
            threads=threads,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            verify=verify,
            cache_bytes=cache_bytes,
            memory_bytes=memory_bytes,
        )
        return cls.load(model, options)

    @classmethod
    def load(cls, model: str | Path, options: LoadOptions) -> PRM:
        """`from_pretrained`, with its keyword arguments as one value.

        Args:
            model: As in `from_pretrained`.
            options: The keyword arguments of `from_pretrained`.

        Raises:
            RfprmError: As `from_pretrained`.
        """
        require_available(DeviceSpec.parse(options.device))  # before anything is downloaded
        return cls(open_bundle(model, options), options)

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

    def score(self, problem: Problem, response: Response, *, aggregate: str | Aggregate | None = None) -> Score:
        """Reward every step of a response, and the whole of it.

        problem: the question as the user put it, the recipe's template does the rest; or a chat conversation that ends
            with it, a list of messages with role (system, user, assistant) and content.
        aggregate: mean, min, product, last, mean+final, or an `Aggregate`; the recipe's own where None.

        Raises InputError and InputTypeError, and ContextLengthError and MemoryLimitError before anything runs.
        """
        return self._score_one(problem, response, aggregate, Cancellation())

    async def ascore(
        self,
        problem: Problem,
        response: Response,
        *,
        aggregate: str | Aggregate | None = None,
        timeout: float | None = None,
    ) -> Score:
        """`score` in a thread of its own. Cancelled, or after `timeout` seconds (TimeoutError), the run ends within
        milliseconds and the model is as usable as before."""
        return await aio.run(lambda cancel: self._score_one(problem, response, aggregate, cancel), timeout)

    @overload
    def score_many(
        self,
        pairs: Iterable[tuple[Problem, Response]],
        *,
        aggregate: str | Aggregate | None = None,
        on_error: Literal["raise"] = "raise",
        progress: bool = False,
    ) -> list[Score]: ...

    @overload
    def score_many(
        self,
        pairs: Iterable[tuple[Problem, Response]],
        *,
        aggregate: str | Aggregate | None = None,
        on_error: Literal["return"],
        progress: bool = False,
    ) -> list[Score | RfprmError]: ...

    def score_many(
        self,
        pairs: Iterable[tuple[Problem, Response]],
        *,
        aggregate: str | Aggregate | None = None,
        on_error: batches.OnError = "raise",
        progress: bool = False,
    ) -> list[Score] | list[Score | RfprmError]:
        """Reward many responses, in the order given; a prefix that neighbours share is computed once.

        on_error: "raise" raises as `score` does, before anything runs, with a note that names the pair; "return"
        gives the error in the place of the score. progress: show a bar on standard error.
        """
        how = as_aggregate(aggregate, self.manifest.recipe.aggregate)
        pairs = list(pairs)
        if on_error == "raise":
            results = batches.score(self._check(pairs, how), lambda reading: reading, self._score, on_error)
        else:
            results = batches.score(pairs, lambda pair: self._read(pair, how), self._score, on_error)
        return list(_shown(results, pairs) if progress else results)

    async def ascore_many(
        self,
        pairs: Iterable[tuple[Problem, Response]],
        *,
        aggregate: str | Aggregate | None = None,
        timeout: float | None = None,
    ) -> list[Score]:
        """`score_many` in a thread of its own, all pairs planned together; stops as `ascore` does."""
        how = as_aggregate(aggregate, self.manifest.recipe.aggregate)
        given = list(pairs)
        return await aio.run(lambda cancel: self._score(self._check(given, how), cancel), timeout)

    @overload
    def score_iter(
        self,
        pairs: Iterable[tuple[Problem, Response]],
        *,
        aggregate: str | Aggregate | None = None,
        on_error: Literal["raise"] = "raise",
        progress: bool = False,
    ) -> Iterator[Score]: ...

    @overload
    def score_iter(
        self,
        pairs: Iterable[tuple[Problem, Response]],
        *,
        aggregate: str | Aggregate | None = None,
        on_error: Literal["return"],
        progress: bool = False,
    ) -> Iterator[Score | RfprmError]: ...

    def score_iter(
        self,
        pairs: Iterable[tuple[Problem, Response]],
        *,
        aggregate: str | Aggregate | None = None,
        on_error: batches.OnError = "raise",
        progress: bool = False,
    ) -> Iterator[Score] | Iterator[Score | RfprmError]:
        """`score_many` for any number of responses: takes a few at a time, yields each score in its turn, keeps none.

        on_error="raise" raises when the scores of all pairs before the wrong one have been yielded.
        """
        how = as_aggregate(aggregate, self.manifest.recipe.aggregate)
        results = batches.score(pairs, lambda pair: self._read(pair, how), self._score, on_error)
        return _shown(results, pairs) if progress else results

    def best_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: str | Aggregate | None = None,
        exhaustive: bool = False,
    ) -> BestOfN[Candidate]:
        """Choose the candidate with the highest reward; the first among equals.

        candidates: responses, at least one, each as in `score`.
        exhaustive: read every candidate to its end. Otherwise those that can't win any more are left where they are:
            the choice and its score are the same to the last bit, the others have bounds (`Unfinished`). Candidates
            whose keys and values memory can't hold side by side (2 GiB, or `memory_bytes`) are all read to their ends.

        Raises as `score_many` does.
        """
        return self._best(problem, candidates, 1, aggregate, exhaustive, Cancellation())

    async def abest_of_n(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        *,
        aggregate: str | Aggregate | None = None,
        exhaustive: bool = False,
        timeout: float | None = None,
    ) -> BestOfN[Candidate]:
        """`best_of_n` in a thread of its own; stops as `ascore` does."""
        return await aio.run(lambda cancel: self._best(problem, candidates, 1, aggregate, exhaustive, cancel), timeout)

    def top_k(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        k: int,
        *,
        aggregate: str | Aggregate | None = None,
        exhaustive: bool = False,
    ) -> BestOfN[Candidate]:
        """The k candidates with the highest rewards, in `ranking`; otherwise as `best_of_n`. All where k exceeds their
        number."""
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k={k!r}: a whole number from 1 on is needed")
        return self._best(problem, candidates, k, aggregate, exhaustive, Cancellation())

    def trace(self, problem: Problem, *, aggregate: str | Aggregate | None = None) -> LiveTrace:
        """A trace that grows step by step, for searches and streams: each step costs its own tokens alone.

        It keeps its past itself, whatever `cache_bytes` is; see `LiveTrace`.
        """
        how = as_aggregate(aggregate, self.manifest.recipe.aggregate)
        own = new_cache(self._footprint.most_kept)

        def score_sequences(sequences: Sequence[TokenSequence]) -> list[SequenceRewards]:
            own.take(self._cache, sequences[0].ids)
            return self._rewards(sequences, own, Cancellation(), own.nbytes)

        return LiveTrace(problem, how, self._encoder, score_sequences)

    def clear_cache(self) -> None:
        """Forget the keys and values that were kept between calls."""
        self._cache.clear()

    def _score_one(
        self, problem: Problem, response: Response, aggregate: str | Aggregate | None, cancel: Cancellation
    ) -> Score:
        how = as_aggregate(aggregate, self.manifest.recipe.aggregate)
        return self._score([self._read((problem, response), how)], cancel)[0]

    def _best(
        self,
        problem: Problem,
        candidates: Iterable[Candidate],
        count: int,
        aggregate: str | Aggregate | None,
        exhaustive: bool,
        cancel: Cancellation,
    ) -> BestOfN[Candidate]:
        if isinstance(candidates, (str, bytes, Trace)):
            raise InputTypeError(f"candidates are several responses, not one {type(candidates).__name__}")
        given = tuple(candidates)
        if not given:
            raise InputError("no candidates: there is nothing to choose from")
        how = as_aggregate(aggregate, self.manifest.recipe.aggregate)
        readings = self._check([(problem, candidate) for candidate in given], how)  # type: ignore[misc]
        sequences = [sequence for reading in readings for sequence in reading.sequences]
        made = plan(sequences)
        kept = sum(len(segment.ids) for segment in made.segments) * self._footprint.sizes.token_bytes
        own = None if exhaustive or not self._footprint.allows(made.capacity, kept) else new_cache(kept)
        computed = [0] * len(readings)

        def advance(further: Sequence[tuple[int, int]]) -> list[Rewards]:
            parts = [readings[i].first(readouts) for i, readouts in further]
            read = [sequence for part in parts for sequence in part]
            found = collected(parts, self._rewards(read, own or self._cache, cancel, kept if own else 0))
            for (i, _), (_, tokens) in zip(further, found, strict=True):
                computed[i] += tokens
            return [rewards for rewards, _ in found]

        if own is None:
            known = advance([(i, reading.num_readouts) for i, reading in enumerate(readings)])
        else:
            known = bound.nothing(readings)
            for sequence in sequences:
                own.take(self._cache, sequence.ids)
        ranking, rewards = bound.best(readings, known, count, advance)
        if own is not None:
            for sequence in sequences:
                self._cache.take(own, sequence.ids)
        scores = tuple(reading.result(r, c) for reading, r, c in zip(readings, rewards, computed, strict=True))
        return BestOfN(tuple(ranking), given, scores, sum((score.tokens for score in scores), Usage(0, 0)))

    def _check(self, pairs: Iterable[tuple[Problem, Response]], aggregate: Aggregate) -> list[Request]:
        """What is read of all pairs; the first wrong one raises, with a note that names it."""
        readings: list[Request] = []
        for i, pair in enumerate(pairs):
            try:
                readings.append(self._read(pair, aggregate))
            except RfprmError as error:
                error.add_note(f"in response {i} of this call")
                raise
        return readings

    def _read(self, pair: tuple[Problem, Response], aggregate: Aggregate) -> Request:
        problem, response = _pair(pair)
        reading = Request.of(self._encoder, problem, as_trace(response), aggregate)
        self._footprint.lanes(max(len(sequence.ids) for sequence in reading.sequences))  # refused before anything runs
        return reading

    def _score(self, readings: Sequence[Request], cancel: Cancellation) -> list[Score]:
        parts = [reading.sequences for reading in readings]
        found = collected(parts, self._rewards([s for part in parts for s in part], self._cache, cancel))
        return [reading.score(*own) for reading, own in zip(readings, found, strict=True)]

    def _rewards(
        self, sequences: Sequence[TokenSequence], cache: PrefixCache[Block], cancel: Cancellation, more: int = 0
    ) -> list[SequenceRewards]:
        """more: bytes that the call keeps besides."""
        if os.getpid() != self._process:
            raise ForkError(
                f"this PRM was loaded in process {self._process} and can't be used in {os.getpid()}, which was forked "
                "from it: load it there, or start processes by 'spawn' and send it to them"
            )
        lanes = self._footprint.lanes(max((len(sequence.ids) for sequence in sequences), default=0), more)
        return score_sequences(self._engine, sequences, cache, lanes, self._packing, cancel)


def new_cache(capacity: int) -> PrefixCache[Block]:
    """A prefix cache of the engine's blocks."""
    return PrefixCache(capacity, Block.split)


def _shown(results: Iterator[Result], pairs: object) -> Iterator[Result]:
    from rfprm_lite.show.progress import with_progress

    return with_progress(results, pairs)


def _pair(value: object) -> tuple[Problem, Response]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise InputTypeError(f"a pair of problem and response is needed, not {type(value).__name__} {value!r:.60}")
    return value[0], value[1]

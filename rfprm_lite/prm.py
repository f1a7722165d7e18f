"""The front of the library: a PRM that scores traces. Wiring only.

problem and response -> trace -> token sequences -> prefix plan -> engine -> rewards -> aggregate -> `Score`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Unpack, overload

from rfprm_lite.aggregate import AggregateLike
from rfprm_lite.bundle.manifest import Manifest, Variant
from rfprm_lite.bundle.open import Bundle, open_bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.session import require_available
from rfprm_lite.errors import RfprmError
from rfprm_lite.options import LoadKeywords, LoadOptions, Truncate
from rfprm_lite.results import Score
from rfprm_lite.scoring import batches
from rfprm_lite.scoring.aio import AsyncCalls
from rfprm_lite.scoring.batches import OnError, Pairs
from rfprm_lite.scoring.choice_calls import ChoiceCalls
from rfprm_lite.scoring.live import LiveTrace
from rfprm_lite.scoring.race import Race
from rfprm_lite.scoring.scorer import Scorer
from rfprm_lite.scoring.text_calls import TextCalls
from rfprm_lite.trace import Problem, Response


class PRM(TextCalls, ChoiceCalls):
    """A loaded process reward model, made by `from_pretrained`. Several threads may use it at once.

    Pickled, it is the path of its bundle and its options: another process that unpickles it loads it there. A process
    forked from one that has loaded it can't use it, and says so.

    Attributes:
        aio: The same calls for asyncio, each with a `timeout`: `await prm.aio.score(problem, response, timeout=5)`.
    """

    def __init__(self, bundle: Bundle, options: LoadOptions) -> None:
        self._bundle = bundle
        self._options = options
        self._device = DeviceSpec.parse(options.device)
        self._scorer = Scorer(bundle, self._device, options)
        self.aio = AsyncCalls(self._scorer)

    def __reduce__(self) -> tuple[type[PRM], tuple[object, ...]]:
        return type(self), (self._bundle, self._options)

    @classmethod
    def from_pretrained(cls, model: str | Path, **options: Unpack[LoadKeywords]) -> PRM:
        """Load a bundle that rfprm-export made. Nothing falls back: what can't be had is an error.

        Args:
            model: A folder, a hub id (`org/name`), or "demo" for the bundled demo model, which judges grade-school
                arithmetic only and is not ReasonFlux-PRM. What is downloaded is logged.
            **options: variant, device, threads, revision, cache_dir, local_files_only, verify, cache_bytes,
                memory_bytes, truncate and splitter, each as in `LoadOptions`.

        Raises:
            ModelNotFoundError: If no bundle is there, or its download broke off.
            BundleError: If it can't be read, a file was altered, or there is no such variant.
            DeviceError: If the device is unknown, or can't be had.
        """
        return cls.load(model, LoadOptions(**options))

    @classmethod
    def load(cls, model: str | Path, options: LoadOptions) -> PRM:
        """Load a bundle as `from_pretrained` does, with its keyword arguments as one value.

        Args:
            model: A folder, a hub id, or "demo".
            options: How it is opened and run.
        """
        require_available(DeviceSpec.parse(options.device))  # before anything is downloaded
        return cls(open_bundle(model, options), options)

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest: recipe, dimensions, source, parity of its variants."""
        return self._bundle.manifest

    @property
    def variant(self) -> Variant:
        """The variant that was loaded."""
        return self._bundle.variant

    def __repr__(self) -> str:
        names = (self.manifest.source.name, self.manifest.recipe.name, self.variant.name, self._device.kind)
        return f"PRM({', '.join(names)})"

    def score(
        self,
        problem: Problem,
        response: Response | None = None,
        *,
        steps: Iterable[str] | None = None,
        aggregate: AggregateLike | None = None,
        truncate: Truncate | None = None,
    ) -> Score:
        """Reward every step of a response, and the whole of it.

        Args:
            problem: The question as the user put it, the recipe's template does the rest; or a chat conversation that
                ends with it, a list of messages with role (system, user, assistant) and content.
            response: Text, which is split into steps (`LoadOptions.splitter`), or a `Trace`.
            steps: In its place, the steps of one response, taken as they are.
            aggregate: mean, min, product, last, mean+final, an `Aggregate`, or a function of the step rewards; the
                recipe's own where None.
            truncate: What is done with a text that is too long, as in `LoadOptions`, whose own counts where None.

        Raises:
            InputError: If a text can't be scored.
            InputTypeError: If something is of the wrong type: a list as response, say.
            ContextLengthError: If the text has more tokens than the model reads. Nothing was computed.
            MemoryLimitError: If it would take more than `memory_bytes`. Nothing was computed.
        """
        trace = self._scorer.trace(response, steps)
        request = self._scorer.request(problem, trace, self._scorer.aggregate(aggregate), truncate)
        return self._scorer.score([request])[0]

    @overload
    def score_many(
        self, pairs: Pairs, *, aggregate: AggregateLike | None = None, on_error: Literal["raise"] = "raise"
    ) -> list[Score]: ...

    @overload
    def score_many(
        self, pairs: Pairs, *, aggregate: AggregateLike | None = None, on_error: Literal["return"]
    ) -> list[Score | RfprmError]: ...

    def score_many(
        self, pairs: Pairs, *, aggregate: AggregateLike | None = None, on_error: OnError = "raise"
    ) -> list[Score] | list[Score | RfprmError]:
        """Reward many responses, in the order given; a prefix that neighbours share is computed once.

        Args:
            pairs: Problem and response of each.
            aggregate: As in `score`.
            on_error: "raise" raises as `score` does, before anything runs, with a note that names the pair; "return"
                gives the error in the place of the score.

        Returns:
            The score of each pair; with on_error="return" an error where there is none.
        """
        return list(batches.score_all(self._scorer, pairs, self._scorer.aggregate(aggregate), on_error))

    @overload
    def score_iter(
        self, pairs: Pairs, *, aggregate: AggregateLike | None = None, on_error: Literal["raise"] = "raise"
    ) -> Iterator[Score]: ...

    @overload
    def score_iter(
        self, pairs: Pairs, *, aggregate: AggregateLike | None = None, on_error: Literal["return"]
    ) -> Iterator[Score | RfprmError]: ...

    def score_iter(
        self, pairs: Pairs, *, aggregate: AggregateLike | None = None, on_error: OnError = "raise"
    ) -> Iterator[Score] | Iterator[Score | RfprmError]:
        """Reward any number of responses: a few are taken at a time, each score is yielded in its turn, none is kept.

        Args:
            pairs: Problem and response of each.
            aggregate: As in `score`.
            on_error: "raise" raises when the scores of all pairs before the wrong one have been yielded; "return"
                yields the error in the place of the score.
        """
        return batches.score_each(self._scorer, pairs, self._scorer.aggregate(aggregate), on_error)

    def live(self, problem: Problem, *, aggregate: AggregateLike | None = None) -> LiveTrace:
        """Begin a trace that grows step by step, for searches and streams: each step costs its own tokens alone.

        It keeps its past itself, whatever `cache_bytes` is; see `LiveTrace`.

        Args:
            problem: As in `score`.
            aggregate: As in `score`.
        """
        return LiveTrace(self._scorer, problem, self._scorer.aggregate(aggregate))

    def race(
        self, problem: Problem, n: int, *, aggregate: AggregateLike | None = None, max_steps: int | None = None
    ) -> Race:
        """Begin a best of n whose candidates are still being written: it tells which can still win; see `Race`.

        Args:
            problem: As in `score`.
            n: How many candidates there are.
            aggregate: As in `score`.
            max_steps: The most steps of a candidate; needed for every aggregate but min and product.
        """
        chosen_aggregate = self._scorer.aggregate(aggregate)
        return Race(LiveTrace(self._scorer, problem, chosen_aggregate), n, chosen_aggregate, max_steps)

    def clear_cache(self) -> None:
        """Forget the keys and values that were kept between calls; what live traces and races pin stays."""
        self._scorer.require_own_process()  # which has none of the threads that may hold the cache
        self._scorer.cache.clear()

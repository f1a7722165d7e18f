"""What a PRM reads, before anything runs: its text, its tokens, and how many of them fit."""

from __future__ import annotations

from collections.abc import Iterable

from rfprm_lite.scale import Scale
from rfprm_lite.scoring.scorer import Scorer
from rfprm_lite.text.rendering import Rendering, rendering
from rfprm_lite.trace import Problem, Response


class TextCalls:
    """The part of a PRM that looks at texts alone."""

    _scorer: Scorer

    @property
    def max_tokens(self) -> int:
        """The most tokens of one text that the model reads."""
        return self._scorer.encoder.max_tokens

    @property
    def scale(self) -> Scale:
        """What a step reward can be: its range, and above which a step counts as good."""
        return self._scorer.scale

    def count_tokens(
        self, problem: Problem, response: Response | None = None, *, steps: Iterable[str] | None = None
    ) -> int:
        """Tokens of the longest text that the model would read, the template's included; may exceed `max_tokens`.

        Args:
            problem: As in `PRM.score`, and so the others.
            response: Text or a `Trace`.
            steps: In its place, the steps of one response.

        Raises:
            InputError: If a text can't be scored.
            InputTypeError: If something is of the wrong type.
        """
        return self._scorer.encoder.count(problem, self._scorer.trace(response, steps))

    def render(
        self, problem: Problem, response: Response | None = None, *, steps: Iterable[str] | None = None
    ) -> Rendering:
        """The exact text that the model reads, its tokens, and where rewards are read out.

        Args:
            problem: As in `PRM.score`, and so the others.
            response: Text or a `Trace`.
            steps: In its place, the steps of one response.

        Raises:
            ContextLengthError: If it has more than `max_tokens` tokens.
            InputError: If a text can't be scored.
            InputTypeError: If something is of the wrong type.
        """
        return rendering(self._scorer.encoder, problem, self._scorer.trace(response, steps))

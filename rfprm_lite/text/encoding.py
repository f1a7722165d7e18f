"""A problem and a trace as the token ids that the model sees, and the positions of their rewards.

In: text. Out: `TokenSequence`s. Knows nothing of graphs or prefixes.

Special tokens come only from the recipe's template, by id. Every run of text between two of them is encoded with
special tokens switched off, so that `<extra_0>` or `<|im_end|>` in a problem or a candidate is plain text: it can't
forge a step or a role. Between runs nothing merges, as in the authors' own code, where the tokenizer splits the
rendered text at special tokens first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from rfprm_lite.bundle.recipe import Recipe, Special, Text
from rfprm_lite.errors import BundleFormatError, ContextLengthError, InputError
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.text.conversation import prompt_pieces
from rfprm_lite.trace import Problem, Trace


class Encoder:
    """The way from text to token ids for one recipe. Several threads may use one at once.

    Args:
        tokenizer: The checkpoint's; it is changed so that special tokens in a text are plain text.
        recipe: How the PRM is scored.
        max_tokens: The most tokens of one sequence.

    Raises:
        BundleFormatError: If the tokenizer lacks a special token of the recipe.
    """

    def __init__(self, tokenizer: Tokenizer, recipe: Recipe, max_tokens: int) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # special tokens in text are text
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._separator = None if recipe.separator is None else self._special(recipe.separator)
        self._recipe = recipe
        self._specials = {p.token: self._special(p.token) for p in recipe.template if isinstance(p, Special)}

    @classmethod
    def from_file(cls, path: Path, recipe: Recipe, max_tokens: int) -> Encoder:
        """The encoder of a tokenizer.json.

        Args:
            path: The file.
            recipe: How the PRM is scored.
            max_tokens: The most tokens of one sequence.

        Raises:
            BundleFormatError: If the tokenizer lacks a special token of the recipe.
        """
        return cls(Tokenizer.from_file(str(path)), recipe, max_tokens)

    def step_sequences(self, problem: Problem, trace: Trace) -> list[TokenSequence]:
        """Sequences whose read-outs, in order, are the rewards of the trace's steps.

        With a separator it is one sequence, with a read-out at every separator. Without one there is a sequence for
        each step, the text cut off after it, with a read-out at its last token.

        Raises:
            ContextLengthError: If a sequence has more than `max_tokens` tokens.
            InputError: If the problem can't be judged.
            InputTypeError: If it is neither text nor a list of messages.
        """
        texts = [step.text for step in trace.steps]
        if self._separator is not None:
            return [self._separated(problem, texts)]
        whole = self._unseparated(problem, trace.text)  # first, so that too long a text is refused at once
        return [*(self._unseparated(problem, trace.text[: step.text_end]) for step in trace.steps[:-1]), whole]

    def last_step_sequence(self, problem: Problem, trace: Trace) -> TokenSequence:
        """The last of `step_sequences`, read out at the last step alone. Raises as it does."""
        if self._separator is None:
            return self._unseparated(problem, trace.text)
        whole = self._separated(problem, [step.text for step in trace.steps])
        return TokenSequence(whole.ids, whole.read_at[-1:])

    def response_sequences(self, problem: Problem, trace: Trace) -> list[TokenSequence]:
        """One sequence with one read-out: the whole final response as one step, after the steps of the thinking part.

        There is none without a separator, where the last step's sequence is just that.

        Raises:
            InputError: If the trace has no response, or as `step_sequences`.
            ContextLengthError: If the sequence has more than `max_tokens` tokens.
        """
        if not trace.response:
            raise InputError("final='response' needs a response, but the trace ends within its thinking part")
        if self._separator is None:
            return []
        response = trace.text[trace.response[0].text_start : trace.response[-1].text_end]
        sequence = self._separated(problem, [*(step.text for step in trace.thinking), response])
        return [TokenSequence(sequence.ids, sequence.read_at[-1:])]

    def _separated(self, problem: Problem, steps: Sequence[str]) -> TokenSequence:
        ids, pending = self._prompt(problem)
        read_at: list[int] = []
        for step in steps:
            # The first step is encoded together with the text before it, as the authors' tokenizer sees it: their
            # characters may merge into one token. Behind a separator nothing merges.
            ids += self._encode(pending + step)
            read_at.append(len(ids))
            ids.append(self._separator)  # type: ignore[arg-type]  # only called with a separator
            pending = ""
        return self._sequence(ids, read_at)

    def _unseparated(self, problem: Problem, text: str) -> TokenSequence:
        ids, pending = self._prompt(problem)
        ids += self._encode(pending + text)
        return self._sequence(ids, [len(ids) - 1])

    def _prompt(self, problem: Problem) -> tuple[list[int], str]:
        """The ids before the run of text in which the steps begin, and that run's own beginning."""
        ids: list[int] = []
        run = ""
        for piece in prompt_pieces(problem, self._recipe):
            if isinstance(piece, Special):
                ids += self._encode(run)
                ids.append(self._specials[piece.token])
                run = ""
            elif isinstance(piece, Text):
                run += piece.text
        return ids, run

    def _sequence(self, ids: list[int], read_at: list[int]) -> TokenSequence:
        if len(ids) > self._max_tokens:
            raise ContextLengthError(len(ids), self._max_tokens)
        return TokenSequence(np.array(ids, np.int64), np.array(read_at, np.int64))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids if text else []
        return ids

    def _special(self, token: str) -> int:
        token_id: int | None = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise BundleFormatError(f"the tokenizer has no token {token!r}, which the recipe's template needs")
        return token_id

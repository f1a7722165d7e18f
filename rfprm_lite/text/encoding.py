"""A problem and a trace as the token ids that the model sees, and the positions of their rewards.

In: text. Out: `TokenSequence`s. Knows nothing of graphs or prefixes.

Special tokens come only from the recipe's template, by id. Every run of text between two of them is encoded with
special tokens switched off, so that `<extra_0>` or `<|im_end|>` in a problem or a candidate is plain text: it can't
forge a step or a role. Between runs nothing merges, as in the authors' own code, where the tokenizer splits the
rendered text at special tokens first. A read-out stands where the template has it, never where text looks like it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from rfprm_lite.bundle.pieces import Cut, Read, Special, specials
from rfprm_lite.bundle.recipe import Recipe
from rfprm_lite.errors import BundleFormatError, ContextLengthError, InputError
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.text.patterns import require_quick
from rfprm_lite.text.runs import Runs
from rfprm_lite.text.writing import Draft, last_step_draft, response_draft, step_drafts
from rfprm_lite.trace import Problem, Trace


class Encoder:
    """The way from text to token ids for one recipe. Several threads may use one at once.

    Args:
        tokenizer: The bundle's, in which all added tokens but `recipe.text_tokens` are special; it is changed so that
            special tokens in a text are plain text.
        recipe: How the PRM is scored.
        max_tokens: The most tokens of one sequence.

    Raises:
        BundleFormatError: If the tokenizer lacks a token of the recipe.
    """

    def __init__(self, tokenizer: Tokenizer, recipe: Recipe, max_tokens: int) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # special tokens in text are text
        self._tokenizer = tokenizer
        self._encoded = Runs(partial(_encode, tokenizer))
        self._max_tokens = max_tokens
        self._recipe = recipe
        self._specials = {token: self._special(token) for token in specials(recipe.pieces)}
        self._template_ids = frozenset(self._specials.values())
        self._expected = None if recipe.expect is None else self._one_token(recipe.expect)

    @classmethod
    def from_file(cls, path: Path, recipe: Recipe, max_tokens: int) -> Encoder:
        """The encoder of a tokenizer.json.

        Args:
            path: The file.
            recipe: How the PRM is scored.
            max_tokens: The most tokens of one sequence.

        Raises:
            BundleFormatError: If it is no tokenizer, has an expression that could take for ever, or lacks a token of
                the recipe.
        """
        data = path.read_bytes()
        try:
            require_quick(data)
            tokenizer = Tokenizer.from_buffer(data)
        except BaseException as error:
            raise BundleFormatError(f"{path} is no tokenizer that is loaded: {_failure(error)}") from error
        return cls(tokenizer, recipe, max_tokens)

    @property
    def recipe(self) -> Recipe:
        """How the PRM is scored."""
        return self._recipe

    @property
    def max_tokens(self) -> int:
        """The most tokens of one sequence."""
        return self._max_tokens

    def step_sequences(self, problem: Problem, trace: Trace) -> list[TokenSequence]:
        """Sequences whose read-outs, in order, are the rewards of the trace's steps.

        It is one sequence with a read-out for each step; or, where the recipe gives each step a text of its own, a
        sequence for each step.

        Raises:
            ContextLengthError: If a sequence has more than `max_tokens` tokens.
            InputError: If the problem can't be judged, or if a step can't be written or read out.
            InputTypeError: If the problem is neither text nor a list of messages.
        """
        *drafts, whole = step_drafts(self._recipe, problem, trace)
        longest = self.encode(whole)  # first, so that too long a text is refused at once
        return [*map(self.encode, drafts), longest]

    def cut_sequences(self, problem: Problem, trace: Trace) -> tuple[list[TokenSequence], int]:
        """The sequences of `step_sequences` as the authors' code cuts them: `max_tokens` tokens at most, the end lost.

        Returns:
            The sequences, and how many of them were cut. Each is read out at its last token.

        Raises:
            InputError: If the authors' code cuts nothing, or as `step_sequences`.
        """
        if not self._recipe.cuts:
            raise InputError(
                f"truncate='authors': the authors' code cuts no text of {self._recipe.name}. "
                "truncate='drop-oldest-thoughts' keeps the newest steps"
            )
        sequences = [self._sequence(draft) for draft in step_drafts(self._recipe, problem, trace)]
        most = self._max_tokens
        cut = [TokenSequence(s.ids[:most], np.minimum(s.read_at, most - 1)) for s in sequences]
        return cut, sum(len(sequence.ids) > most for sequence in sequences)

    def count(self, problem: Problem, trace: Trace) -> int:
        """The tokens of the longest text that the model would read of a trace, however many they are."""
        return len(self._sequence(last_step_draft(self._recipe, problem, trace)).ids)

    def last_step_sequence(self, problem: Problem, trace: Trace) -> TokenSequence:
        """The last of `step_sequences`, read out at the last step alone. Raises as it does."""
        whole = self.encode(last_step_draft(self._recipe, problem, trace))
        return TokenSequence(whole.ids, whole.read_at[-1:])

    def response_sequences(self, problem: Problem, trace: Trace) -> list[TokenSequence]:
        """One sequence with one read-out: the whole final response as one step, after the steps of the thinking part.

        There is none where the last step's own sequence is just that.

        Raises:
            InputError: If the trace has no response, or as `step_sequences`.
            ContextLengthError: If the sequence has more than `max_tokens` tokens.
        """
        draft = response_draft(self._recipe, problem, trace)
        if draft is None:
            return []
        sequence = self.encode(draft)
        return [TokenSequence(sequence.ids, sequence.read_at[-1:])]

    def encode(self, draft: Draft) -> TokenSequence:
        """The token ids of a text, and the positions of its read-outs.

        Raises:
            ContextLengthError: If it has more than `max_tokens` tokens.
            InputError: If a step merges with the text behind it, so that no token ends at its read-out, or if the
                tokenizer makes a special token of text.
        """
        sequence = self._sequence(draft)
        if len(sequence.ids) > self._max_tokens:
            raise ContextLengthError(len(sequence.ids), self._max_tokens)
        return sequence

    def _sequence(self, draft: Draft) -> TokenSequence:
        ids: list[int] = []
        read_at: list[int] = []
        run = ""
        reads: list[int] = []  # offsets in the run
        for piece in draft:
            if isinstance(piece, Read):
                reads.append(len(run))
            elif isinstance(piece, (Special, Cut)):
                self._finish(run, reads, ids, read_at)
                run, reads = "", []
                if isinstance(piece, Special):
                    ids.append(self._specials[piece.token])
            else:
                run += piece.text
        self._finish(run, reads, ids, read_at)
        self._require_expected(ids, read_at)
        return TokenSequence(np.array(ids, np.int64), np.array(read_at, np.int64))

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The tokens of ids, as the vocabulary writes them."""
        return [str(self._tokenizer.id_to_token(i)) for i in ids]

    def _finish(self, run: str, reads: Sequence[int], ids: list[int], read_at: list[int]) -> None:
        """Encode a run of text, with read-outs at offsets of it."""
        before = len(ids)
        ends: Sequence[int] = []
        if run:
            encoded = self._encoded(run, ends=any(0 < offset < len(run) for offset in reads))
            found = encoded.ids.tolist()
            self._require_no_special(found)
            ids += found
            ends = [] if encoded.ends is None else encoded.ends.tolist()
        for offset in reads:
            if offset == len(run):
                read_at.append(len(ids) - 1)
            elif offset == 0:
                read_at.append(before - 1)
            else:
                token = bisect_right(ends, offset) - 1
                if token < 0 or ends[token] != offset:
                    raise InputError(
                        f"{self._recipe.name} reads the reward of step {len(read_at)} before {run[offset:]!r:.20}, but "
                        f"no token ends there: the text of the step merges with it"
                    )
                read_at.append(before + token)

    def _require_no_special(self, ids: Sequence[int]) -> None:
        """Raise where text became a special token: not by BPE, but by vocabularies that list the tokens as words."""
        if not self._template_ids.isdisjoint(ids):
            (token, *_) = (token for token, i in self._specials.items() if i in ids)
            raise InputError(
                f"a text holds {token!r}, of which the tokenizer makes the special token that only the template of "
                f"{self._recipe.name} may write: write it otherwise"
            )

    def _require_expected(self, ids: Sequence[int], read_at: Sequence[int]) -> None:
        if self._expected is None:
            return
        for i, at in enumerate(read_at):
            if ids[at] != self._expected:
                found, expected = self._tokenizer.id_to_token(ids[at]), self._tokenizer.id_to_token(self._expected)
                raise InputError(
                    f"the reward of step {i} stands at the token {expected!r}, but the end of the step merges with it "
                    f"into {found!r}, where {self._recipe.name} was never trained to have one: change how the step ends"
                )

    def _one_token(self, text: str) -> int:
        token_id: int | None = self._tokenizer.token_to_id(text)
        if token_id is not None:
            return token_id
        ids: list[int] = _encode(self._tokenizer, text).ids
        if len(ids) != 1:
            raise BundleFormatError(
                f"{self._recipe.name} expects the token {text!r} at each read-out, the tokenizer encodes it as "
                f"{len(ids)}: {self.token_texts(ids)}"
            )
        return ids[0]

    def _special(self, token: str) -> int:
        token_id: int | None = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise BundleFormatError(f"the tokenizer has no token {token!r}, which the recipe's template needs")
        return token_id


def _encode(tokenizer: Tokenizer, text: str) -> Encoding:
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except BaseException as error:
        raise InputError(f"the tokenizer fails on a text of {len(text)} characters: {_failure(error)}") from error


def _failure(error: BaseException) -> str:
    """What the tokenizers library says of a failure of its own; any other error is raised again.

    Its panics (of a regular expression that gives up after 10 million retries, say) are no `Exception`: they would end
    a server.
    """
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return str(error)
    raise error
